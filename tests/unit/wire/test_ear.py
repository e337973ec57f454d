"""The attestation token's form: strict where the CA judges, patient where nobody looks, bounded everywhere."""

import dataclasses
import json

import ear_tokens as make
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from vtpm.wire.ear import EarToken
from vtpm.wire.encoding import b64std, b64url, parse_json
from vtpm.wire.enrollment import MAX_EAR
from vtpm.wire.errors import WireError
from vtpm.wire.jwk import EcJwk

VERIFIER = EcJwk.from_key(make.VERIFIER.public_key())
STRANGER = EcJwk.from_key(make.STRANGER.public_key())


def refused(compact, path):
    with pytest.raises(WireError) as error:
        EarToken.parse(compact)
    assert error.value.path == path
    assert str(error.value).isascii()
    assert str(error.value).isprintable()


def with_claim(*path, to):
    return make.token(make.changed(make.CLAIMS, path, to))


def test_trustees_token():
    compact = make.token()
    token = EarToken.parse(compact)
    assert token == EarToken(
        compact=compact,
        alg="ES256",
        jwk=VERIFIER,
        profile="tag:github.com,2024:confidential-containers/Trustee",
        developer="https://confidentialcontainers.org",
        build="attestation-service 0.1.0",
        iat=make.ISSUED,
        exp=make.ISSUED + 300,
        nbf=None,
        statuses=(("cpu0", "affirming"),),
        tee=make.TEE,
        nonce=make.NONCE,
    )
    assert token.signed_by(VERIFIER)
    assert not token.signed_by(STRANGER)
    assert compact not in repr(token)


# -- what nobody looks at ----------------------------------------------------------------------------------------


def test_a_header_with_certificates():
    """Trustee's signer with a chain: larger than what joserfc takes unasked, and with members of the JWK's own."""
    jwk = make.header()["jwk"] | {"x5c": [b64std(bytes(1000))] * 3, "x5u": "https://verifier.example/x5u"}
    head = {"alg": "ES256", "jwk": jwk, "kid": "signer-1", "x5c": ["?"], "own": {"deep": [1.5, None]}}
    token = EarToken.parse(make.token(head=head))
    assert token.jwk == VERIFIER
    assert EarToken.parse(make.token(head=head | {"x5c": [b64std(bytes(9))]})).signed_by(VERIFIER)


def test_a_header_without_a_key():
    token = EarToken.parse(make.token(head={"alg": "ES256"}))
    assert token.jwk is None
    assert token.signed_by(VERIFIER)


@pytest.mark.parametrize("number", ["1.5", "-0", "1e400", "12345678901234567890", "9" * 5000])
def test_numbers_where_nobody_looks(number):
    claims = json.dumps(make.CLAIMS).replace('"policy_abi_major": 1', f'"policy_abi_major": {number}')
    token = EarToken.parse(make.token(claims))
    assert number in claims
    assert token.signed_by(VERIFIER)


@pytest.mark.parametrize("number", ["1.5", "-0", "1790000000.0", "1e9", "12345678901234567890", "9" * 5000])
@pytest.mark.parametrize("name", ["iat", "exp"])
def test_numbers_where_somebody_looks(name, number):
    claims = json.dumps(make.changed(make.CLAIMS, (name,), 0)).replace(f'"{name}": 0', f'"{name}": {number}')
    refused(make.token(claims), f"evidence.ear.claims.{name}")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "01", "1.", "0x1"])
def test_what_is_no_number(number):
    claims = json.dumps(make.CLAIMS).replace('"policy_abi_major": 1', f'"policy_abi_major": {number}')
    # What other JSON readers would take for a number is named by its place; the rest is no JSON.
    place = (
        ".submods.cpu0.ear.veraison.annotated-evidence.snp.policy_abi_major"
        if number.lstrip("-").isalpha()
        else ""
    )
    refused(make.token(claims), f"evidence.ear.claims{place}")


def test_strict_documents_take_no_such_numbers():
    for text in (b"1.5", b"-0", b"12345678901234567890"):
        assert isinstance(parse_json(text, most=99, any_number=True), float)
        with pytest.raises(WireError):
            parse_json(text, most=99)
    assert parse_json(b"12", most=99, any_number=True) == 12


