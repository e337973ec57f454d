"""Formatting: with the key at hand, and at first use of a disk that asks for it."""

from itertools import count

import pytest
from volumes import (
    FIRST,
    KEY,
    LAYOUTS,
    SALT,
    MemoryDisk,
    blank_memory,
    entropy,
    files_of,
    files_on,
    format_memory,
    open_memory,
    pattern,
)

from vtpm.volume import (
    DEFAULT,
    DISK_SIZE,
    Auxiliary,
    VolumeDamaged,
    VolumeError,
    VolumeFull,
    VolumeKeyError,
    VolumeUnknown,
    VolumeUnsupported,
    make_blank_disk,
    make_volume,
    of_strength,
    open_volume,
)
from vtpm.volume.creation import erase_copy, find_creation_header
from vtpm.volume.format.bitmap import Bits
from vtpm.volume.format.extents import Extent
from vtpm.volume.format.headers import CREATION_MAGIC, CreationHeader, StaticHeader, backup_place
from vtpm.volume.mkfs import length_of

AUXILIARY = Auxiliary(reserve=64)
SALTS = [b"", b"s", bytes(16), bytes(range(255))]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "disk"


@pytest.mark.parametrize("salt", SALTS, ids=len)
def test_a_blank_disk_is_formatted_at_first_use_and_only_then(path, salt):
    make_blank_disk(path, salt)
    assert path.stat().st_size == DISK_SIZE
    with open_volume(path, KEY) as volume:
        assert (volume.created, volume.salt, volume.inodes()) == ("this-boot", salt, ())
        volume.transaction({FIRST: b"content"})
    with open_volume(path, KEY) as volume:
        assert (volume.created, volume.salt, files_of(volume)) == ("earlier", salt, {FIRST: (0, b"content")})
    with pytest.raises(VolumeKeyError):
        open_volume(path, b"another")


@pytest.mark.parametrize("salt", SALTS, ids=len)
def test_a_volume_is_made_with_its_key_at_hand(path, salt):
    make_volume(path, KEY, salt)
    with open_volume(path, KEY) as volume:
        assert (volume.created, volume.salt, volume.inodes()) == ("earlier", salt, ())


@pytest.mark.parametrize("bits", [128, 192, 256])
def test_volumes_of_every_strength_are_made_both_ways(path, bits):
    layout = of_strength(bits)
    for make in (
        lambda: make_volume(path, KEY, SALT, layout=layout),
        lambda: make_blank_disk(path, SALT, layout=layout),
    ):
        path.unlink(missing_ok=True)
        make()
        with open_volume(path, KEY) as volume:
            assert volume.state.static.layout == layout
            volume.transaction({FIRST: pattern(5000)})
        with open_volume(path, KEY) as volume:
            assert volume.read(FIRST) == pattern(5000)


