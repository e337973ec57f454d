"""Opening: who may, what is refused, and what becomes of a transaction that a crash has left pending."""

import os
import subprocess
import sys

import pytest
from volumes import (
    FIRST,
    KEY,
    LAYOUTS,
    SALT,
    Broken,
    MemoryDisk,
    blank_memory,
    entropy,
    files_of,
    files_on,
    format_memory,
    image,
    open_memory,
    pattern,
)

from vtpm.volume import (
    DEFAULT,
    StaticHeader,
    Version,
    VolumeClosed,
    VolumeDamaged,
    VolumeError,
    VolumeKeyError,
    VolumeLocked,
    VolumeMissing,
    VolumePending,
    VolumeReadError,
    VolumeUnknown,
    VolumeUnsupported,
    make_blank_disk,
    make_volume,
    open_volume,
)

OLD, NEW = {FIRST: (0, b"old")}, {FIRST: (0, pattern(700)), FIRST + 1: (0, b"second")}
CHANGE = {FIRST: pattern(700), FIRST + 1: b"second"}


@pytest.fixture
def path(tmp_path):
    make_volume(tmp_path / "disk", KEY, SALT, size=64 << 10)
    with open_volume(tmp_path / "disk", KEY) as volume:
        volume.transaction({FIRST: b"old"})
    return tmp_path / "disk"


def test_a_volume_is_what_it_was_when_it_was_closed(path):
    with open_volume(path, KEY) as volume:
        assert files_of(volume) == OLD
        assert (volume.format, volume.salt, volume.created) == ("cocoonfs/1", SALT, "earlier")
        counter, root = volume.counter, volume.root
        volume.transaction({FIRST: b"older"})
        assert volume.counter == counter + 1
        assert volume.root != root


@pytest.mark.parametrize("secret", [b"k", bytes(31), KEY[:-1], KEY + b"\1", bytes(1000)])
@pytest.mark.parametrize("writable", [True, False])
def test_another_key_is_refused_and_changes_nothing(path, secret, writable):
    before = path.read_bytes()
    with pytest.raises(VolumeKeyError) as refused:
        open_volume(path, secret, writable=writable)
    assert refused.value.rule == "store.key"
    assert path.read_bytes() == before
    with open_volume(path, KEY) as volume:
        assert files_of(volume) == OLD


@pytest.mark.parametrize("name", LAYOUTS)
def test_another_key_is_told_from_damage_in_any_layout(name):
    disk = format_memory(256 << 10, LAYOUTS[name])
    before = bytes(disk.content)
    with pytest.raises(VolumeKeyError):
        open_memory(disk, b"another")
    assert disk.content == before


def test_another_key_does_not_touch_a_pending_transaction():
    disk = pending_disk()
    before = bytes(disk.content)
    with pytest.raises(VolumeKeyError):
        open_memory(disk, b"another")
    assert disk.content == before
    assert files_on(disk) == NEW


def test_missing_empty_and_foreign_files(tmp_path):
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    for name in ("missing", "directory", "fifo"):
        for writable in (True, False):
            with pytest.raises(VolumeMissing) as refused:
                open_volume(tmp_path / name, KEY, writable=writable)
            assert refused.value.rule == "store.missing"
    assert not (tmp_path / "missing").exists()
    foreign = {
        "empty": b"",
        "short": b"COCOONFS",
        "zeros": bytes(65_536),
        "random": pattern(65_536),
        "text": b"this is not a volume\n" * 1000,
        "magic": b"COCOONFS" + pattern(65_528),
        "creation magic": b"CCFSMKFS" + bytes(65_528),
        "a volume without its header": bytes(512) + image("default-aes128.svsm")[512:],
    }
    for name, content in foreign.items():
        (tmp_path / "foreign").write_bytes(content)
        for writable in (True, False):
            with pytest.raises((VolumeUnknown, VolumeUnsupported)) as refused:
                open_volume(tmp_path / "foreign", KEY, writable=writable)
            assert refused.value.rule in {"store.format", "store.unsupported"}, name
        assert (tmp_path / "foreign").read_bytes() == content, name


def test_a_file_without_the_right_to_open_it_is_missing(path):
    if os.geteuid() == 0:
        path = path.parent / ("n" * 300)  # nothing is forbidden to root; but a name may be too long
    else:
        path.chmod(0)
    with pytest.raises(VolumeMissing, match="cannot be opened"):
        open_volume(path, KEY)


