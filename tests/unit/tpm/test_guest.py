import socket
import struct
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtpm.tpm import GuestGateway, StateKeeper, TpmError, TpmGone
from vtpm.tpm.guest_control import answer

GET_RANDOM = bytes.fromhex("80010000000c0000017b0004")
DEFINE_NV = bytes.fromhex(  # owner-defined index 01800001 of 8 bytes
    "80020000002d0000012a40000001000000094000000900000000000000000e01800001000b0006000600000008"
)
OK = bytes(4)
BAD_ORDINAL, BAD_LOCALITY = struct.pack(">I", 0x0A), struct.pack(">I", 0x3D)
CONTROL_COMMANDS = range(1, 20)


@pytest.fixture
def serve(make_tpm):
    """Gateways to a new TPM."""
    open_gateways = []

    def start(tpm=None, **options):
        gateway = GuestGateway(tpm or make_tpm(), **options).start()
        open_gateways.append(gateway)
        return gateway

    yield start
    for gateway in open_gateways:
        gateway.stop()


def connect(port):
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.settimeout(10)
    return connection


def exchange(connection, command):
    connection.sendall(command)
    return receive(connection)


def receive(connection):
    head = read(connection, 10)
    return head + read(connection, int.from_bytes(head[2:6], "big") - 10) if len(head) == 10 else head


def read(connection, size):
    data = b""
    while len(data) < size and (piece := connection.recv(size - len(data))):
        data += piece
    return data


def control(port, message, size=4):
    """The reply to a control message, and whether the connection was closed after it."""
    with connect(port + 1) as connection:
        connection.sendall(message)
        reply = read(connection, size)
        connection.shutdown(socket.SHUT_WR)
        return reply, connection.recv(1)


def test_commands_pass_and_connections_follow_one_another(serve):
    port = serve().port
    for _ in range(3):
        with connect(port) as connection:
            for _ in range(2):
                assert exchange(connection, GET_RANDOM)[6:10] == OK


def test_a_second_connection_is_served_after_the_first_has_closed(serve):
    port = serve().port
    with connect(port) as second, connect(port) as third:
        # Accepted in the order of their connecting: while `second` is open, `third` waits.
        third.sendall(GET_RANDOM)
        assert exchange(second, GET_RANDOM)[6:10] == OK
        second.close()
        assert receive(third)[6:10] == OK


@pytest.mark.parametrize("size", [1, 9, 10, 11])
def test_a_disconnect_in_the_middle_of_a_command_harms_nothing(serve, size):
    port = serve().port
    with connect(port) as connection:
        connection.sendall(GET_RANDOM[:size])
    with connect(port) as connection:
        assert exchange(connection, GET_RANDOM)[6:10] == OK


def test_a_disconnect_before_the_response_keeps_the_change(make_tpm, serve):
    tpm = make_tpm()
    seen = threading.Event()
    port = serve(tpm, after_command=seen.set).port
    with connect(port) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset on close
        connection.sendall(DEFINE_NV)
    assert seen.wait(10)
    with connect(port) as connection:
        assert exchange(connection, DEFINE_NV)[6:10] == struct.pack(">I", 0x14C)  # TPM_RC_NV_DEFINED


def test_a_command_may_come_in_pieces_and_two_may_come_at_once(serve):
    with connect(serve().port) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in GET_RANDOM:
            connection.sendall(bytes([byte]))
        assert receive(connection)[6:10] == OK
        connection.sendall(GET_RANDOM * 2)
        assert receive(connection)[6:10] == OK
        assert receive(connection)[6:10] == OK


@pytest.mark.parametrize("size", [0, 9, 4097, 0xFFFFFFFF])
def test_an_impossible_size_is_answered_and_ends_the_connection(serve, size):
    port = serve().port
    with connect(port) as connection:
        reply = exchange(connection, struct.pack(">HII", 0x8001, size, 0x17B) + bytes(8192))
        assert reply == struct.pack(">HII", 0x8001, 10, 0x142)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
    with connect(port) as connection:
        assert exchange(connection, GET_RANDOM)[6:10] == OK


def test_a_command_of_the_largest_size_passes(serve):
    with connect(serve().port) as connection:
        reply = exchange(connection, struct.pack(">HII", 0x8001, 4096, 0x17B) + bytes(4086))
        assert reply[6:10] != OK
        assert exchange(connection, GET_RANDOM)[6:10] == OK


def test_get_capability_and_locality_0_are_answered(serve):
    port = serve().port
    assert control(port, struct.pack(">I", 1), 8) == (struct.pack(">II", 0, 8), b"")
    assert control(port, struct.pack(">IB", 5, 0)) == (OK, b"")
    with connect(port + 1) as connection:
        connection.sendall(struct.pack(">IBI", 5, 0, 1))
        assert read(connection, 12) == OK + struct.pack(">II", 0, 8)


@pytest.mark.parametrize("locality", [1, 2, 3, 4, 255])
def test_other_localities_are_refused(serve, locality):
    assert control(serve().port, struct.pack(">IB", 5, locality)) == (BAD_LOCALITY, b"")


