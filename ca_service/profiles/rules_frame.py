"""Rules about a certificate's frame: version, serial, size, time, issuer, and which extensions there are."""

from ca_service.profiles.model import (
    EPHEMERAL_LIMIT,
    OCSP_LIMIT,
    SERIAL_SIZE,
    CaContent,
    CaRole,
    DevidContent,
    EkContent,
    OcspContent,
    Profile,
    WebauthnContent,
)
from ca_service.profiles.outline import Outline
from ca_service.profiles.rule import DEVICES, IDENTITIES, ISSUED, REVOCABLE, LintSubject, RuleBook, differs
from ca_service.profiles.sizes import NV_SIZE, identity_room
from ca_service.profiles.view import (
    AIA,
    AKI,
    BC,
    CDP,
    CP,
    EKU,
    KU,
    NO_CHECK,
    PROVENANCE,
    SAN,
    SDA,
    SKI,
    AccessView,
    AuthorityKeyView,
    DistributionView,
)
from vtpm.wire.runtime_data import PROFILE as PERSISTENT_EVIDENCE
from vtpm.wire.templates import Role

FRAME = RuleBook()

_EVERYWHERE = {AKI: False, SKI: False, KU: True, AIA: False, CDP: False}
_LEAF = {**_EVERYWHERE, PROVENANCE: False}
EXTENSIONS: dict[Profile, dict[str, bool]] = {
    "ek": {**_LEAF, BC: True, SAN: True, EKU: False, SDA: False},
    "iak": {**_LEAF, SAN: False, CP: False, EKU: False},
    "iak-webauthn": {**_LEAF, BC: True, SAN: True, CP: False, EKU: False},
    "idevid": {**_LEAF, SAN: False, CP: False},
    "ocsp": {AKI: False, SKI: False, KU: True, BC: True, EKU: True, NO_CHECK: False},
    "root-ca": {SKI: False, KU: True, BC: True},
    "issuing-ca": {**_EVERYWHERE, BC: True},
}
"""Per profile the extensions it has, no more and no fewer, and whether each is critical."""

_ISSUER_ROLES: dict[Profile, tuple[CaRole, ...]] = {
    "ek": ("ek", "ephemeral"),
    "iak": ("devid", "ephemeral"),
    "iak-webauthn": ("devid", "ephemeral"),
    "idevid": ("devid", "ephemeral"),
    "ocsp": ("ek", "devid", "ephemeral"),
    "root-ca": ("root",),
    "issuing-ca": ("root",),
}
_X509_V3 = 3
_CA_ISSUERS, _OCSP = "1.3.6.1.5.5.7.48.2", "1.3.6.1.5.5.7.48.1"


@FRAME.steady_rule("content")
def _content(s: Outline) -> str | None:
    kind, role = s.content or (None, None)
    kinds: dict[Profile, bool] = {
        "ek": kind is EkContent,
        "iak": kind is DevidContent and role is Role.IAK,
        "iak-webauthn": kind is WebauthnContent and role is Role.IAK,
        "idevid": kind in (DevidContent, WebauthnContent) and role is Role.IDEVID,
        "ocsp": kind is OcspContent,
        "root-ca": kind is CaContent and role == "root" and s.issuer is None,
        "issuing-ca": kind is CaContent and role != "root",
    }
    if not kinds[s.profile]:
        return f"the draft's content is not that of the profile {s.profile}"
    if s.issuer is None and s.profile != "root-ca":
        return "the profile needs an issuer"
    return None


@FRAME.steady_rule("version")
def _version(s: Outline) -> str | None:
    return differs("the version", _X509_V3, s.version)


@FRAME.rule("serial")
def _serial(s: LintSubject) -> str | None:
    serial = s.view.serial
    if serial <= 0 or (serial.bit_length() + 8) // 8 != SERIAL_SIZE or serial >> (8 * (SERIAL_SIZE - 1)) == 0:
        return f"the serial number must be positive and fill {SERIAL_SIZE} octets"
    if s.draft.serial != s.content.serial:
        return "the draft names two serial numbers"
    return differs("the serial number", s.content.serial, serial)


@FRAME.rule("size")
def _size(s: LintSubject) -> str | None:
    size = s.size
    limit = identity_room(s.key) if s.profile in IDENTITIES else NV_SIZE
    return None if size < limit else f"may become {size} bytes long, must stay below {limit}"


@FRAME.rule("validity")
def _validity(s: LintSubject) -> str | None:
    wanted = s.content.validity
    if s.view.not_before > s.view.not_after:
        return "ends before it begins"
    if s.issuer is not None and not (
        s.issuer.validity.not_before <= s.view.not_before and s.view.not_after <= s.issuer.validity.not_after
    ):
        return "is valid when its issuer is not"
    return differs("notBefore", wanted.not_before, s.view.not_before) or differs(
        "notAfter", wanted.not_after, s.view.not_after
    )


