"""A launched VM, and what the processor says about it: reports and the certificate table."""

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from vtpm.snp.errors import PspError
from vtpm.snp.idblock import IdBlock
from vtpm.snp.keys import sign_body
from vtpm.wire.certtable import CertKind, pack_table
from vtpm.wire.report import pack_report, pack_signature

if TYPE_CHECKING:
    from vtpm.snp.platform import Platform

_REPORT_DATA: Final = 64
_CHIP_ID: Final = 64
_DIGEST: Final = 48
_MAX_VMPL: Final = 3
_CPUID_SINCE: Final = 3
_MITIGATIONS_SINCE: Final = 5
_AUTHOR_KEY_EN: Final = 1 << 0
_MASK_CHIP_KEY: Final = 1 << 1
_NO_KEY: Final = 7
_SIGNING_KEY: Final = {CertKind.VCEK: 0, CertKind.VLEK: 1}
_SIGNING_KEY_SHIFT: Final = 2


class KeySelect(IntEnum):
    """Which key a guest wants its report signed with (56860, MSG_REPORT_REQ, KEY_SEL)."""

    DEFAULT = 0
    """The VLEK if the host has loaded one, else the VCEK."""
    VCEK = 1
    VLEK = 2


@dataclass(frozen=True)
class LaunchContext:
    """One VM launch: what the processor says about it for as long as it runs.

    Attributes:
        platform: where it runs.
        measurement: 48 bytes.
        report_id: 32 random bytes, constant for this launch.
        policy: guest policy bits.
        host_data: 32 bytes that the host chose.
        id_block: what the guest's owner stated; zeros without one.
    """

    platform: "Platform"
    measurement: bytes
    report_id: bytes
    policy: int
    host_data: bytes
    id_block: IdBlock = field(default_factory=IdBlock)

    def report(self, report_data: bytes, vmpl: int = 0, key: KeySelect = KeySelect.DEFAULT) -> bytes:
        """A signed attestation report, 1,184 bytes.

        Args:
            report_data: 64 bytes.
            vmpl: privilege level to state. The simulation hands the requester VMPCK 0, so 0 to 3.
            key: what to sign with.

        Raises:
            PspError: report data of another size, a level that does not exist, or a VLEK that the host has not
                loaded.
        """
        body = self.report_body(report_data, vmpl, key)
        if self.platform.firmware.mask_chip_key:
            return body + pack_signature(0, 0)
        return body + sign_body(body, self.signing_key(key))

    def report_body(self, report_data: bytes, vmpl: int = 0, key: KeySelect = KeySelect.DEFAULT) -> bytes:
        """The 0x2a0 bytes of `report` that are signed, so that a test can change them and sign them itself.

        Raises:
            PspError: as `report`.
        """
        if len(report_data) != _REPORT_DATA:
            raise PspError(f"REPORT_DATA must be {_REPORT_DATA} bytes, is {len(report_data)}")
        if not 0 <= vmpl <= _MAX_VMPL:
            raise PspError(f"a VMPL must be 0 to {_MAX_VMPL}")
        kind = self._kind(key)
        platform, firmware, block = self.platform, self.platform.firmware, self.id_block
        masked = kind is CertKind.VLEK if firmware.mask_chip_id is None else firmware.mask_chip_id
        mitigations = platform.report_version >= _MITIGATIONS_SINCE
        return pack_report(
            version=platform.report_version,
            guest_svn=block.guest_svn,
            policy=self.policy,
            family_id=block.family_id,
            image_id=block.image_id,
            vmpl=vmpl,
            current_tcb=firmware.current_tcb or platform.tcb,
            platform_info=firmware.platform_info,
            key_flags=self._key_flags(kind),
            report_data=report_data,
            measurement=self.measurement,
            host_data=self.host_data,
            id_key_digest=block.id_key_digest,
            author_key_digest=block.author_key_digest or bytes(_DIGEST),
            report_id=self.report_id,
            reported_tcb=platform.tcb,
            cpuid=platform.reported_cpuid if platform.report_version >= _CPUID_SINCE else (0, 0, 0),
            chip_id=bytes(_CHIP_ID) if masked else platform.chip_id,
            committed_tcb=firmware.committed_tcb or platform.tcb,
            current_firmware=firmware.current,
            committed_firmware=firmware.committed,
            launch_tcb=firmware.launch_tcb or platform.tcb,
            launch_mit_vector=firmware.launch_mit_vector if mitigations else 0,
            current_mit_vector=firmware.current_mit_vector if mitigations else 0,
        )

    def signing_key(self, key: KeySelect = KeySelect.DEFAULT) -> ec.EllipticCurvePrivateKey:
        """What `report` signs with; a real processor never gives it away.

        Raises:
            PspError: a VLEK that the host has not loaded.
        """
        return self.platform.vlek_key() if self._kind(key) is CertKind.VLEK else self.platform.vcek_key()

    def cert_table(
        self,
        include: Collection[CertKind] = (),
        *,
        crl: bytes | None = None,
        key: KeySelect = KeySelect.DEFAULT,
    ) -> bytes:
        """The extended report's certificate table, AMD's GUID table with contents in DER.

        Args:
            include: what the host offers besides the leaf: ASK (for a VLEK the ASVK), ARK.
            crl: the ARK's revocation list in DER, if the host offers one.
            key: whose leaf it holds.

        Raises:
            PspError: a VLEK that the host has not loaded.
            WireError: more than 16 KiB in all.
        """
        kind, platform = self._kind(key), self.platform
        intermediate = platform.chain.ask
        if kind is CertKind.VLEK and platform.chain.asvk is not None:
            intermediate = platform.chain.asvk
        leaf = platform.vcek_certificate
        if kind is CertKind.VLEK and platform.vlek_certificate is not None:
            leaf = platform.vlek_certificate
        entries = {kind: leaf}
        for offered, certificate in ((CertKind.ASK, intermediate), (CertKind.ARK, platform.chain.ark)):
            if offered in include:
                entries[offered] = certificate.public_bytes(Encoding.DER)
        if crl is not None:
            entries[CertKind.CRL] = crl
        return pack_table(entries)

    def _kind(self, key: KeySelect) -> CertKind:
        loaded = self.platform.vlek_certificate is not None
        if key is KeySelect.VLEK and not loaded:
            raise PspError("the host has loaded no VLEK")
        return CertKind.VLEK if loaded and key is not KeySelect.VCEK else CertKind.VCEK

    def _key_flags(self, kind: CertKind) -> int:
        masked = self.platform.firmware.mask_chip_key
        signing = _NO_KEY if masked else _SIGNING_KEY[kind]
        author = _AUTHOR_KEY_EN if self.id_block.author_key_digest is not None else 0
        return author | (_MASK_CHIP_KEY if masked else 0) | signing << _SIGNING_KEY_SHIFT
