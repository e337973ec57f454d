"""The targets of `fuzz_volume.py` under hypothesis, what fuzzing has found, and structures that would cost too much.

A bomb is a small disk that asks for much: what an opener spends on it is measured, in memory and in bytes read.
"""

import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from uuid import UUID

import pytest
import volume_forge as f
import volume_targets
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from opening_targets import point_to

from vtpm.volume import DEFAULT, Auxiliary, VolumeDamaged, VolumeError, VolumeFull
from vtpm.volume.format import auxiliary
from vtpm.volume.format.extents import Extent, Pointer, encode_list
from vtpm.volume.format.extents_list import extents_chain
from vtpm.volume.format.headers import CreationHeader, encode_auxiliary
from vtpm.volume.format.integrity import protect
from vtpm.volume.format.layout import Layout
from vtpm.volume.format.node import Entry, Form, Node
from vtpm.volume.opening import open_disk

FOUND = {
    # A copy of the journal's over the static header, which is the key's alone to vouch for.
    "journal": [bytes.fromhex("2a0af701003e")],
    # A reserve for auxiliary metadata of 2^63 bytes.
    "creation": [bytes(8) + b"\x80" + b"\x05" + bytes(2)],
}

inputs = st.one_of(
    st.binary(max_size=300),
    st.lists(st.one_of(st.just(0), st.integers(0, 255)), max_size=200).map(bytes),
)


def fuzz(name: str, examples: int) -> int:
    target = volume_targets.TARGETS[name]
    count = 0

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(inputs)
    @example(b"")
    def body(data: bytes) -> None:
        nonlocal count
        count += 1
        volume_targets.run(target, data)

    body()
    return count


@pytest.mark.parametrize("name", volume_targets.PARSERS)
def test_parsers_say_no_with_a_volume_error(name: str):
    assert fuzz(name, 150) > 20


@pytest.mark.parametrize("name", volume_targets.OPENINGS)
def test_openings_say_no_with_a_volume_error(name: str):
    assert fuzz(name, 40) > 20


@pytest.mark.slow
@pytest.mark.parametrize("name", volume_targets.TARGETS)
def test_thousands_of_inputs_give_a_volume_error_or_a_volume(name: str, capsys: pytest.CaptureFixture[str]):
    start = time.monotonic()
    count = fuzz(name, 5000 if name in volume_targets.PARSERS else 1000)
    with capsys.disabled():
        print(f"\n{name}: {count} inputs in {time.monotonic() - start:.0f} s")


@pytest.mark.parametrize(("name", "data"), [(name, data) for name, found in FOUND.items() for data in found])
def test_what_was_found_stays_found(name: str, data: bytes):
    volume_targets.run(volume_targets.TARGETS[name], data)


@pytest.mark.parametrize("name", volume_targets.TARGETS)
def test_each_target_can_go_through(name: str):
    """Else it would only ever see one refusal, and show nothing."""
    target = volume_targets.TARGETS[name]
    assert any(volume_targets.run(target, seed) for seed in volume_targets.seeds()[name])


def leaf(*inodes: int) -> bytes:
    entries = [Entry(Pointer(Extent(9, 1))) for _ in inodes]
    return b"\x01" + (32).to_bytes(3, "little") + Form(DEFAULT).encode(Node(1, list(inodes), entries))


