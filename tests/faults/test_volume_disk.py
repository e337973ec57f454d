"""A disk that fails, that lies, or whose machine is killed: a clear error, and a committed state when it opens again.

Failures are put under `FileDisk` where it calls the kernel. One is the kernel's own: RLIMIT_FSIZE makes it refuse
writes beyond an offset, after a short write up to it, in a file of any size. A disk that is full can be had without
root only where users may mount a tmpfs of their own, so ENOSPC is one of the errors that are put there.
"""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import volume_traces as v

from vtpm.volume import (
    VolumeClosed,
    VolumeDamaged,
    VolumeError,
    VolumeReadError,
    VolumeWriteError,
    Write,
    make_volume,
    open_volume,
)
from vtpm.volume.opening import open_disk

OLD = {20: b"small", 21: b"x" * 3000, 22: b"beside the first"}
CHANGES = {20: b"changed", 21: None, 23: b"y" * 9000}
NEW = {20: b"changed", 22: b"beside the first", 23: b"y" * 9000}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "disk"
    make_volume(made, v.SECRET, v.SALT, size=96 << 10)
    with open_volume(made, v.SECRET) as volume:
        volume.transaction(OLD)
    return made


def contents(path: Path) -> dict[int, bytes | None]:
    with open_volume(path, v.SECRET) as volume:
        return {inode: volume.read(inode) for inode in volume.inodes()}


class FailingCall:
    """One of the kernel's calls on the volume's file: honest until its turn, then it fails until `mend`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, path: Path) -> None:
        self._real, self._path = getattr(os, name), path
        self.calls, self.turn, self.error, self.short = 0, 0, errno.EIO, 0
        monkeypatch.setattr(os, name, self)

    def arm(self, turn: int, error: int, *, short: int = 0) -> None:
        self.calls, self.turn, self.error, self.short = 0, turn, error, short

    def mend(self) -> None:
        self.turn = 0

    def __call__(self, descriptor: int, *arguments: object) -> object:
        if not os.path.samestat(os.fstat(descriptor), self._path.stat()):
            return self._real(descriptor, *arguments)
        self.calls += 1
        if self.turn and self.calls >= self.turn:
            if self.short and self.calls == self.turn:
                data, offset = arguments
                return self._real(descriptor, data[: self.short], offset)
            raise OSError(self.error, os.strerror(self.error))
        return self._real(descriptor, *arguments)


def failing_commits(path: Path, call: FailingCall, error: int, short: int = 0) -> list[dict]:
    """Fail a commit at each of its calls in turn; what was there when the disk worked again."""
    before, found = path.read_bytes(), []
    for turn in range(1, 100):
        path.write_bytes(before)
        call.mend()
        volume = open_volume(path, v.SECRET)
        call.arm(turn, error, short=short)
        try:
            volume.transaction(CHANGES)
        except VolumeWriteError as failure:
            seen = str(failure)
        else:
            volume.close()
            break
        assert os.strerror(error) in seen
        with pytest.raises(VolumeClosed):
            volume.read(20)
        with pytest.raises(VolumeClosed):
            volume.transaction({20: b"again"})
        call.mend()
        found.append(contents(path))
    assert len(found) > 1
    assert all(content in (OLD, NEW) for content in found)
    assert found == sorted(found, key=lambda content: content == NEW), "an old state after a new one"
    call.mend()
    assert contents(path) == NEW
    return found


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EFBIG])
def test_a_write_that_fails_closes_the_volume_with_the_state_before_or_after(path, monkeypatch, error):
    found = failing_commits(path, FailingCall(monkeypatch, "pwrite", path), error)
    assert OLD in found
    assert NEW in found


@pytest.mark.parametrize("short", [1, 127, 128, 300, 512])
def test_a_short_write_before_the_error_does_no_more_harm(path, monkeypatch, short):
    assert OLD in failing_commits(path, FailingCall(monkeypatch, "pwrite", path), errno.ENOSPC, short)


def test_a_flush_that_fails_closes_the_volume_with_the_state_before_or_after(path, monkeypatch):
    assert OLD in failing_commits(path, FailingCall(monkeypatch, "fsync", path), errno.EIO)


def test_short_writes_alone_are_continued(path, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:100], offset))
    with open_volume(path, v.SECRET) as volume:
        volume.transaction(CHANGES)
    assert contents(path) == NEW


def test_short_reads_alone_are_continued(path, monkeypatch):
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: real(fd, min(size, 100), offset))
    assert contents(path) == OLD


def test_a_write_that_takes_nothing_is_an_error_and_no_endless_loop(path, monkeypatch):
    volume = open_volume(path, v.SECRET)
    calls = iter([0] * 100)
    monkeypatch.setattr(os, "pwrite", lambda *_: next(calls, None))
    with pytest.raises(VolumeWriteError):
        volume.transaction(CHANGES)


def test_a_read_that_fails_is_a_read_error_and_changes_nothing(path, monkeypatch):
    before = path.read_bytes()
    call = FailingCall(monkeypatch, "pread", path)
    for turn in range(1, 200):
        call.arm(turn, errno.EIO)
        try:
            open_volume(path, v.SECRET).close()
        except VolumeReadError as failure:
            seen = str(failure)
        else:
            break
        assert os.strerror(errno.EIO) in seen
        assert path.read_bytes() == before
    assert turn > 5
    call.mend()
    with open_volume(path, v.SECRET) as volume:
        call.arm(1, errno.EIO)
        with pytest.raises(VolumeReadError):
            volume.read(20)
        with pytest.raises(VolumeReadError):
            volume.transaction(CHANGES)
        call.mend()
        assert volume.read(20) == OLD[20]
        volume.transaction(CHANGES)
    assert contents(path) == NEW


def test_a_file_that_is_cut_off_while_it_is_open_is_an_error(path):
    before = path.read_bytes()
    with open_volume(path, v.SECRET) as volume:
        os.truncate(path, 1024)
        with pytest.raises(VolumeReadError, match="cut off"):
            volume.read(21)
        with pytest.raises(VolumeReadError, match="cut off"):
            volume.transaction(CHANGES)
        assert path.stat().st_size == 1024
    path.write_bytes(before)
    assert contents(path) == OLD


LIMITED = """
import resource, sys
from pathlib import Path
from vtpm.volume import VolumeWriteError, open_volume
volume = open_volume(Path(sys.argv[1]), bytes.fromhex(sys.argv[2]))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    volume.transaction({20: b"changed", 21: None, 23: b"y" * 9000})
except VolumeWriteError as error:
    print(error)
