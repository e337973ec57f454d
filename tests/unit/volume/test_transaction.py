"""Transactions: all of their changes or none, in free blocks and through the journal."""

from itertools import count, pairwise

import pytest
from volumes import (
    FIRST,
    LAYOUTS,
    SALT,
    Broken,
    entropy,
    files_of,
    files_on,
    format_memory,
    layout,
    open_memory,
    pattern,
    rng,
)

from vtpm.volume import (
    Auxiliary,
    VolumeClosed,
    VolumeDamaged,
    VolumeError,
    VolumeFull,
    VolumeReadError,
    VolumeWriteError,
    Write,
)
from vtpm.volume.format.headers import StaticHeader
from vtpm.volume.mkfs import format_disk
from vtpm.volume.space import Space
from vtpm.volume.transaction import plan

A, B, C = FIRST, FIRST + 1, FIRST + 2


@pytest.fixture
def disk():
    return format_memory()


def test_several_files_change_in_one_transaction(disk):
    with open_memory(disk) as volume:
        counter = volume.counter
        volume.transaction({A: b"a", B: pattern(3000), C: b""})
        assert volume.counter == counter + 1
        volume.transaction({A: None, B: b"b", C: pattern(700), FIRST + 9: b"nine"})
        assert volume.counter == counter + 2
        expected = {B: (0, b"b"), C: (0, pattern(700)), FIRST + 9: (0, b"nine")}
        assert files_of(volume) == expected
        assert volume.inodes() == (B, C, FIRST + 9)
        assert A not in volume
        assert B in volume
    assert files_on(disk) == expected


@pytest.mark.parametrize("name", LAYOUTS)
def test_any_layout_takes_files_of_any_length_and_rewrites_them(name):
    given_layout = LAYOUTS[name]
    size, block = 512 << 10, given_layout.block_size
    disk = format_memory(size, given_layout)
    lengths = [0, 1, 15, 16, 17, block - 17, block - 16, block - 15, block, 5000, 20_000, 64 * 128 + 1]
    expected = {FIRST + at: (0, pattern(length)) for at, length in enumerate(lengths)}
    with open_memory(disk) as volume:
        for inode, (_, data) in expected.items():
            volume.transaction({inode: data})
        assert files_of(volume) == expected
    assert files_on(disk) == expected
    turned = {
        inode: (0, pattern(length, 1)) for inode, length in zip(expected, reversed(lengths), strict=True)
    }
    with open_memory(disk) as volume:
        volume.transaction({inode: data for inode, (_, data) in turned.items()})
        assert files_of(volume) == turned
    assert files_on(disk) == turned
    with open_memory(disk) as volume:
        used = volume.state.allocated.count()
        volume.transaction(dict.fromkeys(turned))
        assert volume.inodes() == ()
        assert volume.state.allocated.count() < used
    assert files_on(disk) == {}


def test_a_volume_that_is_emptied_is_as_free_as_when_it_was_new(disk):
    with open_memory(disk) as volume:
        before = bytes(volume.state.allocated.data)
        for at in range(30):
            volume.transaction({FIRST + at: pattern(at * 40)})
        for at in rng(1).sample(range(30), 30):
            volume.transaction({FIRST + at: None})
        assert volume.state.allocated.data == before
        assert (volume._space._starts, volume._space._ends) == (
            Space(volume.state.allocated.clear_runs())._starts,
            Space(volume.state.allocated.clear_runs())._ends,
        )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["default", "all-smallest", "data-above-io", "bitmap-above-data"])
