"""What a CA should not certify, or a relying party not take, and keylime takes: made with the keys of a CA of ours.

This CA issues none of it; who would notice, if it did, is what the tests of keylime ask.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from relying_stage import Stage, loaded, new_signer, signed
from soft_tpm import SoftTpm

from vtpm.wire.public_area import (
    ALG_AES,
    ALG_CFB,
    ALG_ECDSA,
    CURVE_IDS,
    PublicArea,
    Scheme,
    Symmetric,
    pack_public,
)
from vtpm.wire.runtime_data import KeyStatement

ROLES = ("ek", "iak", "idevid")
EXTENDED = ("is-a-ca", "critical-unknown")
"""Deviations that a further extension makes."""
OF_KEYS = ("software-key", "idevid-as-iak", "iak-as-idevid", "iak-as-ek", "another-tpms-idevid")
"""Deviations that the key of a statement makes."""

_SAN, _EKU, _CP, _BC, _AKI, _SKI = (f"2.5.29.{last}" for last in (17, 37, 32, 19, 35, 14))
_LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 1, 31, tzinfo=UTC)
_TLS = [
    (x509.SubjectAlternativeName([x509.DNSName("host.example")]), False),
    (x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), False),
]
_UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), bytes.fromhex("0500"))
_A_CA = x509.BasicConstraints(ca=True, path_length=None)
_SHA256 = 0x000B
_DECRYPTS, _SIGNS = 0x00030040, 0x00040040


@dataclass(frozen=True)
class Deviation:
    """One certificate that is shown to keylime as that of a key in `role`.

    Attributes:
        id: what is wrong.
        role: as what it is shown.
        der: the certificate.
        tpm: has the key, and is honest in its other roles.
        everything: whether the Ephemeral CA lies in keylime's store too, where somebody must have put it by hand.
    """

    id: str
    role: str
    der: bytes = field(repr=False)
    tpm: SoftTpm = field(repr=False)
    everything: bool = False


def issuer_of(role: str) -> str:
    """Which issuing CA is the one for a role."""
    return "ek" if role == "ek" else "devid"


def wrong_issuer_of(role: str) -> str:
    """The other one."""
    return "devid" if role == "ek" else "ek"


def genuine(stage: Stage) -> dict[str, bytes]:
    """The certificates of the stage's TPM, by role."""
    return {"ek": stage.ek, "iak": stage.iak, "idevid": stage.idevid}


def deviations(stage: Stage, other: SoftTpm, others_idevid: bytes) -> Iterator[Deviation]:
    """All of them; `other` is another TPM, with its IDevID's certificate."""
    tpm = stage.tpm
    for role, der in genuine(stage).items():
        by = issuer_of(role)
        posing = software(tpm, role)
        key = _private(posing, role).public_key()
        tls = forged(stage, der, by, key=key, without=(_SAN, _EKU, _CP), extra=_TLS)
        yield Deviation("software-key", role, tls, posing)
        yield Deviation("software-key-as-tpm", role, forged(stage, der, by, key=key), posing)
        yield Deviation("expired", role, forged(stage, der, by, dates=_LONG_AGO), tpm)
        yield Deviation("revoked", role, der, tpm)
        passing = forged(stage, der, "ephemeral")
        yield Deviation("ephemeral", role, passing, tpm, everything=True)
        yield Deviation("wrong-issuer", role, forged(stage, der, wrong_issuer_of(role)), tpm)
        for kind in EXTENDED:
            yield Deviation(kind, role, extended(stage, der, by, kind), tpm)
        yield Deviation("trailing-octets", role, der + b"\0", tpm)
    unrestricted = with_key(tpm, "iak", tpm._idevid, tpm.idevid)
    yield Deviation("idevid-as-iak", "iak", stage.idevid, unrestricted)
    yield Deviation("iak-as-idevid", "idevid", stage.iak, with_key(tpm, "idevid", tpm._iak, tpm.iak))
    posing = KeyStatement(tpm.ek.template, pack_public(_encryption(tpm._iak)))
    yield Deviation("iak-as-ek", "ek", stage.iak, with_key(tpm, "ek", tpm._iak, posing))
    foreign = with_key(tpm, "idevid", other._idevid, other.idevid)
    yield Deviation("another-tpms-idevid", "idevid", others_idevid, foreign)


def forged(stage: Stage, base: bytes, issuer: str, *, key=None, dates=None, without=(), extra=()) -> bytes:
    """`base` with something else in it, signed by one of the issuing CAs, whose name and key id it bears."""
    old, ca = loaded(base), stage.issuer(issuer)
    start, end = dates or (old.not_valid_before_utc, old.not_valid_after_utc)
    own = {_AKI: x509.AuthorityKeyIdentifier(ca.info.key_id, None, None)}
    if key is not None:
        own[_SKI] = x509.SubjectKeyIdentifier.from_public_key(key)
    names, key = (ca.certificate.subject, old.subject), key or old.public_key()
    builder = x509.CertificateBuilder(*names, key, old.serial_number, start, end)
    for one in old.extensions:
        dotted = one.oid.dotted_string
        if dotted not in without:
            builder = builder.add_extension(own.get(dotted, one.value), one.critical)
    for value, critical in extra:
        builder = builder.add_extension(value, critical)
    tbs = builder.sign(new_signer().key, hashes.SHA384()).tbs_certificate_bytes
    return signed(tbs, ca.signer)


def extended(stage: Stage, base: bytes, issuer: str, kind: str) -> bytes:
    """`base` with an extension that its profile does not have."""
    if kind == "is-a-ca":
        return forged(stage, base, issuer, without=(_BC,), extra=[(_A_CA, True)])
    return forged(stage, base, issuer, extra=[(_UNKNOWN, True)])


def with_key(tpm: SoftTpm, role: str, key, statement: KeyStatement) -> SoftTpm:
    """The TPM with another key in a role."""
    other = copy.copy(tpm)
    setattr(other, f"_{role}", key)
    setattr(other, role, statement)
    return other


def software(tpm: SoftTpm, role: str) -> SoftTpm:
    """The TPM with a key in a role that was born in no TPM, and says so: without fixedTPM and sensitiveDataOrigin."""
    key = rsa.generate_private_key(65537, 2048) if role == "ek" else ec.generate_private_key(ec.SECP256R1())
    public = pack_public(_encryption(key) if role == "ek" else _signing(key))
    return with_key(tpm, role, key, replace(getattr(tpm, role), public=public))


def _private(tpm: SoftTpm, role: str):
    return getattr(tpm, f"_{role}")


def _encryption(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> PublicArea:
    return _area(key, _DECRYPTS, Symmetric(ALG_AES, 128, ALG_CFB), Scheme())


def _signing(key: ec.EllipticCurvePrivateKey) -> PublicArea:
    return _area(key, _SIGNS, Symmetric(), Scheme(ALG_ECDSA, _SHA256))


def _area(key, attributes: int, symmetric: Symmetric, scheme: Scheme) -> PublicArea:
    numbers, octets = key.public_key().public_numbers(), (key.key_size + 7) // 8
    is_rsa = isinstance(numbers, rsa.RSAPublicNumbers)
    values = (numbers.n,) if is_rsa else (numbers.x, numbers.y)
    return PublicArea(
        kind="rsa" if is_rsa else "ecc",
        name_alg="sha256",
        attributes=attributes,
        policy=b"",
        symmetric=symmetric,
        scheme=scheme,
        bits=key.key_size,
        curve=0 if is_rsa else CURVE_IDS[key.key_size],
        exponent=0,
        kdf=Scheme(),
        unique=tuple(value.to_bytes(octets, "big") for value in values),
    )
