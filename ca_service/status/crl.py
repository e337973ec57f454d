"""Building a certificate revocation list (RFC 5280, section 5).

The list is built under a throwaway key, read back by two parsers, and only then signed through the CA's
signer: the signer may be a device that signs bytes and knows nothing of `cryptography`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from asn1crypto import crl as asn1
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import CRLEntryExtensionOID

from ca_service.judgment import BadRequest, VtpmCaError
from ca_service.keys import Certified, sign_and_check
from ca_service.profiles import assemble

REASONS = (
    "unspecified",
    "keyCompromise",
    "cACompromise",
    "affiliationChanged",
    "superseded",
    "cessationOfOperation",
    "privilegeWithdrawn",
)
"""Reasons that this CA gives, under their names in RFC 5280, section 5.3.1. It puts nothing on hold."""

_MAX_CRL_NUMBER = 2**159


@dataclass(frozen=True)
class RevokedEntry:
    """One line of a revocation list.

    Attributes:
        serial: serial number of the certificate.
        at: when it was revoked, aware.
        reason: one of `REASONS`; ``unspecified`` is left out of the list, as RFC 5280 wants.
    """

    serial: int
    at: datetime
    reason: str = "unspecified"


def build_crl(
    issuer: Certified,
    revoked: Sequence[RevokedEntry],
    number: int,
    this_update: datetime,
    next_update: datetime,
    *,
    throwaway: ec.EllipticCurvePrivateKey | None = None,
) -> bytes:
    """Build and sign a full revocation list.

    Args:
        issuer: the CA with its signer, issuing or root.
        revoked: all that is revoked, in any order; the list is sorted by serial number.
        number: the cRLNumber, larger than that of any earlier list of this CA.
        this_update: when the list was made, aware.
        next_update: when the next one will be there at the latest, aware.
        throwaway: key for the throwaway signature; a fresh one if None.

    Returns:
        DER of the CertificateList.

    Raises:
        BadRequest: times, number, a serial or a reason is out of range, or a serial stands twice.
        VtpmCaError: the two parsers do not both see the list that was wanted (code ``lint``), or the signer
            failed.
    """
    first, last = (_whole(moment) for moment in (this_update, next_update))
    if first >= last:
        raise BadRequest("next_update", "must be later than this_update")
    if not 0 < number < _MAX_CRL_NUMBER:
        raise BadRequest("number", "must be positive and at most 20 octets long")
    entries = sorted(
        (RevokedEntry(e.serial, _whole(e.at), e.reason) for e in revoked), key=lambda e: e.serial
    )
    if len({e.serial for e in entries}) != len(entries):
        raise BadRequest("revoked", "names a certificate twice")
    key_id = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    # The entries go in at once: adding them one by one copies the list each time.
    builder = x509.CertificateRevocationListBuilder(
        issuer.certificate.subject, first, last, revoked_certificates=[_entry(e) for e in entries]
    )
    builder = builder.add_extension(x509.AuthorityKeyIdentifier(key_id, None, None), critical=False)
    builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    key = throwaway or ec.generate_private_key(ec.SECP384R1())
    draft = builder.sign(key, hashes.SHA384())
    tbs = draft.tbs_certlist_bytes
    _check(draft, entries, number, key_id)
    der = assemble(tbs, sign_and_check(issuer.signer, tbs))
    signed = x509.load_der_x509_crl(der)
    if signed.tbs_certlist_bytes != tbs or not signed.is_signature_valid(_key(issuer.certificate)):
        raise VtpmCaError("signer and issuer of the revocation list do not belong together", code="signer")
    return der


def _whole(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise BadRequest("time", "must be aware")
    return moment.astimezone(UTC).replace(microsecond=0)


def _entry(entry: RevokedEntry) -> x509.RevokedCertificate:
    if entry.reason not in REASONS:
        raise BadRequest("reason", "must be one of " + ", ".join(REASONS))
    if entry.serial <= 0:
        raise BadRequest("serial", "must be positive")
    builder = x509.RevokedCertificateBuilder().serial_number(entry.serial).revocation_date(entry.at)
    if entry.reason != "unspecified":
        reason = x509.CRLReason(x509.ReasonFlags(entry.reason))
        builder = builder.add_extension(reason, critical=False)
    return builder.build()


def _check(
    draft: x509.CertificateRevocationList, entries: Sequence[RevokedEntry], number: int, key_id: bytes
) -> None:
    """Compare what two parsers see with what was wanted."""
    wanted = [(e.serial, e.at, e.reason) for e in entries]
    first = [(r.serial_number, r.revocation_date_utc, _reason(r)) for r in draft]
    second, frame = _read_second(draft.public_bytes(Encoding.DER))
    if first != wanted or second != wanted or frame != (number, key_id):
        raise VtpmCaError("the revocation list does not say what it should", code="lint")


def _reason(revoked: x509.RevokedCertificate) -> str:
    try:
        value = revoked.extensions.get_extension_for_oid(CRLEntryExtensionOID.CRL_REASON).value
    except x509.ExtensionNotFound:
        return "unspecified"
    return value.reason.value if isinstance(value, x509.CRLReason) else ""


def _read_second(der: bytes) -> tuple[list[tuple[int, datetime, str]], tuple[int, bytes]]:
    """The entries, and cRLNumber and authority key id, as `asn1crypto` reads them."""
    parsed = asn1.CertificateList.load(der, strict=True)
    entries = []
    for revoked in parsed["tbs_cert_list"]["revoked_certificates"] or ():
        reasons = [e for e in revoked["crl_entry_extensions"] or () if e["extn_id"].native == "crl_reason"]
        reason = _CAMEL[reasons[0]["extn_value"].parsed.native] if reasons else "unspecified"
        entries.append((revoked["user_certificate"].native, revoked["revocation_date"].native, reason))
    key_id = parsed.authority_key_identifier_value["key_identifier"].native
    return entries, (parsed.crl_number_value.native, key_id)


_CAMEL = {
    "unspecified": "unspecified",
    "key_compromise": "keyCompromise",
    "ca_compromise": "cACompromise",
    "affiliation_changed": "affiliationChanged",
    "superseded": "superseded",
    "cessation_of_operation": "cessationOfOperation",
    "privilege_withdrawn": "privilegeWithdrawn",
}


def _key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise BadRequest("issuer", "must have an elliptic-curve key")
    return key
