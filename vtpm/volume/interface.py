"""What every volume is to the SVSM: a few files under 64-bit inode numbers, changed in transactions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

_NAMESPACE = 1 << 32
"""COCONUT's SVSM numbers its files namespace << 32 | local; namespace 1 is the TPM's."""

TPM_STATE = _NAMESPACE | 0x100
"""The TPM's permanent state blob. Not the inode that COCONUT's SVSM keeps its NV image in: a real SVSM finding a
blob of the wrong size there would manufacture over it."""

TPM_KEYS = _NAMESPACE | 0x101
"""The recorded templates and publics of the TPM's keys."""

CERTIFICATES = _NAMESPACE | 0x102
"""The issued certificates."""


class Volume(Protocol):
    """An open volume."""

    @property
    def format(self) -> str:
        """Name of the format, for example ``cocoonfs/1``."""

    @property
    def salt(self) -> bytes:
        """The volume's id, chosen by whoever made the disk."""

    @property
    def created(self) -> str:
        """``this-boot`` if opening formatted it, else ``earlier``."""

    @property
    def counter(self) -> int:
        """Grows by one with each transaction, modulo 2**128."""

    @property
    def root(self) -> bytes:
        """Digest that authenticates the whole present content."""

    def inodes(self) -> tuple[int, ...]:
        """Numbers of the files there are, in ascending order."""

    def read(self, inode: int) -> bytes | None:
        """Content of a file; None if there is none."""

    def transaction(self, changes: Mapping[int, bytes | None]) -> None:
        """Write (bytes) and remove (None) files: all of it durable when this returns, or nothing of it."""

    def close(self) -> None:
        """Let go of the volume; harmless when repeated."""


@dataclass(frozen=True)
class Version:
    """One version of a volume's content: its update `counter`, and the `root` HMAC that vouches for all of it."""

    counter: int
    root: bytes


class Witness(Protocol):
    """Who remembers, outside of the disk, which version of a volume is the last.

    A transaction is *pending* once its journal's head is durable: from then on it can be applied or cancelled. It is
    applied only after `record` has returned.
    """

    def record(self, old: Version, new: Version) -> None:
        """Take note of a pending transaction.

        Any exception means that it was not acknowledged. The volume is then closed with the transaction pending.
        """

    def resolve(self, old: Version | None, new: Version) -> bool:
        """Whether to apply (True) or cancel (False) a transaction that was found pending when the volume was opened.

        `old` is None if the version before cannot be had any more, because applying had begun. Any exception leaves the
        transaction pending, and the volume unopened.
        """
