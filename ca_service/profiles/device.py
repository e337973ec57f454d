"""Drafts of the certificates of a TPM: EK, IAK (in two forms) and IDevID.

Sources: TCG EK Credential Profile 2.x section 3.2; TCG TPM 2.0 Keys for Device Identity and Attestation v1.00
r12 section 8; IEEE 802.1AR-2018 section 8; for the second form of the IAK W3C WebAuthn Level 2 section 8.3.1. Own
choices are stated in the design: empty EK subject, non-critical SAN in IAK and IDevID, no basicConstraints there,
lower-case hex.
"""

from collections.abc import Sequence

from cryptography import x509

from ca_service.judgment import BadRequest
from ca_service.profiles import device_parts as parts
from ca_service.profiles import oids
from ca_service.profiles.contract_subject import key_kind
from ca_service.profiles.encoding import Frame, encoded, parts_of, tbs_certificate
from ca_service.profiles.extensions import brief_provenance_extension
from ca_service.profiles.model import (
    DevidContent,
    Draft,
    EkContent,
    IssuerInfo,
    Profile,
    Provenance,
    Validity,
    WebauthnContent,
)
from ca_service.profiles.naming import hardware_serial
from ca_service.profiles.sizes import identity_room, signed_size
from vtpm.wire.runtime_data import TpmSpec
from vtpm.wire.templates import Role, parse_public

DIGEST_DIGITS = 64
EMPTY_SLOT = b"0" * DIGEST_DIGITS
"""What stands in the place of the EK certificate's digest until that certificate is signed."""

_HEX_DIGITS = frozenset("0123456789abcdef")
_PROFILE_OF_ROLE: dict[Role, Profile] = {Role.IAK: "iak", Role.IDEVID: "idevid"}


def draft_ek(
    *,
    public: bytes,
    manufacturer: str,
    vendor: str,
    firmware: str,
    spec: TpmSpec,
    serial: int,
    validity: Validity,
    issuer: IssuerInfo,
    provenance: Provenance,
) -> Draft:
    """Draft the certificate of an endorsement key.

    Args:
        public: TPMT_PUBLIC of the EK.
        manufacturer: TPM_PT_MANUFACTURER, 8 lower-case hex digits.
        vendor: the TPM's vendor string, printable ASCII.
        firmware: TPMS_ATTEST.firmwareVersion, 16 lower-case hex digits; its first half is
            TPM_PT_FIRMWARE_VERSION_1 and becomes tpmVersion.
        spec: specification that the TPM implements.
        serial: from `new_serial`.
        validity: from when to when.
        issuer: the EK CA or the Ephemeral CA.
        provenance: what vouched for the key.

    Raises:
        WireError: `public` or a text member is malformed.
    """
    content = EkContent(public, manufacturer, vendor, firmware, spec, serial, validity, provenance)
    area = parse_public(public, "ek.public")
    spki = area.spki()
    extensions = [
        parts.authority_key_id(issuer.key_id),
        parts.subject_key_id(area),
        parts.key_usage("key_encipherment" if area.kind == "rsa" else "key_agreement"),
        parts.no_ca(),
        parts.tpm_names(manufacturer, vendor, firmware),
        parts.purpose(oids.EK_CERTIFICATE),
        parts.tpm_specification(spec),
        *parts.publication(issuer.certificate_url, issuer.crl_url(serial), issuer.ocsp_url),
        parts.provenance(provenance),
    ]
    made = parts_of(Frame(parts.subject(None), spki, serial, validity, issuer.name), extensions)
    return Draft("ek", tbs_certificate(made), None, serial, content, made)


def draft_devid(
    role: Role,
    *,
    public: bytes,
    ek_name: bytes,
    manufacturer: str,
    ek_serial: int,
    ek_aki: bytes,
    ek_digest: str | None,
    serial: int,
    validity: Validity,
    issuer: IssuerInfo,
    provenance: Provenance,
) -> Draft:
    """Draft the certificate of an IAK or IDevID.

    Args:
        role: `Role.IAK` or `Role.IDEVID`.
        public: TPMT_PUBLIC of the key.
        ek_name: Name of the TPM's first EK; the device serial number comes from it.
        manufacturer: TPM_PT_MANUFACTURER, 8 lower-case hex digits.
        ek_serial: serial number of the first EK's certificate.
        ek_aki: authority key id of that certificate.
        ek_digest: SHA-256 of that certificate in 64 lower-case hex digits; None if it is not signed yet: then
            the draft has a slot.
        serial: from `new_serial`.
        validity: from when to when; IAK and IDevID of a device get the same.
        issuer: the DevID CA or the Ephemeral CA.
        provenance: what vouched for the key.

    Raises:
        WireError: `public` or a text member is malformed.
        ValueError: `role` is another one.
    """
    if role not in _PROFILE_OF_ROLE:
        raise ValueError("this profile is for IAK and IDevID")
    content = DevidContent(
        role, public, ek_name, manufacturer, ek_serial, ek_aki, ek_digest, serial, validity, provenance
    )
    area = parse_public(public, f"{role.value}.public")
    spki = area.spki()
    digest = EMPTY_SLOT.decode() if ek_digest is None else ek_digest
    extensions = [
        parts.authority_key_id(issuer.key_id),
        parts.subject_key_id(area),
        parts.key_usage("digital_signature"),
        parts.policies(role),
        parts.device_names(hardware_serial(manufacturer, ek_aki, ek_serial), digest),
    ]
    if role is Role.IAK:
        extensions.append(parts.purpose(oids.AIK_CERTIFICATE))
    extensions += parts.publication(issuer.certificate_url, issuer.crl_url(serial), issuer.ocsp_url)
    frame = Frame(parts.subject(ek_name), spki, serial, validity, issuer.name)
    return _identity(_PROFILE_OF_ROLE[role], frame, extensions, content)


