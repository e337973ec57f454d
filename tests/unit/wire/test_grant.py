"""The KBS grant: one structure, one way to find the key, and a signature over every bit."""

import base64
import dataclasses
import hashlib
import hmac
import json

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from hypothesis import given
from hypothesis import strategies as st

from vtpm.wire.encoding import b64url
from vtpm.wire.errors import WireError
from vtpm.wire.grant import (
    GRANT_TYP,
    MAX_GRANT,
    Grant,
    GrantClaims,
    check_resource,
    key_id,
    policy_digest,
    sign_grant,
)
from vtpm.wire.jwk import EcJwk

KEYS = {
    "ES256": ec.derive_private_key(31, ec.SECP256R1()),
    "ES384": ec.derive_private_key(37, ec.SECP384R1()),
}
SECRET = bytes(range(32))
CLAIMS = GrantClaims(
    epk_jkt=b64url(b"\x01" * 32),
    tee_jkt=b64url(b"\x02" * 32),
    nonce=base64.b64encode(bytes(range(32))).decode(),
    key_id=key_id(SECRET),
    resource="default/svsm/vm-1",
    origin="kbs-generated",
    report_id=b"\x03" * 32,
    policy="04" * 32,
    iat=1_790_000_000,
    exp=1_790_000_300,
)
algs = pytest.mark.parametrize("alg", KEYS)


def flattened(compact):
    return [base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in compact.split(".")]


def resigned(alg="ES384", header=None, claims=None, key=None):
    """A grant signed by hand, without the library that the module uses, so that anything can stand in it."""
    key = key or KEYS[alg]
    jwk = EcJwk.from_key(KEYS[alg].public_key()).members()
    head = {"alg": alg, "jwk": jwk, "typ": GRANT_TYP} | (header or {})
    body = CLAIMS.to_json() | (claims or {})
    encoded = [
        b64url(json.dumps({k: v for k, v in p.items() if v is not None}).encode()) for p in (head, body)
    ]
    digest, size = {"ES256": (hashes.SHA256(), 32), "ES384": (hashes.SHA384(), 48)}[alg]
    r, s = utils.decode_dss_signature(key.sign(".".join(encoded).encode(), ec.ECDSA(digest)))
    return ".".join([*encoded, b64url(r.to_bytes(size, "big") + s.to_bytes(size, "big"))])


@algs
def test_signed_grant_is_read_back(alg):
    compact = sign_grant(CLAIMS, KEYS[alg])
    grant = Grant.parse(compact)
    assert grant == Grant(compact, alg, EcJwk.from_key(KEYS[alg].public_key()), CLAIMS)
    assert grant.signature_holds()
    header, payload, _ = flattened(compact)
    assert set(json.loads(header)) == {"alg", "jwk", "typ"}
    assert json.loads(header)["typ"] == "svsm-kbs-grant+jwt"
    assert json.loads(payload) == {
        "epk_jkt": CLAIMS.epk_jkt,
        "tee_jkt": CLAIMS.tee_jkt,
        "nonce": CLAIMS.nonce,
        "key_id": CLAIMS.key_id,
        "resource": "default/svsm/vm-1",
        "origin": "kbs-generated",
        "report_id": "03" * 32,
        "policy": "04" * 32,
        "iat": 1_790_000_000,
        "exp": 1_790_000_300,
    }


@algs
def test_signature_is_plain_ecdsa_over_the_jws_signing_input(alg):
    compact = sign_grant(CLAIMS, KEYS[alg])
    signed, _, text = compact.rpartition(".")
    signature = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    half = len(signature) // 2
    r, s = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
    digest = {"ES256": hashes.SHA256(), "ES384": hashes.SHA384()}[alg]
    KEYS[alg].public_key().verify(utils.encode_dss_signature(r, s), signed.encode(), ec.ECDSA(digest))


@algs
def test_a_grant_signed_by_hand_holds(alg):
    assert Grant.parse(resigned(alg)).signature_holds()


