"""SIGTERM at random moments, under load: what is signed is answered, whole, and the next server is soon there.

Other than a killed server (`test_ca_kills`) one that is told to stop owes its clients their answers: after it has
ended, every certificate in the database has been received by the client that it is for.
"""

import os
import signal
import time

import invariants
import pytest
from enrolment_load import Figures, Habits, Load
from fault_site import Site, Supply, only_retryable, seeded

CLIENTS = 6
HABITS = Habits(again=0.15, replay=0.1, most_wait_s=0.3, pause_s=0.02)
ROLLING = Habits(again=0.15, replay=0.1, hop=0.2, most_wait_s=0.3, pause_s=0.02)
NAMES = ("node-a", "node-b")
CUT_OFF = ("IncompleteRead", "BadStatusLine", "LineTooLong", "UnknownProtocol")
"""What a client makes of an answer that is no whole answer."""

LOST = ("RemoteDisconnected", "ConnectionResetError", "BrokenPipeError")
"""What it makes of a connection that ends before there is an answer."""


def unanswered(site: Site) -> set[bytes]:
    """Certificates in the database that no client has received."""
    found = invariants.gather(site.url, site.ca, [site.records])
    return {row.der for row in found.certificates if row.der is not None} - found.received.certificates


def settled(site: Site) -> set[bytes]:
    """The same, after the clients had the time to write down what they have got."""
    deadline = time.monotonic() + 5
    while (left := unanswered(site)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def assert_whole(figures: Figures, most_lost: int) -> None:
    """No answer was cut off, and hardly a connection was closed on a client that asked."""
    assert [kind for kind in figures.counts if kind.endswith(CUT_OFF)] == []
    lost = sum(count for kind, count in figures.counts.items() if kind.endswith(LOST))
    assert lost <= most_lost, figures.counts


def run_stops(site: Site, chance, stops: int) -> tuple[Figures, list[float]]:
    """Stop and start the CA so many times under load; returns figures and how long the stops took, in seconds."""
    supply = Supply(site)
    node = site.start().until_ready()
    load = Load([node.base], site.record, supply, CLIENTS, HABITS, seed=chance.randrange(1 << 32)).start()
    took = []
    for _ in range(stops):
        assert load.busy, load.figures().unexpected
        node.until_ready()
        site.record.until_more(1 + chance.randrange(24), 10.0)
        load.stop.wait(chance.uniform(0.0, 0.05))
        begun = time.monotonic()
        os.kill(node.pid, signal.SIGTERM)
        assert node.wait(40.0) == 0
        took.append(time.monotonic() - begun)
        assert settled(site) == set()
        node = site.start(port=node.port)
    supply.shut()
    figures = load.join(60)
    only_retryable(figures, [node])
    # A client that was silent for long may send just when its connection is closed. What was at work is answered.
    assert_whole(figures, stops)
    assert figures.counts["enrolments"] == supply.given
    site.assert_hold(node.until_ready())
    assert node.stop() == 0
    return figures, took


def run_rolling(site: Site, chance, stops: int) -> Figures:
    """Two nodes on one database are stopped and started in turn, as an upgrade does it; clients use both."""
    supply = Supply(site, "rolling")
    nodes = [site.start(workers=1, ca=site.copy(name)) for name in NAMES]
    bases = [node.until_ready().base for node in nodes]
    load = Load(bases, site.record, supply, CLIENTS, ROLLING, seed=chance.randrange(1 << 32)).start()
    for number in range(stops):
        assert load.busy, load.figures().unexpected
        assert site.record.until_more(1 + chance.randrange(24), 30.0), "the nodes do not go on"
        load.stop.wait(chance.uniform(0.0, 0.05))
        leaving = nodes[number % 2]
        os.kill(leaving.pid, signal.SIGTERM)
        assert leaving.wait(40.0) == 0
        nodes[number % 2] = site.start(workers=1, ca=site.folder / NAMES[number % 2], port=leaving.port)
        # One at a time: the other leaves when this one is ready.
        nodes[number % 2].until_ready()
    supply.shut()
    figures = load.join(60)
    only_retryable(figures, nodes)
    # Each client has a connection to the other node, which was idle and is closed when it comes back to that.
    assert_whole(figures, stops * CLIENTS)
    assert figures.counts["enrolments"] == supply.given
    assert settled(site) == set()
    for node in nodes:
        site.assert_hold(node)
        assert node.stop() == 0
    return figures


@pytest.mark.timeout(120)
def test_told_to_stop_under_load(site, request):
    figures, took = run_stops(site, seeded(request), 3)
    assert figures.counts["enrolments"] >= 3
    # Far below the grace time: nobody holds it up who is not at work.
    assert min(took) < 10
    print("stops took", [round(seconds, 2) for seconds in took], dict(figures.counts))


@pytest.mark.timeout(120)
def test_two_nodes_are_restarted_in_turn(shared, request):
    figures = run_rolling(shared, seeded(request), 3)
    print(dict(figures.counts))


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_told_to_stop_a_hundred_times(site, request):
    run_stops(site, seeded(request), 100)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_two_nodes_are_restarted_a_hundred_times(shared, request):
    run_rolling(shared, seeded(request), 100)
