"""The messages between SVSM and host proxy: upstream's forms, and our relay."""

import hashlib
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from vtpm.wire.aproxy import (
    CHALLENGE,
    EC_PUBLIC_KEY_BYTES,
    MAX_FRAME,
    AttestationRequest,
    AttestationResponse,
    Decryption,
    NegotiationRequest,
    NegotiationResponse,
    RelayRequest,
    RelayResponse,
    frame,
    frame_length,
    legacy_report_data,
    parse_first,
)
from vtpm.wire.errors import WireError
from vtpm.wire.jwk import EcJwk

KEY = EcJwk.from_key(ec.derive_private_key(5, ec.SECP521R1()).public_key())
MADE_UP = EcJwk("P-521", b"\x01" + b"\x11" * 65, b"\x00" + b"\x22" * 65)
NONCE = bytes(range(32))
DECRYPTION = Decryption(
    epk=(KEY.x, KEY.y), wrapped_cek=bytes(40), aad=b"e30", iv=bytes(12), tag=bytes(range(16))
)
MESSAGES = [
    NegotiationRequest(),
    NegotiationResponse(NONCE),
    NegotiationResponse(b"", ()),
    NegotiationResponse(b"x" * 100, (CHALLENGE, CHALLENGE)),
    AttestationRequest(bytes(1184), NONCE, KEY),
    AttestationRequest(b"\xff" * 1184, NONCE, KEY, b"table"),
    AttestationResponse(False),
    AttestationResponse(True, b"ciphertext", DECRYPTION, "a.b.c"),
    RelayRequest("POST", "/v1/nonces"),
    RelayRequest("GET", "/.well-known/vtpm-ca", b"\x00\xff"),
    RelayResponse(0),
    RelayResponse(201, b"{}"),
]
messages = pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)


def test_frame_is_little_endian_length_and_payload():
    assert frame(b"abc") == bytes.fromhex("0300000000000000") + b"abc"
    assert frame_length(frame(b"abc")[:8]) == 3
    assert frame_length(frame(bytes(MAX_FRAME))[:8]) == MAX_FRAME


def test_frames_are_bounded():
    with pytest.raises(WireError, match="at most 1048576"):
        frame(bytes(MAX_FRAME + 1))
    with pytest.raises(WireError, match="at most 1048576"):
        frame_length((MAX_FRAME + 1).to_bytes(8, "little"))
    with pytest.raises(WireError, match="at most 1048576"):
        frame_length(b"\xff" * 8)
    for size in (0, 7, 9):
        with pytest.raises(WireError, match="must be 8 bytes"):
            frame_length(bytes(size))


@messages
def test_round_trip(message):
    assert type(message).parse(message.encode()) == message


def test_upstream_forms():
    """The members and encodings that libaproxy 0.1.0 reads and writes."""
    assert json.loads(NegotiationRequest().encode()) == {"version": [0, 1, 0], "tee": "snp"}
    assert json.loads(NegotiationResponse(b"\xfb\xff").encode()) == {
        "challenge": "+/8=",
        "params": ["EcPublicKeyBytes", "Challenge"],
    }
    request = json.loads(AttestationRequest(bytes(1184), b"\x00", KEY).encode())
    assert set(request) == {"tee", "evidence", "challenge", "key"}
    assert set(request["evidence"]["Snp"]) == {"report"}
    assert (
        request["evidence"]["Snp"]["report"].endswith("AA==") is False
    )  # 1184 bytes leave two characters of rest
    assert request["evidence"]["Snp"]["report"].endswith("AAA=")
    assert len(request["key"]["x"]) == 88
    assert json.loads(AttestationResponse(False).encode()) == {
        "success": False,
        "decryption": None,
        "token": None,
    }
    response = json.loads(AttestationResponse(True, b"s", DECRYPTION, "t").encode())
    assert set(response["decryption"]) == {"epk", "wrapped_cek", "aad", "iv", "tag"}
    assert response["token"] == {"Jwt": "t"}
    assert AttestationResponse.parse(b'{"success":false}') == AttestationResponse(False)


def test_relay_form():
    request = RelayRequest("POST", "/v1/enrollments", b"{}")
    assert json.loads(request.encode()) == {
        "version": [0, 1, 0],
        "relay": {"method": "POST", "path": "/v1/enrollments", "body": "e30="},
    }
    assert json.loads(RelayResponse(200, b"{}").encode()) == {"status": 200, "body": "e30="}


def test_the_first_message_tells_what_it_is():
    for message in (NegotiationRequest(), RelayRequest("POST", "/v1/nonces", b"x")):
        assert parse_first(message.encode()) == message
    with pytest.raises(WireError):
        parse_first(NegotiationResponse(NONCE).encode())


