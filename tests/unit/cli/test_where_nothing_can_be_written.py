"""One cause has one exit code, whichever command writes: 3 if a place cannot be written, 1 if a name is taken."""

import json

import pytest

WRITERS = {
    "backup": ("db", "backup"),
    "record": ("decision", "record", "ID", "--output"),
    "keylime": ("export", "keylime"),
    "ek-check": ("export", "ek-check-config"),
    "audit": ("audit", "export"),
}


@pytest.fixture
def write(here, ca):
    """Gives one of the commands a place to write to."""

    def give(command: str, place):
        decision = json.loads(here("decision", "list", "--dir", ca, "--json").out)[0]["id"]
        words = [decision if word == "ID" else word for word in WRITERS[command]]
        return here(*words, place, "--dir", ca)

    return give


@pytest.mark.parametrize("command", WRITERS)
def test_a_place_below_a_file(write, tmp_path, command):
    (tmp_path / "file").write_bytes(b"")
    done = write(command, tmp_path / "file" / "x")
    assert (done.code, done.out) == (3, "")
    assert str(tmp_path / "file" / "x") in done.err


@pytest.mark.parametrize("command", ["backup", "record"])
def test_a_folder_that_is_not_there(write, tmp_path, command):
    done = write(command, tmp_path / "nope" / "x")
    assert (done.code, done.out) == (3, "")
    assert "x cannot be written: No such file or directory" in done.err
    assert not (tmp_path / "nope").exists()


@pytest.mark.parametrize("command", ["backup", "record"])
def test_a_name_that_is_taken(write, tmp_path, command):
    (tmp_path / "x").write_bytes(b"kept")
    done = write(command, tmp_path / "x")
    assert (done.code, done.out) == (1, "")
    assert "is there already" in done.err
    assert (tmp_path / "x").read_bytes() == b"kept"
