"""Every image of the reference implementation gives exactly what its manifest says."""

import pytest
from volumes import KEY, MemoryDisk, digests_of, image, manifest, open_memory

from vtpm.volume import VolumeDamaged, open_volume
from vtpm.volume.extents import Extent
from vtpm.volume.headers import StaticHeader
from vtpm.volume.journal import active_head, protect_head

FINISHED = sorted(name for name, entry in manifest().items() if "derived" in entry)
PENDING = [name for name in FINISHED if manifest()[name]["derived"]["journal_active"]]
UNFORMATTED = ["default-aes128.mkfsinfo", "default-aes128.mkfs-interrupted.header-written"]


def disk_of(name):
    """An image as a disk: a lone creation header is padded to the size it asks for."""
    padded = 256 << 10 if name.endswith("mkfsinfo") else 0
    return MemoryDisk(image(name).ljust(padded, b"\0"))


def index_height(state):
    return state.index.node(state.index.root).level


def head_of(disk, state):
    layout = state.static.layout
    start = state.static.journal.start << layout.block_shift
    return bytes(disk.content[start : start + (layout.io_block << layout.block_shift)])


def test_the_vectors_cover_what_they_should():
    assert set(FINISHED) | set(UNFORMATTED) == set(manifest())
    assert len(PENDING) == 3
    assert {entry["expect"] for entry in manifest().values() if "crash" in str(entry["commands"])} <= {
        "old",
        "new",
    }


@pytest.mark.parametrize("name", FINISHED)
def test_an_image_gives_the_files_and_values_of_its_manifest(name):
    expected, derived = manifest()[name], manifest()[name]["derived"]
    with open_memory(disk_of(name), bytes.fromhex(expected["key"]), writable=False) as volume:
        assert digests_of(volume) == expected["files"]
        state = volume.state
        assert volume.created == "earlier"
        assert volume.salt.hex() == expected["salt"]
        assert state.static.layout.encode().hex() == derived["layout"]
        assert volume.root.hex() == derived["root_hmac"]
        assert volume.counter.to_bytes(16, "big").hex() == derived["update_counter"]
        assert state.header.size << state.static.layout.block_shift == derived["image_size"]
        assert state.locations[1].data == tuple(Extent(*e) for e in derived["auth_tree_extents"])
        assert state.locations[2].data == tuple(Extent(*e) for e in derived["bitmap_extents"])
        assert state.geometry.shape.levels == derived["auth_tree_height"]
        assert index_height(state) == derived["index_height"]


@pytest.mark.parametrize("name", FINISHED)
def test_the_journal_is_active_where_the_manifest_says_so(name):
    entry, disk = manifest()[name], disk_of(name)
    with open_memory(disk, writable=False) as volume:
        active = head_of(disk, volume.state).startswith(b"CCFSJRNL")
        at = volume.state.static.journal.start << volume.state.static.layout.block_shift
    assert active == entry["derived"]["journal_active"]
    if active:
        assert at == entry["journal_head_offset"]


@pytest.mark.parametrize("name", [*FINISHED, *UNFORMATTED])
def test_reading_leaves_the_image_untouched(name):
    disk = disk_of(name)
    before = bytes(disk.content)
    with open_memory(disk, writable=False) as volume:
        digests_of(volume)
    assert disk.content == before
    assert disk.trace == []


@pytest.mark.parametrize("name", ["default-aes128.svsm", "default-aes128.crash.apply-1"])
def test_reading_a_file_needs_no_right_to_write_it(name, tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(image(name))
    path.chmod(0o400)
    with open_volume(path, KEY, writable=False) as volume:
        assert digests_of(volume) == manifest()[name]["files"]
    assert path.read_bytes() == image(name)


@pytest.mark.parametrize("name", PENDING)
def test_a_pending_transaction_is_applied_into_the_image_when_opened_for_writing(name):
    disk = disk_of(name)
    with open_memory(disk) as volume:
        applied = volume.root
        assert digests_of(volume) == manifest()[name]["files"]
    assert disk.trace[-1] is None, "the applied journal's end is not durable"
    with open_memory(disk.copy(), writable=False) as volume:
        assert head_of(disk, volume.state).strip(b"\0") == b"", "the journal is still there"
        assert volume.root == applied
        assert digests_of(volume) == manifest()[name]["files"]


@pytest.mark.parametrize("name", PENDING)
def test_an_altered_journal_is_refused_and_stays(name):
    disk = disk_of(name)
    # In the ciphertext of the head, with the checksum made to fit: only the tag can tell.
    static = StaticHeader.parse(lambda size: disk.read(0, size))
    at, size = (part << static.layout.block_shift for part in (static.journal.start, static.journal.length))
    head = bytearray(active_head(bytes(disk.content[at : at + size]), static.layout))
    head[-1] ^= 1
    disk.content[at : at + size] = protect_head(bytes(head), static.layout)
    before = bytes(disk.content)
    with pytest.raises(VolumeDamaged, match="journal log"):
        open_memory(disk)
    assert disk.content == before


@pytest.mark.parametrize(
    ("name", "created"),
    # In the second, only the copy of the creation header was still to be removed.
    list(zip(UNFORMATTED, ["this-boot", "earlier"], strict=True)),
)
def test_asked_for_or_interrupted_formatting_is_completed_to_an_empty_volume(name, created):
    disk = disk_of(name)
    with open_memory(disk) as volume:
        assert volume.created == created
        assert volume.inodes() == ()
        assert volume.salt.hex() == manifest()[name]["salt"]
        root = volume.root
    with open_memory(disk.copy()) as volume:
        assert volume.created == "earlier"
        assert (volume.inodes(), volume.root) == ((), root)
        volume.transaction({1 << 32: b"first"})
        assert volume.read(1 << 32) == b"first"


def test_a_formatted_image_keeps_nothing_of_the_creation_header_and_its_copy():
    disk = disk_of("default-aes128.mkfsinfo")
    assert disk.content.startswith(b"CCFSMKFS")
    open_memory(disk).close()
    assert disk.content.startswith(b"COCOONFS")
    assert b"CCFSMKFS" not in disk.content


def test_the_copy_of_the_creation_header_lies_where_the_reference_implementation_puts_it():
    (place,) = manifest()[UNFORMATTED[1]]["mkfsinfo_copies"]
    assert disk_of(UNFORMATTED[1]).content[place:].startswith(b"CCFSMKFS")
    disk = disk_of("default-aes128.mkfsinfo")
    open_memory(disk).close()
    assert any(offset == place and data.startswith(b"CCFSMKFS") for offset, data in disk.writes())
    header = disk_of(UNFORMATTED[1])
    header.content[:512] = bytes(512)
    with open_memory(header) as volume:
        assert (volume.created, volume.inodes()) == ("this-boot", ())


@pytest.mark.parametrize("name", FINISHED)
def test_an_image_can_be_worked_on_and_keeps_the_rest(name):
    disk, new = disk_of(name), (1 << 33) + 7
    with open_memory(disk) as volume:
        before = digests_of(volume)
        counter = volume.counter
        volume.transaction({new: b"n" * 1000})
        volume.transaction({new: b"m" * 4000})
        assert volume.counter == counter + 2
    with open_memory(disk.copy()) as volume:
        assert volume.read(new) == b"m" * 4000
        volume.transaction({new: None})
        assert digests_of(volume) == before
