"""The SEV-SNP attestation report: 1184 bytes, little endian, signed by the security processor.

Reading a report here is no judgement: only its size is checked. Which versions, levels and flags are
acceptable is the verifier's to say. Source: AMD 56860 (SEV Secure Nested Paging Firmware ABI), table
ATTESTATION_REPORT.
"""

import struct
from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum
from typing import Any, Final, Self

from vtpm.wire.errors import WireError
from vtpm.wire.frozen import frozen
from vtpm.wire.lazy import cached_property

REPORT_SIZE: Final = 1184
"""Bytes of a whole report."""

SIGNED_SIZE: Final = 0x2A0
"""Bytes that the signature covers, from the start."""

_COORDINATE: Final = 72
"""Bytes that the format gives to each of r and s; P-384 fills 48 of them."""

_COORDINATE_USED: Final = 48

_SIGNATURE_FIELD: Final = 512
_NO_SIGNATURE: Final = bytes(_SIGNATURE_FIELD)


_MODELS: Final = (
    ("Milan", 0x19, range(0x10)),
    ("Genoa", 0x19, range(0x10, 0x20)),
    ("Genoa", 0x19, range(0xA0, 0xB0)),
    ("Turin", 0x1A, range(0x12)),
)
"""Product, CPUID family and CPUID models."""


class Product(StrEnum):
    """A processor generation: what names the TCB layout and the pinned certificate chain."""

    MILAN = "Milan"
    GENOA = "Genoa"
    TURIN = "Turin"

    @classmethod
    def from_cpuid(cls, family: int, model: int) -> "Product | None":
        """The product of a report of version 3 or later; None when no product is known for the numbers.

        Genoa includes Bergamo and Siena, which share its certificate chain.
        """
        for product, of_family, models in _MODELS:
            if family == of_family and model in models:
                return cls(product)
        return None


_EARLY: Final[Mapping[str, int]] = {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7}

TCB_LAYOUT: Final[Mapping[Product, Mapping[str, int]]] = {
    Product.MILAN: _EARLY,
    Product.GENOA: _EARLY,
    Product.TURIN: {"fmc": 0, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 7},
}
"""Where each security version number stands in the 8 bytes of a TCB_VERSION; other bytes are reserved."""


def tcb_components(raw: bytes, product: Product) -> dict[str, int]:
    """The named security version numbers of an 8-byte TCB_VERSION.

    Compare TCBs component by component, never as one integer: the components are independent.

    Raises:
        WireError: `raw` is not 8 bytes.
    """
    if len(raw) != 8:  # noqa: PLR2004 - the size that the docstring gives
        raise WireError("tcb", f"must be 8 bytes, is {len(raw)}")
    return {name: raw[index] for name, index in TCB_LAYOUT[product].items()}


MIT_VECTORS_SINCE: Final = 5
"""Report version from which there are mitigation vectors."""

CPUID_SINCE: Final = 3
"""Report version from which the processor states its own CPUID."""


_BODY: Final = struct.Struct("<IIQ16s16sII8sQI4x64s48s32s48s48s32s32s8s3B21x64s8s3Bx3Bx8sQQ152x")
"""The fields of a report in front of its signature, in the order of `Report`; versions are written build first."""


