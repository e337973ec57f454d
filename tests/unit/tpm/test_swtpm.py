import os
import signal
import stat
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from tpm2_pytss import ESYS_TR, TSS2_Exception

from vtpm.tpm import Swtpm, TpmError, TpmGone, TpmRefused
from vtpm.tpm.control import Command, ControlChannel
from vtpm.tpm.esapi import flushing, policy_session
from vtpm.tpm.keys import recorded
from vtpm.wire.templates import Role

GET_RANDOM = bytes.fromhex("80010000000c0000017b0004")
CAP_PROPERTIES = 6
LOCKOUT_COUNTER, MAX_AUTH_FAIL, LOCKOUT_INTERVAL, LOCKOUT_RECOVERY = 0x20E, 0x20F, 0x210, 0x211


def tpm_property(tpm, number):
    with tpm.esapi("reading a property") as esapi:
        _, data = esapi.get_capability(CAP_PROPERTIES, number, 1)
        return int(data.data.tpmProperties[0].value)


def is_gone(pid):
    """No such process, or one that only waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until_gone(pid, seconds=10):
    deadline = time.monotonic() + seconds
    while not is_gone(pid):
        assert time.monotonic() < deadline, "swtpm is still there"
        time.sleep(0.01)


def test_state_is_the_same_tpm_after_a_power_cycle(make_tpm, reboot):
    tpm = make_tpm()
    assert tpm.origin == "manufactured"
    with tpm.esapi("making a key") as esapi:
        handle, before, *_ = esapi.create_primary(None, "ecc", ESYS_TR.OWNER)
        esapi.flush_context(handle)
    tpm = reboot(tpm)
    assert tpm.origin == "loaded"
    with tpm.esapi("making a key") as esapi:
        handle, after, *_ = esapi.create_primary(None, "ecc", ESYS_TR.OWNER)
        esapi.flush_context(handle)
    assert bytes(before.publicArea.marshal()) == bytes(after.publicArea.marshal())


def test_a_power_cycle_is_a_reset_that_empties_volatile_state(make_tpm, reboot):
    tpm = make_tpm()
    with tpm.esapi("extending a PCR") as esapi:
        esapi.pcr_event(ESYS_TR.PCR16, b"event")
        assert bytes(esapi.pcr_read("sha256:16")[2][0]) != bytes(32)
    tpm = reboot(tpm)
    with tpm.esapi("reading a PCR") as esapi:
        assert bytes(esapi.pcr_read("sha256:16")[2][0]) == bytes(32)


def test_nothing_of_the_tpm_is_in_a_file_system(make_tpm):
    pid = make_tpm().pid
    descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
    assert descriptors
    for descriptor in descriptors:
        target = str(descriptor.readlink())
        if stat.S_ISREG(descriptor.stat().st_mode):
            assert target.startswith("/memfd:"), target
    assert "Max core file size        0                    0" in Path(f"/proc/{pid}/limits").read_text()


def test_swtpm_learns_nothing_from_the_environment(monkeypatch, make_tpm):
    monkeypatch.setenv("VTPM_KBS_PASSPHRASE", "correct horse")
    assert b"horse" not in Path(f"/proc/{make_tpm().pid}/environ").read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state[:-5],
        lambda state: state[:20],
        lambda state: b"\xff" + state[1:],
        lambda state: state + b"\0",
        lambda _: b"x",
        lambda _: b"",
        lambda state: state[:10] + b"\xff" * (len(state) - 10),
    ],
    ids=["cut", "cut short", "version", "longer", "one byte", "empty", "content"],
)
def test_a_refused_state_is_an_error_and_never_a_new_tpm(make_tpm, damage):
    state = make_tpm().take_state()
    with Swtpm() as other:
        pid = other.pid
        with pytest.raises(TpmError, match="refused"):
            other.power_on(damage(state))
        assert is_gone(pid)
        with pytest.raises(TpmError):
            other.current_state()


def test_without_looking_at_result_codes_a_refused_state_would_be_a_new_tpm(make_tpm):
    """The fact of swtpm that the test above rests on."""
    state = make_tpm().take_state()
    with Swtpm() as other:
        control = ControlChannel(other._running())
        with pytest.raises(TpmError):
            control._call(
                Command.SET_STATEBLOB, struct.pack(">III", 0, 1, len(state) - 5) + state[:-5], "testing"
            )
        control.init()
        assert control.get_state() != state


def test_swtpm_itself_says_success_to_a_state_of_an_unknown_version(make_tpm):
    """Why the header is checked before swtpm sees the state."""
    state = make_tpm().take_state()
    with Swtpm() as other:
        control = ControlChannel(other._running())
        unknown = b"\xff" + state[1:]
        control._call(Command.SET_STATEBLOB, struct.pack(">III", 0, 1, len(unknown)) + unknown, "testing")
        control.init()
        assert control.get_state() != state


def test_power_comes_once(make_tpm):
    tpm = make_tpm()
    with pytest.raises(TpmError, match="already"):
        tpm.power_on(None)
    with pytest.raises(TpmError, match="before"):
        tpm.start()


def test_platform_authorisation_is_random_and_fresh_for_each_power_on(make_tpm, guest):
    given = []

    def entropy(size):
        given.append(os.urandom(size))
        return given[-1]

    tpm = make_tpm(entropy=entropy)
    assert len(given[0]) == 32
    with guest(tpm) as esapi, pytest.raises(TSS2_Exception):
        esapi.clear(ESYS_TR.PLATFORM)
    state = tpm.take_state()
    assert given[0] not in state
    make_tpm(state, entropy=entropy)
    assert given[0] != given[1]
    assert given[0].hex() not in repr(vars(tpm).keys()) + repr(tpm)


def test_lockout_parameters_are_set_while_nobody_has_claimed_the_lockout_hierarchy(make_tpm, reboot):
    tpm = make_tpm()
    assert [tpm_property(tpm, p) for p in (MAX_AUTH_FAIL, LOCKOUT_INTERVAL, LOCKOUT_RECOVERY)] == [32, 10, 10]
    with tpm.esapi("clearing as a guest may") as esapi:
        esapi.clear(ESYS_TR.LOCKOUT)
    assert tpm_property(tpm, MAX_AUTH_FAIL) == 3
    tpm = reboot(tpm)
    assert tpm_property(tpm, MAX_AUTH_FAIL) == 32
    with tpm.esapi("claiming the lockout hierarchy") as esapi:
        esapi.dictionary_attack_parameters(7, 8, 9)
        esapi.hierarchy_change_auth(ESYS_TR.LOCKOUT, b"guest's own")
    tpm = reboot(tpm)
    assert [tpm_property(tpm, p) for p in (MAX_AUTH_FAIL, LOCKOUT_INTERVAL, LOCKOUT_RECOVERY)] == [7, 8, 9]
    # An attempt with the empty authorisation would have locked the guest out of its own hierarchy for a while.
    with tpm.esapi("using the lockout hierarchy as its owner") as esapi:
        esapi.tr_set_auth(ESYS_TR.LOCKOUT, b"guest's own")
        esapi.dictionary_attack_lock_reset()


def test_an_end_after_take_state_counts_as_no_failed_authorisation(make_tpm, made):
    tpm, keys = made
    quote(tpm, keys)
    state = tpm.take_state()
    tpm.kill()
    assert tpm_property(make_tpm(state), LOCKOUT_COUNTER) == 0


def test_an_end_without_shutdown_counts_one(make_tpm, made):
    tpm, keys = made
    quote(tpm, keys)
    state = tpm.current_state()
    tpm.kill()
    assert tpm_property(make_tpm(state), LOCKOUT_COUNTER) == 1


def quote(tpm, keys):
    """Use the IAK, which the dictionary-attack logic protects."""
    with tpm.esapi("quoting") as esapi, recorded(esapi, Role.IAK, keys.iak) as iak:
        esapi.quote(iak, "sha256:1", b"challenge")


@pytest.mark.parametrize(
    "use",
    [
        lambda tpm: tpm.transmit(GET_RANDOM),
        lambda tpm: tpm.take_state(),
        lambda tpm: tpm.current_state(),
        lambda tpm: tpm.permanent_attributes(),
    ],
    ids=["command", "take_state", "current_state", "esapi"],
)
def test_a_killed_swtpm_is_an_error_that_says_so(make_tpm, use):
    tpm = make_tpm()
    os.kill(tpm.pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(TpmGone, match="was ended by signal 9") as caught:
            use(tpm)
        assert caught.value.exit_code == 3
    tpm.stop()


def test_a_silent_swtpm_is_an_error_and_is_ended(make_tpm):
    tpm = make_tpm(timeout=0.2)
    pid = tpm.pid
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(TpmGone, match="does not answer"):
        tpm.transmit(GET_RANDOM)
    assert is_gone(pid)


def test_an_esapi_block_that_mistakes_the_end_for_an_answer_still_fails(make_tpm):
    def ask(tpm):
        with tpm.esapi("asking") as esapi:
            os.kill(tpm.pid, signal.SIGKILL)
            with suppress(TSS2_Exception):
                esapi.get_random(4)

    with pytest.raises(TpmGone):
        ask(make_tpm())


def test_a_refusal_names_the_work_and_carries_the_code(make_tpm):
    tpm = make_tpm()
    with (
        pytest.raises(TpmRefused, match="while reading nothing") as caught,
        tpm.esapi("reading nothing") as esapi,
    ):
        esapi.tr_from_tpmpublic(0x81000001)
    assert caught.value.rc & 0xFFF == 0x18B


@pytest.mark.parametrize(
    "command",
    [
        b"",
        b"\x80",
        GET_RANDOM[:-1],
        GET_RANDOM + b"\0",
        GET_RANDOM[:2] + b"\0\0\0\x05" + GET_RANDOM[6:],
        bytes(5000),
    ],
)
def test_only_framed_commands_are_sent(make_tpm, command):
    tpm = make_tpm()
    with pytest.raises(TpmError, match="size"):
        tpm.transmit(command)
    assert tpm.transmit(GET_RANDOM)[6:10] == bytes(4)


def test_swtpm_dies_with_a_parent_that_is_killed():
    code = (
        "import sys, time; from vtpm.tpm import Swtpm; t = Swtpm().start(); t.power_on(None);"
        "print(t.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    ) as parent:
        pid = int(parent.stdout.readline())
        assert not is_gone(pid)
        parent.kill()
        parent.wait()
        wait_until_gone(pid)


_BUSY_OWNER = """
import threading
from vtpm.tpm import Swtpm

