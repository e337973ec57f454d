"""The rules of the lint: each a small check with a stable id, over the view that both readers agree on.

A rule's expectation is computed here from what the certificate shall say, not taken from the code that
drafts. The checks of EK certificates are those of the TCG EK Credential Profile 2.6, section 3.2; pkilint and
OpenSSL know nothing of them (they let an EK certificate without SAN, keyUsage or extendedKeyUsage pass).
"""

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ca_service.judgment import Check, Finding, failed, passed
from ca_service.profiles import oids, structures
from ca_service.profiles.device import EMPTY_SLOT, find_slot
from ca_service.profiles.model import (
    EPHEMERAL_LIMIT,
    SERIAL_SIZE,
    CaContent,
    CaRole,
    DevidContent,
    Draft,
    EkContent,
    IssuerInfo,
    Profile,
)
from ca_service.profiles.naming import SIMULATION_MARK, ca_name, printable_manufacturer
from ca_service.profiles.view import (
    AccessView,
    AuthorityKeyView,
    BasicConstraintsView,
    CertificateView,
    DistributionView,
    ExtensionValue,
    GeneralNameView,
    HardwareModuleView,
    NameView,
    PermanentIdentifierView,
    PoliciesView,
    ProvenanceView,
    SpecificationView,
)
from vtpm.wire.templates import Role, parse_public

AKI, SKI, KU, BC = "2.5.29.35", "2.5.29.14", "2.5.29.15", "2.5.29.19"
SAN, EKU, SDA, CP = "2.5.29.17", "2.5.29.37", "2.5.29.9", "2.5.29.32"
CDP, AIA, PROVENANCE = "2.5.29.31", "1.3.6.1.5.5.7.1.1", oids.PROVENANCE.dotted_string
CA_ISSUERS = "1.3.6.1.5.5.7.48.2"

_EVERYWHERE = {AKI: False, SKI: False, KU: True, AIA: False, CDP: False}
_LEAF = {**_EVERYWHERE, PROVENANCE: False}
EXTENSIONS: dict[Profile, dict[str, bool]] = {
    "ek": {**_LEAF, BC: True, SAN: True, EKU: False, SDA: False},
    "iak": {**_LEAF, SAN: False, CP: False, EKU: False},
    "idevid": {**_LEAF, SAN: False, CP: False},
    "root-ca": {SKI: False, KU: True, BC: True},
    "issuing-ca": {**_EVERYWHERE, BC: True},
}
"""Per profile the extensions it has, no more and no fewer, and whether each is critical."""

NV_SIZE = 2048
"""One NV index of a TPM holds this many octets."""
_IDENTITY_SIZES = {2048: 1536, 3072: NV_SIZE}
_IDENTITY_SIZE = 1400

_ISSUER_ROLES: dict[Profile, tuple[CaRole, ...]] = {
    "ek": ("ek", "ephemeral"),
    "iak": ("devid", "ephemeral"),
    "idevid": ("devid", "ephemeral"),
    "root-ca": ("root",),
    "issuing-ca": ("root",),
}
_CURVES = {"secp256r1", "secp384r1", "secp521r1"}
_RSA_BITS = {2048, 3072}
_RSA_EXPONENT = 65537
_CA_CURVE = "secp384r1"
_LONGEST_SIGNATURE = 104
_X509_V3 = 3
_PRINTABLE = re.compile(r"[\x20-\x7e]+\Z")


@dataclass(frozen=True)
class LintSubject:
    """What a rule looks at: the draft, the view of its bytes, and its issuer (None for the root)."""

    draft: Draft
    view: CertificateView
    issuer: IssuerInfo | None

    @property
    def content(self) -> EkContent | DevidContent | CaContent:
        """What the certificate shall say."""
        return self.draft.content

    def value(self, dotted: str) -> ExtensionValue | None:
        """The value of an extension, None if it is not there."""
        extension = self.view.extension(dotted)
        return None if extension is None else extension.value


