"""The KBS grant: the KBS's signature over the key exchange that carried a secret to an SVSM.

A compact JWS (RFC 7515) with the explicit type `svsm-kbs-grant+jwt` (RFC 8725 section 3.11) and the signer's
key in its header. It says: this KBS sealed, with the ephemeral key `epk_jkt`, the secret `key_id` of
`resource` to the key `tee_jkt` of the VM launch `report_id`, within the exchange `nonce`, under its release
policy `policy`. Whether the signer is to be trusted is not decided here.
"""

import hashlib
import hmac
import re
from dataclasses import field
from functools import lru_cache
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from joserfc import jws
from joserfc.jwk import ECKey

from vtpm.wire.encoding import (
    Members,
    b64url,
    canonical,
    check_digest,
    parse_json,
    unb64std,
    unb64url,
    unhex,
)
from vtpm.wire.errors import WireError
from vtpm.wire.frozen import frozen
from vtpm.wire.jwk import EcJwk

GRANT_TYP: Final = "svsm-kbs-grant+jwt"
ORIGINS: Final = ("kbs-generated", "provisioned")
"""Who made the secret: the KBS itself, or somebody who then stored it there and may know it."""

MAX_GRANT: Final = 4 * 1024
"""Largest compact JWS in characters."""

LEAST_SECRET: Final = 32
"""Bytes that a secret needs for a key id: the id is public, so a guessable secret must not get one."""

REMEMBERED: Final = 256
"""For how many grants it is remembered whether the signature holds: an enrolment is judged twice. How many headers are
remembered: all grants of a broker have the same."""

_KEY_ID_LABEL: Final = b"svsm-kbs-key-id/1"
_ALGS: Final = {"P-256": "ES256", "P-384": "ES384"}
_SIGNATURE: Final = {"ES256": 64, "ES384": 96}
_VERIFIED_BY: Final = {"ES256": ec.ECDSA(hashes.SHA256()), "ES384": ec.ECDSA(hashes.SHA384())}
_DIGEST: Final = 32
_NONCE: Final = 64
_MAX_RESOURCE: Final = 128
_MAX_TIME: Final = 253402300799
"""9999-12-31 23:59:59 UTC: the last second that a certificate or datetime can hold."""

_RESOURCE: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_-][A-Za-z0-9_.-]*){2}\Z")


def check_resource(text: str, path: str = "resource") -> str:
    """A resource name `repository/type/tag`, at most 128 characters, unchanged.

    The grammar is Trustee's: letters, digits, `_`, `-` and, not in front, `.`. Nothing in it means anything
    in a URL or in a pattern.

    Raises:
        WireError: another form.
    """
    if len(text) > _MAX_RESOURCE:
        raise WireError(path, f"must be at most {_MAX_RESOURCE} characters long, is {len(text)}")
    if not _RESOURCE.match(text):
        raise WireError(path, "must be repository/type/tag of letters, digits, '_', '-' and inner '.'")
    return text


def key_id(secret: bytes) -> str:
    """The public name of a secret: base64url of HMAC-SHA-256 under the secret over a fixed label.

    Raises:
        WireError: the secret is shorter than 32 bytes.
    """
    if len(secret) < LEAST_SECRET:
        raise WireError("secret", f"must be at least {LEAST_SECRET} bytes")
    return b64url(hmac.digest(secret, _KEY_ID_LABEL, "sha256"))


@frozen
class GrantClaims:
    """What a KBS states about one key exchange.

    Attributes:
        epk_jkt: RFC 7638 thumbprint of the JWE's ephemeral key.
        tee_jkt: thumbprint of the SVSM's key.
        nonce: the challenge as the KBS sent it: standard base64 with padding.
        key_id: see the function `key_id`.
        resource: `repository/type/tag`.
        origin: one of `ORIGINS`.
        report_id: 32 bytes, REPORT_ID of the report that the KBS verified.
        policy: 64 hexadecimal digits, SHA-256 of the KBS's release policy.
        iat: issued at, seconds since 1970 UTC.
        exp: end of the KBS session, likewise.
    """

    epk_jkt: str
    tee_jkt: str
    nonce: str
    key_id: str
    resource: str
    origin: str
    report_id: bytes
    policy: str
    iat: int
    exp: int

    def to_json(self) -> dict[str, object]:
        """The JWS payload's members."""
        return {
            "epk_jkt": self.epk_jkt,
            "tee_jkt": self.tee_jkt,
            "nonce": self.nonce,
            "key_id": self.key_id,
            "resource": self.resource,
            "origin": self.origin,
            "report_id": self.report_id.hex(),
            "policy": self.policy,
            "iat": self.iat,
            "exp": self.exp,
        }

    @classmethod
    def from_json(cls, value: object, path: str = "claims") -> Self:
        """Read the payload: every claim is required, no other is taken.

        Raises:
            WireError: another form.
        """
        members = Members(value, path)
        claims = cls(
            epk_jkt=_digest(members, "epk_jkt"),
            tee_jkt=_digest(members, "tee_jkt"),
            nonce=_nonce(members),
            key_id=_digest(members, "key_id"),
            resource=check_resource(members.text("resource"), members.at("resource")),
            origin=members.one_of("origin", ORIGINS),
            report_id=members.hex("report_id", size=_DIGEST),
            policy=_policy(members),
            iat=members.integer("iat", 0, _MAX_TIME),
            exp=members.integer("exp", 0, _MAX_TIME),
        )
        members.end()
        return claims


