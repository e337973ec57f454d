import contextlib
import os
import select
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import operations_stage as s
import pytest
import structlog
from forked import CA, Forks
from old_releases import Release

from ca_service.cli import main

_ENVIRONMENT = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def stage():
    return s


@pytest.fixture(scope="session")
def new_ca(tmp_path_factory: pytest.TempPathFactory, forks: Forks):
    made = s.new(tmp_path_factory.mktemp("new"))
    forks.warm(made.directory / "ca", s.w.PASSPHRASE)
    return made


@pytest.fixture(scope="session")
def worked_ca(new_ca, tmp_path_factory: pytest.TempPathFactory):
    return s.worked(new_ca, tmp_path_factory.mktemp("worked") / "world")


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory):
    """A folder whose name is short enough for the operator socket."""
    return tmp_path_factory.mktemp("c")


@pytest.fixture
def empty(new_ca, short) -> Path:
    """The directory of a CA that has done nothing yet."""
    return Path(shutil.copytree(new_ca.directory / "ca", short / "ca"))


@pytest.fixture
def ca(worked_ca, short) -> Path:
    """The directory of a CA that has worked."""
    return Path(shutil.copytree(worked_ca.directory / "ca", short / "ca"))


@pytest.fixture(scope="session")
def passphrase_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("passphrase") / "passphrase"
    path.touch(mode=0o600)
    path.write_bytes(s.w.PASSPHRASE + b"\n")
    return path


@pytest.fixture
def here(monkeypatch, capsys, passphrase_file):
    """Runs a command in this process; `env` replaces variables, None removes them."""
    monkeypatch.setattr("ca_service.cli.access.PATIENCE_S", 0.3)

    def run(*words: object, env: dict[str, str | None] | None = None) -> Done:
        with monkeypatch.context() as patch:
            given = {
                "VTPM_CA_PASSPHRASE_FILE": str(passphrase_file),
                "VTPM_CA_PASSPHRASE": None,
                "CREDENTIALS_DIRECTORY": None,
                "VTPM_CA_DIR": None,
                "VTPM_CA_DATABASE": None,
                "COLUMNS": None,
                **(env or {}),
            }
            for name, value in given.items():
                patch.delenv(name, raising=False)
                if value is not None:
                    patch.setenv(name, value)
            patch.setattr(sys, "argv", ["vtpm-ca", *map(str, words)])
            capsys.readouterr()
            with pytest.raises(SystemExit) as end:
                main()
            # `serve` logs to what was standard error then.
            structlog.reset_defaults()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return Done(int(end.value.code or 0), captured.out, captured.err)

    return run


def command(*words: object) -> list[str]:
    return [sys.executable, "-c", "from ca_service.cli import main; main()", *map(str, words)]


@pytest.fixture
def forked(forks, passphrase_file):
    """Runs a command as a process of its own, which starts quickly."""
    environment = {**_ENVIRONMENT, "VTPM_CA_PASSPHRASE_FILE": str(passphrase_file)}
    return lambda *words: forks.run(CA, words, env=environment)


@pytest.fixture
def process(passphrase_file):
    """Runs a command as a process that is started by name."""

    def run(*words: object, env: dict[str, str] | None = None, **options) -> subprocess.CompletedProcess:
        settings = {
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            "timeout": 60,
            **options,
        }
        environment = {**_ENVIRONMENT, "VTPM_CA_PASSPHRASE_FILE": str(passphrase_file), **(env or {})}
        return subprocess.run(command(*words), env=environment, check=False, **settings)

    return run


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A running `vtpm-ca serve`."""

    def __init__(
        self, forks: Forks | None, directory: Path, log: Path, passphrase_file: Path, *options: object
    ) -> None:
        self.directory = directory
        self.port = free_port()
        self.log = log
        environment = {**_ENVIRONMENT, "VTPM_CA_PASSPHRASE_FILE": str(passphrase_file)}
        words = ("serve", "--dir", directory, "--bind", f"127.0.0.1:{self.port}", *options)
        with log.open("ab") as errors:
            if forks is None:
                self.process = subprocess.Popen(
                    command(*words), env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
                )
            else:
                self.process = forks.popen(CA, words, env=environment, stdout=subprocess.PIPE, stderr=errors)
        ready, _, _ = select.select([self.process.stdout], [], [], 60)
        assert ready
        self.greeting = self.process.stdout.readline()
        assert "serves on" in self.greeting, log.read_text()

    @property
    def workers(self) -> list[int]:
        pid = self.process.pid
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@pytest.fixture
def serve(forks, passphrase_file, tmp_path):
    """Starts servers, quickly or by name, and ends at the end those that still run."""
    with contextlib.ExitStack() as stack:

        def start(directory: Path, *options: object, by_name: bool = False) -> Server:
            server = Server(
                None if by_name else forks, directory, tmp_path / "serve.log", passphrase_file, *options
            )
            stack.callback(server.process.stdout.close)
            stack.callback(server.process.wait, 60)
            stack.callback(server.process.terminate)
            return server

        yield start


@pytest.fixture(scope="module")
def release():
    return Release("0.3")


@pytest.fixture
def released(release, short):
    """The directory of a CA as release 0.3 left it, with its database in it."""
    release.put_directory(short)
    directory = short / "ca"
    release.put_database(f"sqlite:///{directory}/ca.sqlite3")
    return directory