@pytest.mark.parametrize("writable", [True, False])
def test_an_empty_key_is_refused_and_changes_nothing(tmp_path, writable):
    make_blank_disk(tmp_path / "disk", SALT, size=64 << 10)
    before = (tmp_path / "disk").read_bytes()
    with pytest.raises(VolumeError) as refused:
        open_volume(tmp_path / "disk", b"", writable=writable)
    assert refused.value.rule == "store.key"
    with pytest.raises(VolumeError):
        make_volume(tmp_path / "other", b"", SALT)
    assert (tmp_path / "disk").read_bytes() == before
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("second", [True, False])
def test_a_second_opener_is_refused_until_the_first_is_through(path, first, second):
    with open_volume(path, KEY, writable=first):
        with pytest.raises(VolumeLocked) as refused:
            open_volume(path, KEY, writable=second)
        assert refused.value.rule == "store.locked"
        with pytest.raises(VolumeLocked):
            make_volume(path, KEY, SALT, size=64 << 10)
        with pytest.raises(VolumeLocked):
            make_blank_disk(path, SALT, size=64 << 10)
    with open_volume(path, KEY, writable=second) as volume:
        assert files_of(volume) == OLD


def test_another_process_is_refused_too(path):
    program = (
        "import sys, pathlib; from vtpm.volume import open_volume, VolumeLocked\n"
        "try: open_volume(pathlib.Path(sys.argv[1]), bytes(range(32))).close(); print('open')\n"
        "except VolumeLocked: print('locked')\n"
    )

    def ask():
        return subprocess.run(
            [sys.executable, "-c", program, path], capture_output=True, text=True, check=True, timeout=60
        ).stdout.strip()

    with open_volume(path, KEY):
        assert ask() == "locked"
    assert ask() == "open"


def test_an_opening_that_fails_lets_go_of_the_file(path):
    for _ in range(3):
        with pytest.raises(VolumeKeyError):
            open_volume(path, b"another")
    open_volume(path, KEY).close()


def test_a_disk_that_cannot_be_read_is_no_damage():
    disk = format_memory()
    with open_memory(disk) as volume:
        volume.transaction(CHANGE)
    reads = []
    disk.fail = reads.append
    files_on(disk)
    for after in range(reads.count("read")):
        tried = disk.copy()
        tried.fail = Broken("read", after)
        with pytest.raises(VolumeReadError) as refused:
            files_on(tried)
        assert refused.value.rule == "store.read"


@pytest.mark.parametrize("size", [100, 512, 1024, 2000, 5000, 20_000, 65_536 - 512, 65_535])
def test_a_volume_that_is_cut_off_is_refused(path, size):
    content = path.read_bytes()[:size]
    path.write_bytes(content)
    with pytest.raises((VolumeDamaged, VolumeUnknown)):
        open_volume(path, KEY)
    assert path.read_bytes() == content


def test_a_volume_on_a_larger_disk_is_opened(path):
    path.write_bytes(path.read_bytes() + pattern(10_001))
    with open_volume(path, KEY) as volume:
        assert files_of(volume) == OLD
        volume.transaction(CHANGE)
    assert path.read_bytes().endswith(pattern(10_001))


# Who judges the layout.


class Refusal(VolumeError):
    def __init__(self):
        super().__init__("not this one", rule="test.refused")


@pytest.mark.parametrize("make", [format_memory, blank_memory])
@pytest.mark.parametrize("name", ["default", "sm3-sm4"])
def test_layout_and_salt_are_judged_before_the_key_is_used_or_anything_is_written(make, name):
    disk, seen = make(256 << 10, LAYOUTS[name]), []
    before = bytes(disk.content)

    def refuse(static):
        seen.append(static)
        raise Refusal

    with pytest.raises(Refusal):
        open_memory(disk, b"any key at all", accept=refuse)
    expected = StaticHeader(LAYOUTS[name], SALT)
    assert seen == [expected]
    assert disk.content == before
    with open_memory(disk, accept=seen.append) as volume:
        assert volume.inodes() == ()
    assert seen == [expected] * 2


@pytest.mark.parametrize("magic", [b"VTPMVOLC", b"VTPMVOLI"])
def test_a_disk_of_version_0_1_says_what_it_is_and_what_to_do(magic):
    disk = MemoryDisk(magic.ljust(8192, b"x"))
    with pytest.raises(VolumeUnknown, match=r"0\.1.*new disk.*reset"):
        open_memory(disk)


