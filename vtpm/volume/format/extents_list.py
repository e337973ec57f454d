"""The chained extents that hold the list of an inode's extents (CocoonFs, "inode extents lists")."""

from vtpm.volume.format.entities import Chain
from vtpm.volume.format.inodes import INODE_BITMAP, INODE_TREE
from vtpm.volume.format.kdf import Keys, Part
from vtpm.volume.format.layout import Layout

_ASSOCIATED = b"\x00\x02"


def extents_chain(keys: Keys, layout: Layout, inode: int) -> Chain:
    """The chained extents of an inode's extents list; those of the tree and the bitmap have tags.

    The tree and the bitmap must be found before the tree can vouch for anything.
    """
    part = f"extents list of inode {inode:#x}"
    cipher = keys.cipher(inode, Part.EXTENTS)
    if inode not in {INODE_TREE, INODE_BITMAP}:
        return Chain(part, layout, cipher)
    associated = inode.to_bytes(8, "little") + _ASSOCIATED
    return Chain(part, layout, cipher, keys.preauth(inode, Part.EXTENTS), associated)
