"""How the CA stands, for a person: what the status page shows.

Pure reading, by statements whose cost does not grow with the database (`ca_service.store.overview`). The checks of
health are made apart from all that stands in the database, so they can be seen when it cannot be read.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeVar

import sqlalchemy as sa
from cryptography import x509
from cryptography.x509.oid import NameOID

from ca_service.judgment import Record, Verdict, VtpmCaError
from ca_service.operations.advice import advice, alarm_advice
from ca_service.operations.health import CHECKS, SERVER, examine, worst
from ca_service.operations.health_model import ORDER, HealthCheck, HealthContext, Status
from ca_service.operations.issuers import TRUSTED, generation_of
from ca_service.store import (
    AlarmRow,
    CertificateState,
    CertifiedRow,
    DecidedRow,
    Gauges,
    HeadRow,
    ListState,
    State,
    Transaction,
    VersionRecord,
    certified,
    policy_versions,
    read_gauges,
    refusals,
    status_sources,
)

LEFT_OUT: Final[Mapping[str, str]] = {
    "database": "writes to the disk",
    "integrity": "reads the whole database",
    "keys": "signs with each key, which a token may take its time for",
}
"""Checks that the page does not make, and why: it is loaded whenever somebody looks."""

PAGE: Final = 20
"""Rows of a list."""

SHORT: Final = 8
FEW: Final = 4
"""Rows of a list on the first page; of those that take much room, fewer."""

WINDOW: Final = 2000
"""How many leaves of the log are looked at for the certificates on a page."""

_MOST_TEXT: Final = 600
_HEALTH_S: Final = 10.0
_SHARE: Final = 50.0
"""What was found of the CA's health is good for ten seconds, and for fifty times as long as it took to find."""

T = TypeVar("T")


@dataclass(frozen=True)
class HealthLine:
    """What one check found; see `health_model.Result`."""

    check: str
    looks_at: str
    status: Status
    detail: str
    remedy: str


@dataclass(frozen=True)
class Health:
    """What the cheap checks found, the worst first.

    Attributes:
        status: the worst.
        lines: one for each check.
        at: when they were made.
    """

    status: Status
    lines: tuple[HealthLine, ...]
    at: datetime

    @property
    def counts(self) -> Mapping[Status, int]:
        """How many checks found what."""
        return Counter(line.status for line in self.lines)


@dataclass(frozen=True)
class FindingLine:
    """One check of a decision, in words; texts that are too long end with how much is missing."""

    rule: str
    verdict: str
    reason: str
    expected: str
    actual: str


@dataclass(frozen=True)
class DecisionLine:
    """A decision with the first check that said no, if one did, and what that means."""

    row: DecidedRow
    finding: FindingLine | None
    advice: str


@dataclass(frozen=True)
class CertificateLine:
    """A certificate with what its bytes say; `subject` is empty for an EK certificate, whose TPM has a SAN."""

    row: CertifiedRow
    subject: str
    not_before: datetime | None
    not_after: datetime | None


@dataclass(frozen=True)
class IssuerLine:
    """An issuing CA, with its revocation lists and its OCSP responder.

    Attributes:
        skid: subject key id, hex.
        role: what it signs.
        pair: of which pair it is.
        state: where it stands.
        generation: which of its role and pair; None if nobody knows.
        not_after: end of its certificate.
        lists: how many revocation lists it has.
        stalest: the list that ends first; None for none.
        responder_until: end of its OCSP responder's certificate; None if it has none.
        trusted: whether consumers are to trust it, so that its lists matter.
    """

    skid: str
    role: str
    pair: str
    state: str
    generation: int | None
    not_after: datetime
    lists: int
    stalest: ListState | None
    responder_until: datetime | None
    trusted: bool


@dataclass(frozen=True)
class AlarmLine:
    """An alarm in words: `about` are the instances that it names, `advice` what to do."""

    row: AlarmRow
    rule: str
    about: tuple[str, ...]
    advice: str


@dataclass(frozen=True)
class Lists:
    """All that comes from one view of the database."""

    refusals: tuple[DecisionLine, ...]
    certificates: tuple[CertificateLine, ...]
    alarms: tuple[AlarmLine, ...]
    policies: tuple[tuple[VersionRecord, State], ...]
    issuers: tuple[IssuerLine, ...]
    head: HeadRow | None = field(repr=False)
    gauges: Gauges


class HealthKeeper:
    """Makes the checks that cost little, and goes by what they found for a while. Safe for threads."""

    def __init__(self, timer: Callable[[], float] = time.monotonic) -> None:
        self._timer = timer
        self._until = 0.0
        self._found: Health | None = None

    def read(self, context: HealthContext) -> Health:
        """How the CA is, or was a few seconds ago."""
        begun, found = self._timer(), self._found
        if found is not None and begun < self._until:
            return found
        found = look(context, cheap_checks())
        done = self._timer()
        self._found, self._until = found, done + max(_HEALTH_S, _SHARE * (done - begun))
        return found


