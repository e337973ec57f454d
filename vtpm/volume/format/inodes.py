"""Inode numbers that the format keeps for itself."""

INODE_TREE = 1
INODE_BITMAP = 2
INODE_INDEX = 3
INODE_JOURNAL = 5
"""Has keys, and no entry in the index."""

INODE_COUNTER = 6
"""Has a key, and no entry in the index."""

FIRST_FILE = 16
"""Inodes below are reserved."""