@pytest.mark.parametrize("auxiliary", [None, AUXILIARY], ids=["plain", "auxiliary"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_formatted_at_first_use(name, auxiliary):
    disk = blank_memory(512 << 10, LAYOUTS[name], auxiliary=auxiliary)
    with open_memory(disk) as volume:
        assert (volume.created, volume.state.static.layout) == ("this-boot", LAYOUTS[name])
        volume.transaction({FIRST: pattern(9000)})
    assert files_on(disk) == {FIRST: (0, pattern(9000))}


def test_two_volumes_of_one_key_and_salt_share_no_byte_that_is_encrypted(path):
    one, other = (format_memory(seed=seed, fill=True) for seed in (1, 2))
    state = open_memory(one).state
    for extent in (*state.locations[2].data, *state.index.extents()):
        at, end = extent.start * 128, extent.end * 128
        assert one.content[at:end] != other.content[at:end]
    assert state.counter != open_memory(other).counter


def test_the_free_space_of_a_filled_volume_looks_like_anything_else_and_of_an_unfilled_one_is_left_alone():
    filled, unfilled = format_memory(fill=True), format_memory(fill=False)
    free = [block for run in open_memory(filled).state.allocated.clear_runs() for block in run.blocks()]
    assert len(free) > 300
    assert all(filled.content[block * 128 : block * 128 + 128].count(0) < 20 for block in free)
    assert not any(any(unfilled.content[block * 128 : block * 128 + 128]) for block in free)


def test_opening_for_reading_formats_in_memory_only():
    disk = blank_memory(auxiliary=AUXILIARY)
    before = bytes(disk.content)
    with open_memory(disk, writable=False) as volume:
        assert (volume.created, volume.inodes(), volume.read(FIRST)) == ("this-boot", (), None)
    assert disk.content == before
    assert disk.trace == []


# What is refused.


@pytest.mark.parametrize("size", [0, -512, 1, 511, 65_537, 65_536 + 128])
@pytest.mark.parametrize(
    "make", [lambda p, n: make_volume(p, KEY, SALT, size=n), lambda p, n: make_blank_disk(p, SALT, size=n)]
)
def test_sizes_that_are_no_whole_io_blocks_are_refused_and_nothing_is_made(path, size, make):
    with pytest.raises(VolumeError) as refused:
        make(path, size)
    assert refused.value.rule == "store.size"
    assert not path.exists()


@pytest.mark.parametrize("size", [512, 2048, 4096])
@pytest.mark.parametrize(
    "make", [lambda p, n: make_volume(p, KEY, SALT, size=n), lambda p, n: make_blank_disk(p, SALT, size=n)]
)
def test_sizes_that_are_too_small_are_refused_and_nothing_is_made(path, size, make):
    with pytest.raises(VolumeFull) as refused:
        make(path, size)
    assert refused.value.rule == "store.full"
    assert not path.exists()


def test_a_salt_of_more_than_255_bytes_is_refused(path):
    for make in (lambda: make_volume(path, KEY, bytes(256)), lambda: make_blank_disk(path, bytes(256))):
        with pytest.raises(VolumeError) as refused:
            make()
        assert refused.value.rule == "store.salt"
    assert not path.exists()


@pytest.mark.parametrize("make", [format_memory, blank_memory])
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_smallest_size_that_is_taken_gives_a_volume(name, make):
    layout = LAYOUTS[name]
    unit = layout.io_block << layout.block_shift
    for size in count(unit, unit):
        try:
            disk = make(size, layout)
            volume = open_memory(disk)
        except VolumeFull:
            continue
        break
    assert volume.inodes() == ()
    with open_memory(disk) as volume:
        try:
            volume.transaction({FIRST: b"content"})
        except VolumeFull:
            assert volume.inodes() == ()
    assert files_on(disk) in ({FIRST: (0, b"content")}, {})


def test_a_blank_disk_can_be_asked_for_anew_but_nothing_else_is_written_over(path):
    make_blank_disk(path, b"one")
    make_blank_disk(path, b"two")
    with open_volume(path, KEY) as volume:
        assert volume.salt == b"two"
    before = path.read_bytes()
    with pytest.raises(VolumeError) as refused:
        make_blank_disk(path, b"three")
    assert refused.value.rule == "store.exists"
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"somebody's text", b"\0" * 700_000 + b"x", b"COCOONFS", b"x" * (DISK_SIZE + 1)]
)
def test_a_foreign_file_is_left_as_it_is(path, content):
    path.write_bytes(content)
    with pytest.raises(VolumeError) as refused:
        make_blank_disk(path, SALT)
    assert refused.value.rule == "store.exists"
    assert path.read_bytes() == content


def test_making_a_volume_ends_whatever_the_file_held(path):
    make_blank_disk(path, b"one")
    with open_volume(path, KEY) as volume:
        volume.transaction({FIRST: b"content"})
    before = path.read_bytes()
    with pytest.raises(VolumeError, match="holds something"):
        make_volume(path, KEY, b"two")
    assert path.read_bytes() == before
    make_volume(path, KEY, b"two", over=True)
    with open_volume(path, KEY) as volume:
        assert (volume.salt, volume.inodes()) == (b"two", ())


@pytest.mark.parametrize("size", [128 << 10, (64 << 10) + 128])
def test_a_creation_header_that_asks_for_more_than_the_disk_or_for_part_of_an_io_block_is_refused(size):
    disk = blank_memory(64 << 10)
    disk.write(0, CreationHeader(DEFAULT, SALT, size >> 7).encode())
    before = bytes(disk.content)
    with pytest.raises(VolumeDamaged, match="creation header"):
        open_memory(disk)
    assert disk.content == before


@pytest.mark.parametrize("size", [512, 8192, 16_384 - 512])
def test_a_creation_header_that_asks_for_too_little_is_refused_and_stays(size):
    disk = blank_memory(64 << 10)
    disk.write(0, CreationHeader(DEFAULT, SALT, size >> 7).encode())
    before = bytes(disk.content)
    try:
        open_memory(disk).close()
    except VolumeFull:
        assert disk.content == before
    else:
        assert size >= 8192


def test_damaged_metadata_beside_a_creation_header_are_refused_and_nothing_changes():
    disk = blank_memory(auxiliary=AUXILIARY)
    disk.content[520] ^= 1
    before = bytes(disk.content)
    with pytest.raises(VolumeDamaged, match="auxiliary metadata"):
        open_memory(disk)
    assert disk.content == before


