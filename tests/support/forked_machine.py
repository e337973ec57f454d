"""The processes of a machine, forked from the one that switches it on, instead of started by name.

For `vtpm boot` under `Forks`, which has loaded all that processor, host and SVSM load: to start the three by name takes
ten times what a boot does. They are processes as before: children of the same parent with their own session, streams,
environment and command line, and they die as before. `tests/unit/lab` starts them by name, and so do demo and
README in the long runs.
"""

import ctypes
import importlib
import inspect
import io
import os
import signal
import subprocess
import sys
import traceback
import types
from pathlib import Path

MODULES = {
    "vtpm.snp.server": "vtpm.snp.server",
    "vtpm.host": "vtpm.host.__main__",
    "vtpm.svsm": "vtpm.svsm.__main__",
}
"""What a machine starts with ``python -m``, and where its `main` is."""

_FIELDS = inspect.signature(subprocess.Popen._execute_child)
_PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
_FIRST = 3
"""The first descriptor that is no standard stream."""


class ForkedModule(subprocess.Popen):
    """``python -m`` of one of `MODULES`."""

    def _execute_child(self, *values: object) -> None:
        given = _FIELDS.bind(self, *values).arguments
        python, dash_m, module, *words = given["args"]
        assert (python, dash_m) == (sys.executable, "-m")
        assert given["start_new_session"]
        assert given["errwrite"] == -1
        streams = (given["p2cread"], given["c2pwrite"])
        self.pid = os.fork()
        if not self.pid:
            _become(given, streams, module, words)
        self._child_created = True
        self._close_pipe_fds(*(given[name] for name in _PIPES))


def _become(given: dict, streams: tuple[int, int], module: str, words: list[str]) -> None:
    """In the forked process: what `exec` and the interpreter's start would have done; does not return."""
    code = 1
    try:
        os.setsid()
        given["preexec_fn"]()
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        for entry in list(Path("/proc/self/fd").iterdir()):
            if (number := int(entry.name)) >= _FIRST and number not in given["pass_fds"]:
                _close(number)
        _call_it(" ".join(given["args"]))
        os.environ.clear()
        os.environ.update(given["env"])
        # The old ones live on as `sys.__stdout__` and so on: what is in them is the parent's to write.
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        sys.stdout, sys.stderr = (
            io.TextIOWrapper(io.FileIO(number, "w", closefd=False), write_through=True) for number in (1, 2)
        )
        sys.argv = [module, *words]
        code = _run(module)
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
    finally:
        os._exit(code)


def _run(module: str) -> int:
    try:
        return importlib.import_module(MODULES[module]).main()
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(end.code + "\n")
            return 1
        return int(end.code or 0)


def _close(number: int) -> None:
    try:
        os.close(number)
    except OSError:
        # The folder's own.
        return


def _call_it(text: str) -> None:
    """Let the process list show this as the command, as far as there is room."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    ctypes.memmove(start, text.encode()[: end - start - 1].ljust(end - start, b"\0"), end - start)


def fork_machines() -> None:
    """Let machines that this process switches on be forked from it."""
    machine = importlib.import_module("vtpm.lab.machine")
    for name in MODULES.values():
        importlib.import_module(name)
    machine.subprocess = types.SimpleNamespace(**{**vars(subprocess), "Popen": ForkedModule})
