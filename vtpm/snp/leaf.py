"""VCEK and VLEK certificates in DER (57230, VCEK certificate format; RFC 5280)."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from vtpm.snp import der
from vtpm.snp.forms import LeafForm, SignatureForm, SigningKey

_ECDSA_SHA384: Final = "1.2.840.10045.4.3.3"
_TRUE: Final = b"\x01\x01\xff"


@dataclass(frozen=True)
class LeafContent:
    """What a leaf states.

    Attributes:
        subject: its name.
        issuer: the intermediate's name.
        public_key: on P-384.
        not_before: start of validity, UTC.
        not_after: its end, UTC.
        extensions: extension values by dotted OID, in order.
    """

    subject: x509.Name
    issuer: x509.Name
    public_key: ec.EllipticCurvePublicKey
    not_before: datetime
    not_after: datetime
    extensions: Mapping[str, bytes]


def encode_leaf(content: LeafContent, key: rsa.RSAPrivateKey, form: LeafForm) -> bytes:
    """The signed certificate in DER (RFC 5280, 4.1).

    Args:
        content: what it states.
        key: the intermediate's.
        form: what deviates from AMD's form.
    """
    signer = form.signer or key
    algorithm = (
        form.signature.algorithm()
        if isinstance(signer, rsa.RSAPrivateKey)
        else der.sequence(der.object_identifier(_ECDSA_SHA384))
    )
    values = [*(dict(content.extensions) | dict(form.replaced)).items(), *form.added]
    issuer = content.subject if form.self_issued else content.issuer
    tbs = der.sequence(
        der.value(0xA0, der.integer(2)),
        der.integer(form.serial),
        algorithm,
        issuer.public_bytes(),
        der.sequence(der.time(content.not_before), der.time(content.not_after)),
        content.subject.public_bytes(),
        content.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        der.value(
            0xA3,
            der.sequence(
                *(_extension(oid, value, critical=oid in form.critical) for oid, value in values if value)
            ),
        ),
    )
    return der.sequence(tbs, algorithm, der.bit_string(_signed(tbs, signer, form.signature)))


def _extension(oid: str, value: bytes, *, critical: bool) -> bytes:
    # FALSE is the default, which DER leaves out.
    return der.sequence(der.object_identifier(oid), _TRUE if critical else b"", der.octet_string(value))


def _signed(tbs: bytes, signer: SigningKey, form: SignatureForm) -> bytes:
    if isinstance(signer, rsa.RSAPrivateKey):
        return signer.sign(tbs, form.padding, form.hash)
    return signer.sign(tbs, ec.ECDSA(hashes.SHA384()))
