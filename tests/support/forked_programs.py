"""Programs for a shell's PATH that are forked instead of started, see `forked`.

What the shell starts is a small script that says to the test's process who it is. The program is forked there; its
arguments, environment, folder, standard streams and exit code are the script's, and so are the signals that it gets.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from forked import Forks, Process

_ASKS = Path(__file__).with_name("forked_asks.py")
_END_S = 20


class Programs:
    """Answers the scripts that `add` writes, until `close`."""

    def __init__(self) -> None:
        self._added: dict[str, tuple[Forks, str, tuple[str, ...], Mapping[str, str]]] = {}
        # Names of sockets must be short.
        self._folder = Path(tempfile.mkdtemp(prefix="fp"))
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(self._folder / "s"))
        self._listening.listen(16)
        self._answering: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def add(
        self,
        path: Path,
        forks: Forks,
        program: str,
        *words: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Write a script that is this program of these `forks`.

        Args:
            path: of the script.
            forks: where the program is forked.
            program: its name there.
            words: come before those that the script is given.
            environment: comes over that of the script.
        """
        name = str(path)
        self._added[name] = (forks, program, words, environment or {})
        asks = (sys.executable, "-IS", _ASKS, self._folder / "s", name)
        path.write_text("#!/bin/sh\nexec " + " ".join(f"'{word}'" for word in asks) + ' "$@"\n')
        path.chmod(0o755)

    def _accept(self) -> None:
        while True:
            try:
                asking, _ = self._listening.accept()
            except OSError:
                # `close` has shut it down.
                return
            thread = threading.Thread(target=self._answer, args=(asking,), daemon=True)
            self._answering.append(thread)
            thread.start()

    def _answer(self, asking: socket.socket) -> None:
        with asking, asking.makefile("rb") as lines:
            request = json.loads(lines.readline())
            forks, program, words, environment = self._added[request["name"]]
            process = forks.begin(
                program,
                (*words, *request["words"]),
                env={**request["environment"], **environment},
                cwd=Path(request["cwd"]),
                streams=[f"/proc/{request['pid']}/fd/{number}" for number in range(3)],
            )
            _pass_signals(asking, process)
            try:
                code = process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            # A shell that was killed hears of nothing.
            with contextlib.suppress(OSError):
                asking.sendall(json.dumps(code).encode() + b"\n")

    def close(self) -> None:
        """Wait for the programs that run, and be gone."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        for thread in self._answering:
            thread.join()
        self._listening.close()
        shutil.rmtree(self._folder)


def _pass_signals(asking: socket.socket, process: Process) -> None:
    """Until the program has ended, or must end because who asked is gone."""
    try:
        ended = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        while ended not in select.select([ended, asking], [], [])[0]:
            for number in asking.recv(16) or [signal.SIGTERM, 0]:
                if not number:
                    return
                process.send_signal(number)
    finally:
        os.close(ended)


@pytest.fixture(scope="session")
def programs():
    """Puts programs that are forked into folders of a PATH."""
    made = Programs()
    yield made
    made.close()