@pytest.mark.parametrize(
    ("length", "error", "told"),
    [
        (65_536, VolumeDamaged, "outside of the disk"),
        (1 << 24, VolumeDamaged, "outside of the disk"),
        ((1 << 24) + 1, VolumeUnsupported, "16 MiB"),
        ((1 << 64) - 1, VolumeUnsupported, "16 MiB"),
    ],
)
def test_metadata_beyond_the_disk_or_beyond_measure_are_refused(length, error, told):
    disk = blank_memory()
    disk.content[:512] = CreationHeader(DEFAULT, SALT, 512, length).encode()
    with pytest.raises(error, match=told):
        open_memory(disk)


def test_a_header_with_giant_blocks_is_refused_before_it_is_read_whole(tmp_path):
    path = tmp_path / "disk"
    small = StaticHeader(DEFAULT, SALT).encode()[:128]
    mask = small[31 + 8]
    giant = bytearray(small)
    giant[9] = 33 ^ mask  # allocation blocks of a TiB
    with path.open("wb") as file:
        file.write(giant)
        file.truncate(1 << 42)
    with pytest.raises(VolumeUnsupported, match="16 MiB"):
        open_volume(path, KEY)


def test_a_creation_header_is_not_sought_where_none_is_ever_made(tmp_path):
    # 15 blocks of 4 KiB: the copy's place is no beginning of an IO block.
    path, size = tmp_path / "disk", 15 * 4096
    make_volume(path, KEY, SALT, size=size, layout=LAYOUTS["alloc-4k"])
    place = backup_place(size)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(CREATION_MAGIC)
    open_volume(path, KEY).close()
    assert path.stat().st_size == size


# A cut while a disk is formatted at first use.


def test_the_copy_of_the_creation_header_is_whole_before_anything_else_is_written():
    for auxiliary in (None, AUXILIARY):
        disk = blank_memory(auxiliary=auxiliary)
        blank = bytes(disk.content)
        open_memory(disk).close()
        place = backup_place(64 << 10)
        again, durable = blank_memory(auxiliary=auxiliary), False
        for entry in disk.trace:
            if entry is None:
                durable = bytes(again.content[place : place + 512]) == blank[:512]
                continue
            offset, data = entry
            if not durable:
                assert place - 2048 <= offset < place + 512, "written before the copy was durable"
            again.content[offset : offset + len(data)] = data
        assert durable
        assert not again.content[place:].startswith(b"CCFSMKFS"), "the copy is gone in the end"


@pytest.mark.parametrize("auxiliary", [None, AUXILIARY], ids=["plain", "auxiliary"])
@pytest.mark.parametrize("name", ["default", "strength-256", "io-4k"])
def test_formatting_that_was_cut_off_anywhere_starts_over(name, auxiliary):
    size = 256 << 10
    disk = blank_memory(size, LAYOUTS[name], auxiliary=auxiliary)
    started = disk.copy()
    open_memory(disk).close()
    for cut in range(len(disk.writes()) + 1):
        torn = started.copy()
        for offset, data in disk.writes()[:cut]:
            torn.content[offset : offset + len(data)] = data
        if cut < len(disk.writes()):
            offset, data = disk.writes()[cut]
            half = len(data) // 256 * 128
            torn.content[offset : offset + half] = data[:half]
        with open_memory(torn, entropy=entropy(cut)) as volume:
            assert (volume.salt, volume.inodes()) == (SALT, ())
            assert volume.state.static.layout == LAYOUTS[name]
            assert (volume.state.auxiliary is None) == (auxiliary is None)
            volume.transaction({FIRST: b"content"})
        assert files_on(torn) == {FIRST: (0, b"content")}


def test_a_disk_with_neither_header_whole_is_unknown():
    disk = blank_memory()
    disk.content[300] ^= 1
    assert find_creation_header(disk) is None
    with pytest.raises(VolumeUnknown):
        open_memory(disk)


def test_the_copy_alone_is_enough():
    disk = blank_memory(auxiliary=AUXILIARY)
    open_memory(disk).close()
    copies = [(offset, data) for offset, data in disk.writes() if data.startswith(b"CCFSMKFS")]
    (copy,) = copies
    torn = blank_memory(auxiliary=AUXILIARY)
    torn.content[: 16 << 10] = bytes(16 << 10)
    for offset, data in disk.writes()[: disk.writes().index(copy) + 1]:
        torn.content[offset : offset + len(data)] = data
    found = find_creation_header(torn)
    assert found.is_backup
    assert found.header.salt == SALT
    with open_memory(torn) as volume:
        assert (volume.created, volume.inodes()) == ("this-boot", ())


