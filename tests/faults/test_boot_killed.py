"""swtpm or the SVSM is killed at any moment of a first boot: a TPM is recorded whole or made anew, never half-used.

And the CA stays in order: nothing is open, nothing is there twice, what was abandoned is on the CRL.
"""

import os
import shutil
import signal
import threading
import time

import pytest

pytestmark = pytest.mark.timeout(600)

DELAYS_MS = range(20, 401, 20)
SHORT_MS = (60, 100, 180)


@pytest.fixture
def deadly(tmp_path):
    """Makes a folder for PATH whose swtpm is the real one, and is killed after so many milliseconds."""
    real = shutil.which("swtpm")

    def make(delay_ms: int):
        folder = tmp_path / f"bin-{delay_ms}"
        folder.mkdir()
        wrapper = folder / "swtpm"
        wrapper.write_text(
            "#!/bin/sh\n"
            f"touch {folder}/started\n"
            f"(sleep {delay_ms / 1000:.3f}; grep -q swtpm /proc/$$/comm && kill -9 $$ && touch {folder}/killed) "
            "</dev/null >/dev/null 2>&1 &\n"
            f'exec {real} "$@"\n'
        )
        wrapper.chmod(0o755)
        return folder

    return make


@pytest.mark.parametrize(
    "delay_ms", [ms if ms in SHORT_MS else pytest.param(ms, marks=pytest.mark.slow) for ms in DELAYS_MS]
)
def test_swtpm_killed_during_the_first_boot(parties, deadly, delay_ms):
    machine = parties.new_machine()
    folder = deadly(delay_ms)
    told = parties.boot(machine, path=folder)
    assert (folder / "started").exists()
    assert told.code in {0, 3}, told
    if told.code == 3:
        assert (folder / "killed").exists()
        assert "swtpm" in told.err
        assert "signal 9" in told.err
    recorded = parties.inside(machine)
    again = parties.good_boot(machine)
    if "tpm" in told.steps:
        # Told as made: from here on it is the same TPM.
        assert recorded is not None
        assert again.ek == told.ek
    assert again.of("tpm", "origin") == ("manufactured" if recorded is None else "loaded")
    parties.check_whole(machine, again)
    parties.check_ledger()


@pytest.mark.parametrize(
    "delays_ms",
    [
        (15, 90, 250, 30_000),
        pytest.param((15, 45, 90, 150, 250, 400, 30_000), marks=pytest.mark.slow),
    ],
    ids=len,
)
def test_swtpm_killed_at_each_boot_in_turn(parties, deadly, delays_ms):
    """Later and later, always the same machine, until a boot gets through."""
    machine = parties.new_machine()
    ek = ""
    for delay_ms in delays_ms:
        told = parties.boot(machine, path=deadly(delay_ms))
        assert told.code in {0, 3}, told
        if ek and told.ek:
            assert told.ek == ek
        ek = ek or told.ek
    assert told.code == 0
    parties.check_whole(machine, told)
    parties.check_ledger()


MOMENTS = (
    *((step, ms) for step in ("kbs", "volume") for ms in (0, 10, 30, 60, 100, 150)),
    *(("tpm", ms) for ms in (0, 10, 30, 100)),
    *(("enrol", ms) for ms in (0, 5, 15, 30, 60)),
)
SHORT_MOMENTS = {("volume", 30), ("tpm", 0), ("enrol", 0), ("enrol", 15)}


@pytest.mark.parametrize(
    ("step", "ms"),
    [m if m in SHORT_MOMENTS else pytest.param(*m, marks=pytest.mark.slow) for m in MOMENTS],
)
def test_svsm_killed_during_the_first_boot(parties, boots, step, ms):
    """So many milliseconds after it told a step."""
    machine = parties.new_machine()
    running = parties.power_on(machine)
    running.until(step)
    svsm = boots.child(running.pid, "vtpm.svsm")
    tpm = boots.children(svsm)
    time.sleep(ms / 1000)
    os.kill(svsm, signal.SIGKILL)
    told = running.end()
    if told.code != 0:  # else it was faster
        assert told.code == 3, told
        assert "SIGKILL" in told.err
    for pid in tpm:
        assert _ends(boots, pid), "swtpm outlives its SVSM"
    recorded = parties.inside(machine)
    assert (recorded is not None) or "tpm" not in told.steps
    again = parties.good_boot(machine)
    if "tpm" in told.steps:
        assert again.ek == told.ek
    assert again.of("tpm", "origin") == ("manufactured" if recorded is None else "loaded")
    parties.check_whole(machine, again)
    parties.check_ledger()


def _ends(boots, pid, seconds=10):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if "swtpm" not in boots.command_line(pid):
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("moment", ["asked", "answered"])
@pytest.mark.parametrize("request_number", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_svsm_and_ca_killed_together(parties, boots, request_number, moment):
    """A power cut in the computing centre, while evidence or activation is under way or just answered."""
    machine = parties.new_machine()
    running, cut = threading.Event(), threading.Event()

    def watch(number, now):
        if (number, now) != (request_number, moment):
            return False
        assert running.wait(60)
        os.kill(boots.child(boot.pid, "vtpm.svsm"), signal.SIGKILL)
        parties.kill("ca")
        cut.set()
        return True

    with boots.Gate(parties.ca_port, watch) as gate:
        boot = parties.power_on(machine, ca=gate.url)
        running.set()
        told = boot.end()
    # The machine may be told of its SVSM's end before the CA has come to its own.
    assert cut.wait(60)
    assert told.code == 3, told
    parties.start()
    parties.check_ledger()
    again = parties.good_boot(machine)
    assert again.ek == told.ek
    parties.check_whole(machine, again)
    parties.check_ledger()


@pytest.mark.parametrize(
    "delay_ms", [15, *(pytest.param(ms, marks=pytest.mark.slow) for ms in (*range(4, 60, 5), 80, 100))]
)
def test_ca_killed_during_the_activation(parties, boots, delay_ms):
    """So many milliseconds after the activation reached it: the boot says so, the next one gets what is due."""
    machine = parties.new_machine()
    killers = []

    def watch(number, now):
        if (number, now) == (3, "asked"):
            killers.append(threading.Timer(delay_ms / 1000, parties.kill, ("ca",)))
            killers[0].start()

    with boots.Gate(parties.ca_port, watch) as gate:
        told = parties.boot(machine, ca=gate.url)
    killers[0].join()
    assert told.code in {0, 3}, told
    parties.start()
    parties.check_ledger()
    again = parties.good_boot(machine)
    assert again.ek == told.ek
    parties.check_whole(machine, again)
    parties.check_ledger()
