"""The NIST curves of TPM keys and JSON Web Keys, as far as a reader must know them.

A point that stands in evidence has to be on its curve, and most of these points need no more than that: the equation
says it in a fiftieth of the time that a crypto library takes to load the key. Who verifies or encrypts with a point
loads it. Source: SP 800-186, section 3.2.1; the cofactor of all three is 1, so each point on a curve has its order.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


@dataclass(frozen=True)
class Curve:
    """The curve y^2 = x^3 - 3x + b over the field of `prime`.

    Attributes:
        name: as JSON Web Keys have it.
        bits: size of a coordinate.
        prime: of the field.
        b: the constant of the equation.
        group: the curve as `cryptography` has it.
    """

    name: str
    bits: int
    prime: int
    b: int
    group: ec.EllipticCurve

    @cached_property
    def size(self) -> int:
        """Bytes of a coordinate in full length."""
        return (self.bits + 7) // 8

    def has(self, x: int, y: int) -> bool:
        """Whether (x, y) is a point of the curve, its coordinates in their one form: below the field's prime."""
        prime = self.prime
        return 0 <= x < prime and 0 <= y < prime and not (y * y - (x * x - 3) * x - self.b) % prime

    @cached_property
    def spki_head(self) -> bytes:
        """What stands before the coordinates in the DER of every SubjectPublicKeyInfo (RFC 5480), 04 included."""
        some_key = ec.derive_private_key(1, self.group).public_key()
        spki = some_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return spki[: -2 * self.size]


P256: Final = Curve(
    "P-256",
    256,
    2**256 - 2**224 + 2**192 + 2**96 - 1,
    0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
    ec.SECP256R1(),
)
P384: Final = Curve(
    "P-384",
    384,
    2**384 - 2**128 - 2**96 + 2**32 - 1,
    int(
        "b3312fa7e23ee7e4988e056be3f82d19181d9c6efe8141120314088f5013875ac656398d8a2ed19d2a85c8edd3ec2aef", 16
    ),
    ec.SECP384R1(),
)
P521: Final = Curve(
    "P-521",
    521,
    2**521 - 1,
    int(
        "051953eb9618e1c9a1f929a21a0b68540eea2da725b99b315f3b8b489918ef109e15619395"
        "1ec7e937b1652c0bd3bb1bf073573df883d2c34f1ef451fd46b503f00",
        16,
    ),
    ec.SECP521R1(),
)

NIST_CURVES: Final = (P256, P384, P521)
