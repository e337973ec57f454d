"""The channel against a host that does what it likes."""

import socket
import threading
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vtpm.errors import UnavailableError
from vtpm.svsm.errors import BootRefused
from vtpm.svsm.host_channel import HostChannel
from vtpm.wire.aproxy import (
    MAX_FRAME,
    AttestationRequest,
    AttestationResponse,
    NegotiationResponse,
    RelayResponse,
    frame,
)
from vtpm.wire.jwk import EcJwk

SHORT_S = 0.3
KEY = EcJwk("P-521", bytes(66), bytes(66))
NEGOTIATION = frame(NegotiationResponse(bytes(32)).encode())
RELAYED = frame(RelayResponse(200, b"body").encode())
RELEASED = frame(AttestationResponse(success=False).encode())


class Host:
    """A UNIX socket on which `behave` has each connection, one after the other."""

    def __init__(self, path):
        self.behave = lambda _: None
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(8)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        while not self._done.is_set():
            connection, _ = self._listener.accept()
            with connection:
                connection.settimeout(20)
                try:
                    self.behave(connection)
                except OSError:
                    continue

    def answers(self, *pieces):
        """Read a frame before each piece, then close."""

        def behave(connection):
            for piece in pieces:
                read_frame(connection)
                connection.sendall(piece)

        self.behave = behave

    def close(self):
        self._done.set()
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(str(self.path))
        self._thread.join()
        self._listener.close()


def read_frame(connection):
    size = int.from_bytes(connection.recv(8, socket.MSG_WAITALL), "little")
    return connection.recv(size, socket.MSG_WAITALL)


def until_closed(connection):
    while connection.recv(65536):
        pass


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    host = Host(tmp_path_factory.mktemp("host") / "sock")
    yield host
    host.close()


def answer(negotiation):
    return AttestationRequest(bytes(1184), negotiation.challenge, KEY)


def call(host, timeout_s=20.0):
    return HostChannel(host.path, timeout_s).call("POST", "/v1/nonces", b"")


def attest(host, timeout_s=20.0):
    return HostChannel(host.path, timeout_s).attest(answer)


def unavailable(act, *arguments):
    with pytest.raises(UnavailableError) as error:
        act(*arguments)
    assert error.value.exit_code == 3
    assert type(error.value) is UnavailableError
    return error.value


# -- what works ------------------------------------------------------------------------------------------------


def test_relay(host):
    host.answers(RELAYED)
    assert call(host) == (200, b"body")


def test_attestation(host):
    host.answers(NEGOTIATION, RELEASED)
    assert attest(host) == AttestationResponse(success=False)


def test_an_answer_in_small_pieces(host):
    def behave(connection):
        read_frame(connection)
        for byte in RELAYED:
            connection.sendall(bytes([byte]))

    host.behave = behave
    assert call(host) == (200, b"body")


def test_more_than_the_answer_is_not_read(host):
    host.answers(RELAYED + b"further")
    assert call(host) == (200, b"body")


# -- what does not ---------------------------------------------------------------------------------------------


BROKEN = {
    "nothing": b"",
    "half a header": RELAYED[:5],
    "a header alone": RELAYED[:8],
    "a truncated frame": RELAYED[:-1],
    "an empty frame": frame(b""),
    "a length beyond all bounds": b"\xff" * 8,
    "a length beyond the bound": (MAX_FRAME + 1).to_bytes(8, "little"),
    "a big-endian length": len(RELAYED).to_bytes(8, "big") + RELAYED[8:],
    "no JSON": frame(b"\x00\xff garbage"),
    "another message": frame(b'{"version":[0,1,0]}'),
    "deep nesting": frame(b"[" * 100_000),
    "a large number": frame(b'{"status":' + b"9" * 10_000 + b',"body":""}'),
    "a large frame of garbage": frame(b"\xfe" * MAX_FRAME),
    "HTTP": b"HTTP/1.1 200 OK\r\n\r\n",
}


