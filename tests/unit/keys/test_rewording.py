"""Another passphrase for all keys: whole or not at all, whatever ends it and when."""

import os
import shutil
import stat
import sys
from pathlib import Path

import pytest

from ca_service.judgment import BadRequest, NotFound, Unavailable
from ca_service.keys import (
    NewPassphrase,
    Sealer,
    change_passphrase,
    files,
    load_authority,
    load_root,
    prepare_issuing,
)

from .conftest import NOW, PASSPHRASE

NEW = b"another horse and its battery"
CHANGE = NewPassphrase(PASSPHRASE, NEW)
KEYS = ("activation", "devid-default", "ek-default", "ephemeral-default", "log", "nonce")
STEPS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.chown")

pytestmark = pytest.mark.usefixtures("cheap")


def change(ca: Path, **options):
    return change_passphrase(ca, CHANGE, os.urandom, **({"root": CHANGE} | options))


def opens(ca: Path, passphrase: bytes) -> bool:
    try:
        load_authority(ca, passphrase)
    except BadRequest as error:
        if error.code != "passphrase":
            raise
        return False
    return True


def root_opens(ca: Path, passphrase: bytes, key: Path | None = None) -> bool:
    try:
        load_root(ca, passphrase, key)
    except BadRequest as error:
        if error.code != "passphrase":
            raise
        return False
    return True


def secrets_of(ca: Path, passphrase: bytes) -> tuple:
    found = load_authority(ca, passphrase)
    return found.nonce_key, found.activation_key, found.log_key.private_bytes_raw()


