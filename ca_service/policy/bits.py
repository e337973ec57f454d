"""Named bits of a report, and what a policy says of them: which must be set, which must not, which may be either.

The sense of a bit differs (some promise, some endanger), so the document names the direction of each, and it names
all of them: a bit that nobody has thought about is no bit that anybody has allowed. Sources: AMD 56860, tables
"guest policy" and ATTESTATION_REPORT (PLATFORM_INFO).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

OTHER: Final = "other"
"""All bits of PLATFORM_INFO that have no name here: processors in the field set some."""

GUEST_POLICY: Final[Mapping[str, int]] = MappingProxyType(
    {
        "smt": 1 << 16,
        "single-socket": 1 << 20,
        "cxl": 1 << 21,
        "aes-256-xts": 1 << 22,
        "rapl-disabled": 1 << 23,
        "ciphertext-hiding": 1 << 24,
        "page-swap-disabled": 1 << 25,
    }
)
"""Bits of the guest policy that a launch may leave open; DEBUG and MIGRATE_MA are refused whatever a policy says."""

_KNOWN: Final[Mapping[str, int]] = {
    "smt": 1 << 0,
    "tsme": 1 << 1,
    "ecc": 1 << 2,
    "rapl-disabled": 1 << 3,
    "ciphertext-hiding": 1 << 4,
    "alias-check": 1 << 5,
    "tio": 1 << 7,
}

PLATFORM_INFO: Final[Mapping[str, int]] = MappingProxyType(
    {**_KNOWN, OTHER: (1 << 64) - 1 - sum(_KNOWN.values())}
)
"""Bits of PLATFORM_INFO; the last name stands for many."""


@dataclass(frozen=True)
class BitDemand:
    """What is demanded of a word of bits.

    Attributes:
        names: mask of each name that the word has.
        require: names of bits that must be set.
        forbid: names of bits that must not be.
    """

    names: Mapping[str, int] = field(repr=False)
    require: frozenset[str]
    forbid: frozenset[str]

    def holds(self, word: int) -> bool:
        """Whether all that must be set is set in `word`, and nothing that must not."""
        wanted, unwanted = self._mask(self.require), self._mask(self.forbid)
        return word & wanted == wanted and not word & unwanted

    def _mask(self, names: Iterable[str]) -> int:
        mask = 0
        for name in names:
            mask |= self.names[name]
        return mask

    def __str__(self) -> str:
        return f"set: {_listing(self.require)}; not set: {_listing(self.forbid)}"


def named(names: Mapping[str, int], word: int) -> str:
    """The bits of `word` that have a name, and the word itself."""
    return f"{word:#x} (set: {_listing(name for name, mask in names.items() if word & mask)})"


def _listing(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
