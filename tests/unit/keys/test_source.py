"""A running server takes up what was prepared in its directory, and is not disturbed by what it cannot open."""

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import structlog

from ca_service.judgment import BadRequest, NotFound, Unavailable
from ca_service.keys import AuthoritySource
from ca_service.keys.layout import FACTS_FILE
from ca_service.keys.source import LOOK_S


@dataclass(frozen=True)
class Issuer:
    skid: str


@dataclass(frozen=True)
class Authority:
    issuers: tuple[Issuer, ...]
    ca_id: str = "ca"
    root: str = "root"


@dataclass
class Stage:
    """A directory whose file names the issuing CAs, and a clock."""

    directory: Path
    time: float = 100.0
    opened: int = 0
    broken: Exception | None = None
    ca_id: str = "ca"
    pause: threading.Event = field(default_factory=threading.Event)
    opening: threading.Event = field(default_factory=threading.Event)

    def write(self, text: str) -> None:
        beside = self.directory / "new"
        beside.write_text(text)
        beside.replace(self.directory / FACTS_FILE)

    def reopen(self):
        self.opened += 1
        self.opening.set()
        if self.broken is not None:
            raise self.broken
        names = (self.directory / FACTS_FILE).read_text().split()
        assert self.pause.wait(20)
        return Authority(tuple(Issuer(name) for name in names), self.ca_id)

    def source(self) -> AuthoritySource:
        return AuthoritySource(self.directory, self.reopen, monotonic=lambda: self.time)


@pytest.fixture
def stage(tmp_path):
    made = Stage(tmp_path)
    made.pause.set()
    made.write("one")
    return made


def held(authority) -> list[str]:
    return [issuer.skid for issuer in authority.issuers]


def test_nothing_is_opened_twice_while_nothing_changes(stage):
    source = stage.source()
    for _ in range(5):
        stage.time += 2 * LOOK_S
        assert source.current() is source()
    assert stage.opened == 1


def test_a_change_shows_after_the_next_look(stage):
    source = stage.source()
    stage.write("one two")
    assert held(source.current()) == ["one"]
    stage.time += LOOK_S
    assert held(source.current()) == ["one", "two"]
    assert stage.opened == 2


def test_who_needs_it_at_once_sees_it_at_once(stage):
    source = stage.source()
    stage.write("one two")
    assert held(source.holding("one")) == ["one"]
    assert held(source.holding("two")) == ["one", "two"]
    stage.write("one two three")
    assert held(source.fresh()) == ["one", "two", "three"]


def test_a_change_during_the_opening_is_not_missed(stage):
    genuine = stage.reopen

    def reopen():
        found = genuine()
        if stage.opened == 1:
            stage.write("one two")
        return found

    source = AuthoritySource(stage.directory, reopen, monotonic=lambda: stage.time)
    stage.time += LOOK_S
    assert held(source.current()) == ["one", "two"]


@pytest.mark.parametrize(
    "error", [BadRequest("ca.toml", "is no TOML"), NotFound("gone"), OSError(5, "I/O error")]
)
def test_what_cannot_be_opened_leaves_the_ca_as_it_was(stage, error):
    source = stage.source()
    stage.write("half")
    stage.broken, stage.time = error, stage.time + LOOK_S
    with structlog.testing.capture_logs() as logs:
        assert held(source.current()) == ["one"]
    assert [line["log_level"] for line in logs] == ["warning"]
    with pytest.raises(type(error)):
        source.fresh()
    # Tried again, but not for every request.
    tries, stage.time = stage.opened, stage.time + LOOK_S
    assert held(source.current()) == ["one"]
    assert stage.opened == tries
    stage.broken, stage.time = None, stage.time + 20
    assert held(source.current()) == ["half"]


def test_another_ca_in_the_directory_is_not_taken_up(stage):
    source = stage.source()
    stage.write("two")
    stage.ca_id, stage.time = "another", stage.time + LOOK_S
    with structlog.testing.capture_logs() as logs:
        assert held(source.current()) == ["one"]
    assert "another CA" in logs[0]["reason"]
    with pytest.raises(Unavailable, match="another CA"):
        source.fresh()


def test_a_key_that_is_not_here_is_unavailable_and_the_log_says_what_to_copy(stage):
    source = stage.source()
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            with pytest.raises(Unavailable) as error:
                source.holding("two")
    assert (error.value.code, "ca.toml" in error.value.remedy) == ("issuer", True)
    assert [line["skid"] for line in logs] == ["two"]
    assert "private/" in logs[0]["event"]
    stage.time += 3600
    with structlog.testing.capture_logs() as logs, pytest.raises(Unavailable):
        source.holding("two")
    assert len(logs) == 1


def test_no_request_waits_for_keys_that_another_one_opens(stage):
    source = stage.source()
    stage.write("one two")
    stage.time += LOOK_S
    stage.pause.clear()
    stage.opening.clear()
    slow = threading.Thread(target=source.current)
    slow.start()
    assert stage.opening.wait(20)
    stage.time += LOOK_S
    assert held(source.current()) == ["one"]
    stage.pause.set()
    slow.join(20)
    assert held(source.current()) == ["one", "two"]
    assert stage.opened == 2


def test_a_process_that_forked_later_sees_for_itself(stage):
    source = stage.source()
    reading, writing = os.pipe()
    stage.write("one two")
    stage.time += LOOK_S
    child = os.fork()
    if child == 0:
        os.write(writing, " ".join(held(source.current())).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 100) == b"one two"
    for descriptor in (reading, writing):
        os.close(descriptor)


def test_the_first_opening_fails_aloud(stage):
    stage.broken = BadRequest("passphrase", "does not open")
    with pytest.raises(BadRequest):
        stage.source()
