"""The tree, computed anew from its leaves, and held against what was signed about it.

The same for a database and for an exported folder: leaves go in one after the other, findings come out.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from ca_service.audit.findings import AuditReport, Findings
from ca_service.audit.leaf import RESTORE, Leaf, parse_leaf
from ca_service.audit.merkle import EMPTY_ROOT, Frontier, Node, leaf_hash
from vtpm.wire.errors import WireError
from vtpm.wire.log import Checkpoint


@dataclass
class Rebuild:
    """A tree under construction.

    Attributes:
        head: what was signed about the tree; None if nothing can be believed.
        since: an older checkpoint of the same log that the auditor has kept, if any.
        findings: what was found so far.
        frontier: the tree as far as it is built.
        broken: whether the leaves have a gap, so that there is no root to compare.
    """

    head: Checkpoint | None
    since: Checkpoint | None
    findings: Findings = field(default_factory=Findings)
    frontier: Frontier = field(default_factory=Frontier)
    broken: bool = False
    _kinds: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if self.since is not None and self.head is not None and self.since.size > self.head.size:
            detail = f"the log had {self.since.size} leaves and has {self.head.size}: it was truncated"
            self.findings.add("since.truncated", self.since.size, detail)
        self._compare_since()

    @property
    def position(self) -> int:
        """Where the next leaf belongs."""
        return self.frontier.size

    @property
    def restores(self) -> int:
        """How many restores the leaves admit so far."""
        return self._kinds[RESTORE]

    def add(self, data: bytes, hash_: bytes | None = None) -> tuple[Node, ...]:
        """Let the tree grow by a leaf.

        Args:
            data: the leaf.
            hash_: take this hash for the leaf's, because the leaf itself is known to be another than it was.

        Returns:
            The subtrees that are complete now.
        """
        self.frontier, nodes = self.frontier.append(leaf_hash(data) if hash_ is None else hash_)
        self._compare_since()
        return nodes

    def read(self, data: bytes, position: int) -> tuple[Leaf, dict[str, str]] | None:
        """The leaf as it says of itself; None, and a finding, if it is none."""
        try:
            leaf, members = parse_leaf(data)
        except WireError as error:
            self.findings.add("log.leaf-malformed", position, f"the leaf cannot be read: {error}")
            return None
        self._kinds[leaf.kind] += 1
        return leaf, dict(members)

    def finish(self, origin: str) -> AuditReport:
        """Compare the whole with the checkpoint, and report."""
        head = self.head
        if head is not None and not self.broken:
            if self.frontier.size < head.size:
                detail = f"the checkpoint counts {head.size} leaves, there are {self.frontier.size}"
                self.findings.add("log.leaf-missing", self.frontier.size, detail)
            elif self.frontier.root() != head.root:
                self.findings.add(
                    "log.root", head.size, "the leaves have another root than the one that was signed"
                )
        return self.report(origin)

    def report(self, origin: str) -> AuditReport:
        """What was found so far."""
        head = self.head
        return AuditReport(
            origin=origin,
            size=0 if head is None else head.size,
            root=EMPTY_ROOT if head is None else head.root,
            leaves=dict(self._kinds),
            findings=tuple(self.findings.kept),
            counts=dict(self.findings.counts),
        )

    def _compare_since(self) -> None:
        since = self.since
        if since is not None and since.size == self.frontier.size and since.root != self.frontier.root():
            detail = "the first leaves are not those of the older checkpoint: the log was forked"
            self.findings.add("since.forked", since.size, detail)


def differing(members: Iterable[tuple[str, str]], expected: dict[str, str]) -> str:
    """Names of the members that have another value than expected, for a finding's sentence."""
    return ", ".join(name for name, value in members if expected.get(name) != value)
