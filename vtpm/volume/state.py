"""An opened volume in memory: what was verified when it was opened, against which every later read is verified too.

The disk belongs to the host, which may change it while it is open. So nothing is believed twice: a read checks the data
blocks that it touches against the tree in memory.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from vtpm.volume.device import Disk
from vtpm.volume.format.auxiliary import Ring
from vtpm.volume.format.bitmap import Bits
from vtpm.volume.format.entities import open_extents
from vtpm.volume.format.extents import Extent
from vtpm.volume.format.geometry import Geometry
from vtpm.volume.format.headers import MutableHeader, StaticHeader, open_counter
from vtpm.volume.format.index import Index
from vtpm.volume.format.inodes import INODE_BITMAP
from vtpm.volume.format.kdf import Keys
from vtpm.volume.format.tree import RootContext, Tree
from vtpm.volume.verified import VerifiedDisk


@dataclass(frozen=True)
class Location:
    """Where a file lies: the extents of its data, and those of the list that names them, if there is one."""

    data: tuple[Extent, ...]
    chain: tuple[Extent, ...] = ()

    @property
    def all(self) -> tuple[Extent, ...]:
        """Everything that it occupies."""
        return self.data + self.chain


@dataclass
class State:
    """One state of a volume, whole and verified.

    Attributes:
        static: the static header.
        keys: of the volume.
        header: the mutable header.
        tree: the authentication tree.
        allocated: which blocks hold something.
        covered: which of them the tree vouches for: all but headers, journal head and auxiliary metadata.
        index: the inode index.
        locations: where each inode lies, the tree (1) and the bitmap (2) among them.
        auxiliary: the auxiliary metadata; None if there is none.
    """

    static: StaticHeader
    keys: Keys
    header: MutableHeader
    tree: Tree
    allocated: Bits
    covered: Bits
    index: Index
    locations: dict[int, Location]
    auxiliary: Ring | None

    @property
    def geometry(self) -> Geometry:
        """Where the tree lies, and what it vouches for."""
        return self.tree.geometry

    @property
    def counter(self) -> int:
        """The update counter: random at first, one more with each transaction, modulo 2**128."""
        return open_counter(self.keys, self.header.counter)

    def context(self) -> RootContext:
        """What the root HMAC binds beside the root node."""
        return RootContext(self.header.counter, self.header.leaf, self.locations[INODE_BITMAP].data)

    def read(self, disk: Disk, extent: Extent) -> bytes:
        """Bytes of an extent outside of the tree; raises `VolumeDamaged` if the tree does not vouch for them."""
        return VerifiedDisk(disk, self.tree, self.covered).read(extent)

    def content(self, disk: Disk, inode: int) -> bytes:
        """Content of a file that is there; raises `VolumeDamaged`."""
        data = b"".join(self.read(disk, extent) for extent in self.locations[inode].data)
        return open_extents(self.keys.cipher(inode), data, f"file {inode:#x}")


def exclude(bits: Bits, extents: Iterable[Extent]) -> Bits:
    """The same bits, but for some extents."""
    rest = bits.copy()
    rest.fill(extents, allocated=False)
    return rest