@dataclass(frozen=True)
class Rule:
    """One rule. `problem` says what is wrong, or nothing (None)."""

    id: str
    profiles: frozenset[Profile]
    problem: Callable[[LintSubject], str | None]

    def judge(self, subject: LintSubject) -> Finding:
        """Look at the subject."""
        wrong = self.problem(subject)
        return passed(self) if wrong is None else failed(self, wrong)


RULES: list[Rule] = []

_ALL: tuple[Profile, ...] = ("ek", "iak", "idevid", "root-ca", "issuing-ca")
_DEVICES: tuple[Profile, ...] = ("ek", "iak", "idevid")
_IDENTITIES: tuple[Profile, ...] = ("iak", "idevid")
_CAS: tuple[Profile, ...] = ("root-ca", "issuing-ca")
_ISSUED: tuple[Profile, ...] = ("ek", "iak", "idevid", "issuing-ca")

Problem = Callable[[LintSubject], str | None]


def _rule(name: str, *profiles: Profile) -> Callable[[Problem], Problem]:
    def register(problem: Problem) -> Problem:
        RULES.append(Rule(f"lint.{name}", frozenset(profiles or _ALL), problem))
        return problem

    return register


def rules_for(profile: Profile) -> tuple[Check[LintSubject], ...]:
    """The rules of a profile, in the order in which they are judged."""
    return tuple(rule for rule in RULES if profile in rule.profiles)


def _differs(what: str, wanted: object, found: object) -> str | None:
    return None if wanted == found else f"{what} is {_shown(found)}, must be {_shown(wanted)}"


def _shown(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, frozenset):
        return " ".join(sorted(value)) or "empty"
    return "absent" if value is None else str(value)


# --- the certificate's frame ---


@_rule("content")
def _content(s: LintSubject) -> str | None:
    kinds: dict[Profile, bool] = {
        "ek": isinstance(s.content, EkContent),
        "iak": isinstance(s.content, DevidContent) and s.content.role is Role.IAK,
        "idevid": isinstance(s.content, DevidContent) and s.content.role is Role.IDEVID,
        "root-ca": isinstance(s.content, CaContent) and s.content.role == "root" and s.issuer is None,
        "issuing-ca": isinstance(s.content, CaContent) and s.content.role != "root",
    }
    if not kinds[s.draft.profile]:
        return f"the draft's content is not that of the profile {s.draft.profile}"
    if s.issuer is None and s.draft.profile != "root-ca":
        return "the profile needs an issuer"
    return None


@_rule("version")
def _version(s: LintSubject) -> str | None:
    return _differs("the version", _X509_V3, s.view.version)


@_rule("serial")
def _serial(s: LintSubject) -> str | None:
    serial = s.view.serial
    if serial <= 0 or (serial.bit_length() + 8) // 8 != SERIAL_SIZE or serial >> (8 * (SERIAL_SIZE - 1)) == 0:
        return f"the serial number must be positive and fill {SERIAL_SIZE} octets"
    if s.draft.serial != s.content.serial:
        return "the draft names two serial numbers"
    return _differs("the serial number", s.content.serial, serial)


@_rule("size")
def _size(s: LintSubject) -> str | None:
    """A certificate's DER stays below the limit, whatever its signature turns out to be.

    IAK and IDevID: keylime's columns hold 1536 octets, and 1400 leaves room to spare. RSA-2048 keys need some
    of that room. An RSA-3072 key does not fit into keylime's columns anyway, so only the NV index counts.
    """
    body = len(s.draft.tbs) + len(structures.ECDSA_WITH_SHA384) + 3 + _LONGEST_SIGNATURE
    size, limit = body + 4, NV_SIZE
    if s.draft.profile in _IDENTITIES:
        key = serialization.load_der_public_key(s.view.spki)
        limit = (
            _IDENTITY_SIZES.get(key.key_size, limit) if isinstance(key, rsa.RSAPublicKey) else _IDENTITY_SIZE
        )
    return None if size < limit else f"may become {size} bytes long, must stay below {limit}"


