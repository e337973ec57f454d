"""One transaction with all repositories at hand."""

from collections.abc import Callable
from functools import cached_property

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
from ca_service.store.responders import Responders
from ca_service.store.sessions import Session
from ca_service.store.views import Views


class Transaction:
    """What one transaction may do, one repository per subject; `connection` is for migrations and checks."""

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

    @cached_property
    def policies(self) -> Policies:
        """Policy versions."""
        return Policies(self._session)

    @cached_property
    def policy_evidence(self) -> PolicyEvidence:
        """What the tests of policy documents judge."""
        return PolicyEvidence(self._session)

    @cached_property
    def decisions(self) -> Decisions:
        """Decisions and the evidence they rest on."""
        return Decisions(self._session)

    @cached_property
    def submissions(self) -> Submissions:
        """Consumed nonces with their answers."""
        return Submissions(self._session)

    @cached_property
    def enrollments(self) -> Enrollments:
        """Enrolments and their states."""
        return Enrollments(self._session)

    @cached_property
    def ledger(self) -> Ledger:
        """Which TPM lives in which instance."""
        return Ledger(self._session)

    @cached_property
    def intents(self) -> Intents:
        """What was about to be signed."""
        return Intents(self._session)

    @cached_property
    def certificates(self) -> Certificates:
        """Certificates, intended and issued."""
        return Certificates(self._session)

    @cached_property
    def revocations(self) -> Revocations:
        """Serials that are on a CRL for good."""
        return Revocations(self._session)

    @cached_property
    def causes(self) -> Causes:
        """What is to be revoked, by what it rests on."""
        return Causes(self._session)

    @cached_property
    def fleet(self) -> Fleet:
        """Many TPMs and many decisions, page by page."""
        return Fleet(self._session)

    @cached_property
    def crls(self) -> Crls:
        """Published CRLs."""
        return Crls(self._session)

    @cached_property
    def responders(self) -> Responders:
        """Certificates of OCSP responders."""
        return Responders(self._session)

    @cached_property
    def alarms(self) -> Alarms:
        """What an operator must look at."""
        return Alarms(self._session)

    @cached_property
    def issuers(self) -> Issuers:
        """Issuing CAs and their states."""
        return Issuers(self._session)

    @cached_property
    def epochs(self) -> Epochs:
        """Ages between restores."""
        return Epochs(self._session)

    @cached_property
    def blocked_keys(self) -> BlockedKeys:
        """Keys that get no certificate."""
        return BlockedKeys(self._session)

    @cached_property
    def log(self) -> AuditTables:
        """The tables of the Merkle log."""
        return AuditTables(self._session)

    @cached_property
    def views(self) -> Views:
        """What a decision reads."""
        return Views(self._session)
