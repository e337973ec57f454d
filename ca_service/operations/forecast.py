"""`vtpm-ca tcb forecast`: which TPMs will be below a floor of the policy, and from when on.

It reads the database itself, page by page, as a simulation does (`ca_service.operations.simulation`), and the report in
each TPM's newest accepted evidence; what the processor has become since, nobody has told the CA.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from ca_service.judgment import NotFound
from ca_service.operations.bounds import SIMULATED_LISTED
from ca_service.operations.context import Json, instant
from ca_service.operations.recorded import BATCH
from ca_service.operations.simulation import Versions, read_draft
from ca_service.operations.simulation_result import Listed
from ca_service.policy import Policy
from ca_service.policy.outlook.forecast import Fall, endings, fall, is_listed
from ca_service.store import CertifiedTpm, NewestEvidence, Store
from vtpm.wire.enrollment import EnrollmentRequest
from vtpm.wire.errors import WireError
from vtpm.wire.report import Product, Report

ENDING_DAYS: Final = 90
"""How far ahead the ends of key brokers' entries are told."""


@dataclass(frozen=True)
class Basis:
    """The policy whose floors are meant: the `version` in force, or a draft, which has none."""

    policy: Policy
    version: int | None = None


def basis(store: Store, mode: str, at: datetime, draft: str | None = None) -> Basis:
    """The policy in force, or a draft.

    Args:
        store: the CA's database.
        mode: of the CA.
        at: now, aware.
        draft: the draft's text; None for the version in force.

    Raises:
        BadRequest: the draft could not be put in force, or the version in force cannot be read.
        NotFound: no policy is in force.
    """
    if draft is not None:
        return Basis(read_draft(draft, mode))
    versions = Versions(store)
    version = versions.in_force(at)
    policy = versions.get(version)
    if policy is None:
        raise NotFound(
            "no policy is in force",
            remedy="Put one in force with `vtpm-ca policy apply FILE`, or name a draft.",
        )
    return Basis(policy, version)


@dataclass(frozen=True)
class _Group:
    """TPMs that fall below on one day, on one platform and product."""

    since: datetime | None
    platform: str
    product: str

    def order(self) -> tuple[str, str, str]:
        """Those that are below already come first."""
        return instant(self.since) or "", self.platform, self.product


@dataclass
class Forecast:
    """What is to come for the TPMs that have certificates."""

    basis: Basis
    at: datetime
    listed: int
    counts: Counter[str] = field(default_factory=Counter)
    groups: dict[_Group, Listed] = field(default_factory=dict)
    resting: Counter[str] = field(default_factory=Counter)

    def add(
        self, tpm: CertifiedTpm, evidence: "NewestEvidence | None", report: Report | None, mode: str
    ) -> None:
        """Count a TPM, and list it if it is below a floor or will be."""
        self.counts["tpms"] += 1
        self.resting[tpm.kbs_id] += 1
        if report is None or evidence is None:
            self.counts["unknown"] += 1
            return
        product = next((known for known in Product if known == evidence.product), None)
        found = fall(self.basis.policy, mode, report, product, self.at)
        if found is None:
            listed = is_listed(self.basis.policy, report)
            self.counts["safe" if listed else "unlisted"] += 1
            return
        self.counts["below" if found.since is None else "falling"] += 1
        group = _Group(found.since, found.platform, product or "unknown")
        rows = self.groups.setdefault(group, Listed(self.listed))
        rows.add(_row(tpm, evidence, report, found))

    def to_json(self) -> dict[str, Json]:
        """As plain values."""
        policy, until = self.basis.policy, self.at + timedelta(days=ENDING_DAYS)
        names = ("tpms", "below", "falling", "safe", "unlisted", "unknown")
        return {
            "policy": policy.digest,
            "version": self.basis.version,
            "at": instant(self.at),
            "counts": {name: self.counts[name] for name in names},
            "groups": [
                {
                    "from": instant(group.since),
                    "platform": group.platform,
                    "product": group.product,
                    "count": rows.count,
                    "tpms": rows.rows,
                    "omitted": rows.omitted,
                }
                for group, rows in sorted(self.groups.items(), key=lambda item: item[0].order())
            ],
            "endings": [
                {"kbs": entry.id, "ends": instant(entry.valid_to), "tpms": self.resting[entry.id]}
                for entry in endings(policy, self.at, until)
            ],
        }


def _row(tpm: CertifiedTpm, evidence: NewestEvidence, report: Report, found: Fall) -> dict[str, Json]:
    return {
        "tpm": tpm.tpm_id,
        "kbs": tpm.kbs_id,
        "resource": tpm.resource,
        "salt": tpm.salt,
        "chip": report.chip_id.hex() if any(report.chip_id) else None,
        "launch": found.launch,
        "decision": evidence.decision_id,
        "seen_at": instant(evidence.at),
        "short": [vars(shortfall) for shortfall in found.shortfalls],
    }


def _unwatched(_what: str, _count: int) -> None:
    """Nobody waits."""


def forecast(
    store: Store,
    about: Basis,
    mode: str,
    at: datetime,
    *,
    listed: int = SIMULATED_LISTED,
    watch: Callable[[str, int], None] = _unwatched,
) -> Forecast:
    """Who is below a floor at `at`, and who will be by which of its later dates.

    Args:
        store: the CA's database.
        about: whose floors.
        mode: of the CA.
        at: aware; certificates that have ended by then do not count.
        listed: how many TPMs are listed of each day, platform and product.
        watch: is told after each page what was looked at, and how many so far.

    Raises:
        Unavailable: the database cannot be read.
    """
    made, after = Forecast(about, at, listed), 0
    while True:
        with store.read() as tx:
            tpms = tx.fleet.certified(at, after, BATCH)
            newest = tx.fleet.newest_evidence([tpm.tpm_id for tpm in tpms])
            bodies = tx.log.evidence([evidence.evidence_digest for evidence in newest.values()])
        if not tpms:
            return made
        for tpm in tpms:
            evidence = newest.get(tpm.tpm_id)
            report = None if evidence is None else _report(bodies.get(evidence.evidence_digest))
            made.add(tpm, evidence, report, mode)
        after = tpms[-1].tpm_id
        watch("TPMs", made.counts["tpms"])


def _report(body: bytes | None) -> Report | None:
    """The report in a request; None for one that this release reads no more."""
    try:
        # Of the claims nothing is asked, and to read them takes twice as long.
        return None if body is None else Report.parse(EnrollmentRequest.parse(body).evidence.report)
    except WireError:
        return None
