"""Named bits of a report, and what a policy says of them: which must be set, which must not, which may be either.

The sense of a bit differs (some promise, some endanger), so the document names the direction of each, and it names
all of them: a bit that nobody has thought about is no bit that anybody has allowed. Names and numbers of the bits are
those of `vtpm.wire.report_bits`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from vtpm.wire.report_bits import GUEST_POLICY_BITS, PLATFORM_INFO_BITS

OTHER: Final = "other"
"""All bits of PLATFORM_INFO that have no name here: processors in the field set some."""

_ALWAYS_REFUSED: Final = ("debug", "migration")

GUEST_POLICY: Final[Mapping[str, int]] = MappingProxyType(
    {name: 1 << bit for name, bit in GUEST_POLICY_BITS.items() if name not in _ALWAYS_REFUSED}
)
"""Mask of each bit of the guest policy that is a policy's to decide; debugging and migration are refused always."""

_KNOWN: Final[Mapping[str, int]] = {name: 1 << bit for name, bit in PLATFORM_INFO_BITS.items()}

PLATFORM_INFO: Final[Mapping[str, int]] = MappingProxyType(
    {**_KNOWN, OTHER: (1 << 64) - 1 - sum(_KNOWN.values())}
)
"""Mask of each bit of PLATFORM_INFO; the last name stands for many."""


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