def draft_iak_webauthn(
    *,
    public: bytes,
    ek_name: bytes,
    manufacturer: str,
    vendor: str,
    firmware: str,
    ek_serial: int,
    ek_aki: bytes,
    ek_digest: str | None,
    serial: int,
    validity: Validity,
    issuer: IssuerInfo,
    provenance: Provenance,
) -> Draft:
    """Draft the certificate of an IAK in the form that WebAuthn verifiers such as step-ca want.

    The subject is empty, and a critical subjectAltName names the TPM as an EK certificate does. The
    permanentIdentifier comes after it: step-ca then issues for no other identifier than the EK certificate's digest.

    Args:
        public: TPMT_PUBLIC of the IAK.
        ek_name: Name of the TPM's first EK.
        manufacturer: TPM_PT_MANUFACTURER, 8 lower-case hex digits.
        vendor: the TPM's vendor string, printable ASCII.
        firmware: TPMS_ATTEST.firmwareVersion, 16 lower-case hex digits.
        ek_serial: serial number of the first EK's certificate.
        ek_aki: authority key id of that certificate.
        ek_digest: SHA-256 of that certificate, or None, as for `draft_devid`.
        serial: from `new_serial`.
        validity: from when to when.
        issuer: the DevID CA or the Ephemeral CA.
        provenance: what vouched for the key.

    Raises:
        WireError: `public` or a text member is malformed.
    """
    content = WebauthnContent(
        Role.IAK,
        public,
        ek_name,
        manufacturer,
        ek_serial,
        ek_aki,
        ek_digest,
        serial,
        validity,
        provenance,
        vendor,
        firmware,
    )
    area = parse_public(public, "iak.public")
    spki = area.spki()
    digest = EMPTY_SLOT.decode() if ek_digest is None else ek_digest
    names = x509.SubjectAlternativeName(
        [parts.tpm_name(manufacturer, vendor, firmware), parts.permanent_identifier(digest)]
    )
    extensions = [
        parts.authority_key_id(issuer.key_id),
        parts.subject_key_id(area),
        parts.key_usage("digital_signature"),
        parts.no_ca(),
        parts.policies(Role.IAK),
        encoded(names, critical=True),
        parts.purpose(oids.AIK_CERTIFICATE),
        *parts.publication(issuer.certificate_url, issuer.crl_url(serial), issuer.ocsp_url),
    ]
    frame = Frame(parts.subject(None), spki, serial, validity, issuer.name)
    return _identity("iak-webauthn", frame, extensions, content)


def patch_slot(tbs: bytes, slot: int, digest_hex: str) -> bytes:
    """Put an EK certificate's digest into the slot at offset `slot` of to-be-signed bytes; no other byte changes.

    Raises:
        BadRequest: there is no empty slot at that offset, or the digest is not 64 lower-case hex digits.
    """
    if len(digest_hex) != DIGEST_DIGITS or not _HEX_DIGITS.issuperset(digest_hex):
        raise BadRequest("digest", "must be 64 lower-case hexadecimal digits")
    if slot < 0 or tbs[slot : slot + DIGEST_DIGITS] != EMPTY_SLOT:
        raise BadRequest("slot", "holds no zeros to replace")
    return tbs[:slot] + digest_hex.encode("ascii") + tbs[slot + DIGEST_DIGITS :]


def find_slot(tbs: bytes, digest_hex: str) -> int:
    """Offset of the permanentIdentifier's text in to-be-signed bytes.

    The whole DER of the structure is looked for, not the digits alone: other members hold text that a
    requester had a say in, and could hold 64 zeros too.

    Raises:
        ValueError: it does not stand there exactly once.
    """
    frame = parts.permanent_identifier_value(digest_hex)
    if tbs.count(frame) != 1:
        raise ValueError("the permanentIdentifier must stand in the draft exactly once")
    return tbs.index(frame) + frame.index(digest_hex.encode("ascii"))


def _identity(profile: Profile, frame: Frame, extensions: Sequence[bytes], content: DevidContent) -> Draft:
    """With the whole provenance if there is room for it, else with what the EK certificate does not say.

    The EK certificate, which has room for everything, is named by its digest.
    """
    origin = content.provenance
    made = parts_of(frame, [*extensions, parts.provenance(origin)])
    tbs = tbs_certificate(made)
    if origin.resource is not None and signed_size(tbs) >= identity_room(key_kind(frame.spki)):
        made = parts_of(frame, [*extensions, encoded(*brief_provenance_extension(origin))])
        tbs = tbs_certificate(made)
    slot = find_slot(tbs, EMPTY_SLOT.decode()) if content.ek_digest is None else None
    return Draft(profile, tbs, slot, content.serial, content, made)
