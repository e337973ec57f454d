"""The curves' equation says what a crypto library says, and a key's SubjectPublicKeyInfo is the library's own."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import example, given
from hypothesis import strategies as st

from vtpm.wire.curves import NIST_CURVES
from vtpm.wire.errors import WireError
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


MODULI = st.sampled_from([1024, 1032, 2048, 3072, 4096]).flatmap(
    lambda bits: st.tuples(
        st.just(bits),
        st.integers(0, 2**bits - 1) | st.integers(2 ** (bits - 1), 2**bits - 1),
        st.sampled_from([0, 65537]) | st.integers(0, 2**32 - 1),
        st.sampled_from([0, 0, 1, -1]),
    )
)


@given(MODULI)
@example((1024, 2**1023, 0, 0))
@example((1024, 2**1023 - 1, 65537, 0))
@example((1024, 2**1024 - 1, 65539, 0))
@example((1032, 2**1023, 0, -1))
@example((1024, 0, 0, 0))
def test_an_rsa_keys_der_is_the_librarys(key):
    bits, modulus, exponent, longer = key
    unique = (bytes(max(longer, 0)) + modulus.to_bytes(bits // 8, "big")[max(-longer, 0) :],)
    of_tpm = PublicArea("rsa", "sha256", 0, b"", Symmetric(), Scheme(), bits, 0, exponent, Scheme(), unique)
    numbers = rsa.RSAPublicNumbers(exponent or 65537, int.from_bytes(unique[0], "big"))
    try:
        wanted = numbers.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except ValueError:
        with pytest.raises(WireError):
            of_tpm.spki()
    else:
        assert of_tpm.spki() == wanted
