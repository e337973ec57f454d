"""A flood of junk while machines enrol: nothing that proves nothing is kept, by database, log, memory or descriptors.

What is held against it: each row of the database belongs to a genuine enrolment; the log has no more lines about junk
than its bound (docs/monitoring.md), whatever the number of requests; a worker's memory and open files are after the
flood what they were before; and every machine gets its certificates meanwhile.
"""

import json
import time
from pathlib import Path

import invariants
import pytest
from ca_counts import counts
from enrolment_load import Habits, Load, machines, tpms
from fault_site import Site, Supply, only_retryable, seeded
from junk_flood import AT_ONCE, TURNS, Flood
from serving import Node, until
from small_service import resident_kib

from ca_service.api.journal import (
    KIND_AT_ONCE,
    KIND_PER_SECOND,
    LINES_AT_ONCE,
    LINES_PER_SECOND,
    MAX_LINE,
)

GENUINE = 2
HABITS = Habits(again=0.2, replay=0.1, most_wait_s=0.3)
MOST_GROWN_KIB = 48 << 10
"""Of one process, from when it was warm: arenas of threads that had not been busy yet, caches of sessions."""

PER_ENROLMENT = 64 << 10
"""Bytes of database that an enrolment may cost, with its evidence and its share of the log."""


def open_files(pid: int) -> int:
    return len([*Path(f"/proc/{pid}/fd").iterdir()])


def database_bytes(ca: Path) -> int:
    return sum(path.stat().st_size for path in ca.glob("ca.sqlite3*"))


def check_log(log: Path, skip: int, processes: int, seconds: float) -> int:
    """Lines and bytes about requests that proved nothing are within the bound; returns the bytes."""
    data = log.read_bytes().splitlines()[skip:]
    assert all(len(line) <= MAX_LINE and b"\x1b" not in line and b"Traceback" not in line for line in data)
    lines = [(json.loads(line), len(line) + 1) for line in data]
    requests = [(line, size) for line, size in lines if line["event"] == "request"]
    junk = [(line, size) for line, size in requests if not {"decision_id", "enrollment_id"} & line.keys()]
    others = [line for line, _ in lines if line["event"] != "request"]
    most = processes * (LINES_AT_ONCE + seconds * LINES_PER_SECOND)
    assert len(junk) <= most + 10
    # Warnings have an allowance for each kind: what gunicorn says of bytes that are no HTTP, who was turned away.
    assert len(others) <= 3 * processes * (KIND_AT_ONCE + seconds * KIND_PER_SECOND) + 10
    assert sum(int(line.get("suppressed", 0)) for line, _ in lines) > 0
    return sum(size for _, size in junk)


def check_rows(site: Site) -> invariants.Found:
    """Every row is of a nonce that a genuine client had."""
    found = invariants.gather(site.url, site.ca, [site.records])
    genuine = set(found.received.nonces)
    assert {row.nonce for row in found.submissions} <= genuine
    assert {row.nonce for row in found.enrollments} <= genuine
    assert len(found.decisions) <= len(found.submissions) + len(found.enrollments)
    assert len(found.evidence) <= len(found.submissions)
    return found


def run_flood(site: Site, chance, requests: int, clients: int, *, most_s: float) -> tuple[Flood, Node]:
    """Flood the CA while machines enrol, and look at what is left of it."""
    spare = iter(machines(site.world, tpms(), "junk"))
    node = site.start().until_ready()
    # Warm: threads, caches and prepared statements are there.
    Flood(
        node.port, lambda: next(spare), 4 * (1 + AT_ONCE * TURNS), clients, chance.randrange(1 << 32)
    ).start().join(60)
    workers = node.workers
    memory, files = ([of(pid) for pid in workers] for of in (resident_kib, open_files))
    size, before = database_bytes(site.ca), counts(site.ca)
    skip, begun = len(node.log.read_bytes().splitlines()), time.monotonic()
    supply = Supply(site)
    load = Load([node.base], site.record, supply, GENUINE, HABITS, seed=chance.randrange(1 << 32)).start()
    flood = Flood(node.port, lambda: next(spare), requests, clients, chance.randrange(1 << 32)).start()
    most_files, resident = 0, []
    while flood.busy:
        assert time.monotonic() - begun < most_s, (flood.sent, flood.answers)
        most_files = max(most_files, *(open_files(pid) for pid in workers))
        if flood.sent * 10 >= requests * len(resident):
            resident.append(sum(resident_kib(pid) for pid in workers))
        load.stop.wait(0.05)
    flood.join(10)
    flooded_s, enrolled = time.monotonic() - begun, load.figures().counts["enrolments"]
    supply.shut()
    figures = load.join(60)
    assert node.workers == workers, "a worker has ended"
    # Genuine machines enrolled, and met nothing that a client has not to expect.
    only_retryable(figures, [node])
    assert enrolled > 0
    assert figures.counts["enrolments"] == supply.given
    # Junk was answered as junk: 4xx, or a nonce for who asked, or a place that was taken.
    for (kind, status), count in flood.answers.items():
        assert status == 503 or 400 <= status < 500 or (kind, status) == ("unasked nonce", 201), (
            kind,
            status,
            count,
        )
    for kind in ("signature", "signed content", "nonce", "chain"):
        assert any(flood.answers[kind, status] for status in (400, 403, 409)), flood.answers
    after = counts(site.ca)
    refusals = after["vtpm_ca_unproven_refusals_total"] - before.get("vtpm_ca_unproven_refusals_total", 0.0)
    asked = after["vtpm_ca_http_requests_total"] - before["vtpm_ca_http_requests_total"]
    assert refusals > 0
    assert asked >= requests
    assert after["vtpm_ca_metrics_lost_total"] == 0
    # Nothing of it is kept.
    check_rows(site)
    grown = database_bytes(site.ca) - size
    assert grown <= PER_ENROLMENT * (supply.given + figures.counts["known"]) + (8 << 20), grown
    log_bytes = check_log(node.log, skip, len(workers), time.monotonic() - begun)
    until(lambda: [open_files(pid) for pid in workers] <= [count + 8 for count in files], 30)
    swollen = [resident_kib(pid) - was for pid, was in zip(workers, memory, strict=True)]
    assert max(swollen) <= MOST_GROWN_KIB, swollen
    assert most_files <= max(files) + clients + GENUINE + 40
    print(
        f"{requests} requests of junk in {flooded_s:.1f} s by {clients} clients: "
        f"{dict(sorted(flood.answers.items()))}; meanwhile {enrolled} TPMs enrolled ({supply.given} in all, "
        f"{figures.counts['known']} again); database +{grown} bytes; {log_bytes} bytes of log about junk; "
        f"memory +{swollen} KiB, all processes tenth by tenth {resident}; at most {most_files} files open in a "
        f"process, {files} before; {refusals:.0f} refusals counted"
    )
    site.assert_hold(node)
    assert node.stop() == 0
    return flood, node


def test_a_flood_of_junk_and_machines_that_enrol(own, request):
    run_flood(own, seeded(request), 2000, 4, most_s=100)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_flood_of_a_hundred_thousand(site, request):
    run_flood(site, seeded(request), 100_000, 8, most_s=2800)
