import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vtpm.volume import (
    InterimVolume,
    VolumeClosed,
    VolumeDamaged,
    VolumeError,
    VolumeKeyError,
    VolumeLocked,
    VolumeMissing,
    VolumeUnknown,
    VolumeWriteError,
    make_blank_disk,
    open_volume,
)
from vtpm.volume.interim_format import MAX_FILE

SECRET = bytes(range(32))
SALT = b"salt" * 8
ROOT = Path(__file__).parents[3]


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk"
    make_blank_disk(path, SALT)
    return path


@pytest.fixture
def filled(disk):
    """A volume with two files, closed."""
    with open_volume(disk, SECRET) as volume:
        volume.transaction({1: b"one", 1 << 32 | 0x100: b"state" * 100})
    return disk


def content(path, secret=SECRET):
    with open_volume(path, secret) as volume:
        return {inode: volume.read(inode) for inode in volume.inodes()}


def test_a_blank_disk_is_formatted_once(disk):
    with open_volume(disk, SECRET) as volume:
        assert (volume.created, volume.counter, volume.salt) == ("this-boot", 1, SALT)
        assert (volume.format, volume.inodes()) == ("interim/1", ())
        root = volume.root
    with open_volume(disk, SECRET) as volume:
        assert (volume.created, volume.counter, volume.salt, volume.root) == ("earlier", 1, SALT, root)


def test_transactions_change_several_files_and_count(disk):
    with open_volume(disk, SECRET) as volume:
        roots = [volume.root]
        for number, changes in enumerate(
            ({1: b"a", 2: b"b"}, {2: None, 3: b"", 4: b"d"}, {9: None}), start=2
        ):
            volume.transaction(changes)
            roots.append(volume.root)
            assert volume.counter == number
            assert volume.root == hashlib.sha256(disk.read_bytes()).digest()
        assert volume.inodes() == (1, 3, 4)
        assert [volume.read(i) for i in (1, 2, 3, 4)] == [b"a", None, b"", b"d"]
        assert len(set(roots)) == 4
    assert content(disk) == {1: b"a", 3: b"", 4: b"d"}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.dictionaries(
            st.integers(0, 2**64 - 1) | st.integers(0, 3), st.none() | st.binary(max_size=300), max_size=4
        ),
        max_size=4,
    )
)
def test_what_is_read_is_what_was_written(tmp_path, steps):
    path = tmp_path / "disk"
    path.unlink(missing_ok=True)
    make_blank_disk(path, SALT)
    expected = {}
    for changes in steps:
        with open_volume(path, SECRET) as volume:
            volume.transaction(changes)
        for inode, data in changes.items():
            if data is None:
                expected.pop(inode, None)
            else:
                expected[inode] = data
        assert content(path) == expected


def test_every_flipped_bit_is_noticed(filled):
    blob = filled.read_bytes()
    for position in range(len(blob)):
        damaged = bytearray(blob)
        damaged[position] ^= 1 << (position % 8)
        filled.write_bytes(damaged)
        with pytest.raises((VolumeDamaged, VolumeKeyError, VolumeUnknown)):
            open_volume(filled, SECRET)
        assert filled.read_bytes() == damaged
    filled.write_bytes(blob)
    assert content(filled)[1] == b"one"


def test_the_counter_and_the_salt_cannot_be_exchanged(filled):
    blob = filled.read_bytes()
    counter = 8 + 1 + len(SALT) + 7
    assert blob[counter] == 2
    filled.write_bytes(blob[:counter] + b"\x03" + blob[counter + 1 :])
    with pytest.raises(VolumeDamaged, match="authenticate"):
        open_volume(filled, SECRET)


def test_every_truncation_and_extension_is_noticed(filled):
    blob = filled.read_bytes()
    for size in range(len(blob)):
        filled.write_bytes(blob[:size])
        with pytest.raises((VolumeDamaged, VolumeUnknown)):
            open_volume(filled, SECRET)
    filled.write_bytes(blob + b"\0")
    with pytest.raises(VolumeDamaged):
        open_volume(filled, SECRET)