# Witnesses of transactions.


class Witness:
    """Keeps what it is told; `refuse` is raised by `record`, and `apply` answered by `resolve`."""

    def __init__(self, disk=None, *, refuse=None, apply=True):
        self.disk, self.refuse, self.apply = disk, refuse, apply
        self.recorded, self.asked, self.seen = [], [], []

    def record(self, old, new):
        self.recorded.append((old, new))
        if self.disk is not None:
            self.seen.append((self.disk.copy(), self.disk.trace[-1]))
        if self.refuse is not None:
            raise self.refuse

    def resolve(self, old, new):
        self.asked.append((old, new))
        return self.apply


def version(volume):
    return Version(volume.counter, volume.root)


def old_disk():
    disk = format_memory()
    with open_memory(disk) as volume:
        volume.transaction({FIRST: b"old"})
    return disk.copy()


def pending_disk():
    disk = old_disk()
    with pytest.raises(VolumePending):
        open_memory(disk, witness=Witness(refuse=OSError("no answer"))).transaction(CHANGE)
    return disk


def versions():
    """The versions before and after the pending transaction."""
    disk = pending_disk()
    new = version(open_memory(disk.copy()))
    without_head(disk)
    return version(open_memory(disk)), new


def without_head(disk):
    disk.content[1024:1536] = bytes(512)


def applied_in_part(writes):
    """A pending transaction of which so many writes were applied when the machine went down."""
    disk = pending_disk()
    disk.fail = Broken("write", writes)
    with pytest.raises(VolumeError):
        open_memory(disk)
    disk.fail = lambda _: None
    disk.trace.clear()
    return disk


def writes_to_apply():
    disk = pending_disk()
    disk.trace.clear()
    open_memory(disk).close()
    return len(disk.writes()) - 1  # the last one invalidates the head


def test_the_witness_is_told_once_the_head_is_durable_and_before_anything_is_applied():
    disk = old_disk()
    witness = Witness(disk)
    with open_memory(disk, witness=witness) as volume:
        old = version(volume)
        volume.transaction(CHANGE)
        new = version(volume)
        ((at_record, last),) = witness.seen
        assert witness.recorded == [(old, new)]
        assert last is None, "the last thing before was a barrier"
        volume.transaction({FIRST: None})
        assert witness.recorded[1] == (new, version(volume))
    assert files_on(at_record) == NEW, "the head was there"
    without_head(at_record)
    assert files_on(at_record) == OLD, "nothing had been applied"
    assert witness.asked == []


def test_the_versions_that_the_witness_is_told_differ_by_one_transaction():
    old, new = versions()
    assert new.counter == old.counter + 1
    assert new.root != old.root


@pytest.mark.parametrize("error", [OSError("no answer"), RuntimeError("refused"), VolumeError("x", rule="y")])
def test_a_transaction_that_is_not_acknowledged_stays_pending_and_the_volume_closes(error):
    disk = old_disk()
    volume = open_memory(disk, witness=Witness(refuse=error))
    with pytest.raises(VolumePending, match=str(error)) as pending:
        volume.transaction(CHANGE)
    assert pending.value.rule == "store.pending"
    assert pending.value.__cause__ is error
    assert disk.closed == 1
    for attempt in (lambda: volume.read(FIRST), lambda: volume.transaction({})):
        with pytest.raises(VolumeClosed):
            attempt()
    assert files_on(disk) == NEW


def test_an_interrupted_witness_leaves_the_transaction_pending_too():
    disk = old_disk()
    with pytest.raises(KeyboardInterrupt):
        open_memory(disk, witness=Witness(refuse=KeyboardInterrupt())).transaction(CHANGE)
    assert disk.closed == 1
    without = disk.copy()
    without_head(without)
    assert (files_on(disk), files_on(without)) == (NEW, OLD)


