"""The curves' equation says what a crypto library says, and a key's SubjectPublicKeyInfo is the library's own."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from vtpm.wire.curves import NIST_CURVES
from vtpm.wire.policy_digests import HASH_ALGORITHMS
from vtpm.wire.public_area import ALG_ECDSA, CURVE_IDS, PublicArea, Scheme, Symmetric

curves = pytest.mark.parametrize("curve", NIST_CURVES, ids=lambda curve: curve.name)


def point(curve, scalar):
    numbers = ec.derive_private_key(scalar, curve.group).public_key().public_numbers()
    return numbers.x, numbers.y


def library_takes(curve, x, y):
    try:
        ec.EllipticCurvePublicNumbers(x, y, curve.group).public_key()
    except ValueError:
        return False
    return True


@curves
@given(scalar=st.integers(1, 2**255), bit=st.integers(0, 255), of_x=st.booleans())
def test_the_points_are_those_of_the_library(curve, scalar, bit, of_x):
    x, y = point(curve, scalar)
    assert curve.has(x, y)
    assert curve.has(x, curve.prime - y)
    assert not curve.has(y, x) or library_takes(curve, y, x)
    other = (x ^ 1 << bit, y) if of_x else (x, y ^ 1 << bit)
    assert curve.has(*other) == library_takes(curve, *other)


@curves
def test_a_coordinate_has_one_form(curve):
    x, y = point(curve, 7)
    assert curve.has(x, y)
    for other in ((x + curve.prime, y), (x, y + curve.prime), (x - curve.prime, y), (x, -y)):
        assert not curve.has(*other)
    assert not curve.has(0, 0)


def area(curve, x, y, size):
    unique = (x.to_bytes(size, "big"), y.to_bytes(size, "big"))
    hashed = Scheme(ALG_ECDSA, HASH_ALGORITHMS["sha256"])
    return PublicArea(
        "ecc", "sha256", 0, b"", Symmetric(), hashed, curve.bits, CURVE_IDS[curve.bits], 0, Scheme(), unique
    )


@curves
@given(scalar=st.integers(1, 2**255))
def test_a_keys_der_is_the_librarys(curve, scalar):
    x, y = point(curve, scalar)
    key = ec.derive_private_key(scalar, curve.group).public_key()
    wanted = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert area(curve, x, y, curve.size).spki() == wanted
    assert area(curve, x, y, curve.size + 2).spki() == wanted
