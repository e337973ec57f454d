"""`vtpm-ca policy simulate`: a draft of the policy over past decisions, and over the TPMs that have certificates.

Like an audit it reads the database itself, also while a server runs: a history of many thousand decisions takes longer
than a request may, and would keep a worker from serving. It writes nothing. It reads page by page, each in a short
transaction of its own, and holds no more than one page and what it lists.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from ca_service.enrollment.recorded import Recorded
from ca_service.enrollment.simulation import Compared, Outcome, Present, compare, today
from ca_service.judgment import BadRequest, NotFound, Record, Unavailable, VtpmCaError
from ca_service.operations.bounds import SIMULATED_DAYS, SIMULATED_LAST, SIMULATED_LISTED
from ca_service.operations.context import Json, instant
from ca_service.operations.recorded import BATCH, recorded, recorded_of
from ca_service.operations.simulation_result import Certified, Newest, Past
from ca_service.policy import Policy, load, load_complete, require_safe
from ca_service.policy.outlook.dates import as_of
from ca_service.store import CertifiedTpm, DecisionRow, NewestEvidence, Store, Transaction

NOW, THEN = "the version in force", "the version that decided"
"""What past decisions are compared with."""

_POLICIES: Final = 8
"""Read policies that are held at once."""


def read_draft(text: str, mode: str) -> Policy:
    """Read a draft as `apply` would.

    Args:
        text: the document.
        mode: of the CA.

    Raises:
        BadRequest: it could not be put in force in such a CA.
    """
    draft = load_complete(text)
    require_safe(draft, mode)
    return draft


class Versions:
    """The versions of the policy, read when they are asked for; the last few are kept."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: OrderedDict[int, Policy] = OrderedDict()

    def in_force(self, at: datetime) -> int:
        """Number of the version in force at `at`, 0 for none."""
        with self._store.read() as tx:
            return tx.policies.version_in_force(at)

    def get(self, version: int) -> Policy | None:
        """One version; None for 0, which is none.

        Raises:
            BadRequest: it is not there, not the one that was put in force, or read by this release no more.
        """
        if version == 0:
            return None
        if version in self._kept:
            self._kept.move_to_end(version)
        else:
            with self._store.read() as tx:
                row = tx.policies.get(version)
            if row is None:
                raise BadRequest("policy", f"version {version} is not there")
            policy = load(row.text)
            if policy.digest != row.digest:
                raise BadRequest("policy", f"version {version} is not the one that was put in force")
            self._kept[version] = policy
            if len(self._kept) > _POLICIES:
                self._kept.popitem(last=False)
        return self._kept[version]


@dataclass(frozen=True)
class Request:
    """What is asked of a simulation.

    Attributes:
        draft: the draft, see `read_draft`.
        at: now, aware.
        since: decisions from then on are looked at, aware.
        last: of them so many, the newest.
        all_versions: whether each decision is compared with the version that made it; else all are with the version in
            force, so that a flip is the draft's doing and not that of a version since.
        listed: how many flips and TPMs are listed.
    """

    draft: Policy
    at: datetime
    since: datetime
    last: int = SIMULATED_LAST
    all_versions: bool = False
    listed: int = SIMULATED_LISTED

    @classmethod
    def usual(cls, draft: Policy, at: datetime) -> "Request":
        """With everything as it is if nothing is said."""
        return cls(draft, at, at - timedelta(days=SIMULATED_DAYS))


@dataclass
class Simulation:
    """What a simulation found."""

    request: Request
    version: int
    past: Past
    certified: Certified

    def to_json(self) -> dict[str, Json]:
        """As plain values."""
        asked = self.request
        return {
            "draft": asked.draft.digest,
            "in_force": self.version or None,
            "compared_with": THEN if asked.all_versions else NOW,
            "at": instant(asked.at),
            "since": instant(asked.since),
            **self.past.to_json(),
            **self.certified.to_json(),
        }


def _unwatched(_what: str, _count: int) -> None:
    """Nobody waits."""


def simulate(store: Store, request: Request, watch: Callable[[str, int], None] = _unwatched) -> Simulation:
    """Judge past decisions, and the TPMs that have certificates, by a draft.

    Args:
        store: the CA's database.
        request: what is asked.
        watch: is told after each page what was looked at, and how many so far.

    Raises:
        BadRequest: the policy in force cannot be read.
        Unavailable: the database cannot be read.
    """
    versions = Versions(store)
    version = versions.in_force(request.at)
    made = Simulation(request, version, Past(request.listed), Certified(request.listed))
    _past(store, versions, made, watch)
    _certified(store, versions.get(version), made, watch)
    return made


