"""A simulated SEV-SNP platform: one chip with its secret, its TCB, and the VMs launched on it."""

import hmac
import json
import os
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from vtpm.errors import UsageError
from vtpm.snp.chain import SimulatedChain
from vtpm.snp.errors import PspError
from vtpm.snp.measurement import launch_digest
from vtpm.snp.names import HWID_SIZE
from vtpm.wire.certtable import CertKind, pack_table
from vtpm.wire.encoding import Members, parse_json
from vtpm.wire.errors import WireError
from vtpm.wire.report import TCB_LAYOUT, Product, pack_report, pack_signature

Clock = Callable[[], datetime]
Entropy = Callable[[int], bytes]

DEFAULT_POLICY: Final = 0x30000
"""Guest policy: SMT allowed, bit 17 set as it must be; no debugging, no migration."""

_FILE: Final = "platform.json"
_VCEK: Final = "vcek.der"
_MAX_FILE: Final = 4096
_SECRET: Final = 32
_REPORT_DATA: Final = 64
_HOST_DATA: Final = 32
_TCB: Final = 8
_MAX_VMPL: Final = 3
_P384_ORDER: Final = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16
)
_BACKDATED: Final = timedelta(hours=1)
_CPUID: Final = {Product.MILAN: (0x19, 1, 1), Product.GENOA: (0x19, 0x11, 1), Product.TURIN: (0x1A, 2, 1)}
_FIRMWARE: Final = (1, 55, 29)
_LEVELS: Final = {"fmc": 0, "bootloader": 4, "tee": 0, "snp": 0x1B, "microcode": 0xDB}
_CPUID_SINCE: Final = 3


def _now() -> datetime:
    return datetime.now(UTC)


def default_tcb(product: Product) -> bytes:
    """The 8-byte TCB_VERSION of a new platform."""
    raw = bytearray(_TCB)
    for component, index in TCB_LAYOUT[product].items():
        raw[index] = _LEVELS[component]
    return bytes(raw)