@frozen
class Report:
    """One attestation report, decoded: byte strings as they stand, numbers from little endian.

    Attributes:
        raw: the 1184 bytes. Signatures are judged over these, never over re-encoded fields.
        policy: guest policy bits the VM was launched with.
        vmpl: privilege level that the report was asked for.
        current_tcb, reported_tcb, committed_tcb, launch_tcb: 8 bytes each, see `tcb_components`.
        platform_info: PLATFORM_INFO bits.
        key_flags: the 32-bit word at 0x48: AUTHOR_KEY_EN, MASK_CHIP_KEY, SIGNING_KEY and reserved bits.
        report_data: 64 bytes that the requester chose.
        measurement: 48 bytes, the launch digest.
        host_data: 32 bytes that the host chose at launch.
        report_id: 32 bytes, made at launch and constant for the life of the VM.
        cpuid: family, model, stepping; zeros before version 3.
        chip_id: 64 bytes; Turin fills the first 8.
        current_firmware, committed_firmware: major, minor, build.
        launch_mit_vector, current_mit_vector: mitigation bits; zero before version 5.
        signature_r, signature_s: of all 72 bytes, so that garbage in the padding is not overlooked.
    """

    raw: bytes = field(repr=False)
    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    signature_algo: int
    current_tcb: bytes
    platform_info: int
    key_flags: int
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    reported_tcb: bytes
    cpuid: tuple[int, int, int]
    chip_id: bytes
    committed_tcb: bytes
    current_firmware: tuple[int, int, int]
    committed_firmware: tuple[int, int, int]
    launch_tcb: bytes
    launch_mit_vector: int
    current_mit_vector: int
    signature_r: int
    signature_s: int

    @classmethod
    def parse(cls, data: bytes, path: str = "report") -> Self:
        """Decode a report; every judgement beyond its size is the verifier's.

        Raises:
            WireError: not exactly 1184 bytes.
        """
        if len(data) != REPORT_SIZE:
            raise WireError(path, f"must be {REPORT_SIZE} bytes, is {len(data)}")
        raw = bytes(data)
        (
            *before_cpuid,
            family,
            model,
            stepping,
            chip_id,
            committed_tcb,
            current_build,
            current_minor,
            current_major,
            committed_build,
            committed_minor,
            committed_major,
            launch_tcb,
            launch_mit_vector,
            current_mit_vector,
        ) = _BODY.unpack_from(raw)
        in_order: tuple[Any, ...] = (
            raw,
            *before_cpuid,
            (family, model, stepping),
            chip_id,
            committed_tcb,
            (current_major, current_minor, current_build),
            (committed_major, committed_minor, committed_build),
            launch_tcb,
            launch_mit_vector,
            current_mit_vector,
            int.from_bytes(raw[0x2A0:0x2E8], "little"),
            int.from_bytes(raw[0x2E8:0x330], "little"),
        )
        return cls(*in_order)

    @property
    def signed_bytes(self) -> bytes:
        """The bytes that the signature covers: 0 to 0x29f."""
        return self.raw[:SIGNED_SIZE]

    @cached_property
    def common_part(self) -> bytes:
        """The report without what makes it this one: zeros for REPORT_DATA, REPORT_ID, REPORT_ID_MA and signature."""
        raw = self.raw
        return (
            raw[:0x050]
            + bytes(0x40)
            + raw[0x090:0x140]
            + bytes(0x40)
            + raw[0x180:SIGNED_SIZE]
            + _NO_SIGNATURE
        )

    @property
    def author_key_en(self) -> bool:
        """Whether the author key digest means anything."""
        return bool(self.key_flags & 1)

    @property
    def mask_chip_key(self) -> bool:
        """Whether the platform withholds the signature (the firmware then writes zeros)."""
        return bool(self.key_flags >> 1 & 1)

    @property
    def signing_key(self) -> int:
        """0 VCEK, 1 VLEK, 7 none; 2 to 6 are reserved."""
        return self.key_flags >> 2 & 7

    @property
    def migrate_ma(self) -> bool:
        """Policy bit 18: a migration agent may be associated with the VM."""
        return bool(self.policy >> 18 & 1)

    @property
    def debug(self) -> bool:
        """Policy bit 19: the host may read and write the VM's memory."""
        return bool(self.policy >> 19 & 1)

    def reserved_nonzero(self) -> list[str]:
        """The ranges that are reserved in this version and not zero, by offset; empty when all is well.

        Includes the unused bytes of r and s and the unsigned rest of the signature field. Reserved bits of the guest
        policy, of PLATFORM_INFO and of the TCBs are for others to judge.
        """
        ranges = [
            (0x04C, 0x050),
            (0x18B if self.version >= CPUID_SINCE else 0x188, 0x1A0),
            (0x1EB, 0x1EC),
            (0x1EF, 0x1F0),
            (0x208 if self.version >= MIT_VECTORS_SINCE else 0x1F8, SIGNED_SIZE),
            (0x2A0 + _COORDINATE_USED, 0x2E8),
            (0x2E8 + _COORDINATE_USED, 0x330),
            (0x330, REPORT_SIZE),
        ]
        names = [f"0x{a:03x}..0x{b - 1:03x}" for a, b in ranges if self.raw.count(0, a, b) != b - a]
        if self.key_flags >> 5:
            names.insert(0, "0x048 bits 31:5")
        return names