NUMBERS, LIST = bytes(5), b"\x02" + (256).to_bytes(4, "little")
WRONG = {
    "a number of more than 64 bits": ("leb128", NUMBERS + b"\xff" * 9 + b"\x7f"),
    "a number without an end": ("leb128", NUMBERS + b"\xff" * 11),
    "an extent beyond the image": ("leb128", LIST + encode_list([Extent(250, 7)])),
    "an extent twice": ("leb128", LIST + b"\x05\x01\x7f\x01\x00\x00"),
    "a list without an end": ("leb128", LIST + b"\x05\x01"),
    "a last record that is cut off": ("records", bytes(16) + b"\x08\0\0\0" + b"\x01\x02"),
    "records out of order": (
        "records",
        Auxiliary(((UUID(int=2), b""), (UUID(int=1), b""))).encode(),
    ),
    "keys out of order": ("node", leaf(1, 3, 2)),
    "a key twice": ("node", leaf(1, 2, 2)),
    "a staged copy for a place beyond the disk": ("journal", bytes([0, 0, 1, 1, 255, 50, 0, 0])),
    "a staged copy from beyond the disk": ("journal", bytes([0, 0, 1, 1, 50, 255, 0, 0])),
    "a staged copy for the journal's own head": ("journal", bytes([0, 0, 1, 1, 2, 50, 0, 0])),
    "a bit of the bitmap without anything there": ("bitmap", bytes([0, 240, 0, 0, 1])),
    "a file's bit of the bitmap cleared": ("bitmap", bytes([0, 3, 0, 0, 0])),
    "a mutable header with another size": ("mutable", bytes([0, 1, 4, 0])),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_authenticates_and_is_wrong_is_refused(what: str):
    name, data = WRONG[what]
    assert not volume_targets.run(volume_targets.TARGETS[name], data)


@pytest.mark.parametrize("layout", f.LAYOUTS)
def test_a_forgery_without_an_alteration_is_the_volume(layout: Layout):
    """The forger is right about every HMAC: what is refused is refused for what was altered."""
    forgery = f.Forgery(layout)
    forgery.put_bits()
    for extent in forgery.state.index.extents():
        node = forgery.state.index.node(extent.start)
        forgery.put_node(extent.start, forgery.state.index.form.encode(node), extent.length)
    forgery.seal()
    forgery.open()


def test_a_root_hmac_that_was_not_sealed_is_refused():
    forgery = f.Forgery()
    forgery.allocated.fill([Extent(forgery.free()[0].start, 1)], allocated=True)
    forgery.put_bits()
    with pytest.raises(VolumeDamaged):
        forgery.open()


@pytest.mark.skipif(find_spec("atheris") is not None, reason="atheris is installed")
def test_the_coverage_guided_run_says_what_it_needs():
    script = Path(__file__).with_name("fuzz_volume.py")
    done = subprocess.run(
        [sys.executable, script, "log"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "atheris is not installed" in done.stderr


MEMORY_TIMES = 12
"""What an opening may take at its peak, as a multiple of the disk: all nodes, all lists and an overlay are held."""


def spent(act: Callable[[], object], refusal: type[VolumeError]) -> tuple[int, float]:
    """Bytes of memory at the peak, and seconds, until a bomb was refused."""
    start = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(refusal):
            act()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return peak, time.process_time() - start


FINE = replace(DEFAULT, io_block_log2=0, tree_node_log2=0, data_block_log2=0)
"""The layout with the least units, where things that lie over each other can do so most often."""


def test_a_ring_that_lies_over_itself_is_not_followed_beyond_the_disks_size():
    """Anybody can make this one: the auxiliary metadata is not authenticated."""
    size = 1 << 20
    forgery = f.Forgery(FINE, size)
    start = forgery.free()[0].start
    extents = [Extent(block, 64) for block in range(start, (size >> 7) - 64)]
    heads = (extents[0], None)
    image = forgery.image
    # A checksum covers all that follows in its extent, so the last extent is sealed first.
    for number in reversed(range(len(extents))):
        front = encode_auxiliary((extents[(number + 1) % len(extents)], extents[(number + 2) % len(extents)]))
        front += b"\1" if number == 0 else b""
        content = bytearray(forgery.bytes_at(extents[number]))
        section = len(front)
        content[: section + FINE.integrity_size] = front + bytes(FINE.integrity_size)
        content[section + FINE.integrity_size : 128] = bytes(128 - section - FINE.integrity_size)
        forgery.put(extents[number], protect(bytes(content), section, FINE, magic=0))
    forgery.header = replace(forgery.header, auxiliary=encode_auxiliary(heads))
    forgery.put(forgery.state.static.mutable, forgery.header.encode())
    disk = f.MeteredDisk(image)
    peak, seconds = spent(lambda: open_disk(disk, f.SECRET), VolumeDamaged)
    assert peak < MEMORY_TIMES * size, f"{peak / size:.0f} times the disk"
    assert seconds < volume_targets.LONGEST


def test_a_chain_that_lies_over_itself_is_not_followed_beyond_the_images_size():
    size = 1 << 20
    forgery = f.Forgery(FINE, size)
    spare = forgery.free()[0]
    head = Extent(spare.start, 1)
    first = spare.start + 64
    last = (size >> 7) - 64
    chain = extents_chain(forgery.keys, FINE, f.INDIRECT)
    cipher = chain.cipher
    for block in range(first, last):
        # Every block ends with zeros, so the next extent's IV is zero, wherever that begins.
        following = Pointer(Extent(block + 1, 64)).encode().ljust(16, b"\0")
        forgery.put(Extent(block, 1), cipher.encrypt_cbc(bytes(16), following) + bytes(112))
    iv = b"\1" * 16
    plain = Pointer(Extent(first, 64)).encode() + bytes(88)
    start = cipher.encrypt_cbc(iv, plain)
    # The carried IV of the second extent is the head's last cipher block.
    forgery.put(head, (iv + start).ljust(128, b"\0"))
    second = Pointer(Extent(first + 1, 64)).encode().ljust(16, b"\0")
    carried = forgery.bytes_at(head)[-16:]
    forgery.put(Extent(first, 1), cipher.encrypt_cbc(carried, second) + bytes(112))
    point_to(forgery, f.INDIRECT, Pointer(head, indirect=True))
    forgery.seal()
    disk = f.MeteredDisk(forgery.image)
    peak, seconds = spent(lambda: open_disk(disk, f.SECRET), VolumeDamaged)
    assert peak < MEMORY_TIMES * size, f"{peak / size:.0f} times the disk"
    assert seconds < volume_targets.LONGEST


def test_a_list_of_one_block_over_and_over_is_not_read_beyond_the_images_size():
    size = 1 << 20
    forgery = f.Forgery(FINE, size)
    spare = forgery.free()[-1]
    where = [Extent(start, 64) for start in range(spare.start, spare.end - 64, 64)]
    # The block after the first one; then, a gap of -1, the same again.
    payload = b"\x01\x01" + b"\x7f\x01" * (len(where) * 64 * 128 // 2 - 3000)
    forgery.put_list(f.INDIRECT, payload, where)
    point_to(forgery, f.INDIRECT, Pointer(where[0], indirect=True))
    forgery.allocated.fill(where, allocated=True)
    forgery.put_bits()
    forgery.seal()
    disk = f.MeteredDisk(forgery.image)
    peak, seconds = spent(lambda: open_disk(disk, f.SECRET), VolumeDamaged)
    assert peak < MEMORY_TIMES * size, f"{peak / size:.0f} times the disk"
    assert seconds < volume_targets.LONGEST


@pytest.mark.parametrize("reserve", [1 << 30, 1 << 40, (1 << 64) - 1])
def test_a_creation_header_that_asks_for_endless_auxiliary_metadata_is_refused(reserve: int):
    records = Auxiliary((), reserve).encode()
    header = CreationHeader(DEFAULT, f.SALT, f.SIZE >> 7, len(records))
    front = header.encode() + auxiliary.wrap(records, 512)
    disk = f.MeteredDisk(front.ljust(f.SIZE, b"\0"))
    peak, seconds = spent(lambda: open_disk(disk, f.SECRET), VolumeFull)
    assert peak < 1 << 20
    assert seconds < 1


@pytest.mark.parametrize("log2", [10, 20, 33])
def test_a_header_with_enormous_blocks_is_refused_without_making_room_for_one(log2: int):
    for field in (0, 2, 4):  # allocation block, node of the tree, bitmap block
        layout = bytearray(DEFAULT.encode())
        layout[field] = log2
        front = bytearray(CreationHeader(DEFAULT, f.SALT, f.SIZE >> 7).encode())
        mask = front[47 + 8]
        front[9:30] = bytes(byte ^ mask for byte in layout)
        disk = f.MeteredDisk(bytes(front).ljust(f.SIZE, b"\0"))
        peak, _ = spent(lambda disk=disk: open_disk(disk, f.SECRET), VolumeError)
        assert peak < 1 << 20
