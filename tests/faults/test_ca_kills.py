"""kill -9 of the serving CA at random instants, under the load of several clients, over HTTP.

The servers are killed whole or a worker at a time, while they start too; clients retry until they have their
certificates. Then everything that they ever received is held against database, log and CRLs (`invariants`).
"""

import time

import pytest
from enrolment_load import Figures, Habits, Load
from fault_site import Site, Supply, only_retryable, seeded

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
