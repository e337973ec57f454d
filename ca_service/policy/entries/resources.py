"""Resource patterns: three parts, each a name or ``*`` for any one name; looked up, never scanned."""

from collections.abc import Iterator, Mapping
from itertools import product

from vtpm.wire.grant import check_resource

Pattern = tuple[str, ...]
"""The three parts of a pattern."""

ANY = "*"


def parse_pattern(text: str, path: str) -> Pattern:
    """Read a pattern such as ``default/vtpm/*``.

    Raises:
        WireError: not three parts, or a part that is neither a name nor ``*`` alone.
    """
    parts = tuple(text.split("/"))
    check_resource("/".join("x" if part == ANY else part for part in parts), path)
    return parts


def lookup(patterns: Mapping[Pattern, bool], resource: str) -> bool | None:
    """What the pattern says that `resource` falls under; None if it falls under none.

    At most eight lookups, however many patterns there are. As patterns do not overlap, at most one answers.
    """
    parts = resource.split("/")
    if len(parts) != 3:  # noqa: PLR2004 - repository, type, tag
        return None
    for candidate in product(*[(part, ANY) for part in parts]):
        if candidate in patterns:
            return patterns[candidate]
    return None


def overlaps(patterns: list[Pattern]) -> Iterator[tuple[int, int]]:
    """Positions of pairs of patterns that some resource falls under both; each later one once.

    Two patterns overlap exactly if they agree wherever neither has a ``*``. So for each pair of kinds (which parts
    are ``*``) the patterns are compared through a dictionary over the parts in which both are names.
    """
    kinds: dict[tuple[bool, ...], list[int]] = {}
    for i, pattern in enumerate(patterns):
        kinds.setdefault(tuple(part == ANY for part in pattern), []).append(i)
    found: dict[int, int] = {}
    for (kind, members), (other, others) in product(kinds.items(), repeat=2):
        named = [n for n in range(len(kind)) if not kind[n] and not other[n]]
        first: dict[Pattern, int] = {}
        for i in members:
            first.setdefault(tuple(patterns[i][n] for n in named), i)
        for i in others:
            earlier = first.get(tuple(patterns[i][n] for n in named))
            if earlier is not None and earlier < i:
                found.setdefault(i, earlier)
    yield from ((earlier, later) for later, earlier in sorted(found.items()))