def test_every_truncated_creation_header_is_unknown(disk):
    header = disk.read_bytes()
    for data in [header[:size] for size in range(len(header))] + [header + b"\0"]:
        disk.write_bytes(data)
        with pytest.raises(VolumeUnknown):
            open_volume(disk, SECRET)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200), magic=st.sampled_from([b"", b"VTPMVOLC", b"VTPMVOLI"]))
def test_any_bytes_give_a_typed_error_and_stay_as_they_are(tmp_path, data, magic):
    path = tmp_path / "disk"
    path.write_bytes(magic + data)
    with pytest.raises(VolumeError):
        open_volume(path, SECRET)
    assert path.read_bytes() == magic + data


def test_another_key_is_told_from_damage_and_changes_nothing(filled):
    blob = filled.read_bytes()
    with pytest.raises(VolumeKeyError) as caught:
        open_volume(filled, SECRET[::-1])
    assert caught.value.rule == "store.key"
    assert filled.read_bytes() == blob
    assert content(filled)[1] == b"one"


def test_a_short_secret_formats_nothing(disk):
    header = disk.read_bytes()
    with pytest.raises(VolumeKeyError, match="at least 32"):
        open_volume(disk, SECRET[:31])
    assert disk.read_bytes() == header


def test_equal_content_under_the_same_key_never_looks_the_same(tmp_path):
    blobs = []
    for name in ("a", "b"):
        make_blank_disk(tmp_path / name, SALT)
        with open_volume(tmp_path / name, SECRET) as volume:
            volume.transaction({1: b"seed"})
        blobs.append((tmp_path / name).read_bytes())
    assert blobs[0] != blobs[1]
    assert b"seed" not in blobs[0]
    other = open_volume(tmp_path / "a", SECRET)
    assert SECRET.hex() not in repr(other)
    other.close()


def test_a_second_opener_is_kept_out(filled):
    with open_volume(filled, SECRET) as volume:
        with pytest.raises(VolumeLocked) as caught:
            open_volume(filled, SECRET)
        assert caught.value.exit_code == 3
        with pytest.raises(VolumeLocked):
            make_blank_disk(filled, SALT)
        volume.transaction({2: b"two"})
        with pytest.raises(VolumeLocked):
            open_volume(filled, SECRET)
    assert content(filled)[2] == b"two"


def test_a_failed_opening_leaves_no_lock(filled):
    with pytest.raises(VolumeKeyError):
        open_volume(filled, bytes(32))
    open_volume(filled, SECRET).close()


def test_missing_empty_and_foreign_files(tmp_path):
    with pytest.raises(VolumeMissing, match="No such file"):
        open_volume(tmp_path / "nothing", SECRET)
    with pytest.raises(VolumeMissing):
        open_volume(tmp_path / "no folder" / "disk", SECRET)
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "foreign").write_bytes(b"COCOONFS" + bytes(100))
    for name in ("empty", "foreign"):
        with pytest.raises(VolumeUnknown):
            open_volume(tmp_path / name, SECRET)
    (tmp_path / "huge").write_bytes(bytes((8 << 20) + 1))
    with pytest.raises(VolumeMissing, match="larger"):
        open_volume(tmp_path / "huge", SECRET)


def test_a_blank_disk_is_never_made_over_a_volume(filled, tmp_path):
    blob = filled.read_bytes()
    with pytest.raises(VolumeError, match="not blank"):
        make_blank_disk(filled, SALT)
    assert filled.read_bytes() == blob
    make_blank_disk(tmp_path / "again", SALT)
    make_blank_disk(tmp_path / "again", SALT[:16])
    for salt in (bytes(15), bytes(65)):
        with pytest.raises(VolumeUnknown, match="16 to 64"):
            make_blank_disk(tmp_path / "again", salt)


def test_what_is_too_large_changes_nothing(filled):
    with open_volume(filled, SECRET) as volume:
        before = (volume.counter, volume.root, filled.read_bytes())
        for changes in (
            {1: bytes(MAX_FILE + 1)},
            dict.fromkeys(range(65), b""),
            {i: bytes(MAX_FILE) for i in range(8)},
            {-1: b""},
            {1 << 64: b""},
        ):
            with pytest.raises(VolumeError):
                volume.transaction(changes)
            assert (volume.counter, volume.root, filled.read_bytes()) == before
        volume.transaction({1: bytes(MAX_FILE)})


