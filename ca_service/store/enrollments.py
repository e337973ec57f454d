"""Consumed nonces, decisions with their evidence, and enrolments."""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any, ClassVar

import sqlalchemy as sa

from ca_service.store import schema
from ca_service.store.repository import PAGE, Repository
from ca_service.store.rows import (
    DecisionRow,
    EnrollmentRow,
    EnrollmentState,
    EvidenceFacts,
    SubmissionRow,
)
from ca_service.store.statements import Statement

# Both databases know these words, and SQLAlchemy only each one's own form of them.
_KEEP_EVIDENCE = Statement(
    sa.text(
        "INSERT INTO evidence"
        " (digest, body, received_at, measurement, chip_id, kbs_key, product, reported_tcb, ek_set) VALUES"
        " (:digest, :body, :received_at, :measurement, :chip_id, :kbs_key, :product, :reported_tcb, :ek_set)"
        " ON CONFLICT (digest) DO NOTHING"
    ).bindparams(
        sa.bindparam("body", type_=schema.evidence.c.body.type),
        sa.bindparam("received_at", type_=schema.evidence.c.received_at.type),
    )
)

_EVIDENCE = Statement(
    sa.select(schema.evidence.c.body).where(schema.evidence.c.digest == sa.bindparam("digest"))
)

_WITH_EVIDENCE = Statement(
    sa.select(schema.enrollments, schema.evidence.c.body)
    .join_from(
        schema.enrollments,
        schema.evidence,
        schema.evidence.c.digest == schema.enrollments.c.evidence_digest,
        isouter=True,
    )
    .where(schema.enrollments.c.id == sa.bindparam("id"))
)

_KEEP_COLLATERAL = Statement(
    sa.text(
        "INSERT INTO collateral (name, body) VALUES (:name, :body) ON CONFLICT (name) DO NOTHING"
    ).bindparams(sa.bindparam("body", type_=schema.collateral.c.body.type))
)

_DECISIONS = schema.decisions.c
_ADMITTED_SINCE = Statement(
    sa.select(_DECISIONS.at)
    .where(
        _DECISIONS.kbs_id == sa.bindparam("kbs_id"),
        _DECISIONS.resource == sa.bindparam("resource"),
        _DECISIONS.salt == sa.bindparam("salt"),
        _DECISIONS.at > sa.bindparam("since"),
        _DECISIONS.admitted == 1,
        _DECISIONS.stage == "enroll",
    )
    .order_by(_DECISIONS.at.desc())
    .limit(sa.bindparam("most", type_=sa.Integer))
)

_NO_FACTS = EvidenceFacts()


class Submissions(Repository):
    """Nonces that were used, each once, with the answer its body got."""

    def get(self, nonce: str) -> SubmissionRow | None:
        """The use of `nonce`, if it was used."""
        return self._get(SubmissionRow, schema.submissions, nonce=nonce)

    def add(self, row: SubmissionRow) -> None:
        """Consume a nonce; the database refuses the second time."""
        self._insert(schema.submissions, row)


