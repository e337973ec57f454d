"""A simulated SEV-SNP platform: one chip with its secret, its TCB, and the VMs launched on it."""

import json
import os
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from vtpm.errors import UsageError
from vtpm.snp.chain import SimulatedChain
from vtpm.snp.errors import PspError
from vtpm.snp.firmware import FIRST_MODEL, Firmware, default_tcb
from vtpm.snp.idblock import IdBlock
from vtpm.snp.keys import chip_id, endorsement_key
from vtpm.snp.launch import LaunchContext
from vtpm.snp.measurement import launch_digest
from vtpm.snp.names import HWID_SIZE
from vtpm.wire.certtable import CertKind
from vtpm.wire.encoding import Members, parse_json
from vtpm.wire.errors import WireError
from vtpm.wire.report import Product

Clock = Callable[[], datetime]
Entropy = Callable[[int], bytes]

DEFAULT_POLICY: Final = 0x30000
"""Guest policy: SMT allowed, bit 17 set as it must be; no debugging, no migration."""

_FILE: Final = "platform.json"
_VCEK: Final = "vcek.der"
_MAX_FILE: Final = 4096
_SECRET: Final = 32
_HOST_DATA: Final = 32
_TCB: Final = 8
_BACKDATED: Final = timedelta(hours=1)

