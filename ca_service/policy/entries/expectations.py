"""What a document says of itself: evidence that it must admit, and evidence that it must refuse, and by which rule.

Here they are only read. To judge evidence takes more than a policy, so whoever has the evidence runs them
(`ca_service.enrollment.expectations`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from ca_service.policy.document.tests import KEPT, Expect, TestTable
from ca_service.policy.reading.reader import Reader

MOST_FILES: Final = 64
"""Most pieces of evidence that the tests of one document name."""


@dataclass(frozen=True)
class Expectation:
    """One test of a document.

    Attributes:
        name: of the entry.
        path: of the file with the evidence, relative to the document's folder; empty if the CA keeps it.
        digest: SHA-256 of that file in hex; empty if no test of the document pins it.
        expect: "admitted" or "refused".
        rule: id of the first rule that must say no; empty if none may.
        at: the time to judge at, UTC, whole seconds; None for that of the record.
    """

    name: str
    path: str
    digest: str
    expect: Expect
    rule: str
    at: datetime | None = None

    @property
    def evidence(self) -> str:
        """The evidence as the document names it."""
        return self.path or KEPT + self.digest


class ExpectationReader(Reader):
    """Reads `[[test]]`."""

    def read(self, tables: Sequence[TestTable]) -> tuple[Expectation, ...]:
        """The tests in the order of the document.

        Raises:
            BadRequest: a name stands twice, a refusal has no rule or an admission has one, one file is pinned to two
                digests, more than `MOST_FILES` are named, or a time is no time of a decision.
        """
        self.unique((table.name for table in tables), "test", member="name")
        read = tuple(self._entry(table, i) for i, table in enumerate(tables))
        pinned: dict[str, str] = {}
        named: set[str] = set()
        for i, entry in enumerate(read):
            if entry.path and entry.digest and pinned.setdefault(entry.path, entry.digest) != entry.digest:
                raise self.refuse(
                    "is another digest than an earlier test pins for this file", "test", i, "sha256"
                )
            named.add(entry.evidence)
            if len(named) > MOST_FILES:
                raise self.refuse(f"all tests together may name {MOST_FILES} files", "test", i, "evidence")
        return tuple(replace(entry, digest=pinned.get(entry.path, entry.digest)) for entry in read)

    def _entry(self, table: TestTable, i: int) -> Expectation:
        if table.expect == "refused" and table.rule is None:
            raise self.refuse("must be stated: the first rule that says no", "test", i, "rule")
        if table.expect == "admitted" and table.rule is not None:
            raise self.refuse(
                "belongs to refusals: where evidence is admitted, no rule says no", "test", i, "rule"
            )
        kept = table.evidence.startswith(KEPT)
        if kept and table.sha256 is not None:
            raise self.refuse("evidence names the digest already", "test", i, "sha256")
        try:
            at = None if table.at is None else table.at.astimezone(UTC)
        except OverflowError:
            raise self.refuse("is beyond the calendar", "test", i, "at") from None
        if at is not None and at.microsecond:
            raise self.refuse("must be a whole second, as all times of decisions are", "test", i, "at")
        return Expectation(
            name=table.name,
            path="" if kept else table.evidence,
            digest=table.evidence.removeprefix(KEPT) if kept else table.sha256 or "",
            expect=table.expect,
            rule=table.rule or "",
            at=at,
        )