def test_verbose_evidence_may_be_left_out():
    """What Trustee leaves out unless it is configured to be verbose."""
    assert EarToken.parse(with_claim(*make.RUNTIME, "additional-evidence", to=make.GONE)).nonce == make.NONCE


# -- what the CA judges by ---------------------------------------------------------------------------------------

CPU = "evidence.ear.claims.submods.cpu0"
ANNOTATED = f"{CPU}.ear.veraison.annotated-evidence"
RUNTIME = f"{ANNOTATED}.runtime_data_claims"


@pytest.mark.parametrize(
    ("path", "error"),
    [
        (("eat_profile",), "evidence.ear.claims.eat_profile"),
        (("iat",), "evidence.ear.claims.iat"),
        (("exp",), "evidence.ear.claims.exp"),
        (("ear.verifier-id",), "evidence.ear.claims.ear.verifier-id"),
        (("ear.verifier-id", "build"), "evidence.ear.claims.ear.verifier-id.build"),
        (("ear.verifier-id", "developer"), "evidence.ear.claims.ear.verifier-id.developer"),
        (("submods",), "evidence.ear.claims.submods"),
        (("submods", "cpu0"), CPU),
        (("submods", "cpu0", "ear.status"), f"{CPU}.ear.status"),
        (make.RUNTIME[:3], ANNOTATED),
        (make.RUNTIME, RUNTIME),
        ((*make.RUNTIME, "nonce"), f"{RUNTIME}.nonce"),
        ((*make.RUNTIME, "tee-pubkey"), f"{RUNTIME}.tee-pubkey"),
        ((*make.RUNTIME, "tee-pubkey", "alg"), f"{RUNTIME}.tee-pubkey.alg"),
        ((*make.RUNTIME, "tee-pubkey", "x"), f"{RUNTIME}.tee-pubkey.x"),
    ],
)
def test_each_claim_is_needed(path, error):
    refused(make.token(make.changed(make.CLAIMS, path, make.GONE)), error)
    for other in (None, [], "\x00", -1, True):
        with pytest.raises(WireError):
            EarToken.parse(make.token(make.changed(make.CLAIMS, path, other)))


@pytest.mark.parametrize(
    ("told", "tier"),
    [
        ("affirming", "affirming"),
        ("none", "none"),
        ("warning", "warning"),
        ("contraindicated", "contraindicated"),
        (2, "affirming"),
        (0, "none"),
        (32, "warning"),
        (96, "contraindicated"),
    ],
)
def test_status(told, tier):
    assert EarToken.parse(with_claim("submods", "cpu0", "ear.status", to=told)).statuses == (("cpu0", tier),)


@pytest.mark.parametrize(
    "told", ["Affirming", "affirming ", "", "2", 1, 3, 31, 33, 97, -2, 2.0, True, False, None, ["affirming"]]
)
def test_status_that_is_none(told):
    refused(with_claim("submods", "cpu0", "ear.status", to=told), f"{CPU}.ear.status")


def test_every_submod_has_a_status():
    both = make.changed(make.CLAIMS, ("submods", "gpu0"), {"ear.status": "warning"})
    assert EarToken.parse(make.token(both)).statuses == (("cpu0", "affirming"), ("gpu0", "warning"))
    for other, error in (({}, ".ear.status"), ("a JWT", ""), ([], ""), (None, "")):
        refused(with_claim("submods", "gpu0", to=other), f"evidence.ear.claims.submods.gpu0{error}")


def test_submods_are_bounded():
    fine = {f"gpu{i}": {"ear.status": 2} for i in range(63)} | {"cpu0": make.APPRAISAL}
    assert len(EarToken.parse(with_claim("submods", to=fine)).statuses) == 64
    refused(with_claim("submods", to=fine | {"one": {"ear.status": 2}}), "evidence.ear.claims.submods")
    for name in ("x" * 65, "\x1b[2J", "gpü0"):
        refused(with_claim("submods", name, to={"ear.status": 2}), "evidence.ear.claims.submods")


def test_nbf():
    assert EarToken.parse(with_claim("nbf", to=5)).nbf == 5
    for nbf in (None, "5", -1, 1.5):
        refused(with_claim("nbf", to=nbf), "evidence.ear.claims.nbf")


