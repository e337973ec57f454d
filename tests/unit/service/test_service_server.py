"""What is settled before the first worker starts: files, names in the environment, how many listeners."""

import os
import resource

import pytest

from ca_service.judgment import Unavailable
from ca_service.service import Bounds, Listener, Server, Service, serve_until_told


@pytest.fixture
def server(monkeypatch):
    """A server that would serve; says what it found when it began."""
    made = Server(Service((Listener("x", "127.0.0.1:1", print, Bounds(connections=1000)),)))
    made.found = {}

    def run(self) -> None:
        self.found["SCRIPT_NAME"] = os.environ.get("SCRIPT_NAME")
        raise SystemExit(self.found.get("code", 0))

    monkeypatch.setattr(Server, "run", run)
    return made


@pytest.fixture
def limits(monkeypatch):
    """Stands for the process's limits; `set` is what it was raised to."""
    held: dict = {"is": (10_000, 10_000)}
    monkeypatch.setattr(resource, "getrlimit", lambda _what: held["is"])
    monkeypatch.setattr(resource, "setrlimit", lambda _what, new: held.update(set=new))
    return held


@pytest.mark.parametrize(
    ("now", "raised"),
    [
        ((10_000, 10_000), None),
        ((1024, 524_288), (1256, 524_288)),
        ((1024, resource.RLIM_INFINITY), (1256, resource.RLIM_INFINITY)),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), None),
    ],
)
def test_there_are_files_for_all_connections(server, limits, now, raised):
    limits["is"] = now
    with pytest.raises(SystemExit):
        serve_until_told(server)
    assert limits.get("set") == raised


def test_too_few_files_are_said_at_once(server, limits):
    limits["is"] = (1024, 1255)
    with pytest.raises(Unavailable, match="1256") as refusal:
        serve_until_told(server)
    assert "LimitNOFILE" in refusal.value.remedy


def test_names_of_the_environment_have_no_say(server, limits, monkeypatch):
    monkeypatch.setenv("SCRIPT_NAME", "/elsewhere")
    with pytest.raises(SystemExit):
        serve_until_told(server)
    assert server.found["SCRIPT_NAME"] is None


def test_a_server_that_could_not_serve(server, limits):
    server.found["code"] = 1
    with pytest.raises(Unavailable):
        serve_until_told(server)


def test_there_are_not_more_listeners_than_the_board_has_columns():
    with pytest.raises(ValueError, match="at most 4"):
        Server(Service(tuple(Listener("x", f"127.0.0.1:{n}", print) for n in range(1, 6))))


def test_what_is_installed_beside_gunicorn_changes_nothing():
    """A door of its own to be steered by."""
    cfg = Server(Service((Listener("x", "127.0.0.1:1", print),))).cfg
    assert cfg.control_socket_disable
    assert not cfg.worker_tmp_dir or cfg.worker_tmp_dir == "/dev/shm"  # noqa: S108