@pytest.mark.parametrize("writable", [True, False])
@pytest.mark.parametrize(("apply", "expected"), [(True, NEW), (False, OLD)])
def test_the_next_opening_asks_and_applies_or_cancels(writable, apply, expected):
    disk, (old, new) = pending_disk(), versions()
    before = bytes(disk.content)
    witness = Witness(apply=apply)
    with open_memory(disk, witness=witness, writable=writable) as volume:
        assert witness.asked == [(old, new)]
        assert files_of(volume) == expected
        assert version(volume) == (new if apply else old)
    assert witness.recorded == []
    if not writable:
        assert disk.content == before
        return
    again = Witness()
    with open_memory(disk, witness=again) as volume:
        assert again.asked == [], "it is settled"
        assert files_of(volume) == expected
        volume.transaction({FIRST + 5: b"five"})
        assert again.recorded == [(new if apply else old, version(volume))]
    assert files_on(disk) == expected | {FIRST + 5: (0, b"five")}


def test_a_witness_that_cannot_answer_leaves_everything_as_it_is():
    disk = pending_disk()
    before = bytes(disk.content)
    witness = Witness()

    def no_answer(_old, _new):
        raise TimeoutError("no answer")

    witness.resolve = no_answer
    with pytest.raises(VolumePending, match="no answer"):
        open_memory(disk, witness=witness)
    assert disk.content == before


def test_without_a_witness_a_pending_transaction_is_applied():
    disk = pending_disk()
    with open_memory(disk) as volume:
        assert files_of(volume) == NEW
    without_head(disk)
    assert files_on(disk) == NEW


@pytest.mark.parametrize("writable", [True, False])
def test_what_has_been_applied_in_part_is_finished_and_cannot_be_cancelled(writable):
    _, new = versions()
    total = writes_to_apply()
    assert total > 3
    for writes in range(1, total):
        disk = applied_in_part(writes)
        before = bytes(disk.content)
        witness = Witness(apply=False)
        with pytest.raises(VolumeDamaged, match="no longer be cancelled"):
            open_memory(disk, witness=witness, writable=writable)
        assert witness.asked == [(None, new)]
        assert disk.content == before
        with open_memory(disk, witness=Witness(apply=True), writable=writable) as volume:
            assert (files_of(volume), version(volume)) == (NEW, new)


@pytest.mark.parametrize("writable", [True, False])
def test_what_has_been_applied_in_full_cannot_be_cancelled_either(writable):
    disk = applied_in_part(writes_to_apply())
    (_, new), before = versions(), bytes(disk.content)
    witness = Witness(apply=False)
    with pytest.raises(VolumeDamaged, match="no longer be cancelled"):
        open_memory(disk, witness=witness, writable=writable)
    assert witness.asked == [(None, new)], "the version before cannot be had any more"
    assert disk.content == before


def test_an_altered_pending_transaction_is_refused_without_asking():
    disk = pending_disk()
    written = sorted(offset for offset, _ in disk.writes() if offset > 2048)
    disk.content[written[-1]] ^= 1
    before = bytes(disk.content)
    witness = Witness()
    with pytest.raises(VolumeDamaged):
        open_memory(disk, witness=witness)
    assert (witness.asked, bytes(disk.content)) == ([], before)


def test_formatting_at_first_use_is_no_transaction():
    witness = Witness()
    with open_memory(blank_memory(), witness=witness) as volume:
        assert volume.created == "this-boot"
        assert (witness.recorded, witness.asked) == ([], [])
        old = version(volume)
        volume.transaction({FIRST: b"first"})
        assert witness.recorded == [(old, version(volume))]


def test_a_head_that_is_not_whole_is_no_transaction_and_is_cleared():
    disk = pending_disk()
    disk.content[1300] ^= 1
    witness = Witness()
    with open_memory(disk, witness=witness) as volume:
        assert witness.asked == []
        assert files_of(volume) == OLD
    assert disk.content[1024:1536] == bytes(512)


def test_entropy_is_asked_for_what_is_encrypted_and_for_nothing_else():
    sizes = []

    def counted(size):
        sizes.append(size)
        return entropy(len(sizes))(size)

    disk = old_disk()
    with open_memory(disk, entropy=counted) as volume:
        files_of(volume)
        assert sizes == []
        volume.transaction({FIRST: b"x"})
        assert 16 in sizes


def test_a_disk_of_another_layout_than_its_data_is_refused():
    # The header of one volume before the rest of another, under the same key and salt.
    one, other = format_memory(), format_memory(layout=LAYOUTS["wide-index"])
    mixed = MemoryDisk(bytes(one.content[:512]) + bytes(other.content[512:]))
    with pytest.raises(VolumeDamaged):
        open_memory(mixed)
    assert LAYOUTS["wide-index"] != DEFAULT
