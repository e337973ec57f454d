"""The exchange with the key broker: what the SVSM believes, and what it lets the host make it sign."""

import base64
import hashlib
import json
import traceback
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vtpm.errors import UnavailableError
from vtpm.host.malicious import GenuineHeader
from vtpm.svsm.build import Build
from vtpm.svsm.errors import BootRefused
from vtpm.svsm.kbs_session import KbsSession, negotiate
from vtpm.wire.aproxy import CHALLENGE, EC_PUBLIC_KEY_BYTES, AttestationResponse, NegotiationResponse
from vtpm.wire.encoding import b64std, b64url, unb64url
from vtpm.wire.enrollment import MAX_EAR
from vtpm.wire.grant import Grant, key_id, sign_grant
from vtpm.wire.jwe import protected_header
from vtpm.wire.jwk import EcJwk
from vtpm.wire.report import Report

OTHER = EcJwk.from_key(ec.generate_private_key(ec.SECP521R1()).public_key())


def run(broker, processor, build=Build.STANDARD):
    return negotiate(broker.attest, processor.report, processor.cert_table, build)


def shown(error):
    """All that a log could ever show of an error and of what led to it, and of the values beside it."""
    text = "".join(traceback.format_exception(error))
    while error is not None:
        text += repr(error) + repr(error.args)
        error = error.__cause__ or error.__context__
    return text


def assert_hidden(secret, text):
    for form in (secret.hex(), base64.b64encode(secret).decode(), b64url(secret), repr(secret)[2:-1]):
        assert form not in text


def refused(broker, processor, rule, build=Build.STANDARD):
    with pytest.raises(BootRefused) as refusal:
        run(broker, processor, build)
    assert refusal.value.rule == rule
    assert refusal.value.exit_code == 1
    assert_hidden(broker.secret, shown(refusal.value))


def changed(**fields):
    """A delivery whose decryption has other fields."""
    return lambda delivery: replace(delivery, decryption=replace(delivery.decryption, **fields))


def flipped(name):
    """A delivery in which one bit of a field differs."""

    def flip(data):
        return data[:-1] + bytes([data[-1] ^ 1])

    def deliver(delivery):
        if name == "secret":
            return replace(delivery, secret=flip(delivery.secret))
        return changed(**{name: flip(getattr(delivery.decryption, name))})(delivery)

    return deliver


# -- the honest exchange ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP384R1])
def test_an_honest_exchange(broker, processor, curve):
    broker.key = ec.generate_private_key(curve())
    session = run(broker, processor)
    assert session.secret == broker.secret
    assert session.key_id == key_id(broker.secret)
    assert session.grant.jwk == EcJwk.from_key(broker.key.public_key())
    assert session.grant.claims.resource == "default/vtpm/one"
    assert broker.request.challenge == broker.challenge
    assert broker.request.certs == processor.cert_table()


def test_one_report_is_asked_for_at_vmpl_0(broker, processor):
    asked = []

    def report(data, vmpl=0):
        asked.append(vmpl)
        return processor.report(data, vmpl)

    negotiate(broker.attest, report, processor.cert_table, Build.STANDARD)
    assert asked == [0]
    assert Report.parse(broker.request.report).vmpl == 0


def test_each_boot_has_a_key_of_its_own(broker, processor):
    run(broker, processor)
    first = broker.request.key
    run(broker, processor)
    assert broker.request.key != first
    assert first.crv == "P-521"


@pytest.mark.parametrize("size", [1, 16, 31, 33, 64])
def test_a_challenge_of_an_odd_size_is_a_challenge(broker, processor, size):
    broker.challenge = bytes(size)
    assert run(broker, processor).grant.claims.nonce == b64std(bytes(size))


@pytest.mark.parametrize("size", [0, 65, 4096, 600_000])
def test_a_challenge_that_no_grant_can_name_ends_in_a_refusal(broker, processor, size):
    broker.challenge = bytes(size)
    broker.claims = {"nonce": b64std(bytes(32))}
    refused(broker, processor, "svsm.grant-nonce")


def test_a_kbs_without_grants_serves_a_boot_without_certificates(broker, processor):
    broker.grant = None
    session = run(broker, processor)
    assert session.grant is None
    assert session.secret == broker.secret


@pytest.mark.parametrize("token", ["e30.e30.e30", "a.b.c", "x." * 2 + "y" * (MAX_EAR - 4)])
def test_the_token_is_kept_for_the_ca(broker, processor, token):
    broker.token = token
    session = run(broker, processor)
    assert session.token == token
    assert token not in repr(session)


