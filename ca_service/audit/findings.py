"""What an audit found: each finding with a stable name, what it is about, and a sentence."""

from collections import Counter
from dataclasses import dataclass, field, replace

MOST_KEPT = 1000
"""How many findings are kept; the others are counted."""

_SHOWN = 300
"""How much of a value a finding repeats, in characters."""


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
        code: its stable name; ``docs/log.md`` lists them.
        subject: position of a leaf, id of a decision, serial of a certificate, digest of evidence or policy.
        detail: one sentence.
    """

    code: str
    subject: str
    detail: str


@dataclass
class Findings:
    """Collects findings. A database of a million rows may have a million: only the first ones are kept."""

    kept: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, code: str, subject: object, detail: str) -> None:
        """Note a finding."""
        self.counts[code] += 1
        if len(self.kept) < MOST_KEPT:
            self.kept.append(Finding(code, _shown(subject), _shown(detail)))


def _shown(value: object) -> str:
    """What a finding repeats may come from whoever edited the database: nothing of it may move a cursor."""
    return "".join(c if c.isprintable() else "?" for c in str(value)[:_SHOWN])


@dataclass(frozen=True)
class AuditReport:
    """What an audit looked at, and what it found.

    Attributes:
        origin: the log.
        size: leaves according to the signed checkpoint; 0 if there is none that can be believed.
        root: its root, 32 bytes.
        leaves: how many leaves were read, by kind.
        findings: what is wrong, at most `MOST_KEPT` of it.
        counts: how often each finding was made.
    """

    origin: str
    size: int
    root: bytes
    leaves: dict[str, int]
    findings: tuple[Finding, ...]
    counts: dict[str, int]

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.counts

    def with_finding(self, code: str, subject: str, detail: str) -> "AuditReport":
        """The same with one finding more, that of an auditor who knows more than the database."""
        counts = self.counts | {code: self.counts.get(code, 0) + 1}
        finding = Finding(code, _shown(subject), _shown(detail))
        return replace(self, findings=(finding, *self.findings), counts=counts)

    def to_json(self) -> dict[str, object]:
        """The report as plain values."""
        return {
            "verdict": "VALID" if self.clean else "INVALID",
            "origin": self.origin,
            "size": self.size,
            "root": self.root.hex(),
            "leaves": self.leaves,
            "counts": self.counts,
            "findings": [{"code": f.code, "subject": f.subject, "detail": f.detail} for f in self.findings],
        }