def tenant_of(kbs_id: str, *policies: Policy | None) -> str:
    """Whose keys a KBS holds, by the first of the policies that knows it; empty if none says."""
    for policy in policies:
        if policy is None:
            continue
        tenants = policy.once("tenants", "", partial(_tenants, policy))
        if kbs_id in tenants:
            return tenants[kbs_id]
    return ""


def _tenants(policy: Policy) -> dict[str, str]:
    return {entry.id: entry.tenant for entry in policy.kbs.values()}


def _past(store: Store, versions: Versions, made: Simulation, watch: Callable[[str, int], None]) -> None:
    request, looked_at = made.request, 0
    base = versions.get(made.version)
    with store.read() as tx:
        total = tx.fleet.count_decisions(request.since)
    for page in _newest_first(store, request):
        for row, found in page:
            compared = _compared(row, found, versions, base, request)
            made.past.add(row, compared, tenant_of(row.kbs_id, request.draft, base))
        looked_at += len(page)
        watch("decisions", looked_at)
    made.past.left_out = max(0, total - looked_at)


def _newest_first(
    store: Store, request: Request
) -> Iterator[list[tuple[DecisionRow, Recorded | VtpmCaError]]]:
    after: tuple[datetime, str] | None = None
    left = request.last
    while left > 0:
        with store.read() as tx:
            rows = tx.fleet.newest_decisions(request.since, after, min(BATCH, left))
            page = [(row, _recorded(tx, row)) for row in rows]
        if not page:
            return
        yield page
        after, left = (rows[-1].at, rows[-1].id), left - len(page)


def _recorded(tx: Transaction, row: DecisionRow) -> Recorded | VtpmCaError:
    try:
        return recorded_of(tx, row)
    except (BadRequest, Unavailable) as error:
        return error


def _compared(
    row: DecisionRow,
    found: Recorded | VtpmCaError,
    versions: Versions,
    base: Policy | None,
    request: Request,
) -> Compared:
    if isinstance(found, VtpmCaError):
        return Compared(Outcome.NOT_COMPARABLE, why=found.detail)
    try:
        stored = Record.parse(row.trace).trace
    except ValueError:
        return Compared(Outcome.NOT_COMPARABLE, why="its trace cannot be read")
    try:
        then = versions.get(row.policy_version)
        return compare(stored, found, then, then if request.all_versions else base, request.draft)
    except BadRequest as error:
        return Compared(Outcome.NOT_COMPARABLE, why=error.detail)


def _certified(
    store: Store, in_force: Policy | None, made: Simulation, watch: Callable[[str, int], None]
) -> None:
    request, looked_at, after = made.request, 0, 0
    present = present_of(request.draft, in_force, request.at)
    while True:
        with store.read() as tx:
            tpms = tx.fleet.certified(request.at, after, BATCH)
            evidence = evidence_of(tx, tpms)
        if not tpms:
            return
        for tpm in tpms:
            newest = judge_newest(evidence[tpm.tpm_id], present)
            made.certified.add(tpm, newest, tenant_of(tpm.kbs_id, request.draft, in_force))
        after, looked_at = tpms[-1].tpm_id, looked_at + len(tpms)
        watch("TPMs", looked_at)


def present_of(draft: Policy, in_force: Policy | None, at: datetime) -> Present:
    """The policies as they are asked about a TPM at `at`."""
    return Present(draft, as_of(draft, at), None if in_force is None else as_of(in_force, at))


@dataclass(frozen=True)
class Evidence:
    """The newest accepted evidence about a TPM, or why there is none that can be judged."""

    newest: NewestEvidence | None
    recorded: Recorded | None = field(repr=False)
    why: str = ""


def evidence_of(tx: Transaction, tpms: Sequence[CertifiedTpm]) -> Mapping[int, Evidence]:
    """The newest accepted evidence about each of these TPMs, by their numbers."""
    newest = tx.fleet.newest_evidence([tpm.tpm_id for tpm in tpms])
    return {tpm.tpm_id: _evidence(tx, newest.get(tpm.tpm_id)) for tpm in tpms}


def _evidence(tx: Transaction, newest: NewestEvidence | None) -> Evidence:
    if newest is None:
        return Evidence(None, None, "no stored evidence says that it is this TPM's")
    try:
        return Evidence(newest, recorded(tx, newest.decision_id)[1])
    except (BadRequest, NotFound, Unavailable) as error:
        return Evidence(newest, None, error.detail)


def judge_newest(evidence: Evidence, present: Present) -> Newest:
    """What is said today of the newest evidence about a TPM."""
    newest = evidence.newest
    if newest is None or evidence.recorded is None:
        decision_id, at = (None, None) if newest is None else (newest.decision_id, newest.at)
        return Newest(decision_id, at, why=evidence.why)
    try:
        said = today(evidence.recorded, present)
    except BadRequest as error:
        return Newest(newest.decision_id, newest.at, why=error.detail)
    return Newest(newest.decision_id, newest.at, said)
