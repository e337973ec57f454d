"""The simulated machine: how it ends, and that nothing of it is left."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from vtpm.errors import UnavailableError
from vtpm.kbs import Kbs, create_app
from vtpm.lab import machine as machine_module
from vtpm.lab.loopback import served
from vtpm.lab.machine import Event, Machine, MachineConfig
from vtpm.svsm.build import measurement

RESOURCE = "default/vtpm/one"
NOBODY = "http://127.0.0.1:9"
GONE_S = 20


@pytest.fixture(scope="module")
def kbs(tmp_path_factory):
    """URL of a key broker that serves this checkout's SVSM."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("VTPM_KBS_PASSPHRASE", "VTPM_KBS_PASSPHRASE_FILE"):
            patch.delenv(name, raising=False)
        broker = Kbs.create_or_open(tmp_path_factory.mktemp("kbs"), measurements=[measurement()])
    broker.declare(RESOURCE)
    app = create_app(broker, lambda: datetime.now(UTC), os.urandom)
    with served(app) as url:
        yield url


@pytest.fixture
def config(kbs, tmp_path):
    def make(**changes):
        fields = {"kbs": kbs, "ca": NOBODY, "resource": RESOURCE, "ek": ("L-2",), "enrol": False}
        return MachineConfig(tmp_path / "machine", **(fields | changes))

    return make


def run(config):
    """Exit code and story of a boot."""
    with Machine(config) as machine:
        events = list(machine.events())
        return machine.exit_code, events


def descendants(pid):
    """Process ids and command lines of all that a process has started, directly or not."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found[int(child)] = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            found |= descendants(int(child))
    return found


@pytest.fixture(autouse=True)
def bystanders():
    """What other tests of this process have running: not ours to judge."""
    BYSTANDERS.clear()
    BYSTANDERS.update(descendants(os.getpid()))


def started():
    """Processes that this test has started and that still run."""
    return {pid: line for pid, line in descendants(os.getpid()).items() if pid not in BYSTANDERS}


def gone(processes):
    """Whether all of them end; a process id that means another program by now is gone too."""
    deadline = time.monotonic() + GONE_S
    left = dict(processes)
    while left and time.monotonic() < deadline:
        for pid, line in list(left.items()):
            try:
                now = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                now = ""
            if now != line:
                del left[pid]
        time.sleep(0.01)
    return not left


BYSTANDERS: dict[int, str] = {}

PARTS = ("vtpm.snp.server", "vtpm.host", "vtpm.svsm", "swtpm socket")


def assert_whole(processes):
    for part in PARTS:
        assert sum(part in line for line in processes.values()) == 1, processes


# -- exit codes ------------------------------------------------------------------------------------------------


def test_a_boot_that_goes_well_is_0_and_leaves_nothing(config):
    code, events = run(config())
    assert code == 0
    assert [event.step for event in events] == ["kbs", "volume", "tpm", "off"]
    assert started() == {}
    assert run(config())[1][2].detail["origin"] == "loaded"


def test_a_refused_boot_is_1_and_says_why(config, capfd):
    code, events = run(config(behaviour="m3"))
    assert code == 1
    assert (events[-1].step, events[-1].detail["rule"]) == ("refused", "svsm.epk")
    assert "Traceback" not in capfd.readouterr().err


def test_a_template_that_there_is_not_is_2(config, capfd):
    code, events = run(config(ek=("X-9",)))
    assert code == 2
    assert events[-1].step == "failed"
    assert "L-1, L-2" in capfd.readouterr().err


def test_a_missing_key_broker_is_3(config, capfd):
    code, events = run(config(kbs=NOBODY))
    assert code == 3
    assert [event.step for event in events] == ["failed"]
    assert "Traceback" not in capfd.readouterr().err


def test_an_svsm_that_was_killed_is_unavailable(config):
    with Machine(config(hold=True)) as machine:
        for event in machine.events():
            if event.step == "guest":
                break
        (pid,) = (pid for pid, line in started().items() if "vtpm.svsm" in line)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(UnavailableError, match="SIGKILL"):
            _ = machine.exit_code
    assert started() == {}


def test_a_machine_that_was_not_switched_on(config):
    machine = Machine(config())
    assert machine.exit_code == 3
    with pytest.raises(UnavailableError):
        list(machine.events())


def test_a_host_that_does_not_start_leaves_nothing(config, capfd):
    with pytest.raises(UnavailableError, match="the host did not start"), Machine(config(behaviour="none")):
        pass
    assert started() == {}


# -- processes -------------------------------------------------------------------------------------------------


def held(config):
    """Enter a machine, wait for its guest, return it and its processes."""
    machine = Machine(config).__enter__()
    for event in machine.events():
        if event.step == "guest":
            break
    return machine, started()


def test_no_passphrase_of_ours_reaches_the_machine(config, monkeypatch):
    monkeypatch.setenv("VTPM_CA_PASSPHRASE", "correct-horse-battery-staple")
    machine, processes = held(config(hold=True))
    try:
        for pid in processes:
            assert b"correct-horse" not in Path(f"/proc/{pid}/environ").read_bytes(), processes[pid]
    finally:
        machine.__exit__(None, None, None)


def test_nothing_is_left_after_the_context(config, monkeypatch):
    machine, processes = held(config(hold=True))
    assert_whole(processes)
    (socket_path,) = re.findall(r"--socket (\S+)", " ".join(processes.values()))
    assert Path(socket_path).exists()
    with monkeypatch.context() as patch:
        patch.setattr(machine_module, "_GRACE_S", 0.05)
        with pytest.raises(UnavailableError, match="still runs"):
            _ = machine.exit_code
    machine.__exit__(None, None, None)
    assert machine.exit_code == 0
    assert started() == {}
    assert gone(processes)
    assert not Path(socket_path).parent.exists()


OWNER = """
import json, sys, time
from pathlib import Path
from vtpm.lab.machine import Machine, MachineConfig
told = json.loads(sys.argv[1])
config = MachineConfig(Path(told.pop("directory")), **told)
with Machine(config) as machine:
    for event in machine.events():
        print(event.step, flush=True)
"""


@pytest.mark.parametrize("step", ["kbs", "guest"])
def test_a_killed_owner_takes_all_of_it_along(config, step):
    made = config(hold=True)
    told = {"directory": str(made.directory), "kbs": made.kbs, "ca": made.ca, "resource": made.resource}
    told |= {"ek": list(made.ek), "enrol": False, "hold": True}
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, json.dumps(told)], stdout=subprocess.PIPE, text=True
    ) as owner:
        for line in owner.stdout:
            if line.strip() == step:
                break
        processes = descendants(owner.pid)
        if step == "guest":
            assert_whole(processes)
        owner.kill()
        owner.wait()
        assert gone(processes)
    code, events = run(config())
    assert code == 0
    if step == "guest":
        assert events[-2].detail["origin"] == "loaded"


# -- the story -------------------------------------------------------------------------------------------------


def test_a_line_of_the_story():
    event = Event.parse(
        '{"step": "tpm", "ms": 12.34, "detail": {"ek_name": "%s", "empty": ""}}' % ("0b" * 34)
    )
    assert event.detail["ek_name"] == "0b" * 34
    assert event.render() == "tpm          12.3 ms  ek_name 0b0b0b0b0b0b0b0b..."
    assert Event("off", 0.0).render() == "off           0.0 ms"
    sentence = "a sentence of many words is shown in full, however long it is"
    assert Event("refused", 0.0, {"reason": sentence}).render().endswith(sentence)