def test_keys_of_other_kinds():
    p384 = EcJwk.from_key(ec.derive_private_key(53, ec.SECP384R1()).public_key())
    p256 = EcJwk.from_key(ec.derive_private_key(59, ec.SECP256R1()).public_key())
    tee = {"alg": "ECDH-ES+A256KW"}
    assert EarToken.parse(with_claim(*make.RUNTIME, "tee-pubkey", to=tee | p256.members())).tee == p256
    refused(with_claim(*make.RUNTIME, "tee-pubkey", to=tee | p384.members()), f"{RUNTIME}.tee-pubkey.crv")
    off = tee | make.TEE.members() | {"y": b64url(bytes(66))}
    refused(with_claim(*make.RUNTIME, "tee-pubkey", to=off), f"{RUNTIME}.tee-pubkey")
    refused(make.token(head=make.header(jwk=p384.members())), "evidence.ear.header.jwk.crv")
    refused(make.token(head=make.header(jwk={"kty": "oct", "k": "AAAA"})), "evidence.ear.header.jwk.crv")


# -- form --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ('"iat": 1790000000', '"iat": 1, "iat": 1790000000', "evidence.ear.claims.iat"),
        ('"ear.status"', '"ear.status": "warning", "ear.status"', f"{CPU}.ear.status"),
        ('"nonce"', '"nonce": "AAAA", "nonce"', f"{RUNTIME}.nonce"),
        ('"cpu0"', '"cpu0": {}, "cpu0"', CPU),
        ('"cpu0"', '"cp\\u00750": {}, "cpu0"', CPU),
        ('"measurement"', '"measurement": "", "measurement"', f"{ANNOTATED}.snp.measurement"),
    ],
)
def test_duplicate_members(old, new, path):
    claims = json.dumps(make.CLAIMS).replace(old, new)
    assert json.loads(claims) == make.CLAIMS
    refused(make.token(claims), path)


def test_duplicate_members_of_the_header():
    head = json.dumps(make.header()).replace('"alg"', '"alg": "none", "alg"', 1)
    refused(make.token(head=head), "evidence.ear.header.alg")


@pytest.mark.parametrize("name", ["crit", "b64"])
@pytest.mark.parametrize("value", [["b64"], ["own"], [], False, True, None])
def test_critical_extensions(name, value):
    refused(make.token(head=make.header() | {name: value}), f"evidence.ear.header.{name}")


@pytest.mark.parametrize("alg", [make.GONE, None, 256, "", "ES256\n", ["ES256"]])
def test_alg_is_a_name(alg):
    refused(make.token(head=make.changed(make.header(), ("alg",), alg)), "evidence.ear.header.alg")


def test_alg_is_kept_as_it_stands():
    """Which one is acceptable is a check's to say."""
    for alg in ("none", "HS256", "ES384"):
        token = EarToken.parse(make.token(head=make.header(alg=alg)))
        assert token.alg == alg
        assert not token.signed_by(VERIFIER)


@pytest.mark.parametrize(
    ("compact", "path"),
    [
        ("", "evidence.ear"),
        ("e30", "evidence.ear"),
        ("e30.e30", "evidence.ear"),
        ("e30.e30.e30.e30", "evidence.ear"),
        ("e30.e30.", "evidence.ear.header.alg"),
        ("..", "evidence.ear.header"),
        ("e30=.e30.e30", "evidence.ear.header"),
        ("e31.e30.e30", "evidence.ear.header"),
        ("e30.e30.é", "evidence.ear.signature"),
        ("W10.e30.e30", "evidence.ear.header"),
        (" e30.e30.e30", "evidence.ear.header"),
    ],
)
def test_what_is_no_token(compact, path):
    refused(compact, path)


