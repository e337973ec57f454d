"""What has become of each policy version, and which follows which: a pure model of what is on record, at one moment.

Versions come in force in the order of their numbers. What is to come is a line: each version on it was compared with
the one before it. Whoever puts a version into that line ends whatever would come behind it, since that was compared
with something else; whoever takes one out ends what rests on it. So no version ever takes the place of another one
than that whose differences from it were read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from ca_service.store.policies import Policies
from ca_service.store.policy_rows import PolicyEnd, VersionRecord


class State(StrEnum):
    """What has become of a version."""

    IN_FORCE = "in-force"
    SCHEDULED = "scheduled"
    WAITING = "waiting"
    PAST = "past"
    DROPPED = "dropped"
    WITHDRAWN = "withdrawn"


PENDING = (State.SCHEDULED, State.WAITING)
"""States of a version that may come in force yet."""


@dataclass(frozen=True)
class Schedule:
    """The version in force, and the records of it and of all later ones.

    Attributes:
        at: the moment.
        in_force: the version in force, 0 for none.
        records: in the order of their versions; others than those may be among them.
    """

    at: datetime
    in_force: int
    records: Sequence[VersionRecord]

    def state(self, record: VersionRecord) -> State:
        """What has become of a version."""
        if record.version == self.in_force:
            return State.IN_FORCE
        if record.ended is not None:
            return State.WITHDRAWN if record.ended.verdict == PolicyEnd.WITHDRAWN else State.DROPPED
        if record.version > self.in_force:
            if record.in_force_from is not None:
                return State.SCHEDULED
            return State.WAITING if self.may_begin(record) else State.DROPPED
        # Whatever is ended before its time loses its start, so whoever has one has had its time.
        return State.DROPPED if record.in_force_from is None else State.PAST

    def pending(self) -> list[VersionRecord]:
        """Versions that may come in force yet."""
        return [row for row in self.records if self.state(row) in PENDING]

    def may_begin(self, record: VersionRecord) -> bool:
        """Whether a version that waits would still take the place of the one that it was compared with."""
        later = any(row.version > record.version for row in self._coming())
        return not later and self.before(self.start(record.requested_from)) == record.base

    def _coming(self) -> list[VersionRecord]:
        return [row for row in self.records if row.version > self.in_force and row.in_force_from is not None]

    def start(self, wanted: datetime | None) -> datetime:
        """From when on a version is in force that is wanted from then on (None: at once) and is released now.

        Not before the one in force: by the clock of another node that may have begun in what is the future here.
        """
        begun = next((row.in_force_from for row in self.records if row.version == self.in_force), None)
        return max(moment for moment in (self.at, wanted, begun) if moment is not None)

    def before(self, start: datetime) -> int:
        """The version that one follows which comes in force at `start`; 0 for none."""
        earlier = [row.version for row in self._coming() if (row.in_force_from or start) < start]
        return max(earlier, default=self.in_force)

    def displaced(self, version: int, start: datetime) -> list[VersionRecord]:
        """What `version` ends by being released for `start`: all that waits, and what would come in force after it."""
        return [
            row
            for row in self.pending()
            if row.version != version and (row.in_force_from is None or row.in_force_from >= start)
        ]

    def resting_on(self, version: int) -> list[VersionRecord]:
        """A pending version with all that rest on it, and on those; its own record first."""
        ended: list[VersionRecord] = []
        for row in self.pending():
            if row.version == version or row.base in {each.version for each in ended}:
                ended.append(row)
        return ended


def read_schedule(policies: Policies, at: datetime, first: int | None = None) -> Schedule:
    """How things stand at `at`.

    Args:
        policies: as a transaction sees them.
        at: the moment.
        first: the lowest version whose record is wanted; that of the version in force and later ones are there anyway.
    """
    present = policies.version_in_force(at)
    return Schedule(at, present, tuple(policies.records(present if first is None else min(first, present))))