@pytest.mark.parametrize(
    "version", [[0, 2, 0], [0, 1], [0, 1, 0, 0], "0.1.0", [False, True, False], [0, "1", 0]]
)
def test_other_versions_are_refused(version):
    for rest in ({"tee": "snp"}, {"relay": {"method": "GET", "path": "/v1", "body": ""}}):
        with pytest.raises(WireError) as caught:
            parse_first(json.dumps({"version": version, **rest}).encode())
        assert caught.value.path == "request.version"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "v1/nonces",
        "//v1",
        "/v1//nonces",
        "/v1/",
        "/v1/../admin",
        "/v1/..",
        "/./v1",
        "/v1/%2e%2e",
        "/v1?x=1",
        "/v1#x",
        "/v1 HTTP/1.1",
        "/v1\r\nX: y",
        "/v1/nonces\n",
        "http://elsewhere/v1",
        "/" + "a" * 600,
        "/v1/ä",
    ],
)
def test_relay_paths_that_two_readers_might_read_differently(path):
    with pytest.raises(WireError) as caught:
        RelayRequest.parse(RelayRequest("GET", path).encode())
    assert caught.value.path == "relay_request.relay.path"


@pytest.mark.parametrize(
    "path", ["/v1", "/.well-known/vtpm-ca", "/v1/enrollments/a-b_c~d/activation", "/v1/..."]
)
def test_plain_relay_paths(path):
    assert RelayRequest.parse(RelayRequest("GET", path).encode()).path == path


@pytest.mark.parametrize("method", ["PUT", "get", "DELETE", ""])
def test_relay_methods(method):
    with pytest.raises(WireError):
        RelayRequest.parse(RelayRequest(method, "/v1").encode())


@pytest.mark.parametrize("status", [1, 99, 600, -1])
def test_relay_statuses(status):
    with pytest.raises(WireError):
        RelayResponse.parse(RelayResponse(status).encode())


def test_unknown_hash_parameters_are_refused():
    with pytest.raises(WireError) as caught:
        NegotiationResponse.parse(b'{"challenge":"","params":["Challenge","Nonsense"]}')
    assert caught.value.path == "negotiation_response.params[1]"
    with pytest.raises(WireError):
        legacy_report_data(["Nonsense"], KEY, b"")


def test_a_key_off_the_curve_is_refused():
    request = AttestationRequest(bytes(1184), NONCE, MADE_UP)
    with pytest.raises(WireError, match="not on P-521") as caught:
        AttestationRequest.parse(request.encode())
    assert caught.value.path == "attestation_request.key"


def test_null_is_no_certificate_table():
    value = json.loads(AttestationRequest(bytes(1184), NONCE, KEY).encode())
    value["evidence"]["Snp"]["certs_buf"] = None
    with pytest.raises(WireError):
        AttestationRequest.parse(json.dumps(value).encode())


def test_cwt_tokens_are_refused():
    with pytest.raises(WireError):
        AttestationResponse.parse(b'{"success":true,"decryption":null,"token":{"Cwt":"x"}}')


def test_fixed_legacy_report_data():
    assert legacy_report_data([EC_PUBLIC_KEY_BYTES, CHALLENGE], MADE_UP, NONCE).hex() == (
        "4bb52cf2b48f6a04889b1a0ded5ab40fed995c2f32b046e08538d7848d28a112"
        "f839d243d04e897ce332e6b77dcb1720cb84ef481c355987537076747b34e279"
    )


def test_the_legacy_rule_is_a_signing_oracle():
    """Why nothing but a demonstration may use it: the host has any SHA-512 of its own bytes signed."""
    assert legacy_report_data([CHALLENGE], KEY, b"anything") == hashlib.sha512(b"anything").digest()
    assert legacy_report_data([], KEY, NONCE) == hashlib.sha512().digest()


def test_the_token_stays_out_of_logs():
    assert "secret-token" not in repr(AttestationResponse(True, token="secret-token"))


@messages
@given(data=st.data())
def test_only_wire_errors_from_changed_messages(message, data):
    """Replace, drop or add a member somewhere: refused, or read as something that writes back the same."""
    value = json.loads(message.encode())
    node = value
    while True:
        name = data.draw(
            st.sampled_from([*sorted(node), "further"]) if isinstance(node, dict) else st.just(0)
        )
        inner = node.get(name) if isinstance(node, dict) else None
        if isinstance(inner, dict) and data.draw(st.booleans()):
            node = inner
            continue
        if data.draw(st.booleans()):
            node.pop(name, None)
        else:
            node[name] = data.draw(JSON)
        break
    sent = json.dumps(value).encode()
    try:
        read = type(message).parse(sent)
    except WireError:
        return
    assert type(message).parse(read.encode()) == read


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["AA==", "snp"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@given(st.binary(max_size=200))
def test_only_wire_errors_from_any_bytes(data):
    for kind in {type(message) for message in MESSAGES}:
        with pytest.raises(WireError):
            kind.parse(data)
    with pytest.raises(WireError):
        parse_first(data)
