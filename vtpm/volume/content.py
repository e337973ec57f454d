"""What blocks will hold once a transaction is through, and how that may be written without harming what is there."""

from vtpm.volume.device import Disk
from vtpm.volume.format.extents import Extent, merge
from vtpm.volume.state import State


class Content:
    """What the blocks will hold: new content over what is there, in units of the larger of IO and data block."""

    def __init__(self, state: State, disk: Disk) -> None:
        self._state = state
        self._disk = disk
        self._layout = state.static.layout
        self._unit = self._layout.journal_block
        self._units: dict[int, bytearray] = {}
        self._written: list[Extent] = []

    def write(self, extent: Extent, data: bytes) -> None:
        """Give an extent new content."""
        self._written.append(extent)
        shift, unit = self._layout.block_shift, self._unit
        size = unit << shift
        for number in range(extent.start // unit, (extent.end - 1) // unit + 1):
            at = (number * unit - extent.start) << shift
            chunk = data[max(at, 0) : at + size]
            if len(chunk) == size:
                self._units[number] = bytearray(chunk)
            else:
                into = max(-at, 0)
                self._load(number)[into : into + len(chunk)] = chunk

    def read(self, start: int, length: int) -> bytes:
        """Content of blocks within one unit."""
        shift = self._layout.block_shift
        at = (start % self._unit) << shift
        return bytes(self._load(start // self._unit)[at : at + (length << shift)])

    def written(self) -> list[Extent]:
        """All that has new content."""
        return self._written

    def split(self) -> tuple[dict[int, bytes], list[tuple[int, bytes]]]:
        """IO blocks with new content that hold something live, by where they begin; and the rest, as writes."""
        staged: dict[int, bytes] = {}
        direct: list[tuple[int, bytes]] = []
        unit, shift = self._layout.io_block, self._layout.block_shift
        for extent in merge(self._written):
            for start in range(extent.start // unit * unit, extent.end, unit):
                if self._state.allocated.mask(start, unit):
                    staged[start] = self.read(start, unit)
                else:
                    first, end = max(start, extent.start), min(start + unit, extent.end)
                    direct.append((first << shift, self.read(first, end - first)))
        return staged, direct

    def _load(self, number: int) -> bytearray:
        """A unit's content; where something lives in it, only after the tree has vouched for that."""
        content = self._units.get(number)
        if content is None:
            start = number * self._unit
            length = min(self._unit, self._state.header.size - start)
            if self._state.allocated.mask(start, length):
                content = bytearray(self._state.read(self._disk, Extent(start, length)))
            else:
                content = bytearray(length << self._layout.block_shift)
            self._units[number] = content
        return content
