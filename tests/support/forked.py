"""Our commands as processes of their own that start in a fraction of the usual time.

To load the programs takes a second or two of a processor, more than most commands have to do. `Forks` is a process
that has loaded them, and forks one for each command; from then on nothing differs from one that is started by name:
arguments, environment, working directory and standard streams are its own, and the interpreter ends it. What is about
the start itself (streams that are closed, other locales, the installed command) is for tests that start it by name.
What a machine of `vtpm boot` consists of is forked too, see `forked_machine`.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pytest

SUPPORT = Path(__file__).parent
ROOT = SUPPORT.parents[1]
_PR_SET_PDEATHSIG = 1

CA, DEVICE, SCRIPT = "vtpm-ca", "vtpm", "-c"
"""What can be forked: our two commands, and Python text that uses the CA's packages."""

_MAIN = {CA: "ca_service.cli", DEVICE: "vtpm.cli"}
_LATER = {
    # What these commands import when they first need it.
    CA: (
        "ca_service.cli.serve",
        "ca_service.cli.serving",
        "everything_loaded",
        "alembic.command",
        "sqlalchemy.dialects.sqlite.pysqlite",
    ),
    DEVICE: ("requests", "vtpm.cli.attack", "vtpm.lab.attacks"),
    SCRIPT: ("ca_service.export", "ca_service.collateral"),
}


class Process:
    """A forked command; the members that tests use of `subprocess.Popen`, and they mean the same."""

    def __init__(
        self, forks: "Forks", args: Sequence[str], pid: int, stdout: IO | None, stderr: IO | None
    ) -> None:
        self._forks = forks
        self.args = list(args)
        self.pid = pid
        self.stdout = stdout
        self.stderr = stderr
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._forks.status(self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        with contextlib.ExitStack() as stack:
            try:
                ended = os.pidfd_open(self.pid)
            except ProcessLookupError:
                ended = None
            else:
                stack.callback(os.close, ended)
            while self.poll() is None:
                left = 1.0 if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    raise subprocess.TimeoutExpired(self.args, timeout)
                if ended is not None:
                    select.select([ended], [], [], min(left, 1.0))
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Forks:
    """Forks commands. They end with `close`, and with the test process however that ends. Safe for threads."""

    def __init__(self) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "TSS2_LOG": "all+none",
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(SUPPORT))),
        }
        self._guard = threading.Lock()
        self._process = subprocess.Popen(
            # The rest is room for the names of those that are forked; see `forked_machine`.
            [sys.executable, "-c", "import forked; forked.serve()" + " " * 400],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _ask(self, **request: object) -> Any:
        with self._guard:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        assert line, "the process that forks has died"
        return json.loads(line)

    def warm(self, directory: Path, passphrase: bytes) -> None:
        """Derive the key of this CA's passphrase, so that commands on it, and on copies of it, need not."""
        self._ask(warm=str(directory), passphrase=passphrase.decode())

    def popen(
        self,
        program: str,
        words: Sequence[object],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        stdout: int | IO = subprocess.DEVNULL,
        stderr: int | IO = subprocess.DEVNULL,
        text: bool = True,
    ) -> Process:
        """Start a command, as `subprocess.Popen` does; standard input is empty."""
        near: list[IO | None] = []
        given: list[str] = []
        with contextlib.ExitStack() as stack:
            for stream in (stdout, stderr):
                if stream == subprocess.PIPE:
                    reader, writer = os.pipe()
                    stack.callback(os.close, writer)
                    near.append(os.fdopen(reader, "r" if text else "rb"))
                    number = writer
                else:
                    near.append(None)
                    number = None if stream == subprocess.DEVNULL else stream
                    number = number if number is None or isinstance(number, int) else number.fileno()
                given.append(os.devnull if number is None else f"/proc/{os.getpid()}/fd/{number}")
            pid = self._ask(
                start=list(map(str, words)),
                program=program,
                environment=dict(env),
                cwd=str(cwd or Path.cwd()),
                streams=given,
            )
        return Process(self, (program, *map(str, words)), pid, *near)

    def run(
        self,
        program: str,
        words: Sequence[object],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess:
        """Run a command to its end; text of both streams is in the result."""
        with tempfile.TemporaryFile("r+") as out, tempfile.TemporaryFile("r+") as err:
            process = self.popen(program, words, env=env, cwd=cwd, stdout=out, stderr=err)
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
            for stream in (out, err):
                stream.seek(0)
            return subprocess.CompletedProcess(process.args, code, out.read(), err.read())

    def status(self, pid: int) -> int | None:
        """How a command ended, as `Popen.returncode` says it; None while it runs."""
        return self._ask(poll=pid)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()


@pytest.fixture(scope="session")
def forks():
    """Starts our commands as processes of their own, quickly."""
    made = Forks()
    yield made
    made.close()


# --- inside the process that forks ----------------------------------------------------------------------------------


def serve() -> None:
    """Serve requests from standard input until it ends; returns in the forked processes too, when theirs is done."""
    statuses: dict[int, int] = {}
    begun: list[int] = []
    loaded: set[str] = set()
    for line in sys.stdin:
        request = json.loads(line)
        if "warm" in request:
            _load(CA, loaded)
            _warm(Path(request["warm"]), request["passphrase"].encode())
            answer: object = True
        elif "start" in request:
            _load(request["program"], loaded)
            pid = _fork(request)
            if not pid:
                if request["program"] == SCRIPT:
                    exec(sys.argv.pop(1), {"__name__": "__main__"})  # noqa: S102 - a test's own
                else:
                    importlib.import_module(_MAIN[request["program"]]).main()
                return
            begun.append(pid)
            answer = pid
        else:
            answer = _poll(request["poll"], statuses)
        print(json.dumps(answer), flush=True)
    for pid in begun:
        if _poll(pid, statuses) is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


def _load(program: str, loaded: set[str]) -> None:
    if program in loaded:
        return
    for name in (*_LATER[program], *filter(None, [_MAIN.get(program)])):
        importlib.import_module(name)
    if program == DEVICE:
        from forked_machine import fork_machines  # noqa: PLC0415 - likewise

        fork_machines()
    if not loaded:
        from remembered_keys import remember_keys  # noqa: PLC0415 - the process that asks needs none of it

        remember_keys()
    loaded.add(program)
    gc.collect()
    gc.freeze()


def _warm(directory: Path, passphrase: bytes) -> None:
    from ca_service.keys import load_authority  # noqa: PLC0415

    load_authority(directory, passphrase)


def _fork(request: dict[str, Any]) -> int:
    """The process id, in the forked process 0: there the streams and all else are as asked for."""
    flags = os.O_WRONLY | os.O_APPEND
    streams = [os.open(os.devnull, os.O_RDONLY), *(os.open(path, flags) for path in request["streams"])]
    pid = os.fork()
    if not pid:
        os.setsid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
    for stream in streams:
        os.close(stream)
    if not pid:
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv = [request["program"], *request["start"]]
    return pid


def _poll(pid: int, statuses: dict[int, int]) -> int | None:
    if pid not in statuses:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            statuses[pid] = os.waitstatus_to_exitcode(status)
    return statuses.get(pid)
