"""The running server's operator socket, as a command uses it."""

import contextlib
import http.client
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ca_service.judgment import BadRequest, Unavailable, VtpmCaError
from vtpm.wire.errors import WireError
from vtpm.wire.problem import Problem

OPERATOR_PATH = "/operator/v1/"
MAX_SOCKET_PATH = 107
"""Longest path of a Unix socket, in bytes: ``sun_path`` of unix(7) without its end mark."""

NOT_FOR_YOU = "permissions"
"""Code of the error that says that this user may not use the socket."""

_OK = 200
_TIMEOUT_S = 60.0


class NoServer(Exception):
    """Nobody listens on the operator socket."""


class RemoteFailure(VtpmCaError):
    """What the server answered instead of a result."""

    def __init__(self, problem: Problem, remedy: str) -> None:
        super().__init__(problem.detail or problem.title, code=problem.code, remedy=remedy)


def operator_socket(directory: Path) -> Path:
    """Where the running server listens for its operators."""
    return directory / "run" / "operator.sock"


def server_facts(directory: Path) -> Path:
    """Where the running server says what it works on."""
    return directory / "run" / "server.json"


def write_facts(directory: Path, *, own_database: bool) -> None:
    """Say whether the server works on the database in the CA's directory."""
    path = server_facts(directory)
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps({"own_database": own_database}), encoding="ascii")
    temporary.replace(path)


def read_facts(directory: Path) -> dict[str, object]:
    """What the last server said by `write_facts`; empty if none ever did."""
    try:
        facts = json.loads(server_facts(directory).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def someone_listens(directory: Path) -> bool:
    """Whether a process accepts connections on the operator socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
        probe.settimeout(1.0)
        probe.connect(str(operator_socket(directory)))
        return True
    return False


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("operator", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(str(self._path))
        except (FileNotFoundError, ConnectionRefusedError):
            raise NoServer from None


def ask_server(directory: Path, operation: str, arguments: dict[str, object]) -> Any:
    """Let the running server perform an operation, and return its result.

    Raises:
        NoServer: none runs.
        Unavailable: it does not answer, or cannot do this now.
        BadRequest: this user may not talk to it (code `NOT_FOR_YOU`).
        RemoteFailure: it said no.
    """
    content, headers = json.dumps(arguments).encode(), {"Content-Type": "application/json"}
    return _result(*_exchange(directory, "POST", OPERATOR_PATH + operation, content, headers))


def _not_for_you(path: Path) -> BadRequest:
    return BadRequest(
        str(path), "you may not use it", code=NOT_FOR_YOU, remedy="Be the user that runs the server."
    )


def get_from_server(directory: Path, path: str) -> tuple[int, bytes]:
    """Status and body of what the running server answers to a GET on its operator socket.

    Raises:
        NoServer: none runs.
        Unavailable: it does not answer.
        BadRequest: this user may not talk to it (code `NOT_FOR_YOU`).
    """
    return _exchange(directory, "GET", path)


def _exchange(
    directory: Path,
    method: str,
    path: str,
    content: bytes | None = None,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> tuple[int, bytes]:
    """One request on the operator socket: status and body of the answer."""
    place = operator_socket(directory)
    if len(bytes(place)) > MAX_SOCKET_PATH:
        raise NoServer
    connection = _UnixConnection(place)
    try:
        connection.request(method, path, content, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except PermissionError:
        raise _not_for_you(place) from None
    except (OSError, http.client.HTTPException):
        raise Unavailable(
            "the server does not answer on its operator socket", remedy="See its log, or restart it."
        ) from None
    finally:
        connection.close()


def _result(status: int, content: bytes) -> Any:
    try:
        if status == _OK:
            return json.loads(content)["result"]
        problem = Problem.parse(content)
        remedy = json.loads(content).get("remedy")
    except (WireError, ValueError, KeyError, TypeError):
        raise Unavailable(f"the server gave an answer of status {status} that makes no sense") from None
    remedy = remedy if isinstance(remedy, str) else ""
    if status >= http.client.INTERNAL_SERVER_ERROR:
        raise Unavailable(problem.detail or problem.title, code=problem.code, remedy=remedy)
    raise RemoteFailure(problem, remedy)