@pytest.mark.parametrize(
    "token", [None, "x", "a.b", "a.b.c.d", "a.b.", "a.b.c=", "a b.c.d", "x." * 2 + "y" * (MAX_EAR - 3)]
)
def test_a_token_that_no_enrolment_can_carry_fails_no_boot(broker, processor, token):
    broker.token = token
    session = run(broker, processor)
    assert session.token is None
    assert session.secret == broker.secret


def test_todays_build_drops_the_token(broker, processor):
    assert run(broker, processor, Build.APROXY_HEAD).token is None


def test_that_the_host_is_away_is_passed_on(processor):
    def attest(answer):
        raise UnavailableError("the host does not answer")

    with pytest.raises(UnavailableError):
        negotiate(attest, processor.report, processor.cert_table, Build.STANDARD)


# -- the rules -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "deliver",
    [
        lambda _: AttestationResponse(success=False),
        lambda delivery: replace(delivery, success=False),
        lambda delivery: replace(delivery, secret=None),
        lambda delivery: replace(delivery, decryption=None),
    ],
)
def test_key_released(broker, processor, deliver):
    broker.deliver = deliver
    refused(broker, processor, "svsm.key-released")


def _header(**members):
    honest = {"alg": "ECDH-ES+A256KW", "enc": "A256GCM", "epk": OTHER.members()}
    return b64url(json.dumps(honest | members).encode()).encode()


@pytest.mark.parametrize(
    "aad",
    [
        b"",
        b"\xff\xfe",
        b"!",
        b64url(b"{}").encode(),
        _header(alg="dir"),
        _header(enc="A128GCM"),
        _header(epk={"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA"}),
        _header(apu="AAAA"),
        _header(crit=["alg"]),
        b"A" * 100_000,
    ],
)
def test_header(broker, processor, aad):
    broker.deliver = changed(aad=aad)
    refused(broker, processor, "svsm.header")


def test_epk(broker, processor):
    broker.deliver = changed(epk=(OTHER.x, OTHER.y))
    refused(broker, processor, "svsm.epk")


def test_epk_of_another_curve(broker, processor):
    small = EcJwk.from_key(ec.generate_private_key(ec.SECP256R1()).public_key())
    padded = tuple(bytes(34) + coordinate for coordinate in (small.x, small.y))
    broker.deliver = changed(epk=padded, aad=b64url(protected_header(small, {})).encode())
    refused(broker, processor, "svsm.epk")


@pytest.mark.parametrize("grant", ["", "x", "a.b.c", "e30.e30.e30", "é".encode().hex(), "A" * 5000])
def test_grant(broker, processor, grant):
    broker.grant = lambda _: grant
    refused(broker, processor, "svsm.grant")


def test_grant_signature(broker, processor):
    def spoil(compact):
        head, _, signature = compact.rpartition(".")
        raw = bytearray(unb64url(signature, "signature"))
        raw[-1] ^= 1
        return f"{head}.{b64url(bytes(raw))}"

    broker.grant = spoil
    refused(broker, processor, "svsm.grant-signature")


def test_grant_signature_by_another_key_than_the_named_one(broker, processor):
    def resign(compact):
        stranger = sign_grant(Grant.parse(compact).claims, ec.generate_private_key(ec.SECP384R1()))
        return ".".join([*compact.split(".")[:2], stranger.split(".")[2]])

    broker.grant = resign
    refused(broker, processor, "svsm.grant-signature")


@pytest.mark.parametrize(
    ("claim", "value", "rule"),
    [
        ("epk_jkt", OTHER.thumbprint(), "svsm.grant-epk"),
        ("tee_jkt", OTHER.thumbprint(), "svsm.grant-tee"),
        ("nonce", b64std(bytes(32)), "svsm.grant-nonce"),
        ("key_id", key_id(bytes(32)), "svsm.key-id"),
    ],
    ids=["epk_jkt", "tee_jkt", "nonce", "key_id"],
)
def test_claims(broker, processor, claim, value, rule):
    broker.claims = {claim: value}
    refused(broker, processor, rule)


def test_a_grant_of_the_same_exchange_in_another_boot(broker, processor):
    """Same broker, same nonce, same secret: the SVSM's key alone tells the boots apart."""
    grants = []
    broker.grant = lambda compact: grants.append(compact) or compact
    run(broker, processor)
    broker.grant = lambda _: grants[0]
    refused(broker, processor, "svsm.grant-epk")


@pytest.mark.parametrize("part", ["secret", "wrapped_cek", "iv", "tag"])
def test_decrypts(broker, processor, part):
    broker.deliver = flipped(part)
    refused(broker, processor, "svsm.decrypts")


