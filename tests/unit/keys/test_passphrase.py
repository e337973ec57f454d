import os

import pytest

from ca_service.judgment import BadRequest
from ca_service.keys import (
    NewPassphrase,
    find_new_passphrase,
    find_new_root_passphrase,
    find_passphrase,
    find_root_passphrase,
)


def written(path, data, mode=0o600):
    path.write_bytes(data)
    path.chmod(mode)
    return str(path)


def test_the_file_comes_first(tmp_path):
    environ = {
        "VTPM_CA_PASSPHRASE_FILE": written(tmp_path / "p", b"from the file\n"),
        "VTPM_CA_PASSPHRASE": "from the text",
        "CREDENTIALS_DIRECTORY": str(tmp_path),
    }
    written(tmp_path / "vtpm-ca-passphrase", b"from systemd")
    assert find_passphrase(environ) == b"from the file"
    del environ["VTPM_CA_PASSPHRASE_FILE"]
    assert find_passphrase(environ) == b"from the text"
    del environ["VTPM_CA_PASSPHRASE"]
    assert find_passphrase(environ) == b"from systemd"


@pytest.mark.parametrize(
    ("content", "passphrase"),
    [
        (b"a", b"a"),
        (b"a\n", b"a"),
        (b"a\r\n", b"a"),
        (b"a\n\n", b"a\n"),
        (b" a ", b" a "),
        (b"\xff", b"\xff"),
    ],
)
def test_one_line_end_does_not_count(tmp_path, content, passphrase):
    assert find_passphrase({"VTPM_CA_PASSPHRASE_FILE": written(tmp_path / "p", content)}) == passphrase


@pytest.mark.parametrize("environ", [{}, {"VTPM_CA_PASSPHRASE": ""}, {"VTPM_CA_PASSPHRASE_FILE": ""}])
def test_without_a_passphrase_the_remedy_is_named(environ):
    with pytest.raises(BadRequest) as caught:
        find_passphrase(environ)
    assert caught.value.code == "passphrase-missing"
    assert "VTPM_CA_PASSPHRASE_FILE" in caught.value.remedy


def test_a_missing_credential_is_no_passphrase(tmp_path):
    with pytest.raises(BadRequest) as caught:
        find_passphrase({"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert caught.value.code == "passphrase-missing"


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o620, 0o601, 0o666])
def test_a_file_for_everybody_is_refused(tmp_path, mode):
    with pytest.raises(BadRequest) as caught:
        find_passphrase({"VTPM_CA_PASSPHRASE_FILE": written(tmp_path / "p", b"secret", mode)})
    assert caught.value.code == "permissions"
    assert "chmod" in caught.value.remedy


def test_a_group_may_read_it_as_systemd_has_it(tmp_path):
    written(tmp_path / "vtpm-ca-passphrase", b"secret", 0o440)
    assert find_passphrase({"CREDENTIALS_DIRECTORY": str(tmp_path)}) == b"secret"


@pytest.mark.parametrize("content", [b"", b"\n", b"x" * 4097])
def test_empty_and_endless_files_are_refused(tmp_path, content):
    with pytest.raises(BadRequest) as caught:
        find_passphrase({"VTPM_CA_PASSPHRASE_FILE": written(tmp_path / "p", content)})
    assert caught.value.code == "passphrase-missing"


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(BadRequest) as caught:
            find_passphrase({"VTPM_CA_PASSPHRASE_FILE": str(path)})
        assert str(path) in str(caught.value)


def test_a_pipe_will_do(tmp_path):
    read, write = os.pipe()
    os.write(write, b"through a pipe\n")
    os.close(write)
    assert find_passphrase({"VTPM_CA_PASSPHRASE_FILE": f"/dev/fd/{read}"}) == b"through a pipe"
    os.close(read)


def test_a_pipe_is_read_once_and_serves_all_who_ask():
    """As `VTPM_CA_PASSPHRASE_FILE=<(command)` of a shell gives it."""
    reader, writer = os.pipe()
    os.fchmod(reader, 0o600)
    os.write(writer, b"through a pipe\n")
    os.close(writer)
    environ = {"VTPM_CA_PASSPHRASE_FILE": f"/dev/fd/{reader}"}
    assert find_passphrase(environ) == b"through a pipe"
    assert find_root_passphrase(environ) == b"through a pipe"
    assert find_passphrase(environ) == b"through a pipe"
    os.close(reader)


OLD = {"VTPM_CA_PASSPHRASE": "old"}
NEW = {**OLD, "VTPM_CA_NEW_PASSPHRASE": "new"}


class TestTheNewOne:
    def test_it_is_looked_for_like_the_old_one(self, tmp_path):
        written(tmp_path / "vtpm-ca-new-passphrase", b"from systemd")
        environ = {**OLD, "CREDENTIALS_DIRECTORY": str(tmp_path)}
        assert find_new_passphrase(environ) == NewPassphrase(b"old", b"from systemd")
        environ["VTPM_CA_NEW_PASSPHRASE"] = "from the text"
        assert find_new_passphrase(environ).new == b"from the text"
        environ["VTPM_CA_NEW_PASSPHRASE_FILE"] = written(tmp_path / "p", b"from the file\n")
        assert find_new_passphrase(environ).new == b"from the file"

    def test_the_old_one_is_none(self):
        with pytest.raises(BadRequest) as caught:
            find_new_passphrase(OLD)
        assert caught.value.code == "passphrase-missing"
        assert "VTPM_CA_NEW_PASSPHRASE_FILE" in caught.value.remedy

    def test_it_does_not_show(self):
        assert "old" not in repr(find_new_passphrase(NEW))
        assert "b'new'" not in repr(find_new_passphrase(NEW))

    @pytest.mark.parametrize(
        ("root", "found"),
        [
            ({}, NewPassphrase(b"old", b"new")),
            ({"VTPM_CA_ROOT_PASSPHRASE": "own"}, None),
            ({"VTPM_CA_NEW_ROOT_PASSPHRASE": "later"}, NewPassphrase(b"old", b"later")),
            (
                {"VTPM_CA_ROOT_PASSPHRASE": "own", "VTPM_CA_NEW_ROOT_PASSPHRASE": "later"},
                NewPassphrase(b"own", b"later"),
            ),
        ],
    )
    def test_of_the_root(self, root, found):
        assert find_new_root_passphrase({**NEW, **root}, needed=False) == found

    def test_a_root_with_its_own_does_not_get_that_of_the_others(self):
        with pytest.raises(BadRequest) as caught:
            find_new_root_passphrase({**NEW, "VTPM_CA_ROOT_PASSPHRASE": "own"}, needed=True)
        assert "VTPM_CA_NEW_ROOT_PASSPHRASE" in caught.value.remedy