@algs
def test_every_flipped_bit_is_noticed(alg):
    """Header, claims and signature, bit by bit: either no grant any more, or its signature fails."""
    raw = flattened(sign_grant(CLAIMS, KEYS[alg]))
    for i, part in enumerate(raw):
        for bit in range(8 * len(part)):
            bad = bytearray(part)
            bad[bit // 8] ^= 1 << bit % 8
            compact = ".".join(b64url(bytes(bad) if j == i else p) for j, p in enumerate(raw))
            try:
                grant = Grant.parse(compact)
            except WireError:
                assert i < 2  # any signature of the right length has the right structure
                continue
            assert not grant.signature_holds(), (i, bit)


@algs
def test_another_text_for_the_same_bytes_is_refused(alg):
    """Base64 leaves spare bits at the end of a part; a reader that ignores them takes several texts for one grant."""
    compact = sign_grant(CLAIMS, KEYS[alg])
    for changed in (compact + "=", compact + "\n", " " + compact, compact.replace(".", ".=", 1)):
        with pytest.raises(WireError):
            Grant.parse(changed)
    if alg == "ES256":  # 64 bytes leave four spare bits, 96 bytes leave none
        with pytest.raises(WireError, match="canonical"):
            Grant.parse(compact[:-1] + chr(ord(compact[-1]) + 1))


def test_someone_elses_signature_under_the_named_key_fails():
    other = ec.derive_private_key(41, ec.SECP384R1())
    assert not Grant.parse(resigned(key=other)).signature_holds()


def test_a_signature_of_zeros_fails():
    head, body, _ = sign_grant(CLAIMS, KEYS["ES384"]).split(".")
    for signature in (bytes(96), b"\xff" * 96):
        assert not Grant.parse(f"{head}.{body}.{b64url(signature)}").signature_holds()


JWK = EcJwk.from_key(KEYS["ES384"].public_key()).members()
P521 = EcJwk.from_key(ec.derive_private_key(5, ec.SECP521R1()).public_key()).members()


@pytest.mark.parametrize(
    ("header", "path"),
    [
        ({"typ": None}, "grant.header.typ"),
        ({"typ": "JWT"}, "grant.header.typ"),
        ({"typ": "SVSM-KBS-GRANT+JWT"}, "grant.header.typ"),
        ({"typ": "application/svsm-kbs-grant+jwt"}, "grant.header.typ"),
        ({"alg": "ES256"}, "grant.header.alg"),
        ({"alg": "none"}, "grant.header.alg"),
        ({"alg": "HS256"}, "grant.header.alg"),
        ({"alg": None}, "grant.header.alg"),
        ({"jwk": None}, "grant.header.jwk"),
        ({"jwk": {**JWK, "d": "AA"}}, "grant.header.jwk.d"),
        ({"jwk": {**JWK, "alg": "ES384"}}, "grant.header.jwk.alg"),
        ({"jwk": {**JWK, "y": JWK["x"]}}, "grant.header.jwk"),
        ({"jwk": P521}, "grant.header.jwk.crv"),
        ({"jwk": {"kty": "oct", "k": "AA"}}, "grant.header.jwk.kty"),
        ({"x5c": ["AA"]}, "grant.header.x5c"),
        ({"kid": "x"}, "grant.header.kid"),
        ({"jku": "https://example.org"}, "grant.header.jku"),
        ({"crit": ["b64"], "b64": False}, "grant.header.b64"),
        ({"b64": False}, "grant.header.b64"),
    ],
)
def test_other_headers_are_refused(header, path):
    with pytest.raises(WireError) as caught:
        Grant.parse(resigned(header=header))
    assert caught.value.path == path


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(GrantClaims)])
def test_every_claim_is_required(name):
    with pytest.raises(WireError, match="is missing") as caught:
        Grant.parse(resigned(claims={name: None}))
    assert caught.value.path == f"grant.claims.{name}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epk_jkt", b64url(bytes(31))),
        ("epk_jkt", b64url(bytes(33))),
        ("epk_jkt", b64url(bytes(32)) + "="),
        ("tee_jkt", ""),
        ("tee_jkt", 1),
        ("nonce", "AA"),
        ("nonce", "-_8="),
        ("nonce", ""),
        ("nonce", base64.b64encode(bytes(65)).decode()),
        ("key_id", "x"),
        ("resource", "a/b"),
        ("origin", "tenant"),
        ("origin", "KBS-generated"),
        ("report_id", "03" * 31),
        ("report_id", "AB" * 32),
        ("policy", "04" * 31),
        ("policy", "AB" * 32),
        ("iat", "1790000000"),
        ("iat", -1),
        ("iat", 1.5),
        ("iat", True),
        ("exp", 253402300800),
        ("exp", 2**53),
        ("extra", "x"),
        ("aud", "x"),
    ],
)
def test_malformed_claims_are_refused(name, value):
    with pytest.raises(WireError) as caught:
        Grant.parse(resigned(claims={name: value}))
    assert caught.value.path in (f"grant.claims.{name}", "grant.claims")