def test_random_transactions_equal_a_dict_and_memory_equals_the_disk(name, seed):
    choose = rng(f"{name} {seed}")
    disk, expected = format_memory(128 << 10, LAYOUTS[name]), {}
    volume = open_memory(disk)
    for step in range(40):
        changes = {}
        for inode in choose.sample(range(FIRST, FIRST + 25), choose.randint(1, 4)):
            remove = choose.random() < 0.35
            changes[inode] = None if remove else pattern(choose.choice([0, 10, 112, 500, 3000, 9000]), step)
        volume.transaction(changes)
        expected |= {inode: (0, data) for inode, data in changes.items()}
        expected = {inode: value for inode, value in expected.items() if value[1] is not None}
        if step % 8 == 7:
            assert files_of(volume) == expected
            again = open_memory(disk, writable=False)
            assert files_of(again) == expected
            one, other = volume.state, again.state
            assert one.allocated.data == other.allocated.data
            assert one.covered.data == other.covered.data
            assert one.tree.nodes == other.tree.nodes
            assert (one.header, one.locations) == (other.header, other.locations)
            assert list(one.index.items()) == list(other.index.items())


def test_flags_are_kept_unless_they_are_given(disk):
    with open_memory(disk) as volume:
        volume.transaction({A: b"a", B: Write(b"b", 0x81), C: Write(b"c", 255)})
        assert [volume.flags(inode) for inode in (A, B, C)] == [0, 0x81, 255]
        volume.transaction({B: b"b2", C: Write(b"c2", 3), A: Write(b"a2")})
        assert [volume.flags(inode) for inode in (A, B, C)] == [0, 0x81, 3]
        volume.transaction({B: None})
        assert volume.flags(B) is None
        volume.transaction({B: b"again"})
        assert volume.flags(B) == 0
    assert files_on(disk) == {A: (0, b"a2"), B: (0, b"again"), C: (3, b"c2")}


def test_bytearrays_are_taken_as_they_are_when_they_are_written(disk):
    content = bytearray(b"content")
    with open_memory(disk) as volume:
        volume.transaction({A: content})
        content[:] = b"changed"
        assert volume.read(A) == b"content"


@pytest.mark.parametrize("inode", [-1, 0, 1, 2, 3, 5, 6, 15, 1 << 64])
@pytest.mark.parametrize("change", [b"", None])
def test_reserved_and_impossible_inodes_are_refused_and_nothing_changes(disk, inode, change):
    with open_memory(disk) as volume:
        volume.transaction({A: b"a"})
        root, before = volume.root, bytes(disk.content)
        with pytest.raises(VolumeError) as refused:
            volume.transaction({A: b"b", inode: b"content"})
        assert refused.value.rule == "store.inode"
        assert (volume.root, bytes(disk.content)) == (root, before)
        assert volume.read(inode) is None
        assert volume.flags(inode) is None
        assert inode not in volume
        volume.transaction({A: b"c"})
        assert files_of(volume) == {A: (0, b"c")}


@pytest.mark.parametrize("inode", [16, (1 << 64) - 1])
def test_the_first_and_the_last_inode_can_be_used(disk, inode):
    with open_memory(disk) as volume:
        volume.transaction({inode: b"content"})
    assert files_on(disk) == {inode: (0, b"content")}


@pytest.mark.parametrize("flags", [-1, 256, 1 << 31])
def test_flags_that_are_none_are_refused_and_nothing_changes(disk, flags):
    with open_memory(disk) as volume:
        root = volume.root
        with pytest.raises(VolumeError) as refused:
            volume.transaction({A: Write(b"a", flags)})
        assert (refused.value.rule, volume.root, volume.inodes()) == ("store.flags", root, ())


def test_where_nothing_would_change_nothing_is_written(disk):
    with open_memory(disk) as volume:
        root, trace = volume.root, list(disk.trace)
        volume.transaction({})
        volume.transaction({A: None, B: None})
        assert (volume.root, disk.trace) == (root, trace)


def test_every_write_is_encrypted_anew(disk):
    with open_memory(disk) as volume:
        seen = set()
        for _ in range(4):
            volume.transaction({A: bytes(1000)})
            (extent,) = volume.state.locations[A].data
            seen.add(bytes(disk.content[extent.start * 128 : extent.end * 128]))
        assert len(seen) == 4


# Room.


