"""The attestation token (EAR) as a verifier such as Trustee writes it: a compact JWS around appraisals.

Sources: draft-ietf-rats-ear (claims, status), draft-ietf-rats-ar4si (the tiers), RFC 7515 and RFC 7519 (form), and
Trustee's `ear_token` for where it puts the SVSM's key and nonce. What the CA judges by is read strictly. The rest,
above all the annotated evidence, is the verifier's own and only kept within bounds.
"""

from dataclasses import dataclass, field
from typing import Final, Self

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from vtpm.wire.encoding import Members, parse_json, unb64url
from vtpm.wire.enrollment import MAX_EAR
from vtpm.wire.errors import WireError
from vtpm.wire.jwk import EcJwk
from vtpm.wire.rcar import TEE_KEY_ALG

TRUSTEE_PROFILE: Final = "tag:github.com,2024:confidential-containers/Trustee"
"""`eat_profile` of the tokens whose claims are read here."""

AFFIRMING: Final = "affirming"

_TIERS: Final = {0: "none", 2: AFFIRMING, 32: "warning", 96: "contraindicated"}
"""Trustworthiness tiers: Trustee writes the names, the draft allows the numbers as well."""

_DEVICE: Final = "cpu0"
"""Where Trustee appraises the machine itself; other submods are other devices."""

_TEE_CURVES: Final = ("P-521", "P-256")
_MOST_SUBMODS: Final = 64
_MOST_NAME: Final = 64
_MOST_NONCE: Final = 128
_MAX_TIME: Final = 253402300799
"""9999-12-31 23:59:59 UTC: the last second that a datetime can hold."""

_JWK: Final = ("kty", "crv", "x", "y")


class _Registry(jws.JWSRegistry):
    """ES256 and nothing else; a header may hold what it likes, a certificate chain for example."""

    max_header_length = MAX_EAR

    def __init__(self) -> None:
        super().__init__(algorithms=["ES256"], strict_check_header=False)


_REGISTRY: Final = _Registry()


@dataclass(frozen=True)
class EarToken:
    """A token as received; nothing about it is believed yet.

    Attributes:
        compact: the JWS as it stands.
        alg: the signature algorithm that the header names, whatever it is.
        jwk: the signing key that the header names, if it does. Anybody can write one there: it is for a person who
            looks for the reason of a refusal, and `signed_by` never heeds it.
        profile: `eat_profile`.
        developer: who made the verifier.
        build: which version of it.
        iat: issued at, seconds since 1970 UTC.
        exp: end of validity, likewise. The draft leaves it out of what is required; Trustee always sets it.
        nbf: beginning of validity, likewise, if there is one.
        statuses: name and trustworthiness tier of each submod.
        tee: the key that the verifier found bound to the evidence of the submod `cpu0`.
        nonce: the challenge that it found bound to it.
    """

    compact: str = field(repr=False)
    alg: str
    jwk: EcJwk | None
    profile: str
    developer: str
    build: str
    iat: int
    exp: int
    nbf: int | None
    statuses: tuple[tuple[str, str], ...]
    tee: EcJwk
    nonce: str

    @classmethod
    def parse(cls, compact: str, path: str = "evidence.ear") -> Self:
        """Read a token's structure.

        Args:
            compact: at most `MAX_EAR` characters.
            path: where it stood, for the error.

        Raises:
            WireError: no compact JWS of JSON objects, a member twice, a critical header extension, a claim that the
                CA judges by missing or malformed, or no submod `cpu0` with a key and a nonce.
        """
        if len(compact) > MAX_EAR:
            raise WireError(path, f"must be at most {MAX_EAR} characters long, is {len(compact)}")
        parts = compact.split(".")
        if len(parts) != 3:  # noqa: PLR2004 - a compact JWS has three parts
            raise WireError(path, "must be a compact JWS")
        names = ("header", "claims", "signature")
        header, claims, _ = (
            unb64url(part, f"{path}.{name}") for part, name in zip(parts, names, strict=True)
        )
        signer = _object(header, f"{path}.header")
        for name in ("crit", "b64"):
            # Both change what the rest means, and neither is understood here (RFC 7515, section 4.1.11).
            if signer.has(name):
                raise WireError(signer.at(name), "is not supported")
        alg = signer.text("alg", most=_MOST_NAME)
        jwk = _named_key(signer.members("jwk")) if signer.has("jwk") else None
        members = _object(claims, f"{path}.claims")
        verifier = members.members("ear.verifier-id")
        submods = _submods(members)
        runtime = submods[_DEVICE].members("ear.veraison.annotated-evidence").members("runtime_data_claims")
        return cls(
            compact=compact,
            alg=alg,
            jwk=jwk,
            profile=members.text("eat_profile"),
            developer=verifier.text("developer"),
            build=verifier.text("build"),
            iat=members.integer("iat", 0, _MAX_TIME),
            exp=members.integer("exp", 0, _MAX_TIME),
            nbf=members.integer("nbf", 0, _MAX_TIME) if members.has("nbf") else None,
            statuses=tuple((name, _status(appraisal)) for name, appraisal in submods.items()),
            tee=EcJwk.parse(
                runtime.value("tee-pubkey"), runtime.at("tee-pubkey"), curves=_TEE_CURVES, alg=TEE_KEY_ALG
            ),
            nonce=runtime.text("nonce", most=_MOST_NONCE),
        )

    def signed_by(self, key: EcJwk) -> bool:
        """Whether the signature is ES256 and verifies under `key`, which the caller has from elsewhere."""
        try:
            jws.deserialize_compact(self.compact, ECKey.import_key(key.public_key()), registry=_REGISTRY)
        except (JoseError, TypeError, ValueError):
            return False
        return True


def _object(data: bytes, path: str) -> Members:
    return Members(parse_json(data, path, most=MAX_EAR, any_number=True), path)


def _submods(members: Members) -> dict[str, Members]:
    value = members.value("submods")
    inner = Members(value, members.at("submods"))
    names = inner.unread()
    if len(names) > _MOST_SUBMODS:
        raise WireError(members.at("submods"), f"must have at most {_MOST_SUBMODS} members")
    if not all(len(name) <= _MOST_NAME and name.isascii() and name.isprintable() for name in names):
        raise WireError(members.at("submods"), f"must have names of at most {_MOST_NAME} ASCII characters")
    if _DEVICE not in names:
        raise WireError(inner.at(_DEVICE), "is missing")
    return {name: inner.members(name) for name in names}


def _status(appraisal: Members) -> str:
    value = appraisal.value("ear.status")
    if isinstance(value, str) and value in _TIERS.values():
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value in _TIERS:
        return _TIERS[value]
    raise WireError(appraisal.at("ear.status"), "must be one of " + ", ".join(_TIERS.values()))


def _named_key(members: Members) -> EcJwk:
    """The key without what may stand beside it: Trustee adds its algorithm and, if it has them, certificates."""
    return EcJwk.parse({name: members.value(name) for name in _JWK}, members.path, curves=("P-256",))