# Large volumes.


def test_a_volume_whose_tree_has_three_levels_and_whose_bitmap_has_many_blocks():
    disk = format_memory(32 << 20)
    with open_memory(disk) as volume:
        assert volume.state.geometry.shape.levels >= 3
        assert sum(extent.length for extent in volume.state.locations[2].data) > 64
        assert all(location.chain for inode, location in volume.state.locations.items() if inode < 3)
        volume.transaction({FIRST: pattern(1 << 20)})
    assert files_on(disk) == {FIRST: (0, pattern(1 << 20))}


@pytest.mark.slow
def test_a_sparse_image_of_1_gib_is_formatted_written_and_verified(path):
    make_volume(path, KEY, SALT, size=1 << 30, fill=False)
    with open_volume(path, KEY) as volume:
        assert volume.state.geometry.shape.levels >= 4
        assert volume.state.header.size == 1 << 23
        volume.transaction({FIRST: pattern(3 << 20), FIRST + 1: b"small"})
        # The far end of the image, too.
        far = volume.state.header.size - 4
        runs = volume._space
        runs._starts[:], runs._ends[:] = [far - (1 << 16)], [far]
        volume.transaction({FIRST + 2: pattern(10_000)})
        assert volume.state.locations[FIRST + 2].data[0].start >= far - (1 << 16)
        expected = files_of(volume)
    assert expected == {
        FIRST: (0, pattern(3 << 20)),
        FIRST + 1: (0, b"small"),
        FIRST + 2: (0, pattern(10_000)),
    }
    with open_volume(path, KEY) as volume:
        assert files_of(volume) == expected
    allocated = path.stat().st_blocks * 512
    assert allocated < 200 << 20


def test_a_copy_of_the_creation_header_that_is_left_in_free_blocks_is_erased_by_the_next_writer():
    disk = blank_memory(64 << 10)
    copy = bytes(disk.content[:1024])
    open_memory(disk).close()
    place = backup_place(disk.size)
    disk.content[place : place + len(copy)] = copy
    open_memory(disk, writable=False).close()
    assert disk.content[place : place + len(copy)] == copy, "a reader changes nothing"
    with open_memory(disk) as volume:
        volume.transaction({FIRST: b"content"})
    # Without a static header there is nothing now that would ask for the volume to be made anew.
    disk.content[:512] = bytes(512)
    with pytest.raises(VolumeUnknown):
        open_memory(disk)


def test_what_lies_in_the_copys_place_and_is_in_use_is_not_touched_whatever_it_looks_like():
    disk = MemoryDisk(64 << 10)
    place = backup_place(disk.size)
    disk.content[place : place + 8] = CREATION_MAGIC
    before, allocated = bytes(disk.content), Bits(disk.size >> 7)
    allocated.fill([Extent((place >> 7) + 1, 1)], allocated=True)
    erase_copy(disk, allocated, DEFAULT, entropy(1))
    assert disk.content == before
    erase_copy(disk, Bits(disk.size >> 7), DEFAULT, entropy(1))
    assert disk.content[place : place + 8] != CREATION_MAGIC


def test_images_that_are_too_large_to_be_held_are_refused_before_anything_is_read_or_written(tmp_path):
    path = tmp_path / "disk"
    for make in (
        lambda n: make_volume(path, KEY, SALT, size=n),
        lambda n: make_blank_disk(path, SALT, size=n),
    ):
        with pytest.raises(VolumeUnsupported, match="GiB"):
            make((1 << 34) + 512)
        assert not path.exists()
    size = 1 << 40
    with path.open("wb") as file:
        file.write(CreationHeader(DEFAULT, SALT, size >> 7).encode())
        file.truncate(size)
    with pytest.raises(VolumeUnsupported, match="GiB"):
        open_volume(path, KEY, writable=False)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_smallest_volume_that_is_made_holds_a_file(name):
    unit = LAYOUTS[name].io_block << LAYOUTS[name].block_shift
    size = unit
    while True:
        static, blocks = StaticHeader(LAYOUTS[name], SALT), size >> LAYOUTS[name].block_shift
        try:
            length_of(static, blocks, Auxiliary())
        except VolumeFull:
            size += unit
        else:
            break
    disk = format_memory(size, LAYOUTS[name])
    with open_memory(disk) as volume:
        volume.transaction({FIRST: b"content"})
        volume.transaction({FIRST: None})
        assert volume.inodes() == ()
