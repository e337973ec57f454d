"""Disks that are full, fail or may only be read, under a running CA: clients come back, and nothing is half done.

The CA goes on by itself when the disk is repaired, without a restart; then all that clients received is held against
the database.
"""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from enrolment_load import Habits, Load
from fault_site import Site, Supply, only_retryable
from postgres_cluster import ROLE, PostgresCluster
from serving import Node, until

pytestmark = pytest.mark.timeout(300)

CLIENTS = 4
HABITS = Habits(again=0.2, replay=0.1, most_wait_s=0.1, pause_s=0.05)


def ride_out(site: Site, node: Node, fault: contextlib.AbstractContextManager) -> None:
    """Enrol while the fault is not there, there, and gone again; check that it was felt and that nothing was lost."""
    supply = Supply(site)
    load = Load([node.base], site.record, supply, CLIENTS, HABITS).start()
    assert site.record.until_more(8, 60), load.figures().counts

    def refused() -> int:
        counts = load.figures().counts
        return counts["enroll 503"] + counts["activate 503"]

    with fault:
        until(lambda: refused() >= 2 * CLIENTS, 60, lambda: str(load.figures().counts))
        issued = load.figures().counts["certificates"]
        # By now every client has met the fault, so nothing that was still under way is counted here.
        before = refused()
        until(lambda: refused() >= before + 2 * CLIENTS, 60, lambda: str(load.figures().counts))
        assert load.figures().counts["certificates"] == issued
        assert node.get("/healthz")[0] == 200
    assert site.record.until_more(8, 60), "the CA does not go on"
    supply.shut()
    figures = load.join(60)
    only_retryable(figures, [node])
    assert figures.counts["enrolments"] == supply.given
    assert node.get("/readyz")[0] == 200
    site.assert_hold(node)
    assert node.stop() == 0


def root_only() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may mount a disk of its own")


@contextlib.contextmanager
def small_disk(size: str) -> Iterator[Path]:
    """A file system of that size."""
    folder = Path(tempfile.mkdtemp(prefix="vd"))
    options = ["-o", f"size={size},mode=0711"]
    done = subprocess.run(
        ["mount", "-t", "tmpfs", *options, "none", folder], check=False, capture_output=True
    )
    if done.returncode != 0:
        folder.rmdir()
        pytest.skip("file systems cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
        folder.rmdir()


@contextlib.contextmanager
def filled(folder: Path) -> Iterator[None]:
    """Not a byte is left on this file system."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (1 << 16, 1 << 12):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass
    try:
        yield
    finally:
        filler.unlink()


def test_a_full_disk_under_sqlite(founding, nursery):
    root_only()
    with small_disk("16m") as folder:
        site = Site(founding, nursery, None, folder)
        node = site.start().until_ready()
        ride_out(site, node, filled(folder))
        site.close()


@contextlib.contextmanager
def no_growth(node: Node, site: Site) -> Iterator[None]:
    """No file may become larger than the database is now: what a disk quota does, for anybody."""
    path = Path(site.url.removeprefix("sqlite:///"))
    soft = max(path.stat().st_size, path.with_name(path.name + "-wal").stat().st_size)
    workers = node.workers
    before = {worker: resource.prlimit(worker, resource.RLIMIT_FSIZE) for worker in workers}
    for worker, (_, hard) in before.items():
        resource.prlimit(worker, resource.RLIMIT_FSIZE, (soft, hard))
    try:
        yield
    finally:
        for worker, limits in before.items():
            resource.prlimit(worker, resource.RLIMIT_FSIZE, limits)


@pytest.mark.slow
def test_files_that_may_not_grow(founding, nursery):
    site = Site(founding, nursery, None)
    node = site.start().until_ready()
    ride_out(site, node, no_growth(node, site))
    site.close()


@contextlib.contextmanager
def failing_calls(node: Node, calls: str, error: str) -> Iterator[None]:
    """These system calls of the workers fail, as they do on a disk that was made read-only, or that loses a write."""
    tracers = []
    for worker in node.workers:
        trace = ["-e", f"trace={calls}", "-e", f"inject={calls}:error={error}"]
        command = ["strace", "-f", "-qq", "-o", "/dev/null", *trace, "-p", str(worker)]
        tracers.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
    try:
        yield
    finally:
        for tracer in tracers:
            tracer.send_signal(signal.SIGINT)
            tracer.communicate(timeout=20)


@pytest.fixture
def strace() -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not here")
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        command = ["timeout", "-s", "INT", "0.2", "strace", "-o", "/dev/null", "-p", str(sleeper.pid)]
        done = subprocess.run(command, check=False, capture_output=True)
        sleeper.kill()
    if b"Operation not permitted" in done.stderr:
        pytest.skip("processes may not be traced here")


@pytest.mark.parametrize(
    ("calls", "error"),
    [
        pytest.param("pwrite64", "EROFS", id="read-only file system"),
        pytest.param("fsync,fdatasync", "EIO", id="flush fails", marks=pytest.mark.slow),
    ],
)
def test_a_failing_disk_under_sqlite(founding, nursery, strace, calls, error):
    site = Site(founding, nursery, None)
    node = site.start(workers=1).until_ready()
    ride_out(site, node, failing_calls(node, calls, error))
    site.close()


@contextlib.contextmanager
def read_only(cluster: PostgresCluster, database: str) -> Iterator[None]:
    """The CA's role may only read; a session could override the server's own default for that."""
    tables = f"ON ALL TABLES IN SCHEMA public {{}} {ROLE}"
    cluster.admin(f"REVOKE INSERT, UPDATE, DELETE {tables.format('FROM')}", database)
    try:
        yield
    finally:
        cluster.admin(f"GRANT INSERT, UPDATE, DELETE {tables.format('TO')}", database)


def test_postgresql_that_may_only_be_read(founding, nursery, durable_postgres):
    site = Site(founding, nursery, durable_postgres)
    node = site.start().until_ready()
    ride_out(site, node, read_only(durable_postgres, site.database))
    site.close()


@pytest.mark.slow
def test_a_full_disk_under_postgresql(founding, nursery, durable_postgres):
    """The tables' disk; the server's log has its own, for without that PostgreSQL itself stops."""
    root_only()
    with small_disk("24m") as folder:
        space = folder / "tables"
        space.mkdir()
        owner = durable_postgres.data.stat()
        os.chown(space, owner.st_uid, owner.st_gid)
        site = Site(founding, nursery, durable_postgres)
        with _tablespace(durable_postgres, space, site.database):
            node = site.start().until_ready()
            ride_out(site, node, filled(folder))
            site.close()


@contextlib.contextmanager
def _tablespace(cluster: PostgresCluster, space: Path, database: str) -> Iterator[None]:
    cluster.admin(f"CREATE TABLESPACE small LOCATION '{space}'")
    try:
        cluster.admin(f"ALTER DATABASE {database} SET TABLESPACE small")
        yield
    finally:
        cluster.drop_database(database)
        cluster.admin("DROP TABLESPACE small")