def pack_report(
    *,
    version: int = 3,
    guest_svn: int = 0,
    policy: int = 0x30000,
    family_id: bytes = bytes(16),
    image_id: bytes = bytes(16),
    vmpl: int = 0,
    signature_algo: int = 1,
    current_tcb: bytes = bytes(8),
    platform_info: int = 0,
    key_flags: int = 0,
    report_data: bytes = bytes(64),
    measurement: bytes = bytes(48),
    host_data: bytes = bytes(32),
    id_key_digest: bytes = bytes(48),
    author_key_digest: bytes = bytes(48),
    report_id: bytes = bytes(32),
    report_id_ma: bytes = b"\xff" * 32,
    reported_tcb: bytes = bytes(8),
    cpuid: tuple[int, int, int] = (0, 0, 0),
    chip_id: bytes = bytes(64),
    committed_tcb: bytes = bytes(8),
    current_firmware: tuple[int, int, int] = (0, 0, 0),
    committed_firmware: tuple[int, int, int] = (0, 0, 0),
    launch_tcb: bytes = bytes(8),
    launch_mit_vector: int = 0,
    current_mit_vector: int = 0,
) -> bytes:
    """The 0x2a0 bytes of a report that are signed; names and units as in `Report`, reserved bytes zero.

    A whole report is this followed by `pack_signature`.

    Raises:
        WireError: a value does not fit its field.
    """
    sized = {
        "family_id": (family_id, 16),
        "image_id": (image_id, 16),
        "current_tcb": (current_tcb, 8),
        "report_data": (report_data, 64),
        "measurement": (measurement, 48),
        "host_data": (host_data, 32),
        "id_key_digest": (id_key_digest, 48),
        "author_key_digest": (author_key_digest, 48),
        "report_id": (report_id, 32),
        "report_id_ma": (report_id_ma, 32),
        "reported_tcb": (reported_tcb, 8),
        "chip_id": (chip_id, 64),
        "committed_tcb": (committed_tcb, 8),
        "launch_tcb": (launch_tcb, 8),
    }
    # struct would silently pad or cut byte strings of another size.
    for name, (value, size) in sized.items():
        if len(value) != size:
            raise WireError(f"report.{name}", f"must be {size} bytes, is {len(value)}")
    try:
        return _BODY.pack(
            version,
            guest_svn,
            policy,
            family_id,
            image_id,
            vmpl,
            signature_algo,
            current_tcb,
            platform_info,
            key_flags,
            report_data,
            measurement,
            host_data,
            id_key_digest,
            author_key_digest,
            report_id,
            report_id_ma,
            reported_tcb,
            *cpuid,
            chip_id,
            committed_tcb,
            *reversed(current_firmware),
            *reversed(committed_firmware),
            launch_tcb,
            launch_mit_vector,
            current_mit_vector,
        )
    except struct.error as error:
        raise WireError("report", "a number does not fit its field") from error


def pack_signature(r: int, s: int) -> bytes:
    """The 512 bytes of the signature field: r and s little endian in 72 bytes each, then zeros.

    Raises:
        WireError: a number does not fit 72 bytes.
    """
    try:
        pair = r.to_bytes(_COORDINATE, "little") + s.to_bytes(_COORDINATE, "little")
    except OverflowError as error:
        raise WireError("report.signature", f"must fit {_COORDINATE} bytes each") from error
    return pair.ljust(_SIGNATURE_FIELD, b"\0")