made = []
starter = threading.Thread(target=lambda: made.append(Swtpm().start()))
starter.start()
starter.join()
tpm = made[0]
tpm.power_on(None)
print(tpm.pid, flush=True)
while True:
    tpm._running().data.sendall(bytes.fromhex("80010000000c0000017b0020") * 5)
"""


def test_swtpm_dies_though_an_answer_is_under_way():
    """Its data channel breaks while it writes, and it was started by a thread that has ended long since."""
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", _BUSY_OWNER], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
        ) as owner:
            pid = int(owner.stdout.readline())
            owner.kill()
            owner.wait()
        try:
            wait_until_gone(pid)
        finally:
            if not is_gone(pid):
                os.kill(pid, signal.SIGKILL)


def test_no_swtpm_is_a_clear_error():
    with pytest.raises(TpmError, match="not installed") as caught:
        Swtpm(executable="swtpm-that-is-nowhere").start()
    assert "Install" in caught.value.diagnostics()


def test_stop_and_kill_may_be_repeated(make_tpm):
    tpm = make_tpm()
    pid = tpm.pid
    tpm.stop()
    assert is_gone(pid)
    tpm.stop()
    tpm.kill()
    with pytest.raises(TpmGone):
        tpm.transmit(GET_RANDOM)
    Swtpm().stop()


def test_sessions_and_objects_are_flushed_when_work_fails(make_tpm):
    """The TPM has three slots of each: a leak shows at the fourth."""

    def fail(tpm):
        with tpm.esapi("failing") as esapi, policy_session(esapi, "sha256") as session:
            handle, *_ = esapi.create_primary(None, "ecc", ESYS_TR.OWNER)
            with flushing(esapi, handle):
                esapi.policy_secret(ESYS_TR.LOCKOUT, session, policy_ref=b"", session1=ESYS_TR.NONE)

    tpm = make_tpm()
    codes = set()
    for _ in range(6):
        with pytest.raises(TpmRefused) as caught:
            fail(tpm)
        codes.add(caught.value.rc)
    assert len(codes) == 1
