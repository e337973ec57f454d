"""A disk read through the authentication tree: what comes out is what was written, or an error.

The HMAC of a data block is over its allocated blocks, which ones they are, and its number. An opening computes one for
every 512 bytes or so, which is why the loops here are written for speed.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vtpm.volume.device import Disk
from vtpm.volume.errors import VolumeDamaged
from vtpm.volume.format.bitmap import Bits
from vtpm.volume.format.extents import Extent
from vtpm.volume.format.geometry import Geometry
from vtpm.volume.format.kdf import Keys
from vtpm.volume.format.layout import Layout
from vtpm.volume.format.tree import Tree

PART = "data block"
_CHUNK = 1 << 20
_CONTEXT = struct.Struct("<QQBB")
_VERSION, _SUBJECT = 0, 4


def digests(
    keys: Keys, layout: Layout, blocks: Iterable[tuple[int, int, bytes | memoryview]]
) -> Iterator[bytes]:
    """HMAC of each data block, given as its number, the mask of its allocated blocks, and its content.

    Of a block with nothing allocated the content does not matter.
    """
    full, pack = (1 << layout.data_block) - 1, _CONTEXT.pack

    def messages() -> Iterator[tuple[bytes | memoryview, bytes]]:
        for number, mask, data in blocks:
            covered = data if mask == full else _allocated_parts(data, mask, layout.block_size)
            yield covered, pack(mask, number, _VERSION, _SUBJECT)

    return keys.tree_data.each(messages())


def digest(keys: Keys, layout: Layout, number: int, mask: int, data: bytes | memoryview) -> bytes:
    """HMAC of one data block."""
    return next(digests(keys, layout, [(number, mask, data)]))


def _allocated_parts(data: bytes | memoryview, mask: int, size: int) -> bytes:
    return b"".join(data[i * size : (i + 1) * size] for i in range(mask.bit_length()) if mask >> i & 1)


def data_blocks_of(layout: Layout, extent: Extent) -> range:
    """Where the data blocks that an extent touches begin."""
    unit = layout.data_block
    return range(extent.start // unit * unit, -(-extent.end // unit) * unit, unit)


@dataclass(frozen=True)
class VerifiedDisk:
    """A disk, the tree that vouches for it, and the blocks that it vouches for."""

    disk: Disk
    tree: Tree
    covered: Bits

    def read(self, extent: Extent) -> bytes:
        """Bytes of an extent, once every data block that it touches is what the tree has.

        Raises:
            VolumeDamaged: one is not; names the first.
        """
        geometry, shift = self._geometry, self._geometry.layout.block_shift
        first, last = geometry.data_block(extent.start), geometry.data_block(extent.end - 1)
        runs = list(geometry.runs(first, last + 1))
        if len(runs) != 1:
            raise VolumeDamaged("runs through the authentication tree", part="extent", block=extent.start)
        _, run = runs[0]
        data = self.disk.read(run.start << shift, run.length << shift)
        self._check(first, run.start, data)
        at = (extent.start - run.start) << shift
        return data[at : at + (extent.length << shift)]

    def check_everything(self) -> None:
        """Raise `VolumeDamaged` unless the tree vouches for every block that is allocated."""
        for number, run in self._chunks(0, self._geometry.data_blocks):
            if self.covered.any_set(run.start, run.length):
                self._check(number, run.start, self._read(run))

    def fresh_digests(self, first: int, end: int) -> Iterator[bytes]:
        """HMACs of the data blocks `first` to `end`, computed from what the disk holds now."""
        layout = self._geometry.layout
        step = layout.data_block << layout.block_shift
        for number, run in self._chunks(first, end):
            view = memoryview(self._read(run))
            masks = self.covered.masks(run.start, -(-run.length >> layout.data_block_log2), layout.data_block)
            blocks = ((number + i, mask, view[i * step : (i + 1) * step]) for i, mask in enumerate(masks))
            yield from digests(self.tree.keys, layout, blocks)

    @property
    def _geometry(self) -> Geometry:
        return self.tree.geometry

    def _read(self, run: Extent) -> bytes:
        shift = self._geometry.layout.block_shift
        return self.disk.read(run.start << shift, run.length << shift)

    def _chunks(self, first: int, end: int) -> Iterator[tuple[int, Extent]]:
        """Contiguous runs of data blocks of at most a mebibyte or one block: first number, and where the run lies."""
        layout = self._geometry.layout
        most = max(_CHUNK >> layout.block_shift >> layout.data_block_log2, 1)
        for begin in range(first, end, most):
            yield from self._geometry.runs(begin, min(begin + most, end))

    def _check(self, first: int, start: int, data: bytes) -> None:
        """Compare the data blocks of a run that hold something with what the tree has."""
        layout = self._geometry.layout
        step = layout.data_block << layout.block_shift
        count = -(-len(data) // step)
        view = memoryview(data)
        held = [
            (first + i, mask, view[i * step : (i + 1) * step])
            for i, mask in enumerate(self.covered.masks(start, count, layout.data_block))
            if mask
        ]
        expected = self.tree.digests(first, count)
        for (number, _, _), computed in zip(held, digests(self.tree.keys, layout, held), strict=True):
            if computed != expected[number - first]:
                place = self._geometry.place(number)
                raise VolumeDamaged("is not what was written", part=PART, block=place)