else:
    print("done")
"""


def test_writes_that_the_kernel_refuses_close_the_volume_with_a_state_that_holds(path):
    before, seen = path.read_bytes(), set()
    for limit in (700, 20_000, 40_000, 96 << 10):
        path.write_bytes(before)
        done = subprocess.run(
            [sys.executable, "-c", LIMITED, path, v.SECRET.hex(), str(limit)],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            cwd=path.parent,
        )
        seen.add(os.strerror(errno.EFBIG) in done.stdout)
        assert contents(path) in ((NEW,) if done.stdout == "done\n" else (OLD, NEW))
    assert seen == {True, False}


COMMITTER = """
import sys
from pathlib import Path
from vtpm.volume import open_volume
with open_volume(Path(sys.argv[1]), bytes.fromhex(sys.argv[2])) as volume:
    number = int(volume.read(30) or b"0")
    while True:
        number += 1
        volume.transaction({30: b"%d" % number, 31 + number % 5: b"%d" % number * (number % 700)})
        print(number, volume.counter, flush=True)
"""


def killed_committers(path: Path, kills: int, rng: random.Random) -> int:
    """Kill a process that commits, again and again, and look at what it leaves; how many commits were reported."""
    reported, counter = 0, 0
    for _ in range(kills):
        with subprocess.Popen(
            [sys.executable, "-c", COMMITTER, path, v.SECRET.hex()],
            stdout=subprocess.PIPE,
            text=True,
            cwd=path.parent,
        ) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline()]  # it commits now
            time.sleep(rng.uniform(0, 0.05))  # a moment of chance is what is tested
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.readlines()
        whole = [line.split() for line in lines if line.endswith("\n")]
        assert whole, "it committed nothing"
        assert int(whole[0][0]) in (reported + 1, reported + 2), "a commit was lost"
        reported, last = int(whole[-1][0]), int(whole[-1][1])
        with open_volume(path, v.SECRET) as volume:
            number = int(volume.read(30) or b"")
            assert number in (reported, reported + 1), (
                "a reported commit was lost, or one that was never made"
            )
            assert volume.counter == last + number - reported > counter
            assert volume.read(31 + number % 5) == b"%d" % number * (number % 700)
            reported, counter = number, volume.counter
    return reported


def new_for_committers(tmp_path: Path) -> Path:
    made = tmp_path / "disk"
    # The counter's beginning is random; zeros here so that it does not wrap.
    make_volume(made, v.SECRET, v.SALT, size=96 << 10, entropy=bytes, fill=False)
    return made


def test_kill_9_loses_no_commit_that_was_reported(tmp_path):
    assert killed_committers(new_for_committers(tmp_path), 4, v.chance(1)) >= 4


@pytest.mark.slow
def test_kill_9_hundreds_of_times_loses_no_commit_that_was_reported(tmp_path, capsys):
    start = time.monotonic()
    commits = killed_committers(new_for_committers(tmp_path), 150, v.chance(2))
    with capsys.disabled():
        print(f"\n{commits} commits, killed 150 times, in {time.monotonic() - start:.0f} s")


def honest() -> tuple[v.TraceDisk, random.Random]:
    """A disk in memory with small files that share data blocks."""
    rng = v.chance(3)
    disk = v.new_disk("default", rng)
    with v.opened(disk, rng) as volume:
        volume.transaction({inode: b"file %d" % inode for inode in range(20, 30)} | {30: b"z" * 2000})
    return disk, rng


def test_bytes_changed_while_the_volume_is_open_are_not_read():
    disk, rng = honest()
    volume, original = v.opened(disk, rng), bytes(disk.data)
    for inode in volume.inodes():
        for extent in volume.state.locations[inode].data:
            for block in extent.blocks():
                at = block * 128 + rng.randrange(128)
                disk.data[at] ^= 1 << rng.randrange(8)
                with pytest.raises(VolumeDamaged) as refused:
                    volume.read(inode)
                assert refused.value.part == "data block"
                assert refused.value.block is not None
                disk.data[at] = original[at]
    assert volume.read(20) == b"file 20"


def test_a_neighbour_changed_on_the_disk_is_not_given_a_new_digest():
    """A transaction computes digests anew for blocks that others live in: what they hold then must be verified."""
    refused = 0
    disk, rng = honest()
    volume = v.opened(disk, rng)
    blocks = [volume.state.locations[inode].data[0].start for inode in range(20, 30)]
    for number, block in enumerate(blocks):
        at = block * 128 + 50
        disk.data[at] ^= 0x10
        before = bytes(disk.data)
        others = [other for other in range(20, 30) if other != 20 + number]
        for other in others:
            try:
                volume.transaction({other: None})
            except VolumeDamaged as error:
                assert error.part == "data block"  # noqa: PT017 - others succeed
                assert disk.data == before
                refused += 1
            else:
                disk, rng = honest()
                volume = v.opened(disk, rng)
                disk.data[at] ^= 0x10
                before = bytes(disk.data)
        with pytest.raises(VolumeDamaged):
            v.opened(v.TraceDisk(disk.data), rng)
        disk.data[at] ^= 0x10
        assert volume.read(20 + number) == b"file %d" % (20 + number)
    assert refused >= 10, "no two files share a data block; the test shows nothing"


class LyingDisk(v.TraceDisk):
    """A disk that flips a bit in one of its answers, and tells the truth before and after."""

    def __init__(self, data: bytes, turn: int, rng: random.Random) -> None:
        super().__init__(data)
        self.turn, self.rng, self.armed, self.reads = turn, rng, False, 0

    def read(self, offset: int, size: int) -> bytes:
        data = bytearray(super().read(offset, size))
        if self.armed:
            self.reads += 1
            if self.reads == self.turn and data:
                data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
        return bytes(data)


def test_one_lie_during_a_transaction_is_refused_or_of_no_matter():
    original, rng = honest()
    refused = 0
    for turn in range(1, 60):
        for _ in range(4):
            disk = LyingDisk(bytes(original.data), turn, rng)
            volume = open_disk(disk, v.SECRET, entropy=rng.randbytes)
            before = v.content_of(volume)
            changes = {20: Write(b"changed"), 25: None, 40: Write(b"n" * 1500)}
            disk.armed = True
            try:
                volume.transaction(changes)
            except VolumeDamaged:
                refused += 1
                expected = before
            else:
                expected = v.after(before, changes)
            disk.armed = False
            assert v.content_of(volume) == expected
            assert v.content_of(v.opened(v.TraceDisk(disk.data), rng)) == expected
        if disk.reads < turn:
            break
    assert turn > 3
    assert refused > 3


def test_a_disk_swapped_for_an_older_one_while_open_is_refused():
    disk, rng = honest()
    older = bytes(disk.data)
    volume = v.opened(disk, rng)
    volume.transaction({20: b"newer", 21: None})
    disk.data[:] = older
    with pytest.raises(VolumeDamaged):
        volume.read(20)
    with pytest.raises(VolumeError):
        volume.transaction({22: b"on top of the older"})
    assert disk.data == older
