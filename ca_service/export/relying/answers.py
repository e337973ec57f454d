"""OCSP answers as a relying party reads them (RFC 6960, section 3.2; the responder's certificate, section 4.2.2.2)."""

import hashlib
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from ca_service.export.relying.files import UNREADABLE
from ca_service.export.relying.lists import SKEW
from ca_service.profiles import OCSP_LIMIT, certified_key
from ca_service.profiles.reader_cryptography import read
from ca_service.profiles.rules_frame import EXTENSIONS
from ca_service.profiles.signed import is_signed_by
from ca_service.profiles.structures import PublicKeyInfo, decode
from ca_service.profiles.view import AKI, BC, EKU, KU, AuthorityKeyView, BasicConstraintsView, CertificateView

LARGEST_ANSWER: Final = 8192
"""Octets; one of this CA has about 1,000."""

_OCSP_SIGNING = ("1.3.6.1.5.5.7.3.9",)


def answer_problem(
    der: bytes, serial: int, issuer: x509.Certificate, key_id: bytes, at: datetime
) -> str | None:
    """Why an OCSP response does not say that a certificate is good; None if it does.

    Args:
        der: the OCSPResponse.
        serial: serial number of the certificate.
        issuer: its issuing CA, which has passed all checks.
        key_id: the issuing CA's subject key id.
        at: the time, aware.
    """
    try:
        return _problem(der, serial, issuer, key_id, at)
    except UNREADABLE as error:
        return f"the OCSP answer cannot be read: {type(error).__name__}"


def _problem(  # noqa: PLR0911 - one return for each complaint
    der: bytes, serial: int, issuer: x509.Certificate, key_id: bytes, at: datetime
) -> str | None:
    if len(der) > LARGEST_ANSWER:
        return f"the OCSP answer has more than {LARGEST_ANSWER} octets"
    response = ocsp.load_der_ocsp_response(der)
    if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        return f"the OCSP responder gives no answer: {response.response_status.name.lower()}"
    if any(e.critical for e in response.extensions):
        return "the OCSP answer has a critical extension that this program does not know"
    problem = _signature_problem(response, issuer, key_id, at)
    if problem is not None:
        return problem
    singles = [one for one in response.responses if _is_about(one, serial, issuer)]
    if len(singles) != 1:
        return "the OCSP answer is not about this certificate"
    (single,) = singles
    if single.certificate_status is ocsp.OCSPCertStatus.REVOKED:
        return f"it was revoked on {single.revocation_time_utc:%Y-%m-%d %H:%M} UTC, says its issuer's OCSP responder"
    if single.certificate_status is not ocsp.OCSPCertStatus.GOOD:
        return "its issuer's OCSP responder does not know it"
    if single.next_update_utc is None or not single.this_update_utc - SKEW <= at <= single.next_update_utc:
        return "the OCSP answer is not of this time"
    return None


def _signature_problem(  # noqa: PLR0911 - one return for each complaint
    response: ocsp.OCSPResponse, issuer: x509.Certificate, key_id: bytes, at: datetime
) -> str | None:
    certificates = response.certificates
    if len(certificates) != 1:
        return "the OCSP answer does not come with the certificate of its responder alone"
    (responder,) = certificates
    responder_der = responder.public_bytes(Encoding.DER)
    if responder.issuer != issuer.subject or not is_signed_by(responder_der, issuer.public_key()):
        return "the OCSP answer is not of a responder of its issuer"
    view = read(responder_der)
    if not _is_responder(view, key_id):
        return "the OCSP answer is signed by a certificate that is no responder's"
    if not view.not_before <= at <= view.not_after or view.not_after - view.not_before > OCSP_LIMIT:
        return "the OCSP responder's certificate is not of this time"
    key = responder.public_key()
    digest = response.signature_hash_algorithm
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(
        digest, hashes.SHA256 | hashes.SHA384
    ):
        return "the OCSP answer is not signed by ECDSA with SHA-256 or SHA-384"
    try:
        key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(digest))
    except InvalidSignature:
        return "the signature of the OCSP answer is wrong"
    return None


def _is_responder(view: CertificateView, key_id: bytes) -> bool:
    value = {e.id: e.value for e in view.extensions}
    return (
        {e.id: e.critical for e in view.extensions} == EXTENSIONS["ocsp"]
        and value[AKI] == AuthorityKeyView(key_id, names_issuer=False)
        and value[BC] == BasicConstraintsView(ca=False, path_length=None)
        and value[EKU] == _OCSP_SIGNING
        and value[KU] == frozenset({"digital_signature"})
    )


def issuer_hashes(issuer: x509.Certificate, algorithm: str) -> tuple[bytes, bytes]:
    """The digests over name and key by which a CertID names an issuer (RFC 6960, section 4.1.1).

    Args:
        issuer: the issuing CA.
        algorithm: name of the hash.
    """
    bits = decode(PublicKeyInfo, certified_key(issuer.tbs_certificate_bytes)).key.as_bytes()
    # SHA-1 names here and secures nothing: the signature of the answer does.
    name, key = (
        hashlib.new(algorithm, value, usedforsecurity=False).digest()
        for value in (issuer.subject.public_bytes(), bits)
    )
    return name, key


def _is_about(single: ocsp.OCSPSingleResponse, serial: int, issuer: x509.Certificate) -> bool:
    named = single.issuer_name_hash, single.issuer_key_hash
    return single.serial_number == serial and named == issuer_hashes(issuer, single.hash_algorithm.name)