@pytest.mark.parametrize("piece", BROKEN.values(), ids=BROKEN)
def test_broken_answers(host, piece):
    host.answers(piece)
    unavailable(call, host)
    host.answers(piece)
    assert unavailable(attest, host).remedy
    host.answers(NEGOTIATION, piece)
    assert unavailable(attest, host).remedy


def test_a_connection_that_ends_at_once(host):
    host.behave = lambda _: None
    unavailable(call, host)
    unavailable(attest, host)


def test_a_length_beyond_the_bound_is_not_waited_for(host):
    """The host keeps the connection open, so only the length itself can end the exchange before the timeout."""

    def behave(connection):
        connection.sendall((1 << 62).to_bytes(8, "little"))
        until_closed(connection)

    host.behave = behave
    assert "the host's message cannot be read" in unavailable(call, host, 60.0).detail


def test_a_host_that_says_nothing(host):
    host.behave = until_closed
    assert "broke" in unavailable(call, host, SHORT_S).detail
    unavailable(attest, host, SHORT_S)


def test_a_host_that_stops_in_the_middle(host):
    def behave(connection):
        connection.sendall(RELAYED[:-1])
        until_closed(connection)

    host.behave = behave
    unavailable(call, host, SHORT_S)


def test_a_host_that_does_not_read(host):
    hold = threading.Event()
    host.behave = lambda _: hold.wait(20)
    try:
        channel = HostChannel(host.path, SHORT_S)
        with pytest.raises(UnavailableError):
            channel.call("POST", "/v1/enrollments", bytes(600_000))
    finally:
        hold.set()


def test_memory_is_bounded_whatever_the_host_announces_and_sends(host):
    def flood(length):
        def behave(connection):
            read_frame(connection)
            connection.sendall(length.to_bytes(8, "little"))
            for _ in range(64):
                connection.sendall(bytes(1 << 20))

        return behave

    for length in (1 << 40, MAX_FRAME):
        host.behave = flood(length)
        tracemalloc.start()
        try:
            unavailable(call, host)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        # The frame, its copy and the text that is read from it; the host's own mebibyte is in the count.
        assert peak < 8 * MAX_FRAME


def test_nobody_there(tmp_path):
    channel = HostChannel(tmp_path / "nobody", SHORT_S)
    with pytest.raises(UnavailableError, match="does not answer"):
        channel.call("POST", "/v1/nonces", b"")
    with pytest.raises(UnavailableError, match="does not answer"):
        HostChannel(tmp_path / ("x" * 200), SHORT_S).attest(answer)


def test_a_challenge_that_makes_our_message_too_large(host):
    host.answers(frame(NegotiationResponse(bytes(786_000)).encode()), RELEASED)
    unavailable(attest, host)


def test_what_the_svsm_itself_refuses_is_not_taken_for_the_hosts_failure(host):
    def refuse(_):
        raise BootRefused("no", rule="svsm.test")

    host.answers(NEGOTIATION)
    with pytest.raises(BootRefused):
        HostChannel(host.path).attest(refuse)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200), framed=st.booleans(), second=st.booleans())
def test_any_bytes(host, data, framed, second):
    piece = frame(data) if framed else data
    host.answers(piece)
    unavailable(call, host)
    host.answers(*([NEGOTIATION, piece] if second else [piece]))
    unavailable(attest, host)


MESSAGE = st.sampled_from([RELAYED, NEGOTIATION, RELEASED])


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(message=MESSAGE, at=st.integers(8, 200), byte=st.integers(0, 255))
def test_a_changed_byte_of_a_message(host, message, at, byte):
    """It is read, or it is not; nothing else comes of it."""
    spoilt = bytearray(message)
    spoilt[8 + at % (len(message) - 8)] = byte
    for act, before in ((call, ()), (attest, ()), (attest, (NEGOTIATION,))):
        host.answers(*before, bytes(spoilt))
        try:
            act(host)
        except UnavailableError:
            continue
