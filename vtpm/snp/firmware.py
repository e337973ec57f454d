"""What a platform's owner decides: the processor model, its firmware and how that is configured."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from vtpm.errors import UsageError
from vtpm.wire.report import TCB_LAYOUT, Product

_TCB: Final = 8
_LEVELS: Final = {"fmc": 0, "bootloader": 4, "tee": 0, "snp": 0x1B, "microcode": 0xDB}


class Model(Enum):
    """A processor model; the value is CPUID family, model and stepping as reports carry them."""

    MILAN = (0x19, 0x01, 0x01)
    GENOA = (0x19, 0x11, 0x01)
    BERGAMO = (0x19, 0xA0, 0x01)
    SIENA = (0x19, 0xA0, 0x02)
    TURIN = (0x1A, 0x02, 0x01)

    @property
    def product(self) -> Product:
        """Whose signing service certifies it."""
        return _PRODUCTS[self]


_PRODUCTS: Final[Mapping[Model, Product]] = {
    Model.MILAN: Product.MILAN,
    Model.GENOA: Product.GENOA,
    Model.BERGAMO: Product.GENOA,
    Model.SIENA: Product.GENOA,
    Model.TURIN: Product.TURIN,
}

FIRST_MODEL: Final[Mapping[Product, Model]] = {
    Product.MILAN: Model.MILAN,
    Product.GENOA: Model.GENOA,
    Product.TURIN: Model.TURIN,
}
"""The model of a platform of which only the product is said."""


def default_tcb(product: Product) -> bytes:
    """The 8-byte TCB_VERSION of a new platform."""
    raw = bytearray(_TCB)
    for component, index in TCB_LAYOUT[product].items():
        raw[index] = _LEVELS[component]
    return bytes(raw)


@dataclass(frozen=True)
class Firmware:
    """The firmware's state and configuration, as reports show it.

    A TCB that is None is the platform's reported one. Nothing keeps the fields consistent (a host may well run
    firmware below the committed one's level in a broken world): judging that is the verifier's task.

    Attributes:
        current: firmware version in use: major, minor, build.
        committed: the version below which the platform cannot go back.
        current_tcb: 8-byte TCB_VERSION of what runs; the host may report, and sign for, another one.
        committed_tcb: 8 bytes, of the committed firmware.
        launch_tcb: 8 bytes, CURRENT_TCB when the guest was launched.
        platform_info: PLATFORM_INFO bits; by default SMT and ECC on, alias check complete.
        launch_mit_vector: mitigations in force at launch; reported in version 5 only.
        current_mit_vector: likewise now.
        mask_chip_id: whether CHIP_ID is zero; None: in reports signed by the VLEK only, as on AWS.
        mask_chip_key: whether reports are not signed: MASK_CHIP_KEY is set, SIGNING_KEY says none, and the signature
            is zeros.
    """

    current: tuple[int, int, int] = (1, 55, 29)
    committed: tuple[int, int, int] = (1, 55, 29)
    current_tcb: bytes | None = None
    committed_tcb: bytes | None = None
    launch_tcb: bytes | None = None
    platform_info: int = 0x25
    launch_mit_vector: int = 0
    current_mit_vector: int = 0
    mask_chip_id: bool | None = None
    mask_chip_key: bool = False

    def __post_init__(self) -> None:
        for tcb in (self.current_tcb, self.committed_tcb, self.launch_tcb):
            if tcb is not None and len(tcb) != _TCB:
                raise UsageError(f"a TCB_VERSION must be {_TCB} bytes, is {len(tcb)}")