def cheap_checks() -> list[HealthCheck]:
    """The checks that may be made whenever somebody looks."""
    return [check for name, check in CHECKS.items() if name not in LEFT_OUT and name != SERVER]


def look(context: HealthContext, checks: Sequence[HealthCheck]) -> Health:
    """Make these checks; the worst comes first."""
    lines = []
    for result in examine(context, checks):
        remedy = "" if result.status is Status.OK else result.remedy or result.check.remedy
        lines.append(
            HealthLine(
                result.check.id, result.check.looks_at, result.status, short(result.detail), short(remedy)
            )
        )
    # The order of the checks stays among those that are equally well.
    lines.sort(key=lambda line: -ORDER.index(line.status))
    return Health(worst(line.status for line in lines), tuple(lines), context.at)


def read_lists(tx: Transaction, context: HealthContext) -> Lists:
    """Everything on the first page that stands in the database, but for the counts."""
    head, found = tx.log.head(), read_gauges(tx, context.at)
    size = 0 if head is None else head.size
    return Lists(
        refusals=tuple(decision_line(row) for row in refusals(tx, FEW)),
        certificates=tuple(certificate_line(row) for row in certified(tx, SHORT, end=size, window=WINDOW)),
        alarms=tuple(alarm_line(row) for row in tx.alarms.latest(FEW)),
        policies=tuple(policy_versions(tx, context.at, SHORT)),
        issuers=issuer_lines(tx, context, found),
        head=head,
        gauges=found,
    )


def decision_line(row: DecidedRow) -> DecisionLine:
    """A decision with the check that decided it."""
    finding = next((line for line in finding_lines(row.trace) if line.verdict == Verdict.FAILED), None)
    return DecisionLine(row, finding, "" if row.admitted else advice(row.rule))


def finding_lines(trace: str) -> list[FindingLine]:
    """All findings of a decision; empty if its trace is none."""
    try:
        found = Record.parse(trace).trace.findings
    except ValueError:
        return []
    return [
        FindingLine(*(short(str(value)) for value in (f.rule, f.verdict, f.reason, f.expected, f.actual)))
        for f in found
    ]


def certificate_line(row: CertifiedRow) -> CertificateLine:
    """A certificate with what it says of itself; nothing of one whose bytes cannot be read."""
    try:
        certificate = x509.load_der_x509_certificate(row.der or b"")
        subject = certificate.subject.rfc4514_string({NameOID.SERIAL_NUMBER: "serialNumber"})
    except ValueError:
        return CertificateLine(row, "", None, None)
    return CertificateLine(
        row, short(subject), certificate.not_valid_before_utc, certificate.not_valid_after_utc
    )


def alarm_line(row: AlarmRow) -> AlarmLine:
    """An alarm with the instances that it names, the newcomer first."""
    try:
        detail = json.loads(row.detail)
        claims = [detail["newcomer"], *detail["holders"]] if "newcomer" in detail else [detail]
        about = tuple(dict.fromkeys(short(f"{claim['resource']} of {claim['kbs']}") for claim in claims))
        rule = short(str(detail.get("rule", "")))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        about, rule = (), ""
    return AlarmLine(row, rule, about, alarm_advice(row.kind))


def issuer_lines(tx: Transaction, context: HealthContext, found: Gauges) -> tuple[IssuerLine, ...]:
    """All issuing CAs that the database knows, those that sign first."""
    stalest = {row.skid: row for row in found.lists}
    lines = []
    for row in tx.issuers.all():
        sources = status_sources(tx, row.skid)
        lines.append(
            IssuerLine(
                skid=row.skid,
                role=row.role,
                pair=row.pair,
                state=row.state.value,
                generation=generation_of(context.public, row),
                not_after=x509.load_der_x509_certificate(row.certificate).not_valid_after_utc,
                lists=sources.lists,
                stalest=stalest.get(row.skid),
                responder_until=sources.responder_until,
                trusted=row.state in TRUSTED,
            )
        )
    return tuple(sorted(lines, key=lambda line: (line.state != "active", line.pair, line.role)))


def attempt(read: Callable[[], T]) -> T | str:
    """What `read` gives, or one sentence why it cannot be had: a page that shows nothing helps nobody."""
    try:
        return read()
    except VtpmCaError as error:
        return error.detail
    except sa.exc.SQLAlchemyError as error:
        return f"the database cannot be read: {type(error).__name__}"
    except (ValueError, TypeError) as error:
        # What stands in a column may be anything once a file is damaged.
        return f"the database holds what cannot be read: {type(error).__name__}"


def short(text: str) -> str:
    """A text for a table."""
    over = len(text) - _MOST_TEXT
    return text if over <= 0 else f"{text[:_MOST_TEXT]} ... and {over} more characters"


STATES: Final[Mapping[CertificateState, str]] = {
    CertificateState.INTENDED: "not signed yet",
    CertificateState.ISSUED: "good",
    CertificateState.SUPERSEDED: "good, replaced by a newer one",
    CertificateState.REVOKED: "revoked",
    CertificateState.ABANDONED: "never left the CA",
}
"""States of certificates in words."""
