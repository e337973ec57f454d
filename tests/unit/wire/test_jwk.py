"""Public keys as JSON Web Keys: one key, one JWK, one thumbprint."""

import hashlib
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey

from vtpm.wire.encoding import b64url
from vtpm.wire.errors import WireError
from vtpm.wire.jwk import EcJwk

CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
SIZES = {"P-256": 32, "P-384": 48, "P-521": 66}
# Domain parameters of FIPS 186-4, appendix D.1.2.
PRIMES = {
    "P-256": 2**256 - 2**224 + 2**192 + 2**96 - 1,
    "P-384": 2**384 - 2**128 - 2**96 + 2**32 - 1,
    "P-521": 2**521 - 1,
}
B = {
    "P-256": 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
    "P-521": int(
        "051953eb9618e1c9a1f929a21a0b68540eea2da725b99b315f3b8b489918ef109e156193951ec7e937b1652c0bd3bb1bf07"
        "3573df883d2c34f1ef451fd46b503f00",
        16,
    ),
}
curves = pytest.mark.parametrize("crv", CURVES)
ALL = tuple(CURVES)


def jwk(crv, scalar=7):
    return EcJwk.from_key(ec.derive_private_key(scalar, CURVES[crv]).public_key())


@curves
@given(scalar=st.integers(1, 2**250))
def test_round_trip(crv, scalar):
    key = ec.derive_private_key(scalar, CURVES[crv]).public_key()
    value = EcJwk.from_key(key)
    assert EcJwk.parse(json.loads(json.dumps(value.members())), "k", curves=ALL) == value
    assert value.public_key() == key
    assert len(value.x) == len(value.y) == SIZES[crv]


@curves
def test_members_and_thumbprint_agree_with_another_library(crv):
    value = jwk(crv)
    other = ECKey.import_key(value.public_key())
    assert other.as_dict(private=False).items() >= value.members().items()
    assert value.thumbprint() == other.thumbprint()


def test_fixed_thumbprint():
    """RFC 7638 fixes members and order; the bytes are written out here."""
    value = jwk("P-256")
    text = f'{{"crv":"P-256","kty":"EC","x":"{b64url(value.x)}","y":"{b64url(value.y)}"}}'
    assert value.thumbprint() == b64url(hashlib.sha256(text.encode()).digest())


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"kty": "OKP"}, "k.kty"),
        ({"kty": None}, "k.kty"),
        ({"crv": "P-224"}, "k.crv"),
        ({"crv": "P-384"}, "k.x"),
        ({"crv": "secp256k1"}, "k.crv"),
        ({"x": b64url(bytes(31))}, "k.x"),
        ({"x": b64url(bytes(33))}, "k.x"),
        ({"x": "="}, "k.x"),
        ({"y": b64url(bytes(32))}, "k"),
        ({"x": b64url(bytes(32)), "y": b64url(bytes(32))}, "k"),
        ({"d": "AA"}, "k.d"),
        ({"kid": "1"}, "k.kid"),
        ({"alg": "ES256"}, "k.alg"),
        ({"use": "sig"}, "k.use"),
    ],
)
def test_other_forms_are_refused(changes, path):
    with pytest.raises(WireError) as caught:
        EcJwk.parse(jwk("P-256").members() | changes, "k", curves=ALL)
    assert caught.value.path == path


def test_alg_is_demanded_where_it_is_named():
    members = jwk("P-521").members()
    assert EcJwk.parse({**members, "alg": "A"}, "k", curves=("P-521",), alg="A") == jwk("P-521")
    for value in (members, {**members, "alg": "B"}):
        with pytest.raises(WireError) as caught:
            EcJwk.parse(value, "k", curves=("P-521",), alg="A")
        assert caught.value.path == "k.alg"


def test_curves_are_limited_to_those_asked_for():
    with pytest.raises(WireError) as caught:
        EcJwk.parse(jwk("P-256").members(), "k", curves=("P-384", "P-521"))
    assert caught.value.path == "k.crv"


@pytest.mark.parametrize("crv", B)
def test_a_coordinate_plus_the_prime_is_refused(crv):
    """`cryptography` takes it for the same point, so one key would get a second thumbprint."""
    p = PRIMES[crv]
    x, y = next(
        (x, y)
        for x in range(100)
        for y in [pow(x**3 - 3 * x + B[crv], (p + 1) // 4, p)]
        if (y * y - x**3 + 3 * x - B[crv]) % p == 0
    )
    size = SIZES[crv]
    genuine = EcJwk(crv, x.to_bytes(size, "big"), y.to_bytes(size, "big"))
    assert EcJwk.parse(genuine.members(), "k", curves=ALL) == genuine
    second = EcJwk(crv, (x + p).to_bytes(size, "big"), y.to_bytes(size, "big"))
    point = ec.EllipticCurvePublicNumbers(x + p, y, CURVES[crv])
    assert point.public_key() == genuine.public_key(), "the library has become strict: the check may go"
    with pytest.raises(WireError):
        EcJwk.parse(second.members(), "k", curves=ALL)
    with pytest.raises(ValueError, match="prime"):
        second.public_key()


def test_keys_on_other_curves_have_no_jwk():
    with pytest.raises(WireError, match="P-256, P-384, P-521"):
        EcJwk.from_key(ec.derive_private_key(7, ec.SECP256K1()).public_key())


@curves
@given(data=st.data())
def test_random_points_are_off_the_curve(crv, data):
    size = SIZES[crv]
    x, y = (data.draw(st.binary(min_size=size, max_size=size)) for _ in range(2))
    with pytest.raises(WireError):
        EcJwk.parse(EcJwk(crv, x, y).members(), "k", curves=ALL)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=50),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["kty", "crv", "x", "y", "alg", "d"]), inner)
        ),
    )
)
def test_only_wire_errors_from_any_value(value):
    with pytest.raises(WireError):
        EcJwk.parse(value, "k", curves=ALL)