def test_a_closed_volume_writes_nothing(filled):
    volume = open_volume(filled, SECRET)
    volume.close()
    volume.close()
    with pytest.raises(VolumeClosed):
        volume.transaction({1: b"late"})
    assert volume.read(1) == b"one"


@pytest.mark.parametrize("step", ["open", "fsync", "replace"])
def test_a_failing_disk_is_a_typed_error_that_closes_the_volume(filled, monkeypatch, step):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    volume = open_volume(filled, SECRET)
    with monkeypatch.context() as patched:
        target = Path if step == "replace" else os
        patched.setattr(target, step, fail)
        with pytest.raises(VolumeWriteError, match="No space left"):
            volume.transaction({1: b"new"})
    with pytest.raises(VolumeClosed):
        volume.transaction({1: b"new"})
    assert volume.read(1) == b"one"
    assert content(filled)[1] == b"one"


CRASH = """
import os, sys
from pathlib import Path
step, call, path, secret = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), bytes.fromhex(sys.argv[4])
from vtpm.volume import open_volume
import vtpm.volume.files
volume = open_volume(path, secret) if step != "format" else None
calls = 0
def before(owner, name):
    real = getattr(owner, name)
    def counted(*args, **kwargs):
        global calls
        calls += 1
        if calls == call:
            if name == "fsync":
                pass
            os.kill(os.getpid(), 9)
        return real(*args, **kwargs)
    setattr(owner, name, counted)
for owner, name in ((os, "open"), (os, "fdopen"), (os, "fsync"), (Path, "replace"), (os, "close")):
    before(owner, name)
if volume is None:
    open_volume(path, secret)
else:
    volume.transaction({1: b"after", 2: b"after"})
print("done")
"""


def crash(step, call, path):
    return subprocess.run(
        [sys.executable, "-c", CRASH, step, str(call), str(path), SECRET.hex()],
        cwd=ROOT,
        capture_output=True,
        check=False,
        timeout=60,
    )


def test_a_kill_at_any_step_of_a_transaction_leaves_the_state_before_or_after(disk):
    with open_volume(disk, SECRET) as volume:
        volume.transaction({1: b"before", 2: b"before"})
    blob = disk.read_bytes()
    seen = set()
    for call in range(1, 20):
        disk.write_bytes(blob)
        done = crash("transaction", call, disk)
        found = content(disk)
        assert found[1] == found[2]
        seen.add(found[1])
        if b"done" in done.stdout:
            assert found[1] == b"after"
            break
        assert done.returncode == -9
    else:
        raise AssertionError("the transaction never got to its end")
    assert call > 5
    assert seen == {b"before", b"after"}


def test_a_kill_at_any_step_of_formatting_can_be_started_over(disk):
    header = disk.read_bytes()
    formatted = set()
    for call in range(1, 20):
        disk.write_bytes(header)
        done = crash("format", call, disk)
        with open_volume(disk, SECRET) as volume:
            assert volume.counter == 1
            formatted.add(volume.created)
        if b"done" in done.stdout:
            break
        assert done.returncode == -9
    else:
        raise AssertionError("formatting never got to its end")
    assert formatted == {"this-boot", "earlier"}


def test_a_lock_does_not_outlive_a_killed_process(filled):
    code = (
        "import sys; from pathlib import Path; from vtpm.volume import open_volume;"
        "v = open_volume(Path(sys.argv[1]), bytes.fromhex(sys.argv[2])); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(filled), SECRET.hex()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as holder:
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(VolumeLocked):
            open_volume(filled, SECRET)
        holder.kill()
        holder.wait()
        assert content(filled)[1] == b"one"


def test_left_over_new_files_are_swept_away(filled):
    filled.with_name("disk.new").write_bytes(b"torn")
    with open_volume(filled, SECRET) as volume:
        volume.transaction({3: b"three"})
        assert isinstance(volume, InterimVolume)
    assert not filled.with_name("disk.new").exists()


def test_the_files_are_for_the_owner_only(filled):
    assert filled.stat().st_mode & 0o077 == 0
