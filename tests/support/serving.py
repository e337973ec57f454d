"""Real `vtpm-ca serve` processes that start in a fraction of the usual time, for tests that kill many of them.

A nursery is a process that has the programs loaded and the passphrase's key derived; each server is forked from it
and then runs the command line as it is. Nothing else differs from a server that is started by name.
"""

import contextlib
import ctypes
import gc
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from children import Children
from enrolment_load import free_port
from remembered_keys import remember_keys

SUPPORT = Path(__file__).parent
ROOT = SUPPORT.parents[1]
_PAUSE_S = 0.005
_PR_SET_PDEATHSIG = 1


class Nursery:
    """Forks servers; they die with `close`."""

    def __init__(self, passphrase: bytes) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(SUPPORT))),
            "VTPM_CA_PASSPHRASE": passphrase.decode(),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-c", "import serving; serving.nurse()"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._nodes: list[Node] = []

    def _ask(self, **request: object) -> object:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the nursery has died"
        return json.loads(line)

    def warm(self, directory: Path) -> None:
        """Derive the key of this CA's passphrase, so that servers of copies of it need not."""
        assert self._ask(warm=str(directory)) is True

    def start(
        self, directory: Path, log: Path, *options: object, port: int | None = None, **environment: str
    ) -> "Node":
        """Start a server on the CA in `directory`; does not wait for it."""
        port = port or free_port()
        words = ["serve", "--dir", str(directory), "--bind", f"127.0.0.1:{port}", *map(str, options)]
        pid = self._ask(start=words, log=str(log), environment=environment)
        assert isinstance(pid, int)
        node = Node(self, pid, port, log)
        self._nodes.append(node)
        return node

    def status(self, pid: int) -> int | None:
        """How the server ended (as `Popen.returncode` says it); None while it runs."""
        found = self._ask(poll=pid)
        return found if isinstance(found, int) else None

    def kill_all(self) -> None:
        """End all servers that still run."""
        for node in self._nodes:
            if node.returncode is None:
                node.kill()
        self._nodes.clear()

    def close(self) -> None:
        self.kill_all()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()


class Node:
    """One server of the nursery: the leader of a process group of gunicorn's arbiter and its workers."""

    def __init__(self, nursery: Nursery, pid: int, port: int, log: Path) -> None:
        self._nursery = nursery
        self.pid = pid
        self.port = port
        self.log = log
        self.base = f"http://127.0.0.1:{port}"
        self.returncode: int | None = None

    @property
    def workers(self) -> list[int]:
        with contextlib.suppress(OSError):
            return [
                int(word) for word in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            ]
        return []

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body, 0 if nothing came back."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                return answer.status, answer.read()
            except (OSError, http.client.HTTPException):
                return 0, b""

    def until_ready(self, seconds: float = 30.0) -> "Node":
        until(lambda: self.get("/readyz")[0] == 200 or self._ended(), seconds, self.log.read_text)
        assert self.returncode is None, self.log.read_text()
        return self

    def _ended(self) -> bool:
        if self.returncode is None:
            self.returncode = self._nursery.status(self.pid)
        return self.returncode is not None

    def wait(self, seconds: float = 30.0) -> int:
        """How it ended."""
        until(self._ended, seconds, self.log.read_text)
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        """SIGKILL to all of its processes at once."""
        workers = self.workers
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        # One that waits for the disk ends only when the disk has answered.
        self.wait(120.0)
        until(lambda: not any(_runs(worker) for worker in workers), 120.0)

    def kill_worker(self, chance: random.Random) -> bool:
        """SIGKILL to one worker; says whether there was one."""
        workers = self.workers
        if not workers:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(chance.choice(workers), signal.SIGKILL)
        return True

    def stop(self) -> int:
        """SIGTERM, and how it ended."""
        os.kill(self.pid, signal.SIGTERM)
        return self.wait(40.0)


def _runs(pid: int) -> bool:
    """Whether the process is there and no zombie: a zombie holds no file and no lock."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Callable[[], bool], seconds: float, explain: Callable[[], str] = str) -> None:
    """Wait for a condition; an assertion fails if it takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, explain()
        time.sleep(_PAUSE_S)


# --- inside the nursery ---------------------------------------------------------------------------------------------


def nurse() -> None:
    """Serve requests from standard input until it ends."""
    # All that a server imports, and what it would import when it first needs it.
    import alembic.command  # noqa: F401, PLC0415
    import sqlalchemy.dialects.postgresql.psycopg  # noqa: PLC0415
    import sqlalchemy.dialects.sqlite.pysqlite  # noqa: F401, PLC0415

    with contextlib.suppress(ImportError):
        import psycopg  # noqa: F401, PLC0415
    import everything_loaded  # noqa: F401, PLC0415

    import ca_service.cli.serving  # noqa: F401, PLC0415
    from ca_service.cli import main  # noqa: PLC0415
    from ca_service.keys import find_passphrase, load_authority  # noqa: PLC0415

    remember_keys()
    children = Children()
    # Whoever is forked would look through all that is loaded for garbage, and have a copy of it by that.
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        if "warm" in request:
            load_authority(Path(request["warm"]), find_passphrase(os.environ))
            answer: object = True
        elif "start" in request:
            answer = pid = _fork(main, request["start"], request["log"], request["environment"])
            children.begun(pid)
        else:
            answer = children.poll(request["poll"])
        print(json.dumps(answer), flush=True)
    # Whoever asked is gone, perhaps without a word.
    children.kill()


def _fork(main: Callable[[], None], words: Sequence[str], log: str, environment: dict[str, str]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.environ.update(environment)
        file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        null = os.open(os.devnull, os.O_RDWR)
        for number, source in ((0, null), (1, file), (2, file)):
            os.dup2(source, number)
        sys.argv = ["vtpm-ca", *words]
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        os._exit(code)