class Decisions(Repository):
    """Verdicts, and the request bodies that they are about."""

    def add(self, row: DecisionRow) -> None:
        """Record a decision."""
        self._insert(schema.decisions, row)

    def get(self, decision_id: str) -> DecisionRow | None:
        """The decision with this id."""
        return self._get(DecisionRow, schema.decisions, id=decision_id)

    def latest(self, limit: int = PAGE) -> list[DecisionRow]:
        """The newest decisions first."""
        order = (schema.decisions.c.at.desc(), schema.decisions.c.id)
        return self._all(DecisionRow, sa.select(schema.decisions).order_by(*order).limit(limit))

    def page(
        self, since: datetime | None, after: tuple[datetime, str] | None, limit: int
    ) -> list[DecisionRow]:
        """The next decisions in the order of time and id: those behind `after`, from `since` on."""
        at, id_ = schema.decisions.c.at, schema.decisions.c.id
        query = sa.select(schema.decisions).order_by(at, id_).limit(limit)
        if since is not None:
            query = query.where(at >= since)
        if after is not None:
            query = query.where(at >= after[0], sa.or_(at > after[0], id_ > after[1]))
        return self._all(DecisionRow, query)

    def last_admitted(self, kbs_id: str, resource: str, salt: str = "") -> DecisionRow | None:
        """The newest admission of an instance."""
        table = schema.decisions
        query = (
            sa.select(table)
            .where(
                table.c.kbs_id == kbs_id,
                table.c.resource == resource,
                table.c.salt == salt,
                table.c.admitted == 1,
            )
            .order_by(table.c.at.desc())
            .limit(1)
        )
        return self._one(DecisionRow, query)

    def admitted_since(
        self, kbs_id: str, resource: str, salt: str, since: datetime, most: int
    ) -> list[datetime]:
        """When an instance's newest enrolments after `since` were admitted: the newest first, at most so many."""
        values = {"kbs_id": kbs_id, "resource": resource, "salt": salt, "since": since, "most": most}
        return [at for (at,) in self._session.rows(_ADMITTED_SINCE, values)[1]]

    def keep_evidence(self, digest: str, body: bytes, at: datetime, facts: EvidenceFacts = _NO_FACTS) -> None:
        """Store the request body under its SHA-256 in hex, once, with what certificates are revoked by."""
        values = {"digest": digest, "body": body, "received_at": at, **vars(facts)}
        self._session.run(_KEEP_EVIDENCE, values)

    def keep_collateral(self, items: Iterable[tuple[str, bytes]]) -> None:
        """Store certificates and revocation lists that a decision rests on, under their names, once."""
        for name, body in items:
            self._session.run(_KEEP_COLLATERAL, {"name": name, "body": body})

    def collateral(self, names: Collection[str]) -> dict[str, bytes]:
        """Those that are stored, by name."""
        table = schema.collateral
        query = sa.select(table.c.name, table.c.body).where(table.c.name.in_(names))
        return {name: bytes(body) for name, body in self._connection.execute(query)} if names else {}

    def evidence(self, digest: str) -> bytes | None:
        """The stored request body."""
        found = self._session.first(_EVIDENCE, {"digest": digest})
        return None if found is None else bytes(found[0])


class Enrollments(Repository):
    """Enrolments that were admitted."""

    enums: ClassVar[Mapping[str, Any]] = {"state": EnrollmentState}

    def add(self, row: EnrollmentRow) -> None:
        """Record a new enrolment."""
        self._insert(schema.enrollments, row)

    def get(self, enrollment_id: str) -> EnrollmentRow | None:
        """The enrolment with this id."""
        return self._get(EnrollmentRow, schema.enrollments, id=enrollment_id)

    def with_evidence(self, enrollment_id: str) -> tuple[EnrollmentRow, bytes | None] | None:
        """The enrolment with this id, and the request body that it rests on; None for the body if that is gone."""
        names, rows = self._session.rows(_WITH_EVIDENCE, {"id": enrollment_id})
        if not rows:
            return None
        body = rows[0][-1]
        return self._reader(EnrollmentRow, names)(rows[0]), None if body is None else bytes(body)

    def move(
        self,
        enrollment_id: str,
        before: EnrollmentState,
        after: EnrollmentState,
        *,
        reply: bytes | None = None,
        decision_id: str | None = None,
        policy_version: int | None = None,
    ) -> bool:
        """Change the state if it is still `before`; says whether it was.

        `reply`, `decision_id` and `policy_version` replace the stored ones when given.
        """
        values: dict[str, object] = {"state": after}
        if reply is not None:
            values["reply"] = reply
        if decision_id is not None:
            values["decision_id"] = decision_id
        if policy_version is not None:
            values["policy_version"] = policy_version
        return self._update(schema.enrollments, {"id": enrollment_id, "state": before}, **values) == 1
