"""The one way to a signature on a certificate: with the lint's token in hand."""

from cryptography import x509
from cryptography.x509.oid import SignatureAlgorithmOID

from ca_service.judgment import VtpmCaError
from ca_service.keys.signer import Signer, sign_and_check
from ca_service.profiles.encoding import assemble
from ca_service.profiles.token import LintPassed


def sign_certificate(
    tbs: bytes,
    token: LintPassed,
    signer: Signer,
    issuer: x509.Certificate | None,
    *,
    ek_certificate: bytes | None = None,
) -> bytes:
    """Sign to-be-signed bytes that have passed the lint.

    Args:
        tbs: the draft's DER of the TBSCertificate.
        token: what the lint gave for the draft; used up, also by a failure.
        signer: the issuer's key.
        issuer: the issuer's certificate; None for a self-signed root.
        ek_certificate: DER of the signed EK certificate, if the draft has a slot for its digest.

    Returns:
        The DER of the certificate: of the draft, with its slot filled. Its signature was verified, and it was read once
        more: these bytes, this signature. The issuer is the one by whose name and key the lint has judged.

    Raises:
        Conflict: the token is used up, or was given for other bytes or another issuer (code ``lint-token``).
        VtpmCaError: signer and issuer do not belong together, or the signer made a bad signature
            (``signer``).
    """
    tbs = token.redeem(tbs, signer.public_key(), ek_certificate=ek_certificate)
    signature = sign_and_check(signer, tbs)
    der = assemble(tbs, signature)
    certificate = x509.load_der_x509_certificate(der)
    # The signature holds for `tbs`; so it holds for the certificate if it is made of these very parts.
    if (
        certificate.tbs_certificate_bytes != tbs
        or certificate.signature != signature
        or certificate.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA384
        or issuer != token.issuer
    ):
        raise VtpmCaError("signer, issuer and certificate do not belong together", code="signer")
    return der