@_rule("validity")
def _validity(s: LintSubject) -> str | None:
    wanted = s.content.validity
    if s.view.not_before > s.view.not_after:
        return "ends before it begins"
    if s.issuer is not None and not (
        s.issuer.certificate.not_valid_before_utc <= s.view.not_before
        and s.view.not_after <= s.issuer.certificate.not_valid_after_utc
    ):
        return "is valid when its issuer is not"
    return _differs("notBefore", wanted.not_before, s.view.not_before) or _differs(
        "notAfter", wanted.not_after, s.view.not_after
    )


@_rule("ephemeral", *_DEVICES)
def _ephemeral(s: LintSubject) -> str | None:
    if s.issuer is None or s.issuer.role != "ephemeral":
        return None
    if s.view.not_after - s.view.not_before > EPHEMERAL_LIMIT:
        return f"the Ephemeral CA signs for {EPHEMERAL_LIMIT.days} days at most"
    return None


# --- issuer ---


@_rule("issuer-name")
def _issuer_name(s: LintSubject) -> str | None:
    wanted = s.view.subject.der if s.issuer is None else s.issuer.certificate.subject.public_bytes()
    return _differs("the issuer name", wanted, s.view.issuer.der)


@_rule("issuer-role", *_ISSUED)
def _issuer_role(s: LintSubject) -> str | None:
    if s.issuer is None or s.issuer.role not in _ISSUER_ROLES[s.draft.profile]:
        return f"a CA of another role must sign {s.draft.profile} certificates"
    extensions = s.issuer.certificate.extensions
    constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
    wanted = 1 if s.draft.profile == "issuing-ca" else 0
    if not constraints.ca or constraints.path_length != wanted:
        return "the issuer is no CA with the right path length"
    if not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign:
        return "the issuer may not sign certificates"
    return None


@_rule("authority-key-id", *_ISSUED)
def _authority_key_id(s: LintSubject) -> str | None:
    wanted = AuthorityKeyView(s.issuer.key_id if s.issuer else None, names_issuer=False)
    return _differs("authorityKeyIdentifier", wanted, s.value(AKI))


@_rule("authority-info-access", *_ISSUED)
def _authority_info_access(s: LintSubject) -> str | None:
    url = s.issuer.certificate_url if s.issuer else ""
    return _differs("authorityInfoAccess", AccessView(((CA_ISSUERS, url),)), s.value(AIA))


@_rule("crl-distribution-points", *_ISSUED)
def _crl_distribution_points(s: LintSubject) -> str | None:
    url = s.issuer.crl_url if s.issuer else ""
    return _differs("cRLDistributionPoints", DistributionView((url,), plain=True), s.value(CDP))


# --- extensions as a set ---


@_rule("extension-set")
def _extension_set(s: LintSubject) -> str | None:
    present = [e.id for e in s.view.extensions]
    if len(set(present)) != len(present):
        return "an extension stands twice"
    wanted = EXTENSIONS[s.draft.profile]
    missing, surplus = sorted(set(wanted) - set(present)), sorted(set(present) - set(wanted))
    parts = [f"missing {' '.join(missing)}"] * bool(missing) + [f"surplus {' '.join(surplus)}"] * bool(
        surplus
    )
    return "; ".join(parts) or None


@_rule("criticality")
def _criticality(s: LintSubject) -> str | None:
    wanted = EXTENSIONS[s.draft.profile]
    wrong = sorted(e.id for e in s.view.extensions if wanted.get(e.id, e.critical) != e.critical)
    return f"wrong criticality of {' '.join(wrong)}" if wrong else None


# --- key ---


@_rule("key")
def _key(s: LintSubject) -> str | None:
    if isinstance(s.content, CaContent):
        key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey = s.content.public_key
    else:
        key = parse_public(s.content.public, "public").public_key()
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return None if der == s.view.spki else "certifies another key than the one to be certified"


