"""One swtpm process: its two sockets, its memory-only state file, its end.

Nothing of the TPM touches a disk in clear: swtpm's state file is an anonymous memory file, core dumps are off,
and both channels are socket pairs that only this process holds. When this process ends, however it ends, swtpm
gets the kernel's parent-death signal. Closing the channels alone would not do: swtpm 0.7.1 spins for ever when its
data channel breaks while an answer is under way.
"""

import os
import resource
import shutil
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from vtpm.tpm.errors import TpmError, TpmGone

_LAST_WORDS = 200
_END_WAIT = 5.0

_nurseries: dict[int, ThreadPoolExecutor] = {}


def _nursery() -> ThreadPoolExecutor:
    """The thread of this process that starts every swtpm.

    The kernel sends the parent-death signal when the *thread* that forked ends; this one lives as long as the process.
    """
    return _nurseries.setdefault(os.getpid(), ThreadPoolExecutor(1, thread_name_prefix="swtpm-nursery"))


def _program(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise TpmError(f"{name} is not installed", remedy=f"Install the Debian package {package}.")
    return found


class SwtpmProcess:
    """A running swtpm and the two channels to it.

    Args:
        executable: the program, looked up in PATH.
        timeout: seconds after which a silent swtpm counts as gone.

    Raises:
        TpmError: swtpm is not installed or cannot be started.
    """

    def __init__(self, executable: str = "swtpm", *, timeout: float = 60.0) -> None:
        program, setpriv = _program(executable, "swtpm"), _program("setpriv", "util-linux")
        data, data_far = socket.socketpair()
        control, control_far = socket.socketpair()
        self._log = os.memfd_create("swtpm-log")
        memory = os.memfd_create("swtpm-state")
        try:
            self._child = (
                _nursery()
                .submit(
                    subprocess.Popen,
                    [
                        *(setpriv, "--pdeathsig", "KILL", "--", program),
                        "socket",
                        "--tpm2",
                        "--server",
                        f"type=tcp,fd={data_far.fileno()}",
                        "--ctrl",
                        f"type=unixio,clientfd={control_far.fileno()}",
                        "--tpmstate",
                        f"backend-uri=file:///proc/self/fd/{memory}",
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    stderr=self._log,
                    pass_fds=(data_far.fileno(), control_far.fileno(), memory),
                    # Whatever secrets this process has in its environment are none of swtpm's business.
                    env={"PATH": os.defpath, "LC_ALL": "C"},
                    cwd="/",
                    # An interrupt typed at the terminal is for the SVSM, which then shuts the TPM down in order.
                    start_new_session=True,
                )
                .result()
            )
        except OSError as error:
            for end in (data, control):
                end.close()
            os.close(self._log)
            raise TpmError(f"swtpm cannot be started: {error.strerror}") from error
        finally:
            os.close(memory)
            data_far.close()
            control_far.close()
        self.data, self.control = data, control
        self._forbid_core_dumps()
        for channel in (data, control):
            channel.settimeout(timeout)

    def _forbid_core_dumps(self) -> None:
        try:
            resource.prlimit(self._child.pid, resource.RLIMIT_CORE, (0, 0))
        except ProcessLookupError:
            return  # ended already; the first use of a channel reports it

    @property
    def pid(self) -> int:
        """Process id."""
        return self._child.pid

    def gone(self, doing: str) -> TpmGone:
        """The error for a channel that broke or fell silent while `doing`; makes sure that swtpm has ended."""
        deadline = time.monotonic() + 0.5
        while self._child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        status = self._child.poll()
        if status is None:
            how = "does not answer"
        elif status < 0:
            how = f"was ended by signal {-status}"
        else:
            how = f"has ended with status {status}"
        words = self._last_words()
        self.kill()
        return TpmGone(f"swtpm (process {self.pid}) {how} while {doing}{f': {words}' if words else ''}")

    def _last_words(self) -> str:
        try:
            text = os.pread(self._log, 4096, max(0, os.fstat(self._log).st_size - 4096))
        except OSError:
            return ""
        lines = [line for line in text.decode("ascii", "replace").splitlines() if "error" in line.lower()]
        return "".join(c for c in lines[-1] if c.isascii() and c.isprintable())[:_LAST_WORDS] if lines else ""

    def wait(self, seconds: float = _END_WAIT) -> bool:
        """Wait for the end of swtpm; False if it is still there."""
        try:
            self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """End swtpm at once and close all that belongs to it; harmless when done before."""
        if self._child.poll() is None:
            self._child.kill()
            self._child.wait()
        self.data.close()
        self.control.close()
        if self._log >= 0:
            os.close(self._log)
            self._log = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
