"""kill -9 of the serving CA at random instants, under the load of several clients, over HTTP.

The servers are killed whole or a worker at a time, while they start too; clients retry until they have their
certificates. Then everything that they ever received is held against database, log and CRLs (`invariants`). Where
workers alone are killed, nobody else notices: the service goes on, its counts do not fall, and the next workers share
the connections evenly.
"""

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest
from ca_counts import counts
from enrolment_load import Figures, Habits, Load, read_record
from fault_site import Site, Supply, only_retryable, seeded
from serving import Node, until
from small_service import connect

CLIENTS = 6
HABITS = Habits(again=0.15, replay=0.15, most_wait_s=0.3, pause_s=0.05)


def run_kills(site: Site, chance, kills: int, *, progress: bool = False) -> tuple[Figures, dict[str, int]]:
    """Kill the CA so many times under load, and see that nothing was lost; returns figures for the record."""
    supply = Supply(site)
    node = site.start().until_ready()
    load = Load([node.base], site.record, supply, CLIENTS, HABITS, seed=chance.randrange(1 << 32)).start()
    begun, killed = time.monotonic(), {"server": 0, "worker": 0, "starting": 0}
    for number in range(1, kills + 1):
        assert load.busy, load.figures().unexpected
        if chance.random() < 0.15:
            load.stop.wait(chance.uniform(0.0, 0.4))
            killed["starting"] += 1
        else:
            node.until_ready()
            # So many answers later, and then a little: the same moments on a fast machine and on a slow one.
            site.record.until_more(chance.randrange(16), 3.0)
            load.stop.wait(chance.uniform(0.0, 0.05))
        if chance.random() < 0.4 and node.kill_worker(chance):
            killed["worker"] += 1
        else:
            node.kill()
            killed["server"] += 1
            node = site.start(port=node.port)
        if progress and number % 50 == 0:
            so_far = load.figures()
            assert so_far.unexpected == []
            print(f"{number} kills, {time.monotonic() - begun:.0f} s, {dict(so_far.counts)}", flush=True)
    supply.shut()
    figures = load.join(60)
    # What the last killed left open, a start closes: nobody else may have met it.
    node.kill()
    node = site.start(port=node.port).until_ready()
    only_retryable(figures, [node])
    assert figures.counts["enrolments"] == supply.given
    found = site.assert_hold(node)
    assert node.stop() == 0
    retries = {kind: n for kind, n in sorted(figures.counts.items()) if " " in kind and n}
    print(
        f"{kills} kills ({killed}) in {time.monotonic() - begun:.0f} s: {figures.counts['enrolments']} TPMs enrolled, "
        f"{figures.counts['known']} again, {figures.counts['certificates']} certificates received, "
        f"{figures.counts['replays']} replays; retries {retries}; in the database {found.figures}; no violation",
        flush=True,
    )
    return figures, killed


def sockets(pid: int) -> int:
    """Open sockets of a process."""
    found = 0
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found += str(path.readlink()).startswith("socket:")
    return found


def assert_even(node: Node, connections: int = 40) -> None:
    """New connections are spread over all workers, those that came later too."""
    workers = node.workers
    before = {pid: sockets(pid) for pid in workers}
    with contextlib.ExitStack() as stack:
        for number in range(connections):
            stack.enter_context(connect(node.port, f"127.6.0.{1 + number}"))
        taken: dict[int, int] = {}

        def all_taken() -> bool:
            taken.update({pid: sockets(pid) - before[pid] for pid in workers})
            # Those of the load may still have been closing when they were counted.
            return sum(taken.values()) >= connections - CLIENTS

        until(all_taken, 20, lambda: str(taken))
        # Spreading is not exact; half of its share would be a worker that is left out.
        assert min(taken.values()) >= connections // len(workers) // 2, taken


def run_worker_kills(site: Site, chance, kills: int) -> None:
    """Kill so many workers under load, and never the server."""
    supply = Supply(site)
    node = site.start().until_ready()
    load = Load([node.base], site.record, supply, CLIENTS, HABITS, seed=chance.randrange(1 << 32)).start()
    asked = 0.0
    for _ in range(kills):
        assert load.busy, load.figures().unexpected
        assert site.record.until_more(40 + chance.randrange(16), 40.0), "the service does not go on"
        load.stop.wait(chance.uniform(0.0, 0.05))
        before = node.workers
        killed = chance.choice(before)
        os.kill(killed, signal.SIGKILL)
        until(
            lambda known=killed: known not in node.workers and len(node.workers) == 2, 30, node.log.read_text
        )
        found = counts(site.ca, "/v1/")
        assert found["vtpm_ca_http_requests_total"] >= asked
        assert found["vtpm_ca_metrics_lost_total"] == 0
        asked = found["vtpm_ca_http_requests_total"]
    supply.shut()
    figures = load.join(60)
    only_retryable(figures, [node])
    assert figures.counts["enrolments"] == supply.given
    answered = sum(line["status"] != 0 for line in read_record(site.records))
    # A worker counts a request after its answer: each that was killed may have missed some that it had at work.
    assert counts(site.ca, "/v1/")["vtpm_ca_http_requests_total"] >= answered - 3 * kills
    assert_even(node)
    # What the killed left open, the next start closes.
    node.kill()
    node = site.start(port=node.port).until_ready()
    site.assert_hold(node)
    assert node.stop() == 0


@pytest.mark.timeout(120)
def test_workers_are_killed_under_load(own, request):
    run_worker_kills(own, seeded(request), 4)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_hundred_workers_are_killed(site, request):
    run_worker_kills(site, seeded(request), 100)


@pytest.mark.timeout(120)
def test_killed_at_random_instants_under_load(site, request):
    figures, _ = run_kills(site, seeded(request), 10)
    assert figures.counts["enrolments"] >= 10


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_killed_a_thousand_times(site, request, capsys):
    with capsys.disabled():
        print()
        _, killed = run_kills(site, seeded(request), 500, progress=True)
    assert killed["server"] > 200
    assert killed["worker"] > 100