def _digest(members: Members, name: str) -> str:
    return check_digest(members.text(name), members.at(name))


def _nonce(members: Members) -> str:
    text = members.text("nonce")
    unb64std(text, members.at("nonce"), most=_NONCE)
    return text


def _policy(members: Members) -> str:
    text = members.text("policy")
    unhex(text, members.at("policy"), size=_DIGEST)
    return text


@frozen
class Grant:
    """A grant as received; `signature_holds` and every judgement are still to come.

    Attributes:
        compact: the JWS, as it stands.
        alg: ES256 or ES384.
        jwk: the key that the grant names as its signer.
        claims: the payload.
    """

    compact: str = field(repr=False)
    alg: str
    jwk: EcJwk
    claims: GrantClaims

    @classmethod
    def parse(cls, compact: str, path: str = "grant") -> Self:
        """Read a grant's structure.

        The header must be exactly alg, jwk and typ: no x5c, kid, crit or b64, so there is one way only to
            find the key.

        Raises:
            WireError: another form, an algorithm that does not fit the key's curve, or a missing or unknown
                claim.
        """
        if len(compact) > MAX_GRANT:
            raise WireError(path, f"must be at most {MAX_GRANT} characters long, is {len(compact)}")
        parts = compact.split(".")
        if len(parts) != 3:  # noqa: PLR2004 - a compact JWS has three parts
            raise WireError(path, "must be a compact JWS")
        names = ("header", "claims", "signature")
        raw = [unb64url(part, f"{path}.{name}") for part, name in zip(parts, names, strict=True)]
        try:
            alg, jwk = _header(raw[0])
        except WireError as error:
            raise error.under(f"{path}.header") from None
        if len(raw[2]) != _SIGNATURE[alg]:
            raise WireError(f"{path}.signature", f"must be {_SIGNATURE[alg]} bytes, is {len(raw[2])}")
        payload = parse_json(raw[1], f"{path}.claims", most=MAX_GRANT)
        return cls(compact, alg, jwk, GrantClaims.from_json(payload, f"{path}.claims"))

    def signature_holds(self) -> bool:
        """Whether the signature verifies under the grant's own `jwk`. Whose key that is, is not asked."""
        return _signature_holds(self.compact, self.alg, self.jwk)


@lru_cache(maxsize=REMEMBERED)
def _header(data: bytes) -> tuple[str, EcJwk]:
    header = Members(parse_json(data, most=MAX_GRANT))
    header.one_of("typ", (GRANT_TYP,))
    jwk = EcJwk.parse(header.value("jwk"), header.at("jwk"), curves=tuple(_ALGS))
    alg = header.one_of("alg", (_ALGS[jwk.crv],))
    header.end()
    return alg, jwk


@lru_cache(maxsize=REMEMBERED)
def _signature_holds(compact: str, alg: str, jwk: EcJwk) -> bool:
    """As RFC 7515, section 5.2, and RFC 7518, section 3.4, have it, for a JWS whose header leaves nothing to choose."""
    signed, _, signature = compact.rpartition(".")
    try:
        numbers = unb64url(signature, "signature", size=_SIGNATURE[alg])
        half = len(numbers) // 2
        r, s = int.from_bytes(numbers[:half], "big"), int.from_bytes(numbers[half:], "big")
        jwk.public_key().verify(encode_dss_signature(r, s), signed.encode("ascii"), _VERIFIED_BY[alg])
    except (InvalidSignature, ValueError):
        return False
    return True


def sign_grant(claims: GrantClaims, key: ec.EllipticCurvePrivateKey) -> str:
    """The compact JWS of `claims` under a KBS's P-256 or P-384 key.

    Raises:
        WireError: a key on another curve, or claims that no reader would take.
    """
    jwk = EcJwk.from_key(key.public_key())
    if jwk.crv not in _ALGS:
        raise WireError("key", "must be on P-256 or P-384")
    payload = claims.to_json()
    GrantClaims.from_json(payload)
    header: dict[str, object] = {"alg": _ALGS[jwk.crv], "jwk": jwk.members(), "typ": GRANT_TYP}
    return jws.serialize_compact(
        header, canonical(payload), ECKey.import_key(key), algorithms=[_ALGS[jwk.crv]]
    )


def policy_digest(document: bytes) -> str:
    """SHA-256 of a release policy's bytes in hexadecimal, the form of the claim `policy`."""
    return hashlib.sha256(document).hexdigest()
