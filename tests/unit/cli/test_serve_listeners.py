"""From the options of `serve` to listeners: addresses that meet, the operator socket, its clients."""

import os
import socket
from pathlib import Path

import pytest

from ca_service.cli import listeners
from ca_service.cli.listeners import Address, Addresses
from ca_service.judgment import BadRequest


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("127.0.0.1:1", "127.0.0.1:2", False),
        ("127.0.0.1:1", "127.0.0.1:1", True),
        ("localhost:1", "127.0.0.1:1", True),
        ("127.0.0.1:1", "127.0.0.2:1", False),
        ("0.0.0.0:1", "192.0.2.1:1", True),
        ("192.0.2.1:1", "0.0.0.0:1", True),
        ("[::]:1", "192.0.2.1:1", True),
        ("[::]:1", "[::1]:1", True),
        ("0.0.0.0:1", "[::1]:1", False),
        ("[::1]:1", "127.0.0.1:1", False),
        ("[0:0::1]:1", "[::1]:1", True),
        ("ca.example:1", "ca.example:1", True),
        ("ca.example:1", "192.0.2.1:1", False),
    ],
)
def test_addresses_that_meet(one, other, meet):
    for rest in (
        {"publication": Address("--publish", other)},
        {"operation": Address("--operator-bind", other)},
    ):
        given = {"publication": None, "operation": None, **rest}
        if not meet:
            assert Addresses(Address("--bind", one), **given).enrolment.address == one
            continue
        with pytest.raises(BadRequest, match="is where --bind is") as refusal:
            Addresses(Address("--bind", one), **given)
        assert ("leave --publish out" in refusal.value.remedy) == ("publication" in rest)


def test_publication_and_operators_do_not_meet_either():
    with pytest.raises(BadRequest, match="is where --publish is") as refusal:
        Addresses(Address("--bind", "h:1"), Address("--publish", "h:2"), Address("--operator-bind", "h:2"))
    assert refusal.value.path == "--operator-bind"


@pytest.mark.parametrize(
    ("directory", "address"),
    [
        ("/srv/ca", "unix:/srv/ca/run/operator.sock"),
        ("//srv/ca", "unix:/srv/ca/run/operator.sock"),
        ("ca", "unix:ca/run/operator.sock"),
    ],
)
def test_the_operator_sockets_name(directory, address):
    assert listeners._unix_address(Path(directory)) == address


def test_users_are_looked_up_before_anybody_comes(monkeypatch):
    """A directory service that hangs would hold up the loop that serves all."""
    asked = []

    def user_name(uid: int) -> str:
        asked.append(uid)
        return f"name of {uid}"

    monkeypatch.setattr(listeners, "user_name", user_name)
    name = listeners._unix_names()
    before = list(asked)
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs, socket.socket() as tcp:
        assert name(ours) == f"name of {os.geteuid()}"
        assert name(tcp) is None
    assert asked == before
