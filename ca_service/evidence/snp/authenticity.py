"""The checks that make a report authentic: an AMD processor of a known kind signed these very bytes.

They stop at the first failure, because each one relies on those before it. Sources: AMD 56860 (report), AMD 57230
(certificates). What the report says about the VM is judged in `configuration`.
"""

from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from ca_service.evidence.snp.evidence import SnpEvidence
from ca_service.evidence.snp.leaf import HWID_SIZE, STRUCT_VERSION
from ca_service.judgment import Check, Finding, failed, passed
from vtpm.wire.certtable import CertKind
from vtpm.wire.report import SIGNED_SIZE

_VERSIONS: Final = range(2, 6)
_VCEK: Final = 0
_SIGNING_KEYS: Final = {0: "VCEK", 1: "VLEK", 7: "none"}
_ECDSA_P384_SHA384: Final = 1
_LEAF_NAME: Final = "SEV-VCEK"
_SIGNATURE_END: Final = SIGNED_SIZE + 2 * 72
_P384_ORDER: Final = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16
)


@dataclass(frozen=True)
class _Version:
    """The report's layout is one that this verifier knows."""

    id: str = "snp.version"

    def judge(self, subject: SnpEvidence) -> Finding:
        version = subject.report.version
        if version not in _VERSIONS:
            return failed(
                self, "the report's version is not accepted", expected="2, 3, 4 or 5", actual=version
            )
        return passed(self, actual=version)


@dataclass(frozen=True)
class _KeyKind:
    """The report says that a VCEK signed it, and the host sent no other kind of certificate for it."""

    id: str = "snp.key-kind"

    def judge(self, subject: SnpEvidence) -> Finding:
        number = subject.report.signing_key
        stated = _SIGNING_KEYS.get(number, f"reserved ({number})")
        if number != _VCEK:
            return failed(self, "the report is not signed by a VCEK", expected="VCEK", actual=stated)
        if subject.kind not in {None, CertKind.VCEK}:
            return failed(
                self, "the certificate sent is not of the report's key", expected=stated, actual=subject.kind
            )
        return passed(self, actual=stated)


@dataclass(frozen=True)
class _LeafPresent:
    """A certificate came along and can be read. This verifier fetches none."""

    id: str = "snp.leaf-present"

    def judge(self, subject: SnpEvidence) -> Finding:
        if subject.leaf is None:
            return failed(self, "no readable VCEK certificate came with the report")
        return passed(self)


@dataclass(frozen=True)
class _Product:
    """The processor's generation is known; it decides chain, TCB layout and size of the chip id."""

    id: str = "snp.product"

    def judge(self, subject: SnpEvidence) -> Finding:
        if subject.product is None:
            family, model, stepping = subject.report.cpuid
            return failed(
                self,
                "the processor is of no known product",
                expected="Milan, Genoa or Turin",
                actual=f"CPUID {family:02x}h/{model:02x}h/{stepping:x}",
            )
        return passed(self, actual=subject.product)


@dataclass(frozen=True)
class _LeafProfile:
    """The certificate has the form of AMD's VCEK certificates for this product."""

    id: str = "snp.leaf-profile"

    def judge(self, subject: SnpEvidence) -> Finding:
        wrong = self._wrong(subject)
        if wrong:
            return failed(self, "the VCEK certificate has not the form that AMD gives it", actual=wrong)
        return passed(self)

    def _wrong(self, subject: SnpEvidence) -> str:
        """Which demand is not met; empty when all are."""
        leaf, product = subject.leaf, subject.product
        if leaf is None or product is None:
            return "no certificate or no product"
        hwid = leaf.hwid
        demands = {
            "subject common name": leaf.common_name == _LEAF_NAME,
            "key on P-384": leaf.public_key is not None,
            "RSASSA-PSS with SHA-384": leaf.pss,
            "no critical extension": not leaf.critical,
            "structVersion": leaf.struct_version == STRUCT_VERSION[product],
            "productName": leaf.product_name is not None,
            "TCB": leaf.tcb(product) is not None,
            "hwID": hwid is not None and len(hwid) == HWID_SIZE[product],
            "no CSP_ID": not leaf.has_csp_id,
        }
        return ", ".join(name for name, met in demands.items() if not met)


@dataclass(frozen=True)
class _Chain:
    """A trusted signing service of this product issued the certificate."""

    id: str = "snp.chain"

    def judge(self, subject: SnpEvidence) -> Finding:
        if subject.root is None:
            known = ", ".join(sorted({root.ark.subject.rfc4514_string() for root in subject.roots}))
            return failed(
                self,
                "the VCEK certificate does not lead to a trusted root of its product",
                expected=known,
                actual=subject.product or "",
            )
        return passed(self, actual=subject.root.ark.subject.rfc4514_string())


