"""How a command reaches the CA: through the running server's operator socket, else on the directory itself."""

import contextlib
import fcntl
import getpass
import http.client
import json
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from ca_service.enrollment import Limits
from ca_service.judgment import BadRequest, Unavailable, VtpmCaError
from ca_service.keys import Authority, find_passphrase, load_authority, load_public
from ca_service.operations import OperationContext, database_url, perform
from ca_service.store import open_store
from vtpm.wire.errors import WireError
from vtpm.wire.problem import Problem

F = TypeVar("F", bound=Callable[..., Any])

OPERATOR_PATH = "/operator/v1/"
_OK = 200
_SOCKET_TIMEOUT_S = 60.0


def operator_socket(directory: Path) -> Path:
    """Where the running server listens for its operators."""
    return directory / "run" / "operator.sock"


def server_lock(directory: Path) -> Path:
    """The file that the running server, or a command working in its place, holds locked."""
    return directory / "run" / "server.lock"


def server_facts(directory: Path) -> Path:
    """Where the running server says how it is to be spoken to."""
    return directory / "run" / "server.json"


def now() -> datetime:
    """The present time, whole seconds, UTC."""
    return datetime.now(UTC).replace(microsecond=0)


def with_directory(command: F) -> F:
    """Give a command the option --dir; it gets the CA's directory as `directory`."""
    option = click.option(
        "--dir",
        "directory",
        type=click.Path(path_type=Path, file_okay=False),
        envvar="VTPM_CA_DIR",
        callback=_directory,
        help="directory of the CA",
    )
    return option(command)


def _directory(context: click.Context, _parameter: click.Parameter, value: Path | None) -> Path:
    above = context.find_root().obj
    found = above if isinstance(above, Path) else value
    if found is None:
        raise click.UsageError("name the CA's directory with --dir or VTPM_CA_DIR")
    return found


class RemoteFailure(VtpmCaError):
    """What the server answered instead of a result."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail or problem.title, code=problem.code)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, *, tls: bool) -> None:
        super().__init__("operator", timeout=_SOCKET_TIMEOUT_S)
        self._path = path
        self._tls = tls

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
        if self._tls:
            # The server speaks TLS on all its sockets. Who may listen on this path is the directory's to say.
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            self.sock = context.wrap_socket(self.sock)


def _speaks_tls(directory: Path) -> bool:
    try:
        facts = json.loads(server_facts(directory).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(facts, dict) and facts.get("tls") is True


@contextlib.contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Be the only one who works on the CA's directory.

    Raises:
        Unavailable: a server or another command does.
    """
    path = server_lock(directory)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unavailable(
                "another process works on this CA and does not answer on its operator socket",
                remedy=f"See who holds {path}.",
            ) from None
        yield


def run(directory: Path, operation: str, **arguments: object) -> Any:
    """Perform an operation and return its result.

    Raises:
        VtpmCaError: as the operation says, or the CA cannot be reached or opened.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    try:
        return _ask_server(directory, operation, given)
    except (FileNotFoundError, ConnectionRefusedError):
        return _perform_here(directory, operation, given)


def _ask_server(directory: Path, operation: str, arguments: dict[str, object]) -> Any:
    connection = _UnixConnection(operator_socket(directory), tls=_speaks_tls(directory))
    try:
        body = json.dumps(arguments).encode()
        headers = {"Content-Type": "application/json"}
        connection.request("POST", OPERATOR_PATH + operation, body, headers)
        answer = connection.getresponse()
        content = answer.read()
    except (FileNotFoundError, ConnectionRefusedError):
        raise
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable("the server does not answer on its operator socket") from error
    finally:
        connection.close()
    if answer.status == _OK:
        return json.loads(content)["result"]
    try:
        problem = Problem.parse(content)
    except WireError:
        raise Unavailable(f"the server answered status {answer.status}") from None
    if answer.status >= http.client.INTERNAL_SERVER_ERROR:
        raise Unavailable(problem.detail or problem.title)
    raise RemoteFailure(problem)


def _perform_here(directory: Path, operation: str, arguments: dict[str, object]) -> Any:
    public = load_public(directory)

    def unlock() -> Authority:
        return load_authority(directory, find_passphrase(os.environ))

    with exclusive(directory):
        store = open_store(database_url(directory))
        try:
            context = OperationContext(public, unlock, store, now, getpass.getuser(), Limits())
            return perform(context, operation, arguments)
        finally:
            store.close()


def read_text(path: Path) -> str:
    """A text file that the operator named; raises `BadRequest` if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise BadRequest(str(path), "must be UTF-8 text") from None
    except OSError as error:
        raise BadRequest(str(path), f"cannot be read: {error.strerror}") from None
