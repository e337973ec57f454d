"""One simulated machine: its processor, its untrusted host and its SVSM, each a process of its own.

Whoever starts a `Machine` is the person at the power button. The processes die with it.
"""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from vtpm.errors import UnavailableError
from vtpm.volume import make_blank_disk

_GRACE_S = 20.0
_SALT_SIZE = 32
_LONGEST_SHOWN = 40
_DIGITS_SHOWN = 16
DISK = "disk.img"
PLATFORM = "platform"


@dataclass(frozen=True)
class MachineConfig:
    """What a machine is made of and connected to.

    Attributes:
        directory: holds the platform's chip secret and the disk.
        kbs: base URL of the key broker.
        ca: base URL of the CA.
        resource: which of the KBS's resources the host asks for.
        ek: EK templates, the first one names the TPM.
        iak: template of IAK and IDevID.
        enrol: whether certificates are obtained; without them no guest starts unless this is False.
        hold: whether the guest's TPM stays reachable until the machine is switched off.
        behaviour: name of the host's behaviour; "honest" or one of its attacks.
        build: name of the SVSM build.
        guest_port: first of the two TCP ports of the guest's TPM; 0 lets the system choose.
    """

    directory: Path
    kbs: str
    ca: str
    resource: str = "default/vtpm/demo"
    ek: tuple[str, ...] = ("L-1",)
    iak: str = "H-3"
    enrol: bool = True
    hold: bool = False
    behaviour: str = "honest"
    build: str = "standard"
    guest_port: int = 0


@dataclass(frozen=True)
class Event:
    """One line of the SVSM's story: the step, its wall time in milliseconds, and what it found."""

    step: str
    ms: float
    detail: dict[str, object] = field(default_factory=dict)

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read one line of the story."""
        told = json.loads(line)
        return cls(str(told["step"]), float(told["ms"]), dict(told["detail"]))

    def render(self) -> str:
        """The step for a person: name, time, findings; long digests are cut, the JSON has them whole."""
        findings = "  ".join(f"{name} {_short(str(value))}" for name, value in self.detail.items() if value)
        return f"{self.step:<8} {self.ms:8.1f} ms  {findings}".rstrip()


def _short(text: str) -> str:
    return text if " " in text or len(text) <= _LONGEST_SHOWN else f"{text[:_DIGITS_SHOWN]}..."


def _die_with(parent: int) -> None:
    """In the child, before it runs: end when whoever switched the machine on is gone (PR_SET_PDEATHSIG)."""
    import ctypes  # noqa: PLC0415 - only the child needs it

    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() != parent:
        # It went between the fork and the call above, which then comes too late.
        os._exit(1)


def _environment() -> dict[str, str]:
    """What the machine's processes get of ours: no passphrase of a CA or KBS that this shell also works with."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VTPM_")}
    return {**kept, "PYTHONUNBUFFERED": "1", "TSS2_LOG": "all+none"}


class Machine:
    """A machine that is switched on; a context manager that switches it off.

    Iterate over `events` until it ends, then ask for `exit_code`.
    """

    def __init__(self, config: MachineConfig) -> None:
        self._config = config
        self._stack = contextlib.ExitStack()
        self._processes: list[subprocess.Popen[str]] = []
        self._svsm: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        try:
            self._switch_on()
        except BaseException:
            self._end()
            raise
        return self

    def _switch_on(self) -> None:
        config = self._config
        disk = config.directory / DISK
        config.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not disk.exists():
            make_blank_disk(disk, secrets.token_bytes(_SALT_SIZE))
        run = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="vtpm-host-")))
        host_socket = run / "host.sock"
        mine, theirs = (self._stack.enter_context(end) for end in socket.socketpair())
        self._start(
            ["vtpm.snp.server", "--platform", str(config.directory / PLATFORM), "--fd", str(mine.fileno())],
            pass_fds=(mine.fileno(),),
        )
        mine.close()
        host = self._start(
            [
                "vtpm.host",
                *("--socket", str(host_socket), "--kbs", config.kbs, "--ca", config.ca),
                *("--resource", config.resource, "--behaviour", config.behaviour),
            ],
            stdout=subprocess.PIPE,
        )
        self._await_line(host, "the host")
        self._svsm = self._start(
            ["vtpm.svsm"], pass_fds=(theirs.fileno(),), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._tell(
            {
                "processor_fd": theirs.fileno(),
                "host_socket": str(host_socket),
                "disk": str(disk),
                "ek": list(config.ek),
                "iak": config.iak,
                "enrol": config.enrol,
                "hold": config.hold,
                "build": config.build,
                "guest_port": config.guest_port,
            }
        )
        theirs.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.switch_off()
        self._end()

    def _end(self) -> None:
        for process in reversed(self._processes):
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(_GRACE_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
        self._stack.close()

    def _start(
        self,
        module: list[str],
        *,
        pass_fds: tuple[int, ...] = (),
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | None = subprocess.DEVNULL,
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(  # the module names are ours
            [sys.executable, "-m", *module],
            pass_fds=pass_fds,
            stdin=stdin,
            stdout=stdout,
            text=True,
            env=_environment(),
            # Ctrl-C is for the person's own process, which then switches off in order.
            start_new_session=True,
            preexec_fn=partial(_die_with, os.getpid()),  # noqa: PLW1509 - no threads here, and nothing else ties their lives
        )
        self._processes.append(process)
        return process

    def _await_line(self, process: subprocess.Popen[str], who: str) -> None:
        assert process.stdout is not None  # noqa: S101 - started with a pipe
        if not process.stdout.readline():
            raise UnavailableError(f"{who} did not start")

    def _tell(self, config: dict[str, object]) -> None:
        stdin = self._svsm_stream("stdin")
        try:
            stdin.write(json.dumps(config) + "\n")
            stdin.flush()
        except OSError as error:
            raise UnavailableError("the SVSM did not start") from error

    def _svsm_stream(self, name: str) -> IO[str]:
        stream = getattr(self._svsm, name, None)
        if stream is None:
            raise UnavailableError("the machine is not switched on")
        return stream  # type: ignore[no-any-return]

    def events(self) -> Iterator[Event]:
        """The SVSM's story, line by line, until it ends."""
        for line in self._svsm_stream("stdout"):
            yield Event.parse(line)

    def switch_off(self) -> None:
        """The orderly power button: the SVSM shuts its TPM down and saves its state; too slow, and the power is cut."""
        if self._svsm is not None and self._svsm.poll() is None:
            with contextlib.suppress(OSError):
                self._svsm_stream("stdin").close()
            try:
                self._svsm.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                self._svsm.terminate()

    @property
    def exit_code(self) -> int:
        """How the SVSM ended: 0 well, 1 refused, 3 unavailable.

        Raises:
            UnavailableError: it did not end by itself.
        """
        if self._svsm is None:
            return 3
        try:
            code = self._svsm.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            raise UnavailableError("the SVSM still runs") from None
        if code < 0:
            raise UnavailableError(
                f"the SVSM was ended by {signal.Signals(-code).name}",
                remedy="Boot again: what the volume holds is whole.",
            )
        return code if code in {0, 1, 2} else 3