def fragmented():
    """A volume that was filled with small files, every other of which was removed; and what is left in it."""
    disk = format_memory(256 << 10)
    volume = open_memory(disk)
    for inode in count(FIRST + 1):
        try:
            volume.transaction({inode: pattern(1100)})
        except VolumeFull:
            break
    for inode in volume.inodes()[::2]:
        volume.transaction({inode: None})
    return disk, volume, dict.fromkeys(volume.inodes(), (0, pattern(1100)))


def test_fragmented_space_gives_files_in_many_extents():
    disk, volume, expected = fragmented()
    content = pattern(60_000)
    volume.transaction({A: content})
    location = volume.state.locations[A]
    assert len(location.data) > 20
    assert len(location.chain) >= 1
    assert volume.read(A) == content
    assert files_on(disk) == expected | {A: (0, content)}
    volume.transaction({A: b"short"})
    assert volume.state.locations[A].chain == ()
    assert files_on(disk) == expected | {A: (0, b"short")}


def test_a_file_of_one_extent_has_a_list_of_it_only_beyond_64_blocks(disk):
    with open_memory(disk) as volume:
        volume.transaction({A: pattern(64 * 128 - 32), B: pattern(64 * 128 - 16)})
        direct, indirect = (volume.state.locations[inode] for inode in (A, B))
        assert (direct.data[0].length, direct.chain) == (64, ())
        assert (indirect.data[0].length, len(indirect.chain)) == (65, 1)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_full_volume_leaves_everything_as_it_was_and_can_still_remove(name):
    given_layout = LAYOUTS[name]
    disk = format_memory(256 << 10, given_layout)
    expected, longest = {}, 40_000
    with open_memory(disk) as volume:
        for length in (longest, 5000, 1000, 1):
            for inode in count(FIRST + len(expected)):
                root, before = volume.root, bytes(disk.content)
                spaces = list(volume._space._starts)
                try:
                    volume.transaction({inode: pattern(length)})
                except VolumeFull:
                    assert (volume.root, volume._space._starts, disk.content) == (root, spaces, before)
                    assert files_of(volume) == expected
                    break
                expected[inode] = (0, pattern(length))
        with pytest.raises(VolumeFull):
            volume.transaction({FIRST: pattern(200 << 10)})
        assert len(expected) > 3
    assert files_on(disk) == expected
    with open_memory(disk) as volume:
        for inode in rng(2).sample(sorted(expected), len(expected)):
            volume.transaction({inode: None})
        assert volume.inodes() == ()
        volume.transaction({A: pattern(longest)})
    assert files_on(disk) == {A: (0, pattern(longest))}


def test_a_full_volume_can_replace_files_by_shorter_ones(disk):
    with open_memory(disk) as volume:
        for inode in count(FIRST):
            try:
                volume.transaction({inode: pattern(1500)})
            except VolumeFull:
                break
        kept = volume.inodes()
        for inode in kept:
            volume.transaction({inode: b"short"})
        assert files_of(volume) == dict.fromkeys(kept, (0, b"short"))