@dataclass(frozen=True)
class _Validity:
    """Every certificate of the chain is valid at the time of verification."""

    id: str = "snp.validity"

    def judge(self, subject: SnpEvidence) -> Finding:
        if subject.leaf is None:
            return failed(self, "there is no certificate whose dates could hold")
        periods = {"VCEK": (subject.leaf.not_before, subject.leaf.not_after)}
        if subject.root is not None:
            for name, certificate in (("ASK", subject.root.ask), ("ARK", subject.root.ark)):
                periods[name] = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        for name, (start, end) in periods.items():
            if not start <= subject.at <= end:
                return failed(
                    self,
                    f"the {name} certificate is not valid at this time",
                    expected=f"{start.isoformat()} to {end.isoformat()}",
                    actual=subject.at.isoformat(),
                )
        return passed(self, actual=subject.at.isoformat())


@dataclass(frozen=True)
class _SignatureAlgorithm:
    """The report says that it is signed by ECDSA on P-384 with SHA-384; nothing else is defined."""

    id: str = "snp.signature-algorithm"

    def judge(self, subject: SnpEvidence) -> Finding:
        algorithm = subject.report.signature_algo
        if algorithm != _ECDSA_P384_SHA384:
            return failed(self, "the report's signature algorithm is unknown", expected=1, actual=algorithm)
        return passed(self)


@dataclass(frozen=True)
class _MaskChipKey:
    """The platform does not withhold its signature (with MASK_CHIP_KEY the firmware writes zeros)."""

    id: str = "snp.mask-chip-key"

    def judge(self, subject: SnpEvidence) -> Finding:
        if subject.report.mask_chip_key:
            return failed(self, "the platform masks its chip key, so the report is not signed")
        return passed(self)


@dataclass(frozen=True)
class _Signature:
    """The signature holds over the raw bytes, in its one form: all 72 bytes of r and s count, the rest is zero.

    ECDSA stays malleable, (r, n-s) holds too, so the bytes of a report identify nothing.
    """

    id: str = "snp.signature"

    def judge(self, subject: SnpEvidence) -> Finding:
        report, leaf = subject.report, subject.leaf
        if leaf is None or leaf.public_key is None:
            return failed(self, "there is no key on P-384 to verify the report with")
        r, s = report.signature_r, report.signature_s
        if not (1 <= r < _P384_ORDER and 1 <= s < _P384_ORDER):
            return failed(self, "the report's signature is out of range")
        if any(report.raw[_SIGNATURE_END:]):
            return failed(self, "the unsigned end of the report is not zero")
        try:
            leaf.public_key.verify(encode_dss_signature(r, s), report.signed_bytes, ec.ECDSA(hashes.SHA384()))
        except InvalidSignature:
            return failed(self, "the report's signature does not hold")
        return passed(self)


@dataclass(frozen=True)
class _Tcb:
    """The certificate is for REPORTED_TCB, byte by byte; the other TCBs of the report may differ from it."""

    id: str = "snp.tcb"

    def judge(self, subject: SnpEvidence) -> Finding:
        leaf, product = subject.leaf, subject.product
        certified = leaf.tcb(product) if leaf is not None and product is not None else None
        reported = subject.report.reported_tcb
        if certified != reported:
            return failed(
                self,
                "the VCEK certificate is for another TCB than the report's",
                expected=reported.hex(),
                actual=certified.hex() if certified is not None else "",
            )
        return passed(self, actual=reported.hex())


@dataclass(frozen=True)
class _Hwid:
    """The certificate is for the chip that the report names. A platform that masks its chip id is refused."""

    id: str = "snp.hwid"

    def judge(self, subject: SnpEvidence) -> Finding:
        hwid = subject.leaf.hwid if subject.leaf is not None else None
        chip_id = subject.report.chip_id
        if not any(chip_id):
            return failed(self, "the report names no chip")
        if not hwid or hwid.ljust(len(chip_id), b"\0") != chip_id:
            return failed(
                self,
                "the VCEK certificate is for another chip than the report's",
                expected=chip_id.hex(),
                actual=(hwid or b"").hex(),
            )
        return passed(self)


AUTHENTICITY: tuple[Check[SnpEvidence], ...] = (
    _Version(),
    _KeyKind(),
    _LeafPresent(),
    _Product(),
    _LeafProfile(),
    _Chain(),
    _Validity(),
    _SignatureAlgorithm(),
    _MaskChipKey(),
    _Signature(),
    _Tcb(),
    _Hwid(),
)
"""In their order; run them with `judge_until_failure`."""
