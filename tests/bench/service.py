"""The CA as it serves: enrolments over HTTP on loopback, and beside it an application that does nothing."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import enrollment_world as w
import enrolment_load as load
import operations_stage as stage
from serving import Node, Nursery, until

from ca_service.store import create_store

THREADS = 16
"""Of each worker, as `vtpm-ca serve` has it."""

_TICKS = os.sysconf("SC_CLK_TCK")

_EMPTY = """
import sys
from flask import Flask
from gunicorn.app.base import BaseApplication

application = Flask("empty")

@application.post("/")
def answer():
    return b"", 201

class Server(BaseApplication):
    def load_config(self):
        for name, value in (("bind", sys.argv[1]), ("workers", 1), ("worker_class", "gthread"),
                            ("threads", int(sys.argv[2])), ("preload_app", True), ("loglevel", "warning"),
                            ("control_socket_disable", True)):
            self.cfg.set(name, value)

    def load(self):
        return application

Server().run()
"""
"""Flask under gunicorn with the CA's settings, answering every request with nothing."""


class Site:
    """A CA in a folder of its own, its policy in force, and machines that may enrol."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "ca").exists():
            stage.make(folder)
            world = stage.world_in(folder)
            store = create_store(world.url)
            world.apply(store, world.policy())
            store.close()
        self.world = load.load_world(folder)

    def machines(self, count: int, prefix: str) -> list[load.Machine]:
        """Machines with keys and grants made: nothing of that is to be measured."""
        made = list(load.machines(self.world, load.make_tpms(count + 8), f"{prefix}-{time.time_ns()}"))[
            :count
        ]
        for machine in made:
            machine.prepare()
        return made


class Caller:
    """One client with kept-alive connections that notes how long it waits for the CA."""

    def __init__(self, base: str, number: int = 0) -> None:
        self._base = base
        self._caller = load.Caller([base], f"127.9.{number // 250}.{1 + number % 250}")

    def _ask(self, path: str, body: bytes, status: int) -> tuple[load.Answer, float]:
        for _ in range(2):
            begun = time.perf_counter()
            answer = self._caller.call(self._base, "POST", path, body)
            spent = time.perf_counter() - begun
            # A server closes connections that nobody has used for a while; the next call opens one.
            if answer.status:
                break
        if answer.status != status:
            raise SystemExit(f"{path}: {answer.status} {answer.body[:300]!r}")
        return answer, spent

    def enrol(self, machine: load.Machine) -> float:
        """Seconds that the three requests of one enrolment took, without what the machine does in between."""
        nonce, first = self._ask("/v1/nonces", b"", load.CREATED)
        challenge, second = self._ask("/v1/enrollments", machine.body(nonce.json()["nonce"]), load.CREATED)
        enrolment, secrets = w.answer(machine.tpm, challenge.body)
        _, third = self._ask(f"/v1/enrollments/{enrolment}/activation", secrets, load.OK)
        return first + second + third

    def call(self) -> None:
        """One request that says nothing, to the application that does nothing."""
        self._ask("/", b"", load.CREATED)


def cpu_s(pid: int) -> float:
    """CPU seconds of a server, its workers included; the kernel counts in steps of 10 ms."""
    pids = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    fields = [Path(f"/proc/{p}/stat").read_text().rpartition(")")[2].split() for p in pids]
    return sum(int(each[11]) + int(each[12]) for each in fields) / _TICKS


@contextlib.contextmanager
def serving(nursery: Nursery, site: Site, workers: int) -> Iterator[Node]:
    """`vtpm-ca serve` on a site."""
    node = nursery.start(site.folder / "ca", site.folder / "serve.log", "--workers", workers)
    try:
        yield node.until_ready()
    finally:
        node.kill()


@contextlib.contextmanager
def empty_application() -> Iterator[tuple[int, str]]:
    """The application that does nothing: its process id and its address."""
    port = load.free_port()
    address = f"127.0.0.1:{port}"
    process = subprocess.Popen([sys.executable, "-c", _EMPTY, address, str(THREADS)], start_new_session=True)
    try:
        caller = load.Caller([f"http://{address}"], None)
        until(lambda: caller.call(f"http://{address}", "POST", "/").status == load.CREATED, 30.0)
        caller.close()
        yield process.pid, f"http://{address}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)


@contextlib.contextmanager
def temporary_site() -> Iterator[Site]:
    """A new CA, removed afterwards."""
    # Short: the operator socket lies in it, and such names have a limit.
    folder = Path(tempfile.mkdtemp(prefix="vb"))
    try:
        yield Site(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
