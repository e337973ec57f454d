from datetime import UTC, datetime

import pytest
from remembered_schema import every_migration

from ca_service.store import (
    DecisionRow,
    EnrollmentRow,
    EnrollmentState,
    Store,
    SubmissionRow,
    TpmState,
    open_store,
    upgrading,
)

AT = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _every_migration(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests make their databases as the CA makes them."""
    monkeypatch.setattr(upgrading, "upgrade", every_migration)


@pytest.fixture
def at() -> datetime:
    return AT


@pytest.fixture
def store(database: str):
    opened = open_store(database)
    yield opened
    opened.close()


@pytest.fixture
def enrolled(store: Store, at: datetime):
    """A store with one admitted enrolment "e1" and a TPM in instance (org, default/vtpm/a); gives the TPM's number."""
    with store.write() as tx:
        tx.decisions.keep_evidence("aa", b"body", at)
        tx.decisions.add(DecisionRow("d1", at, "enroll", 1, "", "[]", 1, "", "aa", "org", "default/vtpm/a"))
        tx.submissions.add(SubmissionRow("n1", "aa", at, "d1", 201, b"{}"))
        tx.enrollments.add(EnrollmentRow("e1", "n1", EnrollmentState.PENDING, at, "d1", 1, "aa", None))
        instance = tx.ledger.add_instance("org", "default/vtpm/a", "", at)
        return tx.ledger.add_tpm(instance, "ek-set", TpmState(7, "00", "01", "02", at))