@FRAME.rule("ephemeral", *DEVICES)
def _ephemeral(s: LintSubject) -> str | None:
    """What deserves an ephemeral certificate gets one of the Ephemeral CA, and nothing else does.

    Relying parties look at the issuer alone, so this rule is what keeps the issuers apart.
    """
    origin = s.origin
    if origin is None or s.issuer is None:
        return "is no device's content"
    if origin.profile != PERSISTENT_EVIDENCE and not origin.ephemeral:
        return f"evidence of profile {origin.profile} deserves an ephemeral certificate at most"
    if origin.ephemeral != (s.issuer.role == "ephemeral"):
        return "the Ephemeral CA signs ephemeral certificates, no others, and nobody else does"
    if origin.ephemeral and s.view.not_after - s.view.not_before > EPHEMERAL_LIMIT:
        return f"the Ephemeral CA signs for {EPHEMERAL_LIMIT.days} days at most"
    return None


# --- issuer ---


@FRAME.rule("issuer-name")
def _issuer_name(s: LintSubject) -> str | None:
    wanted = s.view.subject.der if s.issuer is None else s.issuer.name
    return differs("the issuer name", wanted, s.view.issuer.der)


@FRAME.steady_rule("issuer-role", *ISSUED)
def _issuer_role(s: Outline) -> str | None:
    if s.issuer is None or s.issuer.role not in _ISSUER_ROLES[s.profile]:
        return f"a CA of another role must sign {s.profile} certificates"
    wanted = 1 if s.profile == "issuing-ca" else 0
    if not s.issuer.constraints.ca or s.issuer.constraints.path_length != wanted:
        return "the issuer is no CA with the right path length"
    if not s.issuer.may_certify:
        return "the issuer may not sign certificates"
    return None


@FRAME.steady_rule("authority-key-id", *ISSUED)
def _authority_key_id(s: Outline) -> str | None:
    wanted = AuthorityKeyView(s.issuer.key_id if s.issuer else None, names_issuer=False)
    return differs("authorityKeyIdentifier", wanted, s.value(AKI))


@FRAME.steady_rule("authority-info-access", *REVOCABLE)
def _authority_info_access(s: Outline) -> str | None:
    url = s.issuer.certificate_url if s.issuer else ""
    wanted: tuple[tuple[str, str], ...] = ((_CA_ISSUERS, url),)
    if s.issuer is not None and s.issuer.ocsp:
        wanted = ((_OCSP, f"{s.issuer.publication_url}/ocsp"), *wanted)
    return differs("authorityInfoAccess", AccessView(wanted), s.value(AIA))


@FRAME.rule("no-check", "ocsp")
def _no_check(s: LintSubject) -> str | None:
    """Nobody asks whether it is revoked, so it must end soon."""
    if s.view.not_after - s.view.not_before > OCSP_LIMIT:
        return f"an OCSP responder's certificate holds for {OCSP_LIMIT.days} days at most"
    return differs("id-pkix-ocsp-nocheck", bytes.fromhex("0500"), s.value(NO_CHECK))


@FRAME.rule("crl-distribution-points", *REVOCABLE)
def _crl_distribution_points(s: LintSubject) -> str | None:
    # A list is one of as many as the issuer has; the root has one.
    shard = s.content.serial & (s.issuer.shards - 1) if s.issuer else 0
    url = f"{s.issuer.publication_url}/crl/{s.issuer.skid}/{shard}.crl" if s.issuer else ""
    return differs("cRLDistributionPoints", DistributionView((url,), plain=True), s.value(CDP))


# --- extensions as a set ---


@FRAME.steady_rule("extension-set")
def _extension_set(s: Outline) -> str | None:
    present = [dotted for dotted, _ in s.present]
    if len(set(present)) != len(present):
        return "an extension stands twice"
    wanted = EXTENSIONS[s.profile]
    missing, surplus = sorted(set(wanted) - set(present)), sorted(set(present) - set(wanted))
    parts = [f"missing {' '.join(missing)}"] * bool(missing) + [f"surplus {' '.join(surplus)}"] * bool(
        surplus
    )
    return "; ".join(parts) or None


@FRAME.steady_rule("criticality")
def _criticality(s: Outline) -> str | None:
    wanted = EXTENSIONS[s.profile]
    wrong = sorted(dotted for dotted, critical in s.present if wanted.get(dotted, critical) != critical)
    return f"wrong criticality of {' '.join(wrong)}" if wrong else None
