"""One transaction with all repositories at hand."""

from collections.abc import Callable
from typing import Generic, TypeVar

import sqlalchemy as sa

from ca_service.store.authority import BlockedKeys, Epochs, Issuers
from ca_service.store.causes import Causes
from ca_service.store.enrollments import Decisions, Enrollments, Submissions
from ca_service.store.fleet import Fleet
from ca_service.store.issuance import Certificates, Intents
from ca_service.store.ledger import Ledger
from ca_service.store.log_audit import AuditTables
from ca_service.store.operator import Alarms
from ca_service.store.policies import Policies
from ca_service.store.policy_evidence import PolicyEvidence
from ca_service.store.publication import Crls, Revocations
from ca_service.store.repository import Repository
from ca_service.store.responders import Responders
from ca_service.store.sessions import Session
from ca_service.store.views import Views

R = TypeVar("R", bound=Repository)


class _Subject(Generic[R]):
    """A repository of a transaction, made when it is asked for first.

    Like `cached_property`, which would take a lock of its own and two calls more: there are twenty in an enrolment.
    """

    def __init__(self, kind: type[R]) -> None:
        self._kind = kind

    def __set_name__(self, _owner: type, name: str) -> None:
        self._name = name

    def __get__(self, tx: "Transaction", _owner: type) -> R:
        made = tx.__dict__[self._name] = self._kind(tx._session)  # noqa: SLF001 - it is a part of it
        return made


class Transaction:
    """What one transaction may do, one repository per subject; `connection` is for migrations and checks.

    Attributes:
        policies: policy versions.
        policy_evidence: what the tests of policy documents judge.
        decisions: decisions and the evidence they rest on.
        submissions: consumed nonces with their answers.
        enrollments: enrolments and their states.
        ledger: which TPM lives in which instance.
        intents: what was about to be signed.
        certificates: certificates, intended and issued.
        revocations: serials that are on a CRL for good.
        causes: what is to be revoked, by what it rests on.
        fleet: many TPMs and many decisions, page by page.
        crls: published CRLs.
        responders: certificates of OCSP responders.
        alarms: what an operator must look at.
        issuers: issuing CAs and their states.
        epochs: ages between restores.
        blocked_keys: keys that get no certificate.
        log: the tables of the Merkle log.
        views: what a decision reads.
    """

    policies = _Subject(Policies)
    policy_evidence = _Subject(PolicyEvidence)
    decisions = _Subject(Decisions)
    submissions = _Subject(Submissions)
    enrollments = _Subject(Enrollments)
    ledger = _Subject(Ledger)
    intents = _Subject(Intents)
    certificates = _Subject(Certificates)
    revocations = _Subject(Revocations)
    causes = _Subject(Causes)
    fleet = _Subject(Fleet)
    crls = _Subject(Crls)
    responders = _Subject(Responders)
    alarms = _Subject(Alarms)
    issuers = _Subject(Issuers)
    epochs = _Subject(Epochs)
    blocked_keys = _Subject(BlockedKeys)
    log = _Subject(AuditTables)
    views = _Subject(Views)

    def __init__(self, session: Session) -> None:
        self._session = session
        self._then: list[Callable[[], None]] = []

    def when_committed(self, do: Callable[[], None]) -> None:
        """Call `do` when the disk has what this transaction writes; never if it is rolled back or in doubt."""
        self._then.append(do)

    def committed(self) -> None:
        """The disk has it; called once, by the store."""
        for do in self._then:
            do()

    @property
    def connection(self) -> sa.Connection:
        """SQLAlchemy's connection, in this transaction."""
        return self._session.connection
