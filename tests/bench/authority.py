"""What the authority costs: decision and issuance, a whole enrolment, throughput, and a full database.

Each ratio is measured in interleaved rounds in one run, so that a noisy neighbour disturbs both of its sides.
"""

import os
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import driver
import enrollment_world as w
import enrolment_load as load
import operations_stage as stage
from alembic.script import ScriptDirectory
from cryptography import x509
from filling import fill
from floors import flush_ms
from metered import MeteredStore, own_cost
from service import Caller, Site, cpu_s, empty_application, serving, temporary_site
from serving import Nursery

BUILD = Path("build/bench")

IN_PROCESS, WARM_UP = 100, 5
ROUNDS, ENROLMENTS = 9, 30
"""Rounds of the comparison over HTTP, and enrolments in each: enough for a clock of 10 ms."""

REQUESTS, COMMITS = 3, 3
"""Of one enrolment."""

LOAD, CLIENTS, PROCESSES = 300, 8, 2
SMALL, LARGE, PAIRS = 1_000, 1_000_000, 60
BARE = 300


def in_process(folder: Path, bare: Callable[[], None], own: Callable[[], None]) -> dict[str, float]:
    """Decision and issuance without database and HTTP, from the request's bytes to the answer's, and the floors.

    Returns:
        CPU milliseconds, medians of alternating measurements: ``spent`` in the CA's process, ``bare`` by the bare
        cryptography, ``own`` by that of the CA's own signatures beyond it.
    """
    world = w.World.create(folder)
    real = world.new_store()
    world.apply(real, world.policy())
    store = MeteredStore(real)
    enroller = world.enroller(store)
    enroller.recover()
    # Beforehand: a TPM's RSA key takes more than all that is measured, and leaves nothing of the CA in the caches.
    machines = [
        (w.SoftTpm(), w.Boot(resource=f"default/vtpm/bench-{i}", secret=os.urandom(32), salt=os.urandom(16)))
        for i in range(IN_PROCESS + WARM_UP)
    ]
    unseen, meter = own_cost(), store.meter
    spent, floor, beyond = [], [], []
    for tpm, boot in machines:
        body = world.body(enroller.new_nonce().nonce, tpm, boot)
        floor.append(_cpu_ms(bare))
        beyond.append(_cpu_ms(own))
        begun, metered, calls = time.process_time(), meter.spent, meter.calls
        reply = enroller.enroll(body)
        enrolling = time.process_time() - begun
        enrolment, answer = w.answer(tpm, reply.body)
        begun = time.process_time()
        enroller.activate(enrolment, answer)
        in_store = meter.spent - metered + unseen * (meter.calls - calls)
        spent.append((enrolling + time.process_time() - begun - in_store) * 1000)
    real.close()
    found = {"spent": spent, "bare": floor, "own": beyond}
    return {name: statistics.median(times[WARM_UP:]) for name, times in found.items()}


def _cpu_ms(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return (time.process_time() - begun) * 1000


_T1_BYTES = """SELECT (SELECT sum(length(body)) FROM evidence) + (SELECT sum(length(trace)) FROM decisions)
                    + (SELECT sum(length(reply)) FROM submissions)"""
# What was to be signed is in the certificates; the database keeps it apart only until they are there.
_CERTIFICATES = "SELECT der FROM certificates WHERE der IS NOT NULL"
_T3_BYTES = (
    """SELECT (SELECT sum(length(der)) FROM certificates) + (SELECT sum(length(reply)) FROM enrollments)"""
)


class SameCommits:
    """Transactions of the number and size of an enrolment's, through nothing but SQLite."""

    def __init__(self, folder: Path, sizes: tuple[int, ...]) -> None:
        self._sizes = sizes
        self._database = sqlite3.connect(folder / "commits.sqlite3", isolation_level=None)
        self._database.executescript(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)"
        )

    def __call__(self) -> None:
        """Those of one enrolment."""
        for size in self._sizes:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.execute("INSERT INTO t (body) VALUES (?)", (bytes(size),))
            self._database.execute("COMMIT")

    def close(self) -> None:
        self._database.close()