@pytest.mark.parametrize(
    "command", [c for c in CONTROL_COMMANDS if c not in (1, 5)] + [0, 99, 0x01000000, 0xFFFFFFFF]
)
def test_every_other_control_command_is_refused_and_reaches_nothing(make_tpm, serve, command):
    tpm = make_tpm()
    port = serve(tpm).port
    before = tpm.permanent_attributes()
    # Payloads that would work on swtpm's own channel: flags, type 1, offset.
    reply, after = control(port, struct.pack(">IIII", command, 0, 1, 0))
    assert (reply, after) == (BAD_ORDINAL, b"")
    assert tpm.permanent_attributes() == before
    assert control(port, struct.pack(">IB", 5, 0)) == (OK, b"")


@given(command=st.integers(0, 2**32 - 1), payload=st.binary(max_size=8))
def test_what_is_answered_is_exactly_two_commands(command, payload):
    reply = answer(command, payload)
    assert (reply is not None) == ((command == 1 and not payload) or (command == 5 and len(payload) == 1))
    if reply is not None and command == 5:
        assert (reply == OK) == (payload == b"\0")


def test_idle_and_torn_control_connections_do_not_block_others(serve):
    port = serve().port
    with connect(port + 1), connect(port + 1) as torn:
        torn.sendall(b"\0\0")
        assert control(port, struct.pack(">IB", 5, 0)) == (OK, b"")
    with connect(port + 1) as torn:
        torn.sendall(struct.pack(">I", 5))
    assert control(port, struct.pack(">IB", 5, 0)) == (OK, b"")


def test_the_hook_runs_before_the_response(serve):
    order = []
    release, entered = threading.Event(), threading.Event()

    def hook():
        entered.set()
        release.wait(10)
        order.append("kept")

    with connect(serve(after_command=hook).port) as connection:
        connection.sendall(GET_RANDOM)
        assert entered.wait(10)
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.recv(1)
        connection.settimeout(10)
        release.set()
        assert receive(connection)[6:10] == OK
        assert order == ["kept"]


@pytest.mark.parametrize(
    "error", [TpmError("no room"), OSError(28, "No space left on device"), ValueError("bug")]
)
def test_what_cannot_be_kept_is_not_answered_and_ends_the_gateway(serve, error):
    def hook():
        raise error

    gateway = serve(after_command=hook)
    with connect(gateway.port) as connection:
        connection.sendall(GET_RANDOM)
        assert connection.recv(1) == b""
    assert gateway.wait(10)
    assert gateway.failure is error or "No space left" in str(gateway.failure)
    gateway.stop()
    with pytest.raises(ConnectionRefusedError):
        connect(gateway.port)


def test_an_end_of_swtpm_ends_the_gateway(make_tpm, serve):
    tpm = make_tpm()
    gateway = serve(tpm)
    assert not gateway.wait(0)
    with connect(gateway.port) as connection:
        assert exchange(connection, GET_RANDOM)[6:10] == OK
        tpm.kill()
        connection.sendall(GET_RANDOM)
        assert connection.recv(1) == b""
    assert gateway.wait(10)
    assert isinstance(gateway.failure, TpmGone)


def test_the_keeper_saves_changes_and_only_changes(make_tpm, serve):
    tpm = make_tpm()
    saved = []
    keeper = StateKeeper(tpm, saved.append, b"")
    port = serve(tpm, after_command=keeper).port
    with connect(port) as connection:
        assert exchange(connection, DEFINE_NV)[6:10] == OK
        assert saved[-1] == tpm.current_state()
    count = len(saved)
    keeper.keep(saved[-1])
    assert len(saved) == count
    keeper.keep(b"another")
    assert saved[count:] == [b"another"]


def test_the_keeper_tries_again_after_a_failure(make_tpm):
    calls = []

    def save(state):
        calls.append(state)
        if len(calls) == 1:
            raise TpmError("no room")

    keeper = StateKeeper(make_tpm(), save, b"")
    with pytest.raises(TpmError):
        keeper.keep(b"state")
    keeper.keep(b"state")
    keeper.keep(b"state")
    assert calls == [b"state", b"state"]


def test_a_change_a_guest_saw_survives_a_kill_at_once(make_tpm, serve):
    tpm = make_tpm()
    saved = []
    gateway = serve(tpm, after_command=StateKeeper(tpm, saved.append, b""))
    with connect(gateway.port) as connection:
        assert exchange(connection, DEFINE_NV)[6:10] == OK
        tpm.kill()
    again = make_tpm(saved[-1])
    assert again.transmit(DEFINE_NV)[6:10] == struct.pack(">I", 0x14C)


def test_ports_are_a_pair_and_a_taken_one_is_a_clear_error(make_tpm, serve):
    gateway = serve()
    assert gateway.tcti == f"swtpm:host=127.0.0.1,port={gateway.port}"
    for port in (gateway.port, gateway.port - 1):
        with pytest.raises(TpmError, match="cannot be used"):
            GuestGateway(make_tpm(), port=port)


def test_stop_ends_open_connections_and_may_be_repeated(serve):
    gateway = serve()
    port = gateway.port
    with connect(port) as data, connect(port + 1) as ctrl:
        assert exchange(data, GET_RANDOM)[6:10] == OK
        ctrl.sendall(struct.pack(">IB", 5, 0))
        assert read(ctrl, 4) == OK
        gateway.stop()
        assert data.recv(1) == b""
        assert ctrl.recv(1) == b""
    gateway.stop()
    assert gateway.failure is None
    with pytest.raises(ConnectionRefusedError):
        connect(port)