def content(ca: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with its mode, but for locks."""
    return {
        str(path.relative_to(ca)): (path.stat().st_mode, path.read_bytes())
        for path in ca.rglob("*")
        if path.is_file() and path.parent.name != "run"
    }


def assert_changed(ca: Path) -> None:
    assert (opens(ca, PASSPHRASE), opens(ca, NEW)) == (False, True)
    assert (root_opens(ca, PASSPHRASE), root_opens(ca, NEW)) == (False, True)
    assert sorted(path.name for path in ca.iterdir() if path.name.startswith((".", "private"))) == ["private"]
    assert stat.S_IMODE((ca / "private").stat().st_mode) == 0o700
    for name in KEYS:
        assert stat.S_IMODE((ca / "private" / f"{name}.sealed").stat().st_mode) == 0o600
    assert stat.S_IMODE((ca / "offline" / "root.sealed").stat().st_mode) == 0o600


def test_all_keys_are_what_they_were_under_another_passphrase(ca):
    before, secrets = content(ca), secrets_of(ca, PASSPHRASE)
    done = change(ca)
    assert {path.name for path in done.changed} == {f"{name}.sealed" for name in (*KEYS, "root")}
    assert (done.kept, done.root_kept) == ((), None)
    assert_changed(ca)
    assert secrets_of(ca, NEW) == secrets
    after = content(ca)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {
        *(f"private/{name}.sealed" for name in KEYS),
        "offline/root.sealed",
    }


def test_once_more_does_nothing(ca):
    change(ca)
    before = content(ca)
    done = change(ca)
    assert (done.changed, len(done.kept)) == ((), len(KEYS) + 1)
    assert content(ca) == before


def killed_before(step: int, ca: Path) -> bool:
    """Change the passphrase in a process that ends before its file step of this number; whether it got to the end."""
    pid = os.fork()
    if pid == 0:
        left = step

        def watch(event: str, arguments: tuple) -> None:
            nonlocal left
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_ACCMODE
            if event in STEPS or writes:
                if left == 0:
                    os._exit(9)
                left -= 1

        code = 8
        try:
            sys.addaudithook(watch)
            change(ca)
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_killed_at_any_point_it_opens_with_the_one_or_the_other_and_can_be_ended(ca, tmp_path):
    secrets, seen, step = secrets_of(ca, PASSPHRASE), set(), 0
    while True:
        copy = Path(shutil.copytree(ca, tmp_path / f"copy-{step}", copy_function=shutil.copy2))
        whole = killed_before(step, copy)
        opened = [passphrase for passphrase in (PASSPHRASE, NEW) if opens(copy, passphrase)]
        assert len(opened) == 1, step
        assert secrets_of(copy, opened[0]) == secrets
        assert root_opens(copy, PASSPHRASE) != root_opens(copy, NEW)
        seen.add((opened[0], (copy / "private").exists()))
        change(copy)
        assert_changed(copy)
        shutil.rmtree(copy)
        if whole:
            break
        step += 1
    assert step > 20
    # Also between the two renames.
    assert seen == {(PASSPHRASE, True), (NEW, False), (NEW, True)}


def test_the_next_to_make_keys_ends_what_was_interrupted(ca):
    """With the passphrase that the CA opens with, which is the new one from the first rename on."""
    change(ca)
    (ca / "private").rename(ca / "private.next")
    shutil.copytree(ca / "private.next", ca / "private.former")
    options = {"passphrase": NEW, "clock": lambda: NOW, "entropy": os.urandom}
    prepare_issuing(ca, load_root(ca, NEW), **options)
    assert {path.name for path in ca.glob("private*")} == {"private"}
    assert len(load_authority(ca, NEW).issuers) == 5


def test_the_wrong_passphrase_changes_nothing(ca):
    before = content(ca)
    for old in (b"wrong", NEW[:-1]):
        with pytest.raises(BadRequest) as error:
            change_passphrase(ca, NewPassphrase(old, NEW), os.urandom)
        assert (error.value.code, error.value.path) == ("passphrase", "passphrase")
    assert content(ca) == before


@pytest.mark.parametrize("root", [None, NewPassphrase(b"its own", b"its own")])
def test_the_new_one_must_be_another_one(ca, root):
    before = content(ca)
    same = NewPassphrase(PASSPHRASE, PASSPHRASE) if root is None else CHANGE
    with pytest.raises(BadRequest, match="the new one is the old one") as error:
        change_passphrase(ca, same, os.urandom, root=root)
    assert error.value.code == "passphrase"
    assert content(ca) == before


def test_the_new_one_must_not_be_empty(ca):
    before = content(ca)
    with pytest.raises(BadRequest, match="must not be empty"):
        change_passphrase(ca, NewPassphrase(PASSPHRASE, b""), os.urandom)
    assert content(ca) == before


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20] + b'AAAAAAAAAAAAAAAAA"}\n')


@pytest.mark.parametrize(
    "spoil",
    [
        lambda private: damaged(private / "log.sealed"),
        lambda private: (private / "notes").write_text("a text"),
        lambda private: (private / "folder").mkdir(mode=0o700),
        lambda private: (private / "ek-default.sealed").chmod(0o640),
        lambda private: (private / "link.sealed").symlink_to("nonce.sealed"),
        lambda private: private.chmod(0o750),
    ],
)
def test_what_cannot_be_sealed_anew_is_named_and_nothing_is_changed(ca, spoil):
    spoil(ca / "private")
    for path in (ca / "private").iterdir():
        if path.name == "notes":
            path.chmod(0o600)
    before = content(ca)
    with pytest.raises(BadRequest) as error:
        change(ca)
    assert str(ca / "private") in error.value.path
    assert content(ca) == before


def test_a_key_that_was_put_aside_goes_along(ca):
    """A try of a rollover that died has left it; whose it is, nobody knows."""
    left = ca / "private" / "ek-default.g2.sealed.left-0123"
    files.write_new(
        left, Sealer(PASSPHRASE).seal(b"key", purpose="EK", entropy=os.urandom), files.PRIVATE_FILE
    )
    files.write_new(ca / "private" / ".log.sealed.new", b"half", files.PRIVATE_FILE)
    change(ca)
    assert Sealer(NEW).unseal(left.read_bytes(), purpose="EK") == b"key"
    assert_changed(ca)


def test_a_key_that_came_from_another_node_is_taken_up(ca):
    """That node has had its passphrase changed, and this one not yet."""
    path = ca / "private" / "ek-default.sealed"
    other = shutil.copytree(ca, ca.parent / "other")
    change(other)
    path.write_bytes((other / "private" / path.name).read_bytes())
    assert path in change(ca).kept
    assert_changed(ca)


class TestRoot:
    """The root's key is elsewhere, or has a passphrase of its own."""

    @pytest.fixture
    def medium(self, ca, tmp_path):
        (tmp_path / "medium").mkdir(mode=0o700)
        return Path(shutil.move(ca / "offline" / "root.sealed", tmp_path / "medium" / "root.sealed"))

    def test_on_a_medium_that_is_named(self, ca, medium):
        assert medium in change(ca, root_key=medium).changed
        assert (root_opens(ca, PASSPHRASE, medium), root_opens(ca, NEW, medium)) == (False, True)
        assert stat.S_IMODE(medium.stat().st_mode) == 0o600

    def test_on_a_medium_that_is_not_named(self, ca, medium):
        before = medium.read_bytes()
        change(ca)
        assert medium.read_bytes() == before
        # Brought later.
        assert change(ca, root_key=medium).changed == (medium,)

    def test_on_a_medium_that_is_not_there(self, ca, medium):
        before = content(ca)
        with pytest.raises(NotFound):
            change(ca, root_key=medium.with_name("other"))
        assert content(ca) == before

    def test_another_ca_s(self, ca, medium, config, perform, tmp_path):
        perform(tmp_path / "another", config)
        before = content(ca)
        with pytest.raises(BadRequest) as error:
            change(ca, root_key=tmp_path / "another" / "offline" / "root.sealed")
        assert error.value.code == "authority"
        assert content(ca) == before

    def test_under_another_passphrase(self, ca, medium):
        before = content(ca), medium.read_bytes()
        with pytest.raises(BadRequest) as error:
            change(ca, root_key=medium, root=NewPassphrase(b"wrong", NEW))
        assert error.value.code == "passphrase"
        assert (content(ca), medium.read_bytes()) == before

    def test_its_own_passphrase_is_kept(self, ca):
        key = ca / "offline" / "root.sealed"
        change_passphrase(ca, CHANGE, os.urandom, root=NewPassphrase(PASSPHRASE, b"the root's own"))
        before = key.read_bytes()
        for root in (None, NewPassphrase(NEW, b"third")):
            done = change_passphrase(ca, NewPassphrase(NEW, b"third"), os.urandom, root=root)
            assert done.root_kept == key
        assert key.read_bytes() == before
        assert root_opens(ca, b"the root's own")


def test_a_folder_that_cannot_be_replaced_stays(ca, monkeypatch):
    """One with a file system of its own, for example."""
    rename = Path.rename

    def busy(self, target):
        if self.name == "private":
            raise OSError(16, "Device or resource busy", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", busy)
    with pytest.raises(Unavailable, match="busy") as error:
        change(ca)
    assert error.value.code == "storage"
    assert opens(ca, PASSPHRASE)


def test_a_disk_that_keeps_something_else_is_not_trusted(ca, monkeypatch):
    write = files.write_new

    def lie(path, data, mode):
        write(path, data[:-1] + b" " if path.name == "log.sealed" else data, mode)

    monkeypatch.setattr(files, "write_new", lie)
    with pytest.raises(Unavailable, match="its disk fails"):
        change(ca)
    assert opens(ca, PASSPHRASE)
    assert not (ca / "private.next").exists()
