import fcntl
import hashlib
import os
import signal
import stat
import threading
from pathlib import Path

import pytest
import structlog
from forked import SCRIPT

from ca_service.collateral import CollateralFolder, items_of
from ca_service.collateral import folder as module
from ca_service.evidence.snp import Collateral
from ca_service.judgment import Unavailable

GENOA = "genoa-v5-vcek-routex/vcek.der"
MILAN = "milan-v2-vcek-azure/vcek.der"
CRL = "crl/ark-genoa-2022-10-31.der"


class Clock:
    def __init__(self, value):
        self.value = value

    def __call__(self):
        return self.value


@pytest.fixture
def item(genuine):
    def of(name):
        (found,) = items_of(Collateral.of_file(genuine(name)))
        return found

    return of


def held(folder):
    return {item.name for item in items_of(folder.current())}


def test_a_missing_folder_is_an_empty_bundle(folder):
    assert folder.current() == Collateral()
    assert folder.files() == ([], [])
    assert not folder.path.exists()


def test_what_is_added_is_there_for_all(folder, item):
    things = [item(GENOA), item(CRL)]
    before = folder.current()
    added = folder.add(things)
    assert (set(added.written), added.present) == ({thing.name for thing in things}, ())
    assert held(folder) == held(CollateralFolder(folder.path)) == set(added.written)
    again = folder.add([*things, item(MILAN), item(MILAN)])
    assert (again.written, set(again.present)) == ((item(MILAN).name,), set(added.written))
    assert len(held(folder)) == 3
    assert before == Collateral()
    for path in folder.path.iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() in path.name
        assert path.stat().st_mode & 0o777 == 0o644


def test_strangers_are_not_read(folder, item, genuine):
    folder.add([item(GENOA)])
    (folder.path / "milan.der").write_bytes(genuine(MILAN))
    (folder.path / "notes").mkdir()
    (folder.path / f"{module.TEMPORARY}{'0' * 16}").write_bytes(genuine(MILAN))
    assert held(folder) == {item(GENOA).name}
    stored, strangers = folder.files()
    assert [file.name for file in stored] == [item(GENOA).name]
    assert strangers == ["milan.der", "notes"]


def test_what_only_has_a_name_as_if_being_written_is_left_alone_and_reported(folder, item):
    folder.path.mkdir()
    names = [f"{module.TEMPORARY}{tail}" for tail in ("0" * 16, "1" * 16, "2" * 16, "mine")]
    (folder.path / names[0]).mkdir()
    (folder.path / names[0] / "kept").touch()
    (folder.path / names[1]).symlink_to(names[0])
    os.mkfifo(folder.path / names[2])
    (folder.path / names[3]).touch()
    assert folder.add([item(GENOA)]).written == (item(GENOA).name,)
    assert folder.files()[1] == names
    assert (folder.path / names[0] / "kept").exists()


def test_a_left_over_that_cannot_be_removed_stops_nothing(folder, item, monkeypatch):
    folder.path.mkdir()
    (folder.path / f"{module.TEMPORARY}{'0' * 16}").touch()

    def unlink(path, **_options):
        raise PermissionError(1, "not permitted", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", unlink)
        patched.setattr(CollateralFolder, "_write", lambda _folder, items: len(items))
        assert folder.add([item(GENOA)]).written == (item(GENOA).name,)


def test_another_writer_is_not_waited_for_without_end(folder, item):
    folder.path.mkdir()
    clock, waits = Clock(0.0), []

    def sleep(seconds):
        waits.append(seconds)
        clock.value += seconds

    waiting = CollateralFolder(folder.path, monotonic=clock, sleep=sleep)
    other = os.open(folder.path, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(Unavailable, match="another process has been writing") as error:
        waiting.add([item(GENOA)])
    assert error.value.remedy
    assert 9.9 < sum(waits) < 10.2
    assert not list(folder.path.iterdir())
    waiting = CollateralFolder(
        folder.path, monotonic=clock, sleep=lambda _s: fcntl.flock(other, fcntl.LOCK_UN)
    )
    assert waiting.add([item(GENOA)]).written == (item(GENOA).name,)
    os.close(other)


def test_a_change_within_one_tick_of_the_clock_is_seen(folder, item, monkeypatch):
    """Time stamps are coarse: here the folder's never change at all, as if everything happened in one tick."""
    folder.path.mkdir()
    tick = folder.path.stat().st_mtime_ns
    mark = module.mark_of
    monkeypatch.setattr(module, "mark_of", lambda s: (tick, tick) if stat.S_ISDIR(s.st_mode) else mark(s))
    wall = Clock(tick / 1e9)
    watching = CollateralFolder(folder.path, wall=wall)
    for passed, name in ((0, GENOA), (0.5, MILAN), (1.9, CRL)):
        folder.add([item(name)])
        wall.value = tick / 1e9 + passed
        assert item(name).name in held(watching)


def test_the_folder_is_not_read_again_while_it_is_as_it_was(folder, item, monkeypatch):
    folder.add([item(GENOA)])
    wall, monotonic = Clock(folder.path.stat().st_ctime + 10), Clock(0.0)
    settled = CollateralFolder(folder.path, wall=wall, monotonic=monotonic)
    first = settled.current()
    looked = []
    listed = module.listed
    monkeypatch.setattr(module, "listed", lambda path: looked.append(path) or listed(path))
    for _ in range(3):
        assert settled.current() is first
    assert looked == []
    monotonic.value = 100.0
    assert settled.current() is first
    assert looked == [folder.path]
    folder.add([item(MILAN)])
    assert len(settled.current().leaves) == 2


def test_only_new_files_are_read(folder, item, monkeypatch):
    folder.add([item(GENOA), item(CRL)])
    folder.current()
    read = []
    content = module.content_of
    monkeypatch.setattr(
        module, "content_of", lambda path, most: read.append(path.name) or content(path, most)
    )
    CollateralFolder(folder.path).add([item(MILAN)])
    read.clear()
    assert len(folder.current().leaves) == 2
    assert read == [item(MILAN).name]


def test_a_file_that_was_changed_in_place_is_seen_in_time(folder, item):
    folder.add([item(GENOA), item(MILAN)])
    wall, monotonic = Clock(folder.path.stat().st_ctime + 10), Clock(0.0)
    settled = CollateralFolder(folder.path, wall=wall, monotonic=monotonic)
    assert len(settled.current().leaves) == 2
    (folder.path / item(GENOA).name).write_bytes(b"no certificate")
    monotonic.value = 61.0
    assert [leaf.der for leaf in settled.current().leaves] == [item(MILAN).der]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(bytes(2 << 20)),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
        lambda path: (path.unlink(), os.mkfifo(path)),
    ],
    ids=["cut", "huge", "directory", "link", "pipe"],
)
class TestDamage:
    def test_a_leaf_is_left_out(self, folder, item, damage):
        folder.add([item(GENOA), item(MILAN)])
        damage(folder.path / item(GENOA).name)
        assert held(folder) == {item(MILAN).name}

    def test_with_a_list_the_last_good_value_stays(self, folder, item, damage):
        folder.add([item(GENOA), item(CRL)])
        good = folder.current()
        damage(folder.path / item(CRL).name)
        folder.add([item(MILAN)])
        assert folder.current() is good
        fresh = CollateralFolder(folder.path)
        with pytest.raises(Unavailable, match="damaged"):
            fresh.current()
        if not (folder.path / item(CRL).name).is_dir():
            assert folder.add([item(CRL)]).written == (item(CRL).name,)
            assert held(folder) == held(fresh) == {item(x).name for x in (GENOA, MILAN, CRL)}