@_rule("key-kind")
def _key_kind(s: LintSubject) -> str | None:
    key = serialization.load_der_public_key(s.view.spki)
    if isinstance(s.content, CaContent):
        return (
            None
            if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == _CA_CURVE
            else "must be P-384"
        )
    if isinstance(key, rsa.RSAPublicKey):
        good = key.key_size in _RSA_BITS and key.public_numbers().e == _RSA_EXPONENT
    else:
        good = isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES
    return None if good else "must be RSA-2048 or RSA-3072 with exponent 65537, or on P-256, P-384 or P-521"


@_rule("subject-key-id")
def _subject_key_id(s: LintSubject) -> str | None:
    key = serialization.load_der_public_key(s.view.spki)
    if isinstance(key, rsa.RSAPublicKey):
        inner = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        inner = key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    else:
        return "is of a kind that has no identifier here"
    return _differs("subjectKeyIdentifier", hashlib.sha256(inner).digest()[:20], s.value(SKI))


@_rule("key-usage")
def _key_usage(s: LintSubject) -> str | None:
    if isinstance(s.content, CaContent):
        wanted = {"key_cert_sign", "crl_sign"}
    elif isinstance(s.content, DevidContent):
        wanted = {"digital_signature"}
    else:
        is_rsa = isinstance(serialization.load_der_public_key(s.view.spki), rsa.RSAPublicKey)
        wanted = {"key_encipherment"} if is_rsa else {"key_agreement"}
    return _differs("keyUsage", frozenset(wanted), s.value(KU))


@_rule("basic-constraints", "ek", *_CAS)
def _basic_constraints(s: LintSubject) -> str | None:
    wanted = {
        "ek": BasicConstraintsView(ca=False, path_length=None),
        "root-ca": BasicConstraintsView(ca=True, path_length=1),
        "issuing-ca": BasicConstraintsView(ca=True, path_length=0),
    }[s.draft.profile]
    return _differs("basicConstraints", wanted, s.value(BC))


@_rule("extended-key-usage", "ek", "iak")
def _extended_key_usage(s: LintSubject) -> str | None:
    wanted = "2.23.133.8.1" if s.draft.profile == "ek" else "2.23.133.8.3"
    return _differs("extendedKeyUsage", (wanted,), s.value(EKU))


@_rule("policies", *_IDENTITIES)
def _policies(s: LintSubject) -> str | None:
    second = "2.23.133.11.1.3" if s.draft.profile == "iak" else "2.23.133.11.1.2"
    return _differs(
        "certificatePolicies", PoliciesView(("2.23.133.11.1.1", second), qualified=False), s.value(CP)
    )


# --- names ---


@_rule("ca-subject", *_CAS)
def _ca_subject(s: LintSubject) -> str | None:
    if not isinstance(s.content, CaContent):
        return "is no CA's content"
    marked = all(
        SIMULATION_MARK in text for rdn in s.view.subject.rdns for oid, text in rdn if oid == "2.5.4.3"
    )
    if marked != (s.content.mode == "simulation"):
        return "the name must say so exactly if the CA is a simulation"
    wanted = ca_name(s.content.organization, s.content.mode, s.content.role, s.content.pair)
    return _differs("the subject", wanted.public_bytes(), s.view.subject.der)


@_rule("subject", *_DEVICES)
def _subject(s: LintSubject) -> str | None:
    if not isinstance(s.content, DevidContent):
        return _differs("the subject", (), s.view.subject.rdns)
    serial = hashlib.sha256(s.content.ek_name).hexdigest()[:32]
    wanted = ((("2.5.4.3", "vTPM"),), (("2.5.4.5", serial),))
    return _differs("the subject", wanted, s.view.subject.rdns)


def _alternative_names(s: LintSubject) -> tuple[GeneralNameView, ...]:
    value = s.value(SAN)
    if not isinstance(value, tuple):
        return ()
    return tuple(name for name in value if not isinstance(name, str))


