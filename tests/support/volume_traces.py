"""Disks in memory that keep a record of what was written to them, and every disk that a power cut can leave.

A disk may have taken any of the writes since the last barrier, in any order, and any part of each that is made of whole
sectors. What was written before a barrier is there.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

from vtpm.volume import DEFAULT, Layout, VolumeFull, Write
from vtpm.volume.creation import write_creation_header
from vtpm.volume.format.auxiliary import Auxiliary
from vtpm.volume.format.headers import StaticHeader
from vtpm.volume.mkfs import DEFAULT_AUXILIARY, format_disk
from vtpm.volume.opening import open_disk
from vtpm.volume.volume import CocoonVolume

SECRET = b"a key of these tests"
SALT = b"a volume of these tests"
SECTOR, SMALL_SECTOR = 512, 128

LAYOUTS: dict[str, tuple[Layout, int]] = {
    "default": (DEFAULT, 96 << 10),
    "io-128": (replace(DEFAULT, io_block_log2=0, tree_node_log2=0), 64 << 10),
    "io-4k": (replace(DEFAULT, io_block_log2=5, tree_node_log2=0), 512 << 10),
    "allocation-4k": (
        replace(
            DEFAULT,
            allocation_block_log2=5,
            io_block_log2=0,
            tree_node_log2=0,
            data_block_log2=0,
            bitmap_block_log2=0,
        ),
        1 << 20,
    ),
    "data-8k": (replace(DEFAULT, data_block_log2=6), 512 << 10),
}
"""Layouts whose commits differ in kind, each with bytes of an image that some files fill by half."""


def chance(seed: str | int) -> random.Random:
    """The same random numbers each time."""
    return random.Random(seed)  # noqa: S311 - nothing secret


@dataclass(frozen=True)
class Written:
    """A write that was asked for."""

    offset: int
    data: bytes


BARRIER = None
Event = Written | None


class TraceDisk:
    """A disk in memory. `events` are the writes and barriers so far, if `recording`."""

    def __init__(self, data: bytes | bytearray, *, recording: bool = True) -> None:
        self.data = bytearray(data)
        self.events: list[Event] = []
        self.recording = recording
        self.closed = False

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self.data[offset : offset + size])

    def write(self, offset: int, data: bytes) -> None:
        assert 0 <= offset <= offset + len(data) <= len(self.data), "a write beyond the disk's end"
        self.data[offset : offset + len(data)] = data
        if self.recording:
            self.events.append(Written(offset, bytes(data)))

    def barrier(self) -> None:
        if self.recording:
            self.events.append(BARRIER)

    def close(self) -> None:
        self.closed = True


@dataclass(frozen=True)
class Cut:
    """A power cut: what the disk holds after it.

    Attributes:
        at: how many events had been asked for.
        how: for a failing test to name.
        make: makes the disk's bytes; there are too many cuts to hold them all.
    """

    at: int
    how: str
    make: Callable[[], bytes] = field(repr=False)

    @cached_property
    def image(self) -> bytes:
        return self.make()


def applied(before: bytes, events: Sequence[Event]) -> bytearray:
    """A disk after all of these writes."""
    image = bytearray(before)
    for event in events:
        if event is not BARRIER:
            image[event.offset : event.offset + len(event.data)] = event.data
    return image


def prefixes(before: bytes, events: Sequence[Event], small: range = range(0)) -> Iterator[Cut]:
    """Cuts of a disk that writes in order: after each event, and within each write at every sector.

    Args:
        before: what the disk held.
        events: what was asked for.
        small: offsets where the sectors are the smallest there are.
    """

    def torn(number: int, taken: int) -> bytes:
        event = events[number - 1]
        assert event is not BARRIER
        return bytes(applied(before, [*events[: number - 1], Written(event.offset, event.data[:taken])]))

    yield Cut(0, "before anything", lambda: before)
    for number, event in enumerate(events, 1):
        if event is BARRIER:
            continue
        step = SMALL_SECTOR if event.offset in small else SECTOR
        first = (event.offset // step + 1) * step - event.offset
        for taken in range(first, len(event.data), step):
            yield Cut(number, f"event {number} torn after {taken}", partial(torn, number, taken))
        yield Cut(number, f"after event {number}", partial(torn, number, len(event.data)))


def reordered(before: bytes, events: Sequence[Event], rng: random.Random, samples: int) -> Iterator[Cut]:
    """Cuts of a disk that reorders between barriers: subsets of the writes since the last one, in part too.

    Every subset of whole writes where there are few; and `samples` of them by chance, in which a write may also be
    there in some of its sectors only.
    """

    def subset(durable: int, pending: Sequence[Written], chosen: int) -> bytes:
        there = [write for number, write in enumerate(pending) if chosen >> number & 1]
        return bytes(applied(before, [*events[:durable], *there]))

    def scattered(durable: int, pending: Sequence[Written], seed: int) -> bytes:
        return bytes(applied(before, [*events[:durable], *_scattered(pending, chance(seed))]))

    durable, pending = 0, list[Written]()
    for number, event in enumerate([*events, BARRIER], 1):
        if event is not BARRIER:
            pending.append(event)
            continue
        at, there = number - 1, f"of {len(pending)} writes before event {number}"
        if 0 < len(pending) <= 3:
            for chosen in range((1 << len(pending)) - 1):
                yield Cut(at, f"subset {chosen:#b} {there}", partial(subset, durable, pending, chosen))
        for _ in range(samples if pending else 0):
            seed = rng.getrandbits(32)
            yield Cut(at, f"parts (seed {seed}) {there}", partial(scattered, durable, pending, seed))
        durable, pending = number, []


def lost_sectors(before: bytes, events: Sequence[Event], number: int, rng: random.Random) -> Iterator[Cut]:
    """Cuts during event `number`, of which any of its smallest sectors are lost: all choices, or 60 of many."""
    event = events[number - 1]
    assert event is not BARRIER
    pieces = [
        Written(event.offset + at, event.data[at : at + SMALL_SECTOR])
        for at in range(0, len(event.data), SMALL_SECTOR)
    ]
    every = (1 << len(pieces)) - 1
    few = len(pieces) <= 5
    # One lost sector is the hardest to notice.
    chosen = range(every) if few else [every ^ 1 << bit for bit in range(len(pieces))][:30]
    chosen = [*chosen, *(rng.getrandbits(len(pieces)) for _ in range(0 if few else 30))]
    for there in chosen:
        kept = [piece for bit, piece in enumerate(pieces) if there >> bit & 1]
        make = partial(applied, before, [*events[: number - 1], *kept])
        yield Cut(number, f"event {number} with sectors {there:#b}", lambda make=make: bytes(make()))


def _scattered(pending: Sequence[Written], rng: random.Random) -> Iterator[Written]:
    """Some sectors of some of the writes."""
    likely = rng.choice((0.1, 0.5, 0.9))
    for write in pending[: rng.randint(1, len(pending))]:
        step = rng.choice((SMALL_SECTOR, SECTOR, len(write.data)))
        for at in range(0, len(write.data), step):
            if rng.random() < likely:
                yield Written(write.offset + at, write.data[at : at + step])


def new_disk(name: str, rng: random.Random) -> TraceDisk:
    """A disk with a new volume of one of `LAYOUTS`."""
    layout, size = LAYOUTS[name]
    disk = TraceDisk(rng.randbytes(size), recording=False)
    static = StaticHeader(layout, SALT)
    format_disk(
        disk, static, SECRET, size >> layout.block_shift, DEFAULT_AUXILIARY, rng.randbytes, fill=False
    )
    disk.recording = True
    return disk


def blank_disk(name: str, rng: random.Random, auxiliary: Auxiliary, salt: bytes = SALT) -> TraceDisk:
    """A disk whose creation header asks for a volume of one of `LAYOUTS`, over what lay there by chance."""
    layout, size = LAYOUTS[name]
    disk = TraceDisk(rng.randbytes(size), recording=False)
    write_creation_header(disk, StaticHeader(layout, salt), size >> layout.block_shift, auxiliary)
    disk.recording = True
    return disk


def opened(disk: TraceDisk, rng: random.Random, *, writable: bool = True) -> CocoonVolume:
    return open_disk(disk, SECRET, writable=writable, entropy=rng.randbytes)


Content = dict[int, tuple[int, bytes]]
"""What a volume holds: flags and content by inode."""


def content_of(volume: CocoonVolume) -> Content:
    found: Content = {}
    for inode in volume.inodes():
        data, flags = volume.read(inode), volume.flags(inode)
        assert data is not None
        assert flags is not None
        found[inode] = (flags, data)
    return found


def random_changes(name: str, rng: random.Random, present: Sequence[int]) -> dict[int, Write | None]:
    """One to four changes: new files, rewrites and removals, of one extent and of many."""
    layout, size = LAYOUTS[name]
    unit = layout.block_size
    direct = [0, 1, 15, 16, 17, unit - 33, unit - 16, unit, 4 * unit + 5]
    # A file of more than 64 allocation blocks has a list of its extents.
    indirect = [size // 12, size // 8] if size // 12 > 64 * unit else [size // 16, 65 * unit]
    sizes = [*direct, *[length for length in indirect if length < size // 6]]
    changes: dict[int, Write | None] = {}
    for _ in range(rng.choice((1, 1, 2, 4))):
        if present and rng.random() < 0.3:
            changes[rng.choice(list(present))] = None
        else:
            inode = rng.choice([*range(16, 28), 1 << 32 | 0x100, (1 << 64) - 1])
            changes[inode] = Write(rng.randbytes(rng.choice(sizes)), rng.choice((None, 0, 7, 255)))
    return changes


def after(before: Content, changes: dict[int, Write | None]) -> Content:
    """What a volume holds after changes."""
    result = dict(before)
    for inode, change in changes.items():
        if change is None:
            result.pop(inode, None)
        else:
            kept = before[inode][0] if inode in before else 0
            result[inode] = (kept if change.flags is None else change.flags, change.content)
    return result


@dataclass
class History:
    """A volume that was worked on.

    Attributes:
        before: the disk's bytes before the first event.
        disk: the disk, with its events.
        contents: what the volume held at first, and after each transaction.
        marks: for each transaction the number of events when its head was first asked for, when the head was durable,
            and when `transaction` returned.
    """

    before: bytes
    disk: TraceDisk
    contents: list[Content]
    marks: list[tuple[int, int, int]]
    head: int

    def allowed(self, cut: Cut) -> list[Content]:
        """What a volume may hold after a cut: one state, or one of two while its head is not known to be durable."""
        count = sum(durable <= cut.at for _, durable, _ in self.marks)
        begun = any(first <= cut.at < durable for first, durable, _ in self.marks)
        return self.contents[count : count + 1 + begun]


def history(name: str, rng: random.Random, transactions: int, *, warm: int = 0) -> History:
    """Make a volume and change it at random; `warm` transactions before the record begins."""
    disk = new_disk(name, rng)
    disk.recording = False
    with opened(disk, rng) as volume:
        for _ in range(warm):
            try_changes(volume, random_changes(name, rng, volume.inodes()))
    disk.recording, disk.events = True, []
    before = bytes(disk.data)
    volume = opened(disk, rng)
    contents, marks = [content_of(volume)], []
    layout = volume.state.static.layout
    head = volume.state.static.journal.start << layout.block_shift
    while len(marks) < transactions:
        start = len(disk.events)
        changes = random_changes(name, rng, volume.inodes())
        if not try_changes(volume, changes):
            try_changes(volume, dict.fromkeys(volume.inodes()[:3]))
            changes = dict.fromkeys(contents[-1].keys() - set(volume.inodes()))
        first = next(
            number
            for number, event in enumerate(disk.events[start:], start + 1)
            if event is not BARRIER and event.offset == head and any(event.data)
        )
        durable = next(
            number for number, event in enumerate(disk.events[first:], first + 1) if event is BARRIER
        )
        marks.append((first, durable, len(disk.events)))
        contents.append(after(contents[-1], changes))
    assert content_of(volume) == contents[-1]
    volume.close()
    return History(before, disk, contents, marks, head)


def try_changes(volume: CocoonVolume, changes: dict[int, Write | None]) -> bool:
    """Whether there was room."""
    try:
        volume.transaction(changes)
    except VolumeFull:
        return False
    return True
