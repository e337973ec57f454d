"""What runs inside a process that forks commands for `forked.Forks`; it may be another Python than the tests'."""

import atexit
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from children import Children

_PR_SET_PDEATHSIG = 1

CA, DEVICE, TENANT, SCRIPT = "vtpm-ca", "vtpm", "keylime_tenant", "-c"
"""What can be forked: our two commands, keylime's tenant, and Python text that uses the CA's packages."""

_MAIN = {CA: "ca_service.cli", DEVICE: "vtpm.cli", TENANT: "keylime.cmd.tenant"}
_OURS = (CA, DEVICE, SCRIPT)
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
    TENANT: (),
    SCRIPT: ("ca_service.export", "ca_service.collateral"),
}


def serve() -> None:
    """Serve requests from standard input until it ends; the forked processes end in here when theirs is done."""
    children = Children()
    loaded: set[str] = set()
    for line in sys.stdin:
        request = json.loads(line)
        if "warm" in request:
            _load(CA, loaded)
            _warm(Path(request["warm"]), request["passphrase"].encode())
            answer: object = True
        elif "start" in request:
            _load(request["program"], loaded)
            try:
                pid = _fork(request)
            except FileNotFoundError:
                # Whose streams these were is gone.
                pid = None
            if pid == 0:
                _run(request["program"])
            if pid is not None:
                children.begun(pid)
            answer = pid
        else:
            answer = children.poll(request["poll"])
        print(json.dumps(answer), flush=True)
    children.kill()


def _run(program: str) -> None:
    """Run it and end as the interpreter does, who would free all that is loaded: ten times what else there is to do."""
    code = 0
    try:
        if program == SCRIPT:
            exec(sys.argv.pop(1), {"__name__": "__main__"})  # noqa: S102 - a test's own
        else:
            importlib.import_module(_MAIN[program]).main()
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            # What it says is the interpreter's to print, as is any other error.
            raise
        code = end.code or 0
    threading._shutdown()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        # The interpreter tries again, and has a code of its own for it.
        sys.exit(code)
    os._exit(code)


def _load(program: str, loaded: set[str]) -> None:
    if program in loaded:
        return
    for name in (*_LATER[program], *filter(None, [_MAIN.get(program)])):
        importlib.import_module(name)
    if program == CA:
        # A command loads no other one; here each comes again and again.
        for found in pkgutil.iter_modules(
            importlib.import_module("ca_service.cli").__path__, "ca_service.cli."
        ):
            importlib.import_module(found.name)
    if program == DEVICE:
        from forked_machine import fork_machines  # noqa: PLC0415 - for those that need it

        fork_machines()
    if program in _OURS and loaded.isdisjoint(_OURS):
        from remembered_keys import remember_keys  # noqa: PLC0415 - keylime's Python has no scrypt of ours

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
    source, *sinks = request["streams"]
    streams = [os.open(source, os.O_RDONLY), *(os.open(path, flags) for path in sinks)]
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
        # Those that there are believe that their files can do what the old ones could, for example seek.
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    return pid
