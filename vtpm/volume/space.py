"""Where there is room: the runs of free blocks, and how places are chosen among them."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator

from vtpm.volume.errors import VolumeFull
from vtpm.volume.format.extents import Extent


class Space:
    """Free blocks of an image, as runs in ascending order. What it gives is free no more.

    Args:
        runs: free runs in ascending order, none touching another.
    """

    def __init__(self, runs: Iterable[Extent]) -> None:
        runs = list(runs)
        self._starts = [run.start for run in runs]
        self._ends = [run.end for run in runs]

    def copy(self) -> "Space":
        """The same blocks, to be given out anew."""
        space = Space(())
        space._starts, space._ends = self._starts[:], self._ends[:]
        return space

    def free(self) -> int:
        """How many blocks are free."""
        return sum(self._ends) - sum(self._starts)

    def block(self, length: int, unit: int) -> int:
        """The place of `length` blocks in one piece that begins at a multiple of `unit`.

        Raises:
            VolumeFull: there is no such place.
        """
        for at, start in enumerate(self._starts):
            aligned = -(-start // unit) * unit
            if self._ends[at] - aligned >= length:
                self._cut(at, aligned, aligned + length)
                return aligned
        raise VolumeFull(f"no {length} free blocks in one piece are left")

    def piece(self, length: int, unit: int, *, whole: bool = True) -> Extent:
        """`length` blocks in one piece that begins at a multiple of `unit`, or the longest piece there is.

        Args:
            length: blocks that are wanted.
            unit: alignment of the piece.
            whole: whether its length must be a multiple of `unit` too.

        Raises:
            VolumeFull: there is no such piece.
        """
        best: Extent | None = None
        for extent in self._usable(unit, whole=whole):
            if best is None or extent.length > best.length:
                best = extent
                if best.length >= length:
                    break
        if best is None:
            raise VolumeFull("no free blocks are left")
        length = min(length, best.length)
        self._cut(bisect_right(self._starts, best.start) - 1, best.start, best.start + length)
        return Extent(best.start, length)

    def _usable(self, unit: int, *, whole: bool) -> Iterator[Extent]:
        """Of each run what begins at a multiple of `unit` and, if `whole`, is a multiple of it long."""
        for start, end in zip(self._starts, self._ends, strict=True):
            aligned = -(-start // unit) * unit
            room = end - aligned
            room = room // unit * unit if whole else room
            if room > 0:
                yield Extent(aligned, room)

    def pieces(self, length: int, unit: int, *, whole: bool = True) -> list[Extent]:
        """`length` blocks in as few pieces as there must be, each as `piece` would give it.

        Raises:
            VolumeFull: there are not so many; none is given then.
        """
        if not length:
            return []
        usable = list(self._usable(unit, whole=whole))
        fitting = next((extent for extent in usable if extent.length >= length), None)
        taken: list[Extent] = []
        candidates = [fitting] if fitting else sorted(usable, key=lambda extent: -extent.length)
        for extent in candidates:
            taken.append(Extent(extent.start, min(extent.length, length)))
            length -= taken[-1].length
            if not length:
                break
        if length:
            raise VolumeFull("no free blocks are left")
        for start, size in taken:
            self._cut(bisect_right(self._starts, start) - 1, start, start + size)
        return taken

    def units(self, unit: int) -> int:
        """How many aligned units are free."""
        return sum(
            max(end // unit - -(-start // unit), 0)
            for start, end in zip(self._starts, self._ends, strict=True)
        )

    def become(self, other: "Space") -> None:
        """Have the free blocks of another."""
        self._starts, self._ends = other._starts[:], other._ends[:]  # noqa: SLF001 - the same class

    def give_back(self, extents: Iterable[Extent]) -> None:
        """Make extents free again that are not."""
        for extent in extents:
            at = bisect_right(self._starts, extent.start)
            joins_left = at > 0 and self._ends[at - 1] == extent.start
            joins_right = at < len(self._starts) and self._starts[at] == extent.end
            if joins_left and joins_right:
                self._ends[at - 1] = self._ends.pop(at)
                del self._starts[at]
            elif joins_left:
                self._ends[at - 1] = extent.end
            elif joins_right:
                self._starts[at] = extent.start
            else:
                self._starts.insert(at, extent.start)
                self._ends.insert(at, extent.end)

    def _cut(self, at: int, start: int, end: int) -> None:
        """Take [start, end) out of run number `at`."""
        run_start, run_end = self._starts[at], self._ends[at]
        left = [(run_start, start)] if run_start < start else []
        right = [(end, run_end)] if end < run_end else []
        self._starts[at : at + 1] = [piece[0] for piece in left + right]
        self._ends[at : at + 1] = [piece[1] for piece in left + right]