def test_size():
    room = MAX_EAR - len(make.token(make.CLAIMS | {"pad": ""}))
    pad = "x" * (room * 3 // 4 - 3)
    fits = make.token(make.CLAIMS | {"pad": pad})
    assert MAX_EAR - 8 < len(fits) <= MAX_EAR
    assert EarToken.parse(fits).signed_by(VERIFIER)
    refused(make.token(make.CLAIMS | {"pad": pad + "x" * 8}), "evidence.ear")


def test_depth():
    def nested(levels):
        return json.dumps(make.CLAIMS)[:-1] + ', "deep": ' + "[" * levels + "]" * levels + "}"

    assert EarToken.parse(make.token(nested(15)))
    refused(make.token(nested(16)), "evidence.ear.claims")
    refused(make.token(nested(5000)), "evidence.ear.claims")


def test_path_is_the_callers():
    with pytest.raises(WireError) as error:
        EarToken.parse(with_claim("iat", to=None), "token")
    assert error.value.path == "token.claims.iat"


# -- signature ---------------------------------------------------------------------------------------------------


def test_every_bit_is_signed():
    compact = make.token()
    raw = make.parts(compact)
    for number, part in enumerate(raw):
        for bit in range(0, len(part) * 8, 7):
            flipped = bytearray(part)
            flipped[bit // 8] ^= 1 << bit % 8
            other = ".".join(b64url(bytes(flipped) if i == number else p) for i, p in enumerate(raw))
            try:
                token = EarToken.parse(other)
            except WireError:
                continue
            assert not token.signed_by(VERIFIER), (number, bit)


def test_signature_range_and_length():
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    signed, _, text = make.token().rpartition(".")
    r, s = (make.parts(f"e30.e30.{text}")[2][i : i + 32] for i in (0, 32))
    assert EarToken.parse(f"{signed}.{b64url(r + s)}").signed_by(VERIFIER)
    zero, full = bytes(32), order.to_bytes(32, "big")
    # 0, n, too short, too long, DER instead of two numbers.
    for bad in (
        zero + s,
        r + zero,
        zero + zero,
        full + s,
        r + full,
        b"",
        (r + s)[:-1],
        r + s + b"\0",
        make.VERIFIER.sign(signed.encode(), ec.ECDSA(make.hashes.SHA256())),
    ):
        assert not EarToken.parse(f"{signed}.{b64url(bad)}").signed_by(VERIFIER)


def test_a_key_on_another_curve_signs_nothing():
    token = EarToken.parse(make.token())
    for curve in (ec.SECP384R1(), ec.SECP521R1()):
        assert not token.signed_by(EcJwk.from_key(ec.derive_private_key(3, curve).public_key()))
    assert not token.signed_by(dataclasses.replace(VERIFIER, y=bytes(32)))


# -- hostile bytes -----------------------------------------------------------------------------------------------


def taken_or_refused(compact):
    """Only the one error, and what is taken can be judged."""
    try:
        token = EarToken.parse(compact)
    except WireError as error:
        assert all(" " <= c <= "~" for c in str(error))  # noqa: PT017 - that there is one is not what is asked
        return
    assert token.signed_by(VERIFIER) in (True, False)
    assert token.tee.thumbprint()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def paths(value, path=()):
    if path:
        yield path
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from paths(inner, (*path, name))


@settings(deadline=None)
@given(st.text(max_size=300) | st.text(alphabet="abe30._-=", max_size=60))
def test_any_text(text):
    taken_or_refused(text)


@settings(deadline=None)
@given(st.binary(max_size=80), st.binary(max_size=200), st.binary(max_size=70))
def test_any_parts(head, claims, signature):
    taken_or_refused(".".join(map(b64url, (head, claims, signature))))


@settings(deadline=None)
@given(st.sampled_from(list(paths(make.CLAIMS))), JSON | st.just(make.GONE))
def test_any_value_of_any_claim(path, value):
    taken_or_refused(make.token(make.changed(make.CLAIMS, path, value)))


@settings(deadline=None)
@given(
    st.sampled_from(["alg", "jwk", "kid", "typ", "x5c", "x5u", "jku", "cty", "x5t", "crit"]),
    JSON | st.dictionaries(st.sampled_from(["kty", "crv", "x", "y"]), JSON),
)
def test_any_value_in_the_header(name, value):
    taken_or_refused(make.token(head=make.header() | {name: value}))


@settings(deadline=None)
@given(st.integers(0, 2), st.integers(0), st.binary(min_size=1, max_size=4), st.booleans())
def test_any_damage(part, position, data, insert):
    raw = make.parts(make.token())
    at = position % len(raw[part])
    raw[part] = raw[part][:at] + data + raw[part][at + (0 if insert else len(data)) :]
    taken_or_refused(".".join(map(b64url, raw)))