OLDEST_VERSION: Final = 2
NEWEST_VERSION: Final = 5
DEFAULT_VERSION: Final = 3
"""ATTESTATION_REPORT version of a platform of which nothing else is said."""


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Platform:
    """One chip.

    Attributes:
        product: processor generation.
        secret: 32 bytes, fused into the chip; chip id and VCEKs derive from it.
        tcb: 8 bytes, the reported TCB_VERSION; the endorsement keys derive from it.
        vcek_certificate: DER, for `tcb`.
        chain: the signing service that issued it; its intermediates and ARK go into the certificate table on
            request.
        report_version: ATTESTATION_REPORT version that the firmware writes: 2 to 5.
        firmware: what reports say of the firmware and its configuration.
        cpuid: CPUID family, model, stepping that reports carry; None: of the product's first model.
        vlek_certificate: DER, for `tcb`; None unless the host, a cloud provider, has loaded a VLEK.
    """

    product: Product
    secret: bytes = field(repr=False)
    tcb: bytes
    vcek_certificate: bytes = field(repr=False)
    chain: SimulatedChain = field(repr=False)
    report_version: int = DEFAULT_VERSION
    firmware: Firmware = field(default_factory=Firmware)
    cpuid: tuple[int, int, int] | None = None
    vlek_certificate: bytes | None = field(default=None, repr=False)

    @classmethod
    def made(
        cls,
        secret: bytes,
        *,
        product: Product = Product.MILAN,
        tcb: bytes | None = None,
        chain: SimulatedChain | None = None,
        report_version: int = DEFAULT_VERSION,
        firmware: Firmware | None = None,
        cpuid: tuple[int, int, int] | None = None,
        csp_id: str | None = None,
        clock: Clock = _now,
    ) -> Self:
        """A platform in memory, its VCEK certified now.

        Args:
            secret: 32 bytes.
            product: processor generation.
            tcb: 8-byte TCB_VERSION; a realistic one by default.
            chain: who certifies the keys; the product's shipped simulated chain by default.
            report_version: what its firmware writes.
            firmware: its state and configuration.
            cpuid: what reports carry, such as ``Model.SIENA.value``; not checked against the product.
            csp_id: the cloud provider's name for a VLEK that is loaded then; None: no VLEK.
            clock: for the certificates' dates.

        Raises:
            UsageError: the chain is for another product, the report version does not exist, or a VLEK is asked
                for and the chain has no ASVK.
        """
        chain = chain or SimulatedChain.shipped(product)
        if not OLDEST_VERSION <= report_version <= NEWEST_VERSION:
            raise UsageError(f"the report version must be {OLDEST_VERSION} to {NEWEST_VERSION}")
        if chain.product is not product:
            raise UsageError(f"the signing service certifies {chain.product}, not {product}")
        tcb = tcb or default_tcb(product)
        not_before = clock().replace(microsecond=0) - _BACKDATED
        vcek = chain.issue_vcek(
            endorsement_key(CertKind.VCEK, secret, product, tcb).public_key(),
            hwid=chip_id(secret, product)[: HWID_SIZE[product]],
            tcb=tcb,
            not_before=not_before,
        )
        vlek = None
        if csp_id is not None:
            key = endorsement_key(CertKind.VLEK, secret, product, tcb).public_key()
            vlek = chain.issue_vlek(key, csp_id=csp_id, tcb=tcb, not_before=not_before)
        return cls(
            product,
            secret,
            tcb,
            vcek,
            chain,
            report_version,
            firmware or Firmware(),
            cpuid,
            vlek_certificate=vlek,
        )

    @classmethod
    def create(
        cls,
        directory: Path,
        product: Product = Product.MILAN,
        *,
        report_version: int = DEFAULT_VERSION,
        clock: Clock = _now,
        entropy: Entropy = secrets.token_bytes,
    ) -> Self:
        """A new platform whose chip secret is kept in `directory`.

        Raises:
            UsageError: there is one already, or the report version does not exist.
        """
        made = cls.made(entropy(_SECRET), product=product, report_version=report_version, clock=clock)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = {
            "product": product.value,
            "report_version": report_version,
            "secret": made.secret.hex(),
            "tcb": made.tcb.hex(),
        }
        try:
            handle = os.open(directory / _FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise UsageError("there is a platform in this directory already") from None
        with os.fdopen(handle, "w", encoding="ascii") as file:
            json.dump(content, file)
        (directory / _VCEK).write_bytes(made.vcek_certificate)
        return made

    @classmethod
    def load(cls, directory: Path) -> Self:
        """The platform that `create` put into `directory`.

        Raises:
            UsageError: there is none, it is damaged, or its VCEK certificate is for another key.
        """
        try:
            members = Members(parse_json((directory / _FILE).read_bytes(), _FILE, most=_MAX_FILE), _FILE)
            product = Product(members.one_of("product", tuple(Product)))
            secret, tcb = members.hex("secret", size=_SECRET), members.hex("tcb", size=_TCB)
            # Platforms of releases before 0.3 do not state it.
            version = (
                members.integer("report_version", OLDEST_VERSION, NEWEST_VERSION)
                if members.has("report_version")
                else DEFAULT_VERSION
            )
            members.end()
            certificate = (directory / _VCEK).read_bytes()
        except OSError as error:
            raise UsageError("there is no platform in this directory") from error
        except (WireError, ValueError) as error:
            raise UsageError("the platform's files are damaged") from error
        loaded = cls(product, secret, tcb, certificate, SimulatedChain.shipped(product), version)
        key = loaded.vcek_key().public_key()
        if key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) not in certificate:
            raise UsageError("the platform's VCEK certificate is for another key")
        return loaded

    @classmethod
    def load_or_create(
        cls, directory: Path, product: Product | None = None, report_version: int | None = None
    ) -> Self:
        """The platform in `directory`, or a new one if there is none.

        Args:
            directory: where it is kept.
            product: of a new one, Milan by default; one that exists must be of it.
            report_version: of a new one, 3 by default; one that exists must write it.

        Raises:
            UsageError: the platform's files are damaged, or it is another one than asked for.
        """
        if not (directory / _FILE).exists():
            return cls.create(
                directory, product or Product.MILAN, report_version=report_version or DEFAULT_VERSION
            )
        loaded = cls.load(directory)
        if product not in {None, loaded.product} or report_version not in {None, loaded.report_version}:
            raise UsageError(
                f"the platform in this directory is a {loaded.product} with report version {loaded.report_version}",
                remedy="Take another directory for another platform.",
            )
        return loaded

    @property
    def chip_id(self) -> bytes:
        """CHIP_ID as reports carry it unless it is masked: 64 bytes; on Turin 8 bytes and zeros."""
        return chip_id(self.secret, self.product)

    @property
    def reported_cpuid(self) -> tuple[int, int, int]:
        """CPUID family, model, stepping as reports of version 3 and later carry them."""
        return self.cpuid or FIRST_MODEL[self.product].value

    def vcek_key(self) -> ec.EllipticCurvePrivateKey:
        """The versioned chip endorsement key of the reported TCB, on P-384; the same at each call."""
        return endorsement_key(CertKind.VCEK, self.secret, self.product, self.tcb)

    def vlek_key(self) -> ec.EllipticCurvePrivateKey:
        """The versioned loaded endorsement key of the reported TCB, on P-384; the same at each call."""
        return endorsement_key(CertKind.VLEK, self.secret, self.product, self.tcb)

    def launch(
        self,
        pages: Iterable[tuple[int, bytes]],
        *,
        policy: int = DEFAULT_POLICY,
        host_data: bytes = bytes(_HOST_DATA),
        id_block: IdBlock | None = None,
        entropy: Entropy = secrets.token_bytes,
    ) -> "LaunchContext":
        """Start a VM from pages (guest physical address, 4,096 bytes) in launch order.

        Raises:
            PspError: a page, the policy or the host data is malformed.
        """
        try:
            measurement = launch_digest(pages)
        except ValueError as error:
            raise PspError(str(error)) from error
        return self.launch_measured(
            measurement, policy=policy, host_data=host_data, id_block=id_block, entropy=entropy
        )

    def launch_measured(
        self,
        measurement: bytes,
        *,
        policy: int = DEFAULT_POLICY,
        host_data: bytes = bytes(_HOST_DATA),
        id_block: IdBlock | None = None,
        entropy: Entropy = secrets.token_bytes,
    ) -> "LaunchContext":
        """Start a VM whose launch digest has been computed already.

        Raises:
            PspError: the policy lacks bit 17 or does not fit 64 bits, or the host data are not 32 bytes.
        """
        if not policy >> 17 & 1 or not 0 <= policy < 1 << 64:
            raise PspError("bit 17 of the guest policy must be 1")
        if len(host_data) != _HOST_DATA:
            raise PspError(f"the host data must be {_HOST_DATA} bytes")
        return LaunchContext(self, measurement, entropy(32), policy, host_data, id_block or IdBlock())
