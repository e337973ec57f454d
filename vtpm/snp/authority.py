"""What the simulated root signs: CA certificates and revocation lists in AMD's form (57230; RFC 5280)."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from vtpm.snp.forms import SignatureForm
from vtpm.snp.names import simulated_name

_PSS: Final = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)
_CA_LIFETIME: Final = timedelta(days=25 * 365)


def authority_certificate(
    common_name: str,
    public_key: rsa.RSAPublicKey,
    issuer_name: str,
    issuer_key: rsa.RSAPrivateKey,
    serial: int,
    not_before: datetime,
    not_after: datetime | None = None,
) -> x509.Certificate:
    """A CA certificate as AMD makes ARK, ASK and ASVK; self-signed when both names are the same.

    Args:
        common_name: of the subject.
        public_key: of the subject.
        issuer_name: the issuer's common name.
        issuer_key: the issuer's, which signs with RSASSA-PSS, SHA-384.
        serial: serial number, above 0.
        not_before: start of validity, UTC.
        not_after: its end; by default 25 years later.
    """
    root = common_name == issuer_name
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=root,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(simulated_name(common_name))
        .issuer_name(simulated_name(issuer_name))
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(not_before)
        .not_valid_after(not_after or not_before + _CA_LIFETIME)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None if root else 0), critical=True)
        .add_extension(usage, critical=True)
    )
    if not root:
        issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
        builder = builder.add_extension(issuer_id, critical=False)
    return builder.sign(issuer_key, hashes.SHA384(), rsa_padding=_PSS)


def revocation_list(
    issuer: x509.Certificate,
    key: rsa.RSAPrivateKey,
    serials: Iterable[int],
    *,
    number: int | None,
    this_update: datetime,
    next_update: datetime,
    added: Iterable[tuple[x509.ExtensionType, bool]] = (),
    signature: SignatureForm = SignatureForm.PSS_SHA384,
) -> bytes:
    """A CRL in DER: version 2, with the issuer's key id and the CRL number, neither critical.

    Args:
        issuer: its certificate, whose name and key id the list carries, whoever signs.
        key: signs.
        serials: serial numbers of revoked certificates, revoked at `this_update`.
        number: the CRL number; None leaves the extension out.
        this_update: when it was made, UTC.
        next_update: when the next one is due, UTC.
        added: further extensions, each with whether it is critical.
        signature: how `key` signs.
    """
    subject_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    key_id = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject_id)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(this_update)
        .next_update(next_update)
        .add_extension(key_id, critical=False)
    )
    if number is not None:
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    for extension, critical in added:
        builder = builder.add_extension(extension, critical=critical)
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(this_update)
        builder = builder.add_revoked_certificate(entry.build())
    made = builder.sign(key, signature.hash, rsa_padding=signature.padding)
    return made.public_bytes(Encoding.DER)