@dataclass(frozen=True)
class Platform:
    """One chip.

    Attributes:
        product: processor generation.
        secret: 32 bytes, fused into the chip; chip id and VCEKs derive from it.
        tcb: 8 bytes: current, committed and reported TCB_VERSION, and that of each launch.
        vcek_certificate: DER, for `tcb`.
        chain: the signing service that issued it; its ASK and ARK go into the certificate table on request.
        report_version: ATTESTATION_REPORT version that the firmware writes: 2 to 5.
    """

    product: Product
    secret: bytes = field(repr=False)
    tcb: bytes
    vcek_certificate: bytes = field(repr=False)
    chain: SimulatedChain = field(repr=False)
    report_version: int = 3

    @classmethod
    def made(
        cls,
        secret: bytes,
        *,
        product: Product = Product.MILAN,
        tcb: bytes | None = None,
        chain: SimulatedChain | None = None,
        report_version: int = 3,
        clock: Clock = _now,
    ) -> Self:
        """A platform in memory, its VCEK certified now.

        Args:
            secret: 32 bytes.
            product: processor generation.
            tcb: 8-byte TCB_VERSION; a realistic one by default.
            chain: who certifies the VCEK; the shipped simulated chain by default, which knows Milan only.
            report_version: what its firmware writes.
            clock: for the certificate's dates.

        Raises:
            UsageError: the chain is for another product.
        """
        chain = chain or SimulatedChain.shipped()
        if chain.product is not product:
            raise UsageError(f"the signing service certifies {chain.product}, not {product}")
        tcb = tcb or default_tcb(product)
        certificate = chain.issue_vcek(
            _vcek(secret, product, tcb).public_key(),
            hwid=_chip_id(secret, product)[: HWID_SIZE[product]],
            tcb=tcb,
            not_before=clock().replace(microsecond=0) - _BACKDATED,
        )
        return cls(product, secret, tcb, certificate, chain, report_version)

    @classmethod
    def create(
        cls,
        directory: Path,
        product: Product = Product.MILAN,
        *,
        clock: Clock = _now,
        entropy: Entropy = secrets.token_bytes,
    ) -> Self:
        """A new platform whose chip secret is kept in `directory`.

        Raises:
            UsageError: there is one already, or the shipped signing service does not know the product.
        """
        made = cls.made(entropy(_SECRET), product=product, clock=clock)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = {"product": product.value, "secret": made.secret.hex(), "tcb": made.tcb.hex()}
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
            members.end()
            certificate = (directory / _VCEK).read_bytes()
        except OSError as error:
            raise UsageError("there is no platform in this directory") from error
        except (WireError, ValueError) as error:
            raise UsageError("the platform's files are damaged") from error
        loaded = cls(product, secret, tcb, certificate, SimulatedChain.shipped())
        key = loaded.vcek_key().public_key()
        if key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) not in certificate:
            raise UsageError("the platform's VCEK certificate is for another key")
        return loaded

    @classmethod
    def load_or_create(cls, directory: Path) -> Self:
        """The platform in `directory`, a new Milan one if there is none."""
        return cls.load(directory) if (directory / _FILE).exists() else cls.create(directory)

    @property
    def chip_id(self) -> bytes:
        """CHIP_ID as reports carry it: 64 bytes; on Turin 8 bytes and zeros."""
        return _chip_id(self.secret, self.product)

    def vcek_key(self) -> ec.EllipticCurvePrivateKey:
        """The versioned chip endorsement key of the reported TCB, on P-384; the same at each call."""
        return _vcek(self.secret, self.product, self.tcb)

    def launch(
        self,
        pages: Iterable[tuple[int, bytes]],
        *,
        policy: int = DEFAULT_POLICY,
        host_data: bytes = bytes(_HOST_DATA),
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
        return self.launch_measured(measurement, policy=policy, host_data=host_data, entropy=entropy)

    def launch_measured(
        self,
        measurement: bytes,
        *,
        policy: int = DEFAULT_POLICY,
        host_data: bytes = bytes(_HOST_DATA),
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
        return LaunchContext(self, measurement, entropy(32), policy, host_data)


@dataclass(frozen=True)
class LaunchContext:
    """One VM launch: what the processor says about it for as long as it runs.

    Attributes:
        platform: where it runs.
        measurement: 48 bytes.
        report_id: 32 random bytes, constant for this launch.
        policy: guest policy bits.
        host_data: 32 bytes that the host chose.
    """

    platform: Platform
    measurement: bytes
    report_id: bytes
    policy: int
    host_data: bytes

    def report(self, report_data: bytes, vmpl: int = 0) -> bytes:
        """A signed attestation report, 1,184 bytes.

        Args:
            report_data: 64 bytes.
            vmpl: privilege level to state. The simulation hands the requester VMPCK 0, so 0 to 3.

        Raises:
            PspError: report data of another size, or a level that does not exist.
        """
        if len(report_data) != _REPORT_DATA:
            raise PspError(f"REPORT_DATA must be {_REPORT_DATA} bytes, is {len(report_data)}")
        if not 0 <= vmpl <= _MAX_VMPL:
            raise PspError(f"a VMPL must be 0 to {_MAX_VMPL}")
        platform = self.platform
        body = pack_report(
            version=platform.report_version,
            policy=self.policy,
            vmpl=vmpl,
            current_tcb=platform.tcb,
            platform_info=0x25,  # SMT, ECC, alias check complete
            report_data=report_data,
            measurement=self.measurement,
            host_data=self.host_data,
            report_id=self.report_id,
            reported_tcb=platform.tcb,
            cpuid=_CPUID[platform.product] if platform.report_version >= _CPUID_SINCE else (0, 0, 0),
            chip_id=platform.chip_id,
            committed_tcb=platform.tcb,
            current_firmware=_FIRMWARE,
            committed_firmware=_FIRMWARE,
            launch_tcb=platform.tcb,
        )
        return body + sign_body(body, platform.vcek_key())

    def cert_table(self) -> bytes:
        """The extended report's certificate table: the VCEK certificate in DER, as AMD's GUID table."""
        return pack_table({CertKind.VCEK: self.platform.vcek_certificate})


def sign_body(body: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """The 512-byte signature field over the 0x2a0 signed bytes of a report: ECDSA P-384 with SHA-384."""
    return pack_signature(*decode_dss_signature(key.sign(body, ec.ECDSA(hashes.SHA384()))))


def _derive(secret: bytes, label: bytes) -> bytes:
    return hmac.digest(secret, b"vtpm-ca simulated chip/" + label, "sha512")


def _chip_id(secret: bytes, product: Product) -> bytes:
    return _derive(secret, b"id")[: HWID_SIZE[product]].ljust(64, b"\0")


def _vcek(secret: bytes, product: Product, tcb: bytes) -> ec.EllipticCurvePrivateKey:
    # 64 bytes reduced to 384 bits: the bias is far below what anybody could see (FIPS 186-5, A.2.1).
    seed = int.from_bytes(_derive(secret, b"vcek/" + product.value.encode("ascii") + tcb), "big")
    return ec.derive_private_key(seed % (_P384_ORDER - 1) + 1, ec.SECP384R1())
