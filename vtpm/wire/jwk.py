"""Elliptic-curve public keys as JSON Web Keys (RFC 7517, RFC 7518 section 6.2)."""

import hashlib
from functools import lru_cache
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric import ec

from vtpm.wire.curves import NIST_CURVES
from vtpm.wire.encoding import Members, b64url, canonical, unb64url
from vtpm.wire.errors import WireError
from vtpm.wire.frozen import frozen
from vtpm.wire.lazy import cached_property

REMEMBERED: Final = 512
"""How many keys that came in messages are remembered: a broker's key comes with every machine."""

_CURVES: Final = {curve.name: curve for curve in NIST_CURVES}
_NAMES: Final = {curve.group.name: curve.name for curve in NIST_CURVES}


@frozen
class EcJwk:
    """A point on a NIST curve: `crv` is P-256, P-384 or P-521; `x` and `y` have the curve's full length."""

    crv: str
    x: bytes
    y: bytes

    @classmethod
    def from_key(cls, key: ec.EllipticCurvePublicKey) -> Self:
        """The JWK of a public key; raises `WireError` if its curve is none of the three."""
        crv = _NAMES.get(key.curve.name)
        if crv is None:
            raise WireError("jwk", "must be on " + ", ".join(_CURVES))
        size = _CURVES[crv].size
        point = key.public_numbers()
        return cls(crv, point.x.to_bytes(size, "big"), point.y.to_bytes(size, "big"))

    @classmethod
    def parse(cls, value: object, path: str, *, curves: tuple[str, ...], alg: str | None = None) -> "EcJwk":
        """Read a JWK that has kty, crv, x and y and, if `alg` is given, exactly that alg; nothing else.

        Raises:
            WireError: another form, a curve outside `curves`, or a point that is not on the curve.
        """
        members = Members(value, path)
        members.one_of("kty", ("EC",))
        crv = members.one_of("crv", curves)
        x, y = members.text("x"), members.text("y")
        if alg is not None:
            members.one_of("alg", (alg,))
        members.end()
        try:
            return _known(crv, x, y)
        except WireError as error:
            raise error.under(path) from None

    def coordinates(self) -> tuple[int, int]:
        """The point as numbers."""
        return int.from_bytes(self.x, "big"), int.from_bytes(self.y, "big")

    def members(self) -> dict[str, str]:
        """The required members, as RFC 7638 section 3.2 lists them."""
        return {"crv": self.crv, "kty": "EC", "x": b64url(self.x), "y": b64url(self.y)}

    def thumbprint(self) -> str:
        """SHA-256 thumbprint in base64url (RFC 7638)."""
        return self._thumbprint

    @cached_property
    def _thumbprint(self) -> str:
        return b64url(hashlib.sha256(canonical(self.members())).digest())

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The key as `cryptography` has it.

        Raises:
            ValueError: the point is not on the curve, or a coordinate is not below the field's prime.
        """
        return self._public_key

    @cached_property
    def _public_key(self) -> ec.EllipticCurvePublicKey:
        curve, (x, y) = _CURVES[self.crv], self.coordinates()
        # cryptography takes x + p for x; then one key would have two JWKs and two thumbprints.
        if max(x, y) >= curve.prime:
            raise ValueError("a coordinate is not below the prime of the field")
        return ec.EllipticCurvePublicNumbers(x, y, curve.group).public_key()


@lru_cache(maxsize=REMEMBERED)
def _known(crv: str, x: str, y: str) -> EcJwk:
    curve = _CURVES[crv]
    jwk = EcJwk(crv, unb64url(x, "x", size=curve.size), unb64url(y, "y", size=curve.size))
    if not curve.has(*jwk.coordinates()):
        raise WireError("", f"the point is not on {crv}")
    return jwk