def test_claims_that_stand_twice_are_refused():
    head, body, signature = resigned().split(".")
    text = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    doubled = text[:-1] + b', "resource": "default/svsm/other"}'
    with pytest.raises(WireError, match="stands twice") as caught:
        Grant.parse(f"{head}.{b64url(doubled)}.{signature}")
    assert caught.value.path == "grant.claims.resource"


@pytest.mark.parametrize("size", [0, 63, 65, 95, 97, 128])
def test_signature_length_is_the_algorithms(size):
    head, body, _ = sign_grant(CLAIMS, KEYS["ES384"]).split(".")
    with pytest.raises(WireError, match="must be 96 bytes"):
        Grant.parse(f"{head}.{body}.{b64url(bytes(size))}")


@pytest.mark.parametrize(
    "compact", ["", "a", "a.b", "a.b.c.d", "..", "a.b.c.", "ä.b.c", "x" * (MAX_GRANT + 1)]
)
def test_other_texts_are_no_grant(compact):
    with pytest.raises(WireError) as caught:
        Grant.parse(compact, "kbs.grant")
    assert caught.value.path.startswith("kbs.grant")


def test_only_p256_and_p384_sign():
    for curve in (ec.SECP521R1(), ec.SECP256K1()):
        with pytest.raises(WireError):
            sign_grant(CLAIMS, ec.derive_private_key(5, curve))


@pytest.mark.parametrize(
    "changes",
    [{"resource": "../etc/x"}, {"origin": "tenant"}, {"report_id": bytes(16)}, {"policy": "x"}, {"iat": -1}],
)
def test_claims_that_nobody_would_take_are_not_signed(changes):
    with pytest.raises(WireError):
        sign_grant(dataclasses.replace(CLAIMS, **changes), KEYS["ES384"])


def test_key_id():
    digest = hmac.new(SECRET, b"svsm-kbs-key-id/1", hashlib.sha256).digest()
    assert key_id(SECRET) == base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    assert key_id(SECRET) == "lU3-6fjqlwM5_67rYQ7IoYFCuZsKgjsoHvOv8lofY3E"  # openssl dgst -sha256 -mac HMAC
    assert key_id(SECRET + b"x") != key_id(SECRET)


@pytest.mark.parametrize("size", [0, 16, 31])
def test_short_secrets_get_no_key_id(size):
    with pytest.raises(WireError, match="at least 32 bytes"):
        key_id(bytes(size))


def test_policy_digest():
    assert policy_digest(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("text", ["a/b/c", "default/sample/test", "A-1/b_2/c.3", "_/-/0", "a/b/" + "c" * 124])
def test_resources(text):
    assert check_resource(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a/b",
        "a/b/c/d",
        "/a/b",
        "a//b",
        "a/b/",
        "a/b/c/",
        "a/b/.",
        "a/b/..",
        "../a/b",
        "a/.b/c",
        "a/b/c d",
        "a/b/c\n",
        "a/b/*",
        "a/b/c?x",
        "a/b/c#x",
        "a/b/%2e%2e",
        "a/b/ü",
        "a\\b/c/d",
        "a/b/" + "c" * 125,
    ],
)
def test_other_resources_are_refused(text):
    with pytest.raises(WireError) as caught:
        check_resource(text, "where")
    assert caught.value.path == "where"


def test_the_text_of_a_grant_stays_out_of_logs():
    compact = sign_grant(CLAIMS, KEYS["ES256"])
    assert compact not in repr(Grant.parse(compact))


@given(st.text(max_size=200))
def test_only_wire_errors_from_any_text(text):
    with pytest.raises(WireError):
        Grant.parse(text)
    with pytest.raises(WireError):
        Grant.parse(".".join(b64url(text.encode("utf-8", "surrogatepass")) for _ in range(3)))


JSON = st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.lists(st.integers(), max_size=2)
BASE = sign_grant(CLAIMS, KEYS["ES256"]).split(".")


@given(st.sampled_from([0, 1]), st.data())
def test_only_wire_errors_from_changed_members(part, data):
    value = json.loads(flattened(".".join(BASE))[part])
    name = data.draw(st.sampled_from([*sorted(value), "further"]))
    value[name] = data.draw(JSON)
    changed = [b64url(json.dumps(value).encode()) if i == part else text for i, text in enumerate(BASE)]
    try:
        grant = Grant.parse(".".join(changed))
    except WireError:
        return
    assert not grant.signature_holds() or grant.claims == CLAIMS