@pytest.mark.parametrize("part", ["wrapped_cek", "iv", "tag"])
@pytest.mark.parametrize("size", [0, 1, 7, 8, 39, 41, 64])
def test_parts_of_another_length_do_not_decrypt(broker, processor, part, size):
    broker.deliver = changed(**{part: bytes(size)})
    refused(broker, processor, "svsm.decrypts")


def test_a_grant_that_the_host_puts_in_place_of_the_genuine_one(broker, processor):
    """Its own key signs all the right claims; but GCM covers the header."""

    def deliver(delivery):
        header = json.loads(unb64url(delivery.decryption.aad.decode(), "aad"))
        own = sign_grant(Grant.parse(header["kbs_grant"]).claims, ec.generate_private_key(ec.SECP384R1()))
        epk = EcJwk.parse(header["epk"], "epk", curves=("P-521",))
        return changed(aad=b64url(protected_header(epk, {"kbs_grant": own})).encode())(delivery)

    broker.deliver = deliver
    refused(broker, processor, "svsm.decrypts")


def test_the_host_cannot_take_the_grant_out(broker, processor):
    def deliver(delivery):
        header = json.loads(unb64url(delivery.decryption.aad.decode(), "aad"))
        epk = EcJwk.parse(header["epk"], "epk", curves=("P-521",))
        return changed(aad=b64url(protected_header(epk, {})).encode())(delivery)

    broker.deliver = deliver
    refused(broker, processor, "svsm.decrypts")


@pytest.mark.parametrize("size", [0, 1, 31])
@pytest.mark.parametrize("with_grant", [True, False])
def test_secret_size(broker, processor, size, with_grant):
    broker.secret = b"\xa5" * size
    if not with_grant:
        broker.grant = None
    with pytest.raises(BootRefused) as refusal:
        run(broker, processor)
    assert refusal.value.rule == "svsm.secret-size"


# -- what the host can make the SVSM sign ----------------------------------------------------------------------


class Enough(Exception):
    """The test has seen the request."""


def asked(processor, build, challenge, params):
    """REPORT_DATA and key of the request that a negotiation leads to."""
    seen = []

    def attest(answer):
        seen.append(answer(NegotiationResponse(challenge, params)))
        raise Enough

    with pytest.raises(Enough):
        negotiate(attest, processor.report, processor.cert_table, build)
    return Report.parse(seen[0].report).report_data, seen[0].key


RECIPES = st.lists(st.sampled_from([CHALLENGE, EC_PUBLIC_KEY_BYTES]), max_size=16).map(tuple)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(challenge=st.binary(max_size=300), params=RECIPES)
def test_the_host_cannot_choose_the_recipe(processor, challenge, params):
    data, key = asked(processor, Build.STANDARD, challenge, params)
    jwk = {
        "alg": "ECDH-ES+A256KW",
        "crv": "P-521",
        "kty": "EC",
        "x": b64url(key.x),
        "y": b64url(key.y),
    }
    runtime = {
        "additional-evidence": "",
        "nonce": base64.b64encode(challenge).decode(),
        "tee-pubkey": jwk,
    }
    text = json.dumps(runtime, sort_keys=True, separators=(",", ":"))
    assert data == hashlib.sha384(text.encode()).digest() + bytes(16)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(challenge=st.binary(max_size=300), params=RECIPES)
def test_todays_build_signs_what_the_host_likes(processor, challenge, params):
    data, key = asked(processor, Build.APROXY_HEAD, challenge, params)
    parts = {CHALLENGE: challenge, EC_PUBLIC_KEY_BYTES: key.x + key.y}
    assert data == hashlib.sha512(b"".join(parts[name] for name in params)).digest()


def delivered_by_the_host(broker, loot):
    """Attack M3: genuine header and grant, the host's ephemeral key and secret."""

    class Release:
        token = None

    def deliver(delivery):
        class Sealed:
            protected = delivery.decryption.aad.decode()

        release = Release()
        release.sealed = Sealed
        attack = GenuineHeader.__new__(GenuineHeader)
        attack.loot = loot
        return attack.delivery(broker.request, release)

    return deliver


def test_a_secret_under_the_hosts_own_key_is_believed_by_todays_build_alone(broker, processor):
    loot = b"the host knows these 32+ bytes well"
    broker.deliver = delivered_by_the_host(broker, loot)
    refused(broker, processor, "svsm.epk")
    session = run(broker, processor, Build.APROXY_HEAD)
    assert session.secret == loot
    assert session.grant is None


# -- secrets stay secret ---------------------------------------------------------------------------------------


def test_the_session_does_not_show_the_secret(broker, processor):
    session = run(broker, processor)
    assert_hidden(broker.secret, repr(session) + str(session))
    assert isinstance(session, KbsSession)
