"""Drafts of the CA's own certificates: the root and the issuing CAs below it.

All are ECDSA P-384, because keylime takes ECDSA and RSA PKCS#1 v1.5 only. Issuing CAs have path length 0.
"""

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ca_service.profiles.extensions import (
    Extension,
    authority_key_id,
    key_usage,
    publication,
    subject_key_id,
    unsigned,
)
from ca_service.profiles.model import CaContent, Draft, IssuerInfo, IssuerRole, Mode, Validity
from ca_service.profiles.naming import ca_name

ROOT_PATH_LENGTH = 1
ISSUING_PATH_LENGTH = 0


def draft_root(
    *,
    organization: str,
    mode: Mode,
    public_key: ec.EllipticCurvePublicKey,
    serial: int,
    validity: Validity,
    throwaway: ec.EllipticCurvePrivateKey | None = None,
) -> Draft:
    """Draft the self-signed root.

    Args:
        organization: O of its name, 1 to 64 printable ASCII characters.
        mode: a simulation root says so in its name.
        public_key: the root's P-384 key.
        serial: from `new_serial`.
        validity: from when to when.
        throwaway: key for the throwaway signature; this process's own if None.
    """
    content = CaContent("root", "", mode, organization, public_key, serial, validity)
    name = ca_name(organization, mode, "root", "")
    extensions = _ca_extensions(public_key, ROOT_PATH_LENGTH)
    tbs = _tbs(name, name, content, extensions, throwaway)
    return Draft("root-ca", tbs, None, serial, content)


def draft_issuing(
    role: IssuerRole,
    *,
    pair: str,
    generation: int = 1,
    organization: str,
    mode: Mode,
    public_key: ec.EllipticCurvePublicKey,
    serial: int,
    validity: Validity,
    issuer: IssuerInfo,
    throwaway: ec.EllipticCurvePrivateKey | None = None,
) -> Draft:
    """Draft an issuing CA.

    Args:
        role: what it will sign.
        pair: name of the pair of EK and DevID CA that it belongs to.
        generation: counts the issuing CAs of this role and pair, from 1.
        organization: O of its name, 1 to 64 printable ASCII characters.
        mode: a simulation CA says so in its name.
        public_key: its P-384 key.
        serial: from `new_serial`.
        validity: from when to when; not beyond the root's.
        issuer: the root.
        throwaway: key for the throwaway signature; this process's own if None.
    """
    content = CaContent(role, pair, mode, organization, public_key, serial, validity, generation)
    extensions = [
        authority_key_id(issuer.key_id),
        *_ca_extensions(public_key, ISSUING_PATH_LENGTH),
        *publication(issuer.certificate_url, issuer.crl_url(serial)),
    ]
    name = ca_name(organization, mode, role, pair, generation)
    tbs = _tbs(name, issuer.certificate.subject, content, extensions, throwaway)
    return Draft("issuing-ca", tbs, None, serial, content)


def _ca_extensions(key: ec.EllipticCurvePublicKey, path_length: int) -> list[Extension]:
    return [
        subject_key_id(key),
        key_usage("key_cert_sign", "crl_sign"),
        (x509.BasicConstraints(ca=True, path_length=path_length), True),
    ]


def _tbs(
    subject: x509.Name,
    issuer: x509.Name,
    content: CaContent,
    extensions: list[Extension],
    throwaway: ec.EllipticCurvePrivateKey | None,
) -> bytes:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(content.public_key)
        .serial_number(content.serial)
        .not_valid_before(content.validity.not_before)
        .not_valid_after(content.validity.not_after)
    )
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    return unsigned(builder, throwaway)