def test_the_longest_file_that_a_new_volume_takes_is_most_of_it():
    disk = format_memory(256 << 10)
    with open_memory(disk) as volume:
        free = volume.state.allocated.size - volume.state.allocated.count()
        volume.transaction({A: pattern(free * 128 * 8 // 10)})
    assert files_on(disk)[A] == (0, pattern(free * 128 * 8 // 10))


def test_a_file_of_20_mib_is_written_and_its_room_comes_back():
    disk, content = format_memory(32 << 20, layout(data_block_log2=4)), pattern(20 << 20)
    with open_memory(disk) as volume:
        volume.transaction({A: content, B: b"small"})
        assert volume.read(A) == content
    assert files_on(disk) == {A: (0, content), B: (0, b"small")}
    with open_memory(disk) as volume:
        volume.transaction({A: None})
        volume.transaction({C: content[: 2 << 20]})
    assert files_on(disk) == {B: (0, b"small"), C: (0, content[: 2 << 20])}


# What is written where.


class Planned:
    """Plans random transactions on a volume, judges each, and lets it happen."""

    def __init__(self, given_layout, seed):
        self.choose = rng(seed)
        self.disk = format_memory(128 << 10, given_layout, auxiliary=Auxiliary(reserve=100))
        self.volume = open_memory(self.disk)
        self.layout = given_layout

    def changes(self):
        inodes = self.choose.sample(range(FIRST, FIRST + 20), self.choose.randint(1, 3))
        lengths = [0, 100, 500, 1500, 5000]
        return {
            i: None if self.choose.random() < 0.3 else pattern(self.choose.choice(lengths)) for i in inodes
        }

    def plan(self, changes):
        wanted = {inode: None if data is None else Write(data) for inode, data in changes.items()}
        return plan(self.volume.state, self.volume._space, self.disk, wanted, entropy(self.choose.random()))

    def io_blocks(self, writes):
        unit = self.layout.io_block << self.layout.block_shift
        return {
            at for offset, data in writes for at in range(offset // unit, -(-(offset + len(data)) // unit))
        }

    def live(self, io_block):
        return self.volume.state.allocated.mask(io_block * self.layout.io_block, self.layout.io_block)


@pytest.mark.parametrize("name", LAYOUTS)
def test_no_plan_writes_directly_into_an_io_block_that_holds_something_live(name):
    case = Planned(LAYOUTS[name], name)
    for _ in range(25):
        changes = case.changes()
        planned = case.plan(changes)
        assert not [io_block for io_block in case.io_blocks(planned.prepare) if case.live(io_block)]
        places = sorted((offset, offset + len(data)) for offset, data in planned.prepare)
        assert all(one[1] <= other[0] for one, other in pairwise(places))
        case.volume.transaction(changes)


@pytest.mark.parametrize("name", LAYOUTS)
def test_planning_changes_neither_the_state_nor_the_disk(name):
    case = Planned(LAYOUTS[name], name)
    case.volume.transaction({FIRST: b"first", FIRST + 1: pattern(3000)})
    state, space = case.volume.state, case.volume._space

    def snapshot():
        return (
            bytes(case.disk.content), state.header, bytes(state.tree.nodes), bytes(state.allocated.data),
            bytes(state.covered.data), dict(state.locations), list(state.index.items()), list(space._starts),
            list(space._ends),
        )  # fmt: skip

    before = snapshot()
    for _ in range(10):
        case.plan(case.changes())
    with pytest.raises(VolumeFull):
        case.plan({FIRST: b"a", FIRST + 1: None, FIRST + 7: pattern(125_000)})
    assert snapshot() == before


def test_a_commit_writes_in_the_order_that_survives_a_cut(disk):
    with open_memory(disk) as volume:
        volume.transaction({A: b"a"})
        head, io_block = volume.state.static.journal.start * 128, 512
        disk.trace.clear()
        volume.transaction({A: pattern(2000)})
    groups, current = [], []
    for entry in [*disk.trace, None]:
        if entry is None:
            groups.append(current)
            current = []
        else:
            current.append(entry)
    flushed, prepare, commit, apply, invalidate, *rest = groups
    assert (flushed, rest) == ([], [])
    assert commit == [(head, commit[0][1])]
    assert commit[0][1].startswith(b"CCFSJRNL")
    assert len(commit[0][1]) == io_block
    assert invalidate == [(head, bytes(io_block))]
    assert all(not offset <= head < offset + len(data) for offset, data in prepare + apply)
    assert sum(len(data) for _, data in prepare) > 2000
    assert len(apply) > 1


def test_what_is_staged_is_disguised(disk):
    with open_memory(disk) as volume:
        volume.transaction({A: b"a"})
        planned = plan(volume.state, volume._space, disk, {A: Write(b"b")}, entropy(7))
    staged = b"".join(data for _, data in planned.prepare)
    for _, data in planned.apply:
        for at in range(0, len(data) - 15, 128):
            assert data[at : at + 128] not in staged


# The disk fails, or changes behind the volume's back.


@pytest.mark.parametrize("kind", ["write", "barrier"])
def test_a_disk_that_fails_closes_the_volume_and_holds_the_old_state_or_the_new(disk, kind):
    old, new = {A: (0, b"old")}, {A: (0, pattern(900)), B: (0, b"b")}
    with open_memory(disk) as volume:
        volume.transaction({A: b"old"})
    seen = []
    for after in count():
        tried = disk.copy()
        volume = open_memory(tried)
        tried.fail = Broken(kind, after)
        try:
            volume.transaction({A: new[A][1], B: b"b"})
        except VolumeWriteError:
            with pytest.raises(VolumeClosed):
                volume.read(A)
            with pytest.raises(VolumeClosed):
                volume.transaction({A: b"later"})
            assert tried.closed == 1
            tried.fail = lambda _: None
            seen.append(files_on(tried))
            assert seen[-1] in (old, new)
            continue
        break
    assert old in seen
    assert new in seen
    assert seen == sorted(seen, key=lambda state: state == new), "once it is new it stays new"


def test_a_disk_that_cannot_be_read_leaves_the_old_state(disk):
    with open_memory(disk) as volume:
        volume.transaction({A: b"old", B: pattern(4000)})
        root, before = volume.root, bytes(disk.content)
        disk.fail = Broken("read")
        with pytest.raises(VolumeReadError):
            volume.transaction({A: b"new"})
        with pytest.raises(VolumeReadError):
            volume.read(A)
        disk.fail = lambda _: None
        assert (volume.root, bytes(disk.content)) == (root, before)
        volume.transaction({A: b"new"})
        assert volume.read(A) == b"new"


def test_what_the_disk_no_longer_holds_is_refused_when_read_and_when_it_would_be_carried_along(disk):
    with open_memory(disk) as volume:
        volume.transaction({A: b"a", B: b"b"})
        (mine,), (neighbour,) = (volume.state.locations[inode].data for inode in (A, B))
        assert mine.start // 4 == neighbour.start // 4, "they share an IO block"
        disk.content[neighbour.start * 128] ^= 1
        before = bytes(disk.content)
        for attempt in (
            lambda: volume.read(B),
            lambda: volume.read(A),
            lambda: volume.transaction({A: None}),
        ):
            with pytest.raises(VolumeDamaged, match="data block") as refused:
                attempt()
            assert refused.value.block == mine.start // 4 * 4
        assert disk.content == before


def test_a_closed_volume_and_one_open_for_reading_take_nothing(disk):
    volume = open_memory(disk)
    volume.transaction({A: b"a"})
    volume.close()
    volume.close()
    assert disk.closed == 1
    for attempt in (lambda: volume.read(A), lambda: volume.transaction({A: b"b"})):
        with pytest.raises(VolumeClosed, match="closed"):
            attempt()
    with open_memory(disk, writable=False) as reader:
        before = bytes(disk.content)
        with pytest.raises(VolumeClosed, match="reading only"):
            reader.transaction({A: b"b"})
        assert reader.read(A) == b"a"
        assert disk.content == before


def test_the_counter_wraps_around():
    disk = format_memory(seed=0)

    def all_ones(size):
        return b"\xff" * size

    format_disk(disk, StaticHeader(layout(), SALT), bytes(range(32)), 512, Auxiliary(), all_ones, fill=False)
    with open_memory(disk) as volume:
        assert volume.counter == (1 << 128) - 1
        volume.transaction({A: b"a"})
        assert volume.counter == 0
    assert open_memory(disk).counter == 0


@pytest.mark.parametrize("name", ["default", "strength-256"])
@pytest.mark.parametrize("size", [2 << 20, 8 << 20])
def test_a_full_volume_can_drop_its_largest_file_first(size, name):
    disk = format_memory(size, LAYOUTS[name])
    with open_memory(disk) as volume:
        volume.transaction({A: bytes(size * 3 // 4)})
        length, inode = 8192, B
        while length:
            try:
                volume.transaction({inode: bytes(length)})
                inode += 1
            except VolumeFull:
                length //= 2
        volume.transaction({A: None})
        assert A not in volume
        volume.transaction({A: bytes(size // 4)})
    assert files_on(disk)[A] == (0, bytes(size // 4))
