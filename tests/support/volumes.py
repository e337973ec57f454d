"""Volumes for tests: the reference implementation's images, disks in memory, and small volumes of many layouts."""

import hashlib
import json
import lzma
import random
from dataclasses import replace
from functools import cache
from pathlib import Path

from vtpm.volume import DEFAULT, Auxiliary, VolumeReadError, VolumeWriteError, of_strength
from vtpm.volume.algorithms import cipher_algorithm, hash_algorithm
from vtpm.volume.headers import CreationHeader, StaticHeader
from vtpm.volume.mkfs import check_size, format_disk, write_creation_header
from vtpm.volume.opening import open_disk

VECTORS = Path(__file__).parents[1] / "vectors" / "cocoonfs"
KEY = bytes(range(32))
SALT = bytes.fromhex("ddeeff")
FIRST = 1 << 32 | 0x10
"""Number of the first file that tests make."""


@cache
def manifest():
    """What the reference implementation says of each of its images, by name."""
    return json.loads((VECTORS / "manifest.json").read_text())


@cache
def vectors():
    """Keys and checksums of the reference implementation."""
    return json.loads((VECTORS / "vectors.json").read_text())


@cache
def image(name):
    """The bytes of one of its images."""
    data = lzma.decompress((VECTORS / "images" / f"{name}.img.xz").read_bytes())
    assert hashlib.sha256(data).hexdigest() == manifest()[name]["sha256"]
    return data


class MemoryDisk:
    """A disk in memory (`vtpm.volume.device.Disk`) that keeps a trace of what was done to it.

    Attributes:
        content: its bytes as a reader sees them.
        trace: in order, (offset, data) for each write and None for each barrier.
        closed: how many times it was closed.
        fail: called with "read", "write" or "barrier" before each; what it raises is the disk's error.
    """

    def __init__(self, content):
        """Content, or the number of zeros that it begins with."""
        self.content = bytearray(content)
        self.trace = []
        self.closed = 0
        self.fail = lambda _: None

    @property
    def size(self):
        return len(self.content)

    def read(self, offset, size):
        self.fail("read")
        return bytes(self.content[offset : offset + size])

    def write(self, offset, data):
        self.fail("write")
        assert 0 <= offset <= offset + len(data) <= len(self.content), "a write beyond the disk's end"
        self.content[offset : offset + len(data)] = data
        self.trace.append((offset, bytes(data)))

    def barrier(self):
        self.fail("barrier")
        self.trace.append(None)

    def close(self):
        self.closed += 1

    def writes(self):
        """The writes of the trace."""
        return [entry for entry in self.trace if entry is not None]

    def copy(self):
        """Another disk with the same content and no past."""
        return MemoryDisk(self.content)


class Broken:
    """A disk's `fail` that raises from the `after`-th operation of a kind on."""

    def __init__(self, kind, after=0):
        self.kind, self.left = kind, after

    def __call__(self, what):
        if what != self.kind:
            return
        if self.left <= 0:
            raise (VolumeReadError if what == "read" else VolumeWriteError)("the disk is broken")
        self.left -= 1


def rng(seed):
    """Choices that are the same in every run."""
    return random.Random(seed)  # noqa: S311 - nothing secret


def entropy(seed=0):
    """Random bytes that are the same in every run."""
    return rng(seed).randbytes


@cache
def pattern(length, seed=0):
    """Content of a file: the same in every run, and no two alike."""
    return rng(f"{length} {seed}").randbytes(length)


def layout(**changes):
    """The default layout with some fields changed; strength=192 or 256 changes the algorithms too."""
    return replace(of_strength(changes.pop("strength", 128)), **changes)


SHA3_256, SM3 = hash_algorithm(0x27), hash_algorithm(0x12)
SM4, CAMELLIA = cipher_algorithm(0x13, 128), cipher_algorithm(0x26, 256)

LAYOUTS = {
    "default": DEFAULT,
    "strength-192": layout(strength=192),
    "strength-256": layout(strength=256),
    "sha3-camellia": replace(
        DEFAULT,
        node_hash=SHA3_256,
        data_hash=hash_algorithm(0x29),
        root_hash=SHA3_256,
        preauth_hash=hash_algorithm(0x28),
        kdf_hash=SHA3_256,
        cipher=CAMELLIA,
    ),
    "sm3-sm4": replace(
        DEFAULT, node_hash=SM3, data_hash=SM3, root_hash=SM3, preauth_hash=SM3, kdf_hash=SM3, cipher=SM4
    ),
    "io-4k": layout(io_block_log2=5),
    "alloc-4k": layout(allocation_block_log2=5, io_block_log2=0, tree_node_log2=0, data_block_log2=0,
                       bitmap_block_log2=0),
    "data-above-io": layout(io_block_log2=1, data_block_log2=4),
    "all-smallest": layout(io_block_log2=0, tree_node_log2=0, data_block_log2=0, bitmap_block_log2=0),
    "bitmap-below-data": layout(bitmap_block_log2=0, data_block_log2=3),
    "bitmap-above-data": layout(bitmap_block_log2=4, data_block_log2=1),
    "wide-index": layout(leaf_log2=2, inner_log2=1),
    "wide-tree": layout(tree_node_log2=3, data_block_log2=6),
}  # fmt: skip
"""Layouts of many proportions, algorithms and digest sizes. Each fits a volume of 256 KiB."""


def format_memory(size=64 << 10, layout=DEFAULT, *, auxiliary=None, salt=SALT, seed=0, fill=False):
    """A disk in memory with a new volume."""
    disk = MemoryDisk(size)
    static = StaticHeader(layout, salt)
    records = Auxiliary() if auxiliary is None else auxiliary
    blocks = size >> layout.block_shift
    check_size(static, blocks, records, first_use=False)
    format_disk(disk, static, KEY, blocks, records, entropy(seed), fill=fill)
    disk.trace.clear()
    return disk


def blank_memory(size=64 << 10, layout=DEFAULT, *, auxiliary=None, salt=SALT, disk_size=None):
    """A disk in memory with a creation header."""
    disk = MemoryDisk(disk_size or size)
    records = Auxiliary() if auxiliary is None else auxiliary
    length = 0 if records.trivial else len(records.encode())
    write_creation_header(disk, CreationHeader(layout, salt, size >> layout.block_shift, length), records)
    disk.trace.clear()
    return disk


def open_memory(disk, secret=KEY, **options):
    """The volume on a disk in memory, with the same random bytes in every run."""
    return open_disk(disk, secret, **{"entropy": entropy(1), **options})


def files_of(volume):
    """Flags and content of every file."""
    return {inode: (volume.flags(inode), volume.read(inode)) for inode in volume.inodes()}


def files_on(disk, secret=KEY):
    """Flags and content of every file on a disk in memory, which stays as it is."""
    return files_of(open_memory(disk, secret, writable=False))


def digests_of(volume):
    """Inode, flags, length and SHA-256 of every file, as the manifest has them."""
    return [
        {"inode": inode, "flags": flags, "len": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for inode, (flags, data) in files_of(volume).items()
    ]
