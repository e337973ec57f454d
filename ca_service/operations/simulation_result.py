"""What a simulation found: counts of everything, and lists of what has to be looked at, which are bounded."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from ca_service.enrollment.simulation import Compared, Outcome, Said, Today
from ca_service.operations.context import Json, instant
from ca_service.store import CertifiedTpm, DecisionRow

T = TypeVar("T")

_FLIPS = (Outcome.REFUSED, Outcome.ADMITTED)


@dataclass
class Listed:
    """Rows up to a number; the rest is counted."""

    most: int
    rows: list[dict[str, Json]] = field(default_factory=list)
    omitted: int = 0

    @property
    def count(self) -> int:
        """All of them."""
        return len(self.rows) + self.omitted

    def add(self, row: dict[str, Json]) -> None:
        """List a row, or count it."""
        if len(self.rows) < self.most:
            self.rows.append(row)
        else:
            self.omitted += 1


@dataclass(frozen=True)
class Ground:
    """What flips, and TPMs that are refused, are grouped by: the rule, what of the policy it is about, and whose."""

    rule: str
    entry: str
    kbs: str
    tenant: str


class Past:
    """What becomes of past decisions; at most `listed` are listed of each kind."""

    def __init__(self, listed: int) -> None:
        self.outcomes = Counter[Outcome]()
        self.left_out = 0
        self._grounds = Counter[tuple[Outcome, Ground]]()
        self._flips, self._not_comparable = Listed(listed), Listed(listed)

    def add(self, row: DecisionRow, found: Compared, tenant: str) -> None:
        """Count a decision, and list it if it flips or cannot be compared."""
        self.outcomes[found.outcome] += 1
        where: dict[str, Json] = {
            "decision": row.id,
            "at": instant(row.at),
            "stage": row.stage,
            "policy_version": row.policy_version,
            "kbs": row.kbs_id,
            "resource": row.resource,
            "tenant": tenant,
        }
        if found.outcome is Outcome.NOT_COMPARABLE:
            self._not_comparable.add({**where, "why": found.why})
        if found.outcome in _FLIPS:
            said = found.deciding
            self._grounds[found.outcome, Ground(said.rule, said.entry, row.kbs_id, tenant)] += 1
            self._flips.add({**where, "becomes": found.outcome.value, **_in_words(said)})

    def to_json(self) -> dict[str, Json]:
        """As plain values."""
        counts = {outcome.value.replace("-", "_"): self.outcomes[outcome] for outcome in Outcome}
        return {
            "decisions": {"judged": sum(self.outcomes.values()), "left_out": self.left_out, **counts},
            "groups": [
                {"becomes": outcome.value, **vars(ground), "decisions": count}
                for (outcome, ground), count in _ranked(self._grounds)
            ],
            "flips": self._flips.rows,
            "flips_omitted": self._flips.omitted,
            "not_comparable": self._not_comparable.rows,
            "not_comparable_omitted": self._not_comparable.omitted,
        }


@dataclass(frozen=True)
class Newest:
    """The newest accepted evidence about a TPM.

    Attributes:
        decision_id: who accepted it; None if no evidence says that it is this TPM's.
        at: when.
        said: what is said of it today; None if nobody can know.
        why: in words, nobody can.
    """

    decision_id: str | None = None
    at: datetime | None = None
    said: Today | None = None
    why: str = ""


class Certified:
    """What becomes of the TPMs that have certificates; at most `listed` are listed.

    Attributes:
        refused: numbers of the TPMs that would get none today.
    """

    def __init__(self, listed: int) -> None:
        self.refused: list[int] = []
        self._tpms = self._certificates = self._refused_certificates = 0
        self._grounds = Counter[Ground]()
        self._rows, self._unknown = Listed(listed), Listed(listed)

    def add(self, tpm: CertifiedTpm, newest: Newest, tenant: str) -> None:
        """Count a TPM, and list it if it is refused or nobody can know."""
        self._tpms += 1
        self._certificates += tpm.certificates
        where: dict[str, Json] = {
            "tpm": tpm.tpm_id,
            "kbs": tpm.kbs_id,
            "resource": tpm.resource,
            "salt": tpm.salt,
            "tenant": tenant,
            "live": tpm.live,
            "certificates": tpm.certificates,
            "decision": newest.decision_id,
            "decided_at": instant(newest.at),
        }
        said = newest.said
        if said is None:
            self._unknown.add({**where, "why": newest.why})
        elif not said.now.admitted:
            self.refused.append(tpm.tpm_id)
            self._refused_certificates += tpm.certificates
            self._grounds[Ground(said.now.rule, said.now.entry, tpm.kbs_id, tenant)] += 1
            self._rows.add(
                {
                    **where,
                    **_in_words(said.now),
                    "by_date": said.by_date,
                    "refused_in_force": not said.in_force.admitted,
                }
            )

    def to_json(self) -> dict[str, Json]:
        """As plain values."""
        return {
            "certified": {
                "tpms": self._tpms,
                "certificates": self._certificates,
                "refused_tpms": len(self.refused),
                "refused_certificates": self._refused_certificates,
                "unknown_tpms": self._unknown.count,
            },
            "refused_groups": [{**vars(ground), "tpms": count} for ground, count in _ranked(self._grounds)],
            "refused": self._rows.rows,
            "refused_omitted": self._rows.omitted,
            "unknown": self._unknown.rows,
            "unknown_omitted": self._unknown.omitted,
        }


def _in_words(said: Said) -> dict[str, Json]:
    return {"rule": said.rule, "entry": said.entry, "expected": said.expected, "actual": said.actual}


def _ranked(counts: Counter[T]) -> list[tuple[T, int]]:
    """The most frequent first; of those that are as frequent, an order that is the same each time."""
    return sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
