"""What the volume costs, as ratios to the cryptography and the flushes that it cannot do without."""

import hashlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from vtpm.volume import CocoonVolume, make_volume, open_volume

SECRET = bytes(range(32))
MEBIBYTE = 1 << 20
SIZE = 8 * MEBIBYTE
FILE = 16 * 1024
OPENINGS, COMMITS = 7, 60
WRITES = (19072, 512, 13824, 512)
"""Bytes that such a commit writes before each of its barriers: prepared, head, applied, head gone."""

FREED = 40
"""Data blocks that such a commit empties, or that change beside it."""


def wall_ms(work: Callable[[], object], repeats: int) -> float:
    """Median wall time of one call, in milliseconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


def hmacs(blocks: Iterator[memoryview], context: bytes) -> None:
    """HMAC-SHA-256 of each block with a short context, as fast as hashlib does it: no key is hashed twice."""
    inner, outer = hashlib.sha256(bytes(64)), hashlib.sha256(bytes(64))
    for block in blocks:
        state, final = inner.copy(), outer.copy()
        state.update(block)
        state.update(context)
        final.update(state.digest())
        final.digest()


def blocks_of(data: bytes, size: int) -> Iterator[memoryview]:
    """The data in blocks of `size` bytes."""
    view = memoryview(data)
    return (view[at : at + size] for at in range(0, len(data), size))


def opening_floor_ms(path: Path, used: int, nodes: int) -> float:
    """Read the file, an HMAC of each 512-byte block that is used, a hash of each 1,024-byte node."""

    def work() -> None:
        data = path.read_bytes()
        hmacs(blocks_of(data[:used], 512), bytes(18))
        for node in blocks_of(data[: nodes * 1024], 1024):
            hashlib.sha256(node).digest()

    return wall_ms(work, OPENINGS)


def commit_floor_ms(folder: Path) -> float:
    """Encrypt 16 KiB, the HMACs of the data blocks that change, and the writes and flushes that a commit needs."""
    data, rest = os.urandom(FILE), os.urandom(max(WRITES))

    def work() -> None:
        state = Cipher(algorithms.AES(bytes(16)), modes.CBC(os.urandom(16))).encryptor()
        sealed = state.update(data)
        hmacs(blocks_of(sealed, 512), bytes(18))
        hmacs(blocks_of(bytes(FREED), 1), bytes(18))
        for number, size in enumerate(WRITES):
            os.pwrite(file, rest[:size], number << 16)
            os.fsync(file)

    file = os.open(folder / "floor.img", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.pwrite(file, bytes(SIZE), 0)
        os.fsync(file)
        return wall_ms(work, COMMITS)
    finally:
        os.close(file)


def commit_ms(volume: CocoonVolume) -> float:
    """One transaction that rewrites a file of 16 KiB."""
    return wall_ms(lambda: volume.transaction({5000: os.urandom(FILE)}), COMMITS)


def measure(folder: Path) -> dict[str, float]:
    """All figures, in milliseconds: openings and commits, and their floors."""
    small, large = folder / "small.img", folder / "large.img"
    make_volume(small, SECRET, b"bench", size=SIZE)
    with open_volume(small, SECRET) as volume:
        for inode in range(100, 107):
            volume.transaction({inode: os.urandom(MEBIBYTE)})
        used = volume.state.covered.count() * 128
        nodes = volume.state.geometry.shape.nodes
    opening = wall_ms(lambda: open_volume(small, SECRET, writable=False).close(), OPENINGS)
    opening_floor = opening_floor_ms(small, used, nodes)
    with open_volume(small, SECRET) as volume:
        commit = commit_ms(volume)
    floor = commit_floor_ms(folder)
    make_volume(large, SECRET, b"bench", size=1024 * MEBIBYTE, fill=False)
    with open_volume(large, SECRET) as volume:
        commit_large = commit_ms(volume)
    return {
        "opening": opening,
        "opening_floor": opening_floor,
        "commit": commit,
        "commit_floor": floor,
        "commit_large": commit_large,
    }
