"""Our commands as processes of their own that start in a fraction of the usual time.

To load the programs takes a second or two of a processor, more than most commands have to do. `Forks` is a process
that has loaded them, and forks one for each command; from then on nothing differs from one that is started by name:
arguments, environment, working directory and standard streams are its own, and it ends as the interpreter would end it,
but for freeing what is loaded: threads are waited for, what was registered for the end is done, streams are flushed.
What is about the start itself (streams that are closed, other locales, the installed command) is for tests that start
it by name.
What a machine of `vtpm boot` consists of is forked too, see `forked_machine`; shells get at it by `forked_programs`.
"""

import contextlib
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
from forking import CA, DEVICE, SCRIPT

__all__ = ["CA", "DEVICE", "SCRIPT", "Forks", "Process", "forks"]

SUPPORT = Path(__file__).parent
ROOT = SUPPORT.parents[1]


class Process:
    """A forked command; the members that tests use of `subprocess.Popen`, and they mean the same."""

    def __init__(
        self,
        forks: "Forks",
        args: Sequence[str],
        pid: int,
        stdout: IO | None = None,
        stderr: IO | None = None,
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
    """Forks commands. They end with `close`, and with the test process however that ends. Safe for threads.

    Args:
        python: the interpreter that has the programs; the tests' own if not given.
        environment: what there is while programs are loaded; ``PYTHONPATH`` may be in it.
    """

    def __init__(
        self, python: str | Path = sys.executable, environment: Mapping[str, str] | None = None
    ) -> None:
        given = environment or {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "TSS2_LOG": "all+none"}
        paths = (str(ROOT), str(SUPPORT), *filter(None, [given.get("PYTHONPATH")]))
        environment = {**given, "PYTHONPATH": os.pathsep.join(paths)}
        self._guard = threading.Lock()
        self._process = subprocess.Popen(
            # The rest is room for the names of those that are forked; see `forked_machine`.
            [python, "-c", "import forking; forking.serve()" + " " * 400],
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
        given = [os.devnull]
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
            begun = self.begin(program, words, env=env, cwd=cwd, streams=given)
        begun.stdout, begun.stderr = near
        return begun

    def begin(
        self,
        program: str,
        words: Sequence[object],
        *,
        env: Mapping[str, str],
        cwd: Path | None,
        streams: Sequence[str],
    ) -> Process:
        """Start a command that writes to files, or what ``/proc`` shows as files; `streams` are the standard ones."""
        pid = self._ask(
            start=list(map(str, words)),
            program=program,
            environment=dict(env),
            cwd=str(cwd or Path.cwd()),
            streams=list(streams),
        )
        assert pid, "a stream of the command is gone"
        return Process(self, (program, *map(str, words)), pid)

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