@_rule("tpm-name", "ek")
def _tpm_name(s: LintSubject) -> str | None:
    names = _alternative_names(s)
    if not isinstance(s.content, EkContent) or len(names) != 1 or not isinstance(names[0], NameView):
        return "subjectAltName must be exactly one directoryName"
    texts = (
        f"id:{s.content.manufacturer.upper()}",
        s.content.vendor,
        f"id:{s.content.firmware[:8].upper()}",
    )
    if not all(_PRINTABLE.match(text) for text in texts):
        return "manufacturer, model and version must be printable ASCII"
    types = ("2.23.133.2.1", "2.23.133.2.2", "2.23.133.2.3")
    wanted = tuple(((kind, text),) for kind, text in zip(types, texts, strict=True))
    return _differs("the TPM's name", wanted, names[0].rdns)


@_rule("tpm-specification", "ek")
def _tpm_specification(s: LintSubject) -> str | None:
    if not isinstance(s.content, EkContent):
        return "is no EK's content"
    spec = s.content.spec
    wanted = SpecificationView("2.23.133.2.16", spec.family, int(spec.level), int(spec.revision))
    return _differs("TPMSpecification", wanted, s.value(SDA))


@_rule("hardware-module-name", *_IDENTITIES)
def _hardware_module_name(s: LintSubject) -> str | None:
    names = _alternative_names(s)
    if not isinstance(s.content, DevidContent) or not names or not isinstance(names[0], HardwareModuleView):
        return "the first alternative name must be a HardwareModuleName"
    parts = (
        printable_manufacturer(s.content.manufacturer),
        s.content.ek_aki.hex(),
        f"{s.content.ek_serial:0{2 * SERIAL_SIZE}x}",
    )
    return _differs("hwType", "2.23.133.1.2", names[0].hw_type) or _differs(
        "hwSerialNum", ":".join(parts).encode(), names[0].hw_serial_num
    )


@_rule("permanent-identifier", *_IDENTITIES)
def _permanent_identifier(s: LintSubject) -> str | None:
    names = _alternative_names(s)
    if (
        not isinstance(s.content, DevidContent)
        or len(names) != 2  # noqa: PLR2004 - HardwareModuleName and this one
        or not isinstance(names[1], PermanentIdentifierView)
    ):
        return "the second and last alternative name must be a permanentIdentifier"
    digest = EMPTY_SLOT.decode() if s.content.ek_digest is None else s.content.ek_digest
    return _differs("its assigner", "2.23.133.12.1", names[1].assigner) or _differs(
        "its value", digest, names[1].identifier_value
    )


@_rule("slot")
def _slot(s: LintSubject) -> str | None:
    open_digest = isinstance(s.content, DevidContent) and s.content.ek_digest is None
    if open_digest != (s.draft.slot is not None):
        return "a slot belongs to drafts whose EK certificate is not signed yet, and to no others"
    if s.draft.slot is None:
        named = s.content.ek_digest if isinstance(s.content, DevidContent) else ""
        return "the EK certificate's digest must be known" if named == EMPTY_SLOT.decode() else None
    try:
        found = find_slot(s.draft.tbs, EMPTY_SLOT.decode())
    except ValueError:
        return "the slot must be the one permanentIdentifier, filled with zeros"
    return _differs("the slot's offset", found, s.draft.slot)


@_rule("provenance", *_DEVICES)
def _provenance(s: LintSubject) -> str | None:
    if isinstance(s.content, CaContent):
        return "is no device's content"
    origin = s.content.provenance
    wanted = ProvenanceView(
        1,
        origin.profile,
        base64.urlsafe_b64decode(origin.kbs_thumbprint + "="),
        origin.resource,
        origin.measurement,
        bytes.fromhex(origin.policy_digest),
        origin.decision_id,
    )
    if len(wanted.measurement) != 48 or not all(  # noqa: PLR2004 - octets of a launch measurement
        _PRINTABLE.match(text) for text in (wanted.evidence_profile, wanted.resource, wanted.decision_id)
    ):
        return "provenance must be printable ASCII with a measurement of 48 octets"
    return _differs("the provenance", wanted, s.value(PROVENANCE))
