"""Key broker, CA, host or processor is away or dies: a clear text, exit code 3, and the next boot loses nothing."""

import os
import signal
import threading

import pytest

pytestmark = pytest.mark.timeout(240)


def some(values, short):
    """All values; those that are not in `short` are for the long runs."""
    return [
        value if value in short else pytest.param(*_several(value), marks=pytest.mark.slow)
        for value in values
    ]


def _several(value):
    return value if isinstance(value, tuple) else (value,)


def test_kbs_down(parties):
    machine = parties.new_machine()
    parties.stop("kbs")
    told = parties.boot(machine)
    assert told.code == 3, told
    assert "key broker" in told.err
    assert "volume" not in told.steps
    parties.start()
    parties.check_whole(machine, parties.good_boot(machine))


def test_ca_down_at_the_first_boot(parties):
    """The TPM that was made while the CA was away is the one that is certified later."""
    machine = parties.new_machine()
    parties.stop("ca")
    first, second = parties.boot(machine), parties.boot(machine)
    for told, origin in ((first, "manufactured"), (second, "loaded")):
        assert told.code == 3, told
        assert "the CA cannot be reached" in told.err
        assert told.of("tpm", "origin") == origin
        assert "guest" not in told.steps
    parties.start()
    third = parties.good_boot(machine)
    assert first.ek == second.ek == third.ek != ""
    parties.check_whole(machine, third)
    parties.check_ledger()


def test_ca_down_later(parties):
    """Without the CA a certified machine does not start either; it is well again when the CA is back."""
    machine = parties.new_machine()
    certificates = parties.check_whole(machine, parties.good_boot(machine))
    parties.kill("ca")
    told = parties.boot(machine)
    assert told.code == 3, told
    assert "the CA cannot be reached" in told.err
    parties.start()
    assert parties.check_whole(machine, parties.good_boot(machine)) == certificates


@pytest.mark.parametrize(
    ("who", "request_number"),
    some(
        [
            (who, n)
            for who in ("vtpm.host", "vtpm.snp.server", "vtpm.svsm", "swtpm socket")
            for n in (1, 2, 3)
        ],
        {("vtpm.host", 2), ("vtpm.snp.server", 1), ("vtpm.svsm", 3), ("swtpm socket", 2)},
    ),
)
def test_killed_while_the_ca_works(parties, boots, who, request_number):
    """One of the machine's processes is gone while the CA works on its nonce, its evidence, its activation."""
    machine = parties.new_machine()
    running, killed = threading.Event(), []

    def watch(number, moment):
        if (number, moment) == (request_number, "asked") and not killed:
            assert running.wait(60)
            killed.append(boots.child(boot.pid, who))
            os.kill(killed[0], signal.SIGKILL)

    with boots.Gate(parties.ca_port, watch) as gate:
        boot = parties.power_on(machine, ca=gate.url)
        running.set()
        told = boot.end()
    assert killed
    if who == "vtpm.snp.server" and request_number > 1:
        assert told.code == 0, told  # the processor is not needed any more
    else:
        assert told.code == 3, told
        assert told.err.strip()
        assert {"vtpm.host": "host", "vtpm.snp.server": "processor", "vtpm.svsm": "SIGKILL"}.get(
            who, "swtpm"
        ) in told.err
        assert "guest" not in told.steps
    again = parties.good_boot(machine)
    assert again.ek == told.ek
    parties.check_whole(machine, again)
    parties.check_ledger()


@pytest.mark.parametrize(
    "who", some(["vtpm.host", "vtpm.snp.server", "vtpm.svsm"], {"vtpm.host", "vtpm.snp.server"})
)
def test_killed_while_the_key_broker_works(parties, boots, who):
    machine = parties.new_machine()
    running, killed = threading.Event(), []

    def watch(number, moment):
        if (number, moment) == (2, "asked"):
            assert running.wait(60)
            killed.append(boots.child(boot.pid, who))
            os.kill(killed[0], signal.SIGKILL)

    with boots.Gate(parties.kbs_port, watch) as gate:
        boot = parties.power_on(machine, kbs=gate.url)
        running.set()
        told = boot.end()
    assert killed
    if who != "vtpm.snp.server":
        assert told.code == 3, told
        assert {"vtpm.host": "host", "vtpm.svsm": "SIGKILL"}[who] in told.err
    else:
        assert told.code == 3, told  # the report for the CA is missing
        assert "processor" in told.err
    parties.check_whole(machine, parties.good_boot(machine))


@pytest.mark.parametrize("request_number", some([1, 2, 3], {2}))
def test_key_broker_dies_in_the_exchange(parties, boots, request_number):
    """An absent broker is not one that refuses: trying again later is right."""
    machine = parties.new_machine()
    with boots.Gate(parties.kbs_port, lambda n, now: (n, now) == (request_number, "asked")) as gate:
        told = parties.boot(machine, kbs=gate.url)
    assert told.code == 3, told
    assert "key broker" in told.err
    parties.check_whole(machine, parties.good_boot(machine))


@pytest.mark.parametrize(
    ("number_lost", "moment_lost"),
    some(
        [(1, "answered"), (2, "asked"), (2, "answered"), (3, "asked"), (3, "answered")],
        {(2, "answered"), (3, "answered")},
    ),
)
def test_a_lost_request_or_answer_is_asked_again(parties, boots, number_lost, moment_lost):
    """The host's connection to the CA breaks once: the same request again gets the same answer, in the same boot."""
    machine = parties.new_machine()
    times = []

    def watch(number, moment):
        if (number, moment) == (number_lost, moment_lost):
            times.append(number)
            return True
        return False

    with boots.Gate(parties.ca_port, watch) as gate:
        told = parties.boot(machine, ca=gate.url)
    assert times
    assert told.code == 0, told
    parties.check_whole(machine, told)
    parties.check_ledger()
