"""Where the demonstration happens: a folder, the parties' processes, and the commands that a person would type."""

import contextlib
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import click
import requests

from vtpm.errors import VtpmError
from vtpm.lab.machine import Event
from vtpm.signals import interrupt_on_signals

_START_S = 30.0
_STOP_S = 20.0
_BIN = Path(sys.executable).parent


class DemoFailed(VtpmError):
    """Something in the demonstration did not come out as it must."""


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Party:
    """A process of the demonstration."""

    name: str
    process: subprocess.Popen[str]

    def events(self) -> Iterator[Event]:
        """The machine's story from its standard output, until it ends."""
        assert self.process.stdout is not None  # noqa: S101 - parties with a story are started with a pipe
        for line in self.process.stdout:
            yield Event.parse(line)

    def stop(self) -> int:
        """Ask it to end, as Ctrl-C would, and wait."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code


class Stage:
    """The demonstration's folder and processes; a context manager that ends every process it started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca_port, self.kbs_port = free_port(), free_port()
        self.ca_url = f"http://127.0.0.1:{self.ca_port}"
        self.kbs_url = f"http://127.0.0.1:{self.kbs_port}"
        self._parties: list[Party] = []
        self._started = time.perf_counter()
        self._step = 0

    def __enter__(self) -> Self:
        if self.folder.exists() and any(self.folder.iterdir()):
            raise DemoFailed(f"{self.folder} is not empty", remedy="Name another folder: make demo OUT=DIR")
        self.folder.mkdir(parents=True, exist_ok=True)
        passphrase = self.folder / "ca-passphrase"
        with os.fdopen(os.open(passphrase, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(24))
        os.environ["VTPM_CA_PASSPHRASE_FILE"] = str(passphrase)
        os.environ["VTPM_CA_DIR"] = str(self.folder / "ca")
        interrupt_on_signals()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for party in reversed(self._parties):
            with contextlib.suppress(OSError):
                party.stop()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the demonstration began."""
        return time.perf_counter() - self._started

    def chapter(self, title: str) -> None:
        """Announce the next part of the story."""
        self._step += 1
        click.secho(f"\n{self._step}. {title}", bold=True)

    def say(self, text: str) -> None:
        """Tell one line."""
        click.echo(f"   {text}")

    def _command(self, words: tuple[str, ...]) -> list[str]:
        own = words[0] in {"vtpm", "vtpm-ca"}
        return [str(_BIN / words[0]) if own else words[0], *words[1:]]

    def run(self, *words: str, show: bool = True, ok: tuple[int, ...] = (0,)) -> str:
        """Run a command to its end and return what it printed.

        Raises:
            DemoFailed: it ended with another exit code than those in `ok`.
        """
        start = time.perf_counter()
        done = subprocess.run(
            self._command(words), capture_output=True, text=True, check=False, cwd=self.folder, timeout=120
        )
        if show:
            ms = (time.perf_counter() - start) * 1000
            click.echo(f"   {click.style('$', fg='green')} {shlex.join(words)}   {ms:.0f} ms")
        if done.returncode not in ok:
            raise DemoFailed(
                f"`{shlex.join(words)}` ended with exit code {done.returncode}",
                remedy=(done.stderr or done.stdout).strip(),
            )
        return done.stdout

    def start(self, name: str, *words: str, story: bool = False) -> Party:
        """Start a party; its errors go to ``<name>.log``, its output too unless it tells a story."""
        click.echo(f"   {click.style('$', fg='green')} {shlex.join(words)} &")
        with (self.folder / f"{name}.log").open("a") as log:
            process = subprocess.Popen(
                self._command(words),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if story else log,
                stderr=log,
                text=True,
                cwd=self.folder,
            )
        party = Party(name, process)
        self._parties.append(party)
        return party

    def await_url(self, party: Party, url: str) -> None:
        """Wait until a server answers at `url`; its process dying or 30 s passing is a failure."""
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            if party.process.poll() is not None:
                break
            with contextlib.suppress(requests.RequestException):
                requests.get(url, timeout=2)
                return
            time.sleep(0.05)
        log = (self.folder / f"{party.name}.log").read_text()
        raise DemoFailed(f"{party.name} did not start", remedy=log[-2000:])