def commit_sizes(site: Site) -> tuple[int, ...]:
    """Bytes that an enrolment stores in each of its transactions: decision with evidence, intent, certificates."""
    path = site.folder / "ca" / "ca.sqlite3"
    with sqlite3.connect(path) as database:
        first, last = (database.execute(query).fetchone()[0] for query in (_T1_BYTES, _T3_BYTES))
        signed = (x509.load_der_x509_certificate(der) for (der,) in database.execute(_CERTIFICATES))
        sums = [first, sum(len(certificate.tbs_certificate_bytes) for certificate in signed), last]
        count = database.execute("SELECT count(*) FROM enrollments").fetchone()[0]
    return tuple(total // count for total in sums)


def enrolment_cpu(nursery: Nursery, bare: Callable[[], None]) -> dict[str, float]:
    """CPU of the serving CA per full enrolment, and F: bare cryptography, three empty requests, the same commits.

    Returns:
        Milliseconds per enrolment: ``ca``, ``bare``, ``requests`` and ``commits``, and ``ratio``, the median over the
        rounds of ca / (bare + requests + commits).
    """
    rounds: list[dict[str, float]] = []
    with (
        temporary_site() as site,
        tempfile.TemporaryDirectory() as folder,
        serving(nursery, site, 1) as node,
        empty_application() as (empty, address),
    ):
        caller, nobody = Caller(node.base), Caller(address)
        for machine in site.machines(ENROLMENTS, "warm"):
            caller.enrol(machine)
        commits = SameCommits(Path(folder), commit_sizes(site))
        work = iter(site.machines(ROUNDS * ENROLMENTS, "cpu"))
        for _ in range(ROUNDS):
            before = cpu_s(node.pid)
            for _ in range(ENROLMENTS):
                caller.enrol(next(work))
            ca = cpu_s(node.pid) - before
            before = cpu_s(empty)
            # Four times as many, because an empty request costs less than the clock's step.
            for _ in range(4 * REQUESTS * ENROLMENTS):
                nobody.call()
            requests = (cpu_s(empty) - before) / 4
            committed = _cpu_ms(lambda: [commits() for _ in range(ENROLMENTS)]) / 1000
            plain = _cpu_ms(lambda: [bare() for _ in range(ENROLMENTS)]) / 1000
            parts = {"ca": ca, "bare": plain, "requests": requests, "commits": committed}
            rounds.append({name: value * 1000 / ENROLMENTS for name, value in parts.items()})
        commits.close()
    result = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
    ratios = (r["ca"] / (r["bare"] + r["requests"] + r["commits"]) for r in rounds)
    return result | {"ratio": statistics.median(ratios)}


def throughput(nursery: Nursery, bare: Callable[[], None]) -> dict[str, float]:
    """Durable enrolments per second with two workers and load generator on this machine, and how fast it is.

    Returns:
        ``rate``, ``latency`` in milliseconds, ``flushes`` per second, and ``bare``, what the bare cryptography of an
        enrolment takes here, in milliseconds.
    """
    with temporary_site() as site:
        flushes = 1000 / flush_ms(site.folder)
        with serving(nursery, site, 2) as node:
            habits = load.Habits(again=0.0, replay=0.0)
            load.Load(
                [node.base], _nowhere, iter(site.machines(4 * CLIENTS, "warm")), CLIENTS, habits
            ).start().join(120)
            work = driver.book(node.base, site.machines(LOAD, "load"))
            begun = time.perf_counter()
            parts = [
                driver.Drivers(node.base, work[i::PROCESSES], CLIENTS // PROCESSES, i)
                for i in range(PROCESSES)
            ]
            times = [spent for part in parts for spent in part.join(600)]
            seconds = time.perf_counter() - begun
    return {
        "rate": len(times) / seconds,
        "flushes": flushes,
        "latency": statistics.median(times) * 1000,
        "bare": statistics.median(_cpu_ms(bare) for _ in range(BARE)),
    }


def _nowhere(**_members: object) -> None:
    """Write nothing down."""


@contextmanager
def _filled(count: int) -> Iterator[Site]:
    """A copy of a CA with so many stored certificates; the original is made once per schema."""
    (revision,) = ScriptDirectory(str(_migrations())).get_heads()
    kept = BUILD / f"{revision}-{count}"
    if not kept.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix="making-", dir=BUILD))
        Site(made)
        fill(stage.world_in(made), count)
        made.rename(kept)
    folder = Path(tempfile.mkdtemp(prefix="vb"))
    try:
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        yield Site(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _migrations() -> Path:
    import ca_service.store.migrations as package  # noqa: PLC0415 - a folder of scripts, of which the name is wanted

    return Path(next(iter(package.__path__)))


def full_database(nursery: Nursery) -> dict[str, float]:
    """Median milliseconds of an enrolment's requests with few and with a million certificates, asked in turn."""
    with (
        _filled(SMALL) as few,
        _filled(LARGE) as many,
        serving(nursery, few, 1) as first,
        serving(nursery, many, 1) as second,
    ):
        callers = (Caller(first.base), Caller(second.base))
        work = [site.machines(PAIRS + WARM_UP, "turn") for site in (few, many)]
        times: tuple[list[float], list[float]] = ([], [])
        for pair in zip(*work, strict=True):
            for caller, machine, spent in zip(callers, pair, times, strict=True):
                spent.append(caller.enrol(machine) * 1000)
    small, large = (statistics.median(spent[WARM_UP:]) for spent in times)
    return {"small": small, "large": large}


def measure(folder: Path, bare: Callable[[], None], own: Callable[[], None]) -> dict[str, dict[str, float]]:
    """All figures of the authority.

    Args:
        folder: for a CA.
        bare: does the cryptography that no enrolment can do without.
        own: does what the CA adds: it verifies its signatures, and signs its log.
    """
    nursery = Nursery(w.PASSPHRASE)
    try:
        return {
            "in_process": in_process(folder / "in-process", bare, own),
            "cpu": enrolment_cpu(nursery, bare),
            "throughput": throughput(nursery, bare),
            "full": full_database(nursery),
        }
    finally:
        nursery.close()