def test_a_list_that_was_taken_away_is_gone(folder, item):
    folder.add([item(GENOA), item(CRL)])
    assert folder.current().crls
    (folder.path / item(CRL).name).unlink()
    assert not folder.current().crls


def test_a_bundle_that_was_there_is_not_given_up(folder, item):
    folder.add([item(CRL)])
    good = folder.current()
    folder.path.rename(folder.path.with_name("elsewhere"))
    with structlog.testing.capture_logs() as logs:
        assert [folder.current() is good for _ in range(3)] == [True] * 3
    assert [(line["log_level"], "cannot be read" in line["reason"]) for line in logs] == [("warning", True)]


def test_the_path_is_a_file(folder, item):
    folder.path.write_bytes(b"")
    for call in (folder.current, folder.files, lambda: folder.add([item(GENOA)])):
        with pytest.raises(Unavailable):
            call()


def test_nothing_is_added_if_the_disk_is_full(folder, item, monkeypatch):
    folder.add([item(GENOA)])
    flush, count = os.fsync, []

    def full(descriptor):
        count.append(descriptor)
        if len(count) == 2:
            raise OSError(28, "No space left on device")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable, match="No space"):
        folder.add([item(MILAN), item(CRL)])
    monkeypatch.undo()
    assert [path.name for path in folder.path.iterdir()] == [item(GENOA).name]


def test_contents_are_on_disk_before_they_have_a_name_and_the_name_before_add_returns(
    folder, item, monkeypatch
):
    folder.path.mkdir()
    events = []
    flush, rename = os.fsync, Path.replace

    def replace(path, target):
        events.append("rename")
        return rename(path, target)

    def fsync(descriptor):
        events.append("directory" if Path(f"/proc/self/fd/{descriptor}").resolve().is_dir() else "file")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    folder.add([item(MILAN), item(CRL)])
    assert events == ["file", "file", "rename", "rename", "directory"]


def test_a_kill_leaves_at_most_a_file_that_is_cleaned_away(folder, item, genuine, tmp_path, forks):
    source = tmp_path / "source.der"
    source.write_bytes(genuine(MILAN))
    program = f"""
import os, signal
from pathlib import Path
from ca_service.collateral import CollateralFolder, items_of
from ca_service.evidence.snp import Collateral
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
CollateralFolder(Path({str(folder.path)!r})).add(items_of(Collateral.of_file(Path({str(source)!r}).read_bytes())))
"""
    folder.path.mkdir()
    done = forks.run(SCRIPT, (program,), env={})
    assert done.returncode == -signal.SIGKILL
    (left,) = folder.path.iterdir()
    assert left.name.startswith(module.TEMPORARY)
    assert (folder.current(), folder.files()) == (Collateral(), ([], []))
    folder.add([item(GENOA)])
    assert [path.name for path in folder.path.iterdir()] == [item(GENOA).name]


def test_many_add_and_read_at_the_same_time(folder, service):
    things = [items_of(Collateral.of_file(service.vcek(bytes([n]) * 64)))[0] for n in range(1, 9)]
    seen, failures = [], []

    def work(mine):
        try:
            for thing in mine:
                CollateralFolder(folder.path).add([thing])
                seen.append(thing.name in held(folder))
        except Exception as error:  # noqa: BLE001 - whatever it is, it must be seen
            failures.append(error)

    threads = [threading.Thread(target=work, args=(things[n % 4 :] + things[: n % 4],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (failures, set(seen)) == ([], {True})
    assert held(folder) == {thing.name for thing in things}
    assert len(list(folder.path.iterdir())) == 8


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_adds_belongs_to_the_owner_of_the_place(folder, item):
    os.chown(folder.path.parent, 12345, 12346)
    folder.add([item(GENOA)])
    for path in (folder.path, folder.path / item(GENOA).name):
        assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12346)
