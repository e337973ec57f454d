"""``GET /metrics`` for Prometheus: what was counted, and how things stand.

Counts come from the memory that all processes share; how things stand is read when somebody asks, from the database by
statements whose cost does not grow with it. Times are given as seconds since 1970, as Prometheus wants: to ask how long
ago or how soon is left to the query, so a CA whose clock is wrong shows. Only operators may ask.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Final

from flask import Blueprint, Response, request
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ca_service.api.services import Services
from ca_service.api.tally import LOST, Count
from ca_service.api.watching import (
    ALARMS,
    BOUNDS,
    CERTIFICATES,
    DECISIONS,
    KDS,
    LONGER,
    REFUSALS,
    REQUESTS,
    SECONDS,
    SECONDS_SUM,
)
from ca_service.collateral.inspection import newest
from ca_service.evidence.snp import Collateral, Root
from ca_service.judgment import NotFound, VtpmCaError
from ca_service.policy import Policy, load
from ca_service.policy.entries.floors import in_force
from ca_service.service import OPERATOR
from ca_service.store import Gauges, Transaction, read_gauges, revocations_by_reason

_REVOKED_FOR_S: Final = 60.0
"""How long a process goes by what it has counted of revocations: to count them means to look at each."""

_SHARE: Final = 1000.0
"""And longer, so that this takes no more than a thousandth of its time."""

_COUNTERS: Final = (
    (REQUESTS, "vtpm_ca_http_requests", "HTTP requests.", ("route", "method", "status")),
    (DECISIONS, "vtpm_ca_decisions", "Decisions that were stored.", ("stage", "verdict", "rule")),
    (REFUSALS, "vtpm_ca_unproven_refusals", "Requests whose evidence is not authentic.", ("rule",)),
    (CERTIFICATES, "vtpm_ca_certificates_issued", "Certificates issued.", ("profile", "issuer_role")),
    (ALARMS, "vtpm_ca_alarms", "Alarms raised.", ("kind",)),
    (KDS, "vtpm_ca_kds_fetches", "What became of VCEKs that were asked for.", ("result",)),
    (LOST, "vtpm_ca_metrics_lost", "Counts for which there was no room.", ()),
)


@dataclass(frozen=True)
class _Families(Collector):
    """What one answer holds."""

    families: tuple[Metric, ...]

    def collect(self) -> Iterable[Metric]:
        return self.families


class _Kept:
    """A value that is made anew when it is older than so many seconds, and a thousand times what it takes to make."""

    def __init__(self, make: Callable[[], Mapping[str, int]], age_s: float) -> None:
        self._make = make
        self._age_s = age_s
        self._until = -math.inf
        self._value: Mapping[str, int] = {}

    def __call__(self) -> Mapping[str, int]:
        begun = time.monotonic()
        if begun >= self._until:
            self._value = self._make()
            done = time.monotonic()
            self._until = done + max(self._age_s, _SHARE * (done - begun))
        return self._value


def metrics(services: Services) -> Blueprint:
    """The blueprint of the metrics; over any other way than the operators' they do not exist."""
    blueprint = Blueprint("metrics", __name__)

    def count_revoked() -> Mapping[str, int]:
        with services.store.read() as tx:
            return revocations_by_reason(tx)

    revoked, known = _Kept(count_revoked, _REVOKED_FOR_S), _Policies()

    @blueprint.before_request
    def only_operators() -> None:
        if not request.environ.get(OPERATOR):
            raise NotFound("there is nothing here")

    @blueprint.get("/metrics")
    def scrape() -> Response:
        found = (*counted(services.tally.read()), *_present(services, revoked, known))
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return Response(encode(_Families(found)), content_type=content_type)

    return blueprint


def counted(counts: Iterable[Count]) -> Iterator[Metric]:
    """The counters and histograms."""
    by_name: dict[str, list[Count]] = {}
    for count in counts:
        by_name.setdefault(count.name, []).append(count)
    for name, metric, help_, labels in _COUNTERS:
        family = CounterMetricFamily(metric, help_, labels=labels)
        for count in by_name.get(name, []):
            family.add_metric(count.labels, count.value)
        yield family
    yield _durations(by_name.get(SECONDS, []), by_name.get(SECONDS_SUM, []))


def _durations(classes: Iterable[Count], sums: Iterable[Count]) -> Metric:
    family = HistogramMetricFamily(
        "vtpm_ca_http_request_duration_seconds", "How long HTTP requests took.", labels=("route",)
    )
    found: dict[str, dict[str, float]] = {}
    for count in classes:
        route, bound = count.labels
        found.setdefault(route, {})[bound] = count.value
    totals = {count.labels[0]: count.value for count in sums}
    for route, by_bound in sorted(found.items()):
        buckets, so_far = [], 0.0
        for bound in (*map(str, BOUNDS), LONGER):
            so_far += by_bound.get(bound, 0.0)
            buckets.append((bound, so_far))
        family.add_metric((route,), buckets, totals.get(route, 0.0))
    return family


def _gauge(
    name: str, help_: str, samples: Mapping[tuple[str, ...], float], labels: tuple[str, ...] = ()
) -> Metric:
    family = GaugeMetricFamily(f"vtpm_ca_{name}", help_, labels=labels)
    for values, value in samples.items():
        family.add_metric(values, value)
    return family


def _alone(name: str, help_: str, value: float | datetime | None) -> Iterator[Metric]:
    """A gauge without labels; nothing if there is no value."""
    if value is not None:
        number = value.timestamp() if isinstance(value, datetime) else value
        yield _gauge(name, help_, {(): number})


def _present(
    services: Services, revoked: Callable[[], Mapping[str, int]], known: "_Policies"
) -> Iterator[Metric]:
    authority, at = services.authority, services.enroller.desk.now()
    yield _gauge(
        "info", "The release and the CA.", {(version("vtpm-ca"), authority.mode): 1}, ("version", "mode")
    )
    yield from _alone("clock_timestamp_seconds", "The CA's own time.", at)
    stopped = bool(services.enroller.desk.log.stopped)
    yield from _alone("database_rolled_back", "1 once the database has turned out to be an old one.", stopped)
    yield from _authority_ends(services)
    yield _collateral(services)
    try:
        with services.store.read() as tx:
            found = read_gauges(tx, at)
            policy = known.get(tx, found)
        by_reason = revoked()
    except VtpmCaError:
        # Of all answers that could be given now, this is the one that somebody must get.
        yield from _alone("database_up", "Whether the database can be read.", 0)
        return
    yield from _alone("database_up", "Whether the database can be read.", 1)
    yield from _standing(found)
    yield _gauge(
        "revocations",
        "Serials on record as revoked.",
        {(reason,): count for reason, count in by_reason.items()},
        ("reason",),
    )
    yield from _floors(policy, at)


def _standing(found: Gauges) -> Iterator[Metric]:
    yield from _alone("policy_version", "The policy version in force, 0 for none.", found.policy_version)
    yield from _alone(
        "policy_applied_timestamp_seconds", "When it was put in force.", found.policy_applied_at
    )
    yield from _alone(
        "policies_waiting", "Policy versions that wait for approval.", len(found.policies_waiting)
    )
    yield from _alone(
        "policy_next_timestamp_seconds",
        "When the next policy version comes in force.",
        min(found.policies_scheduled.values(), default=None),
    )
    yield from _alone("log_leaves", "Leaves of the log.", found.log_size)
    yield from _alone(
        "log_checkpoint_timestamp_seconds", "When the last checkpoint was signed.", found.log_at
    )
    yield from _alone("last_decision_timestamp_seconds", "When the last decision was made.", found.decided_at)
    yield from _alone("database_epoch", "Counts the restores of the database.", found.epoch)
    yield from _alone("database_bytes", "Size of the database.", found.size)
    yield from _alone("open_intents", "Issuances that are under way.", found.open_intents)
    yield from _alone(
        "oldest_open_intent_timestamp_seconds", "When the first of them began.", found.oldest_intent_at
    )
    named = {issuer.skid: (issuer.role, issuer.pair, issuer.skid) for issuer in found.issuers}
    who = ("issuer_role", "pair", "skid")
    yield _gauge(
        "issuer_state",
        "1 for the state that an issuing CA is in.",
        {(*named[issuer.skid], issuer.state.value): 1 for issuer in found.issuers},
        (*who, "state"),
    )
    for name, help_, value in (
        (
            "crl_number",
            "Number of the stalest of its revocation lists in force.",
            lambda row: float(row.number),
        ),
        ("crl_this_update_timestamp_seconds", "Its thisUpdate.", lambda row: row.this_update.timestamp()),
        ("crl_next_update_timestamp_seconds", "Its nextUpdate.", lambda row: row.next_update.timestamp()),
    ):
        yield _gauge(name, help_, {named[row.skid]: value(row) for row in found.lists}, who)


def _authority_ends(services: Services) -> Iterator[Metric]:
    authority = services.authority
    ends: dict[tuple[str, ...], float] = {}
    ends["root", "", authority.root_info.skid] = authority.root.not_valid_after_utc.timestamp()
    for ca in authority.issuers:
        ends[ca.role, ca.pair, ca.skid] = ca.info.validity.not_after.timestamp()
    yield _gauge(
        "ca_certificate_not_after_timestamp_seconds",
        "When the certificates of the CAs in this directory end.",
        ends,
        ("issuer_role", "pair", "skid"),
    )


def _collateral(services: Services) -> Metric:
    judge = services.enroller.desk.judge
    try:
        issued = _crl_dates(judge.collateral(), judge.roots)
    except VtpmCaError:
        issued = {}
    return _gauge(
        "collateral_crl_this_update_timestamp_seconds",
        "thisUpdate of the newest list of each SNP root in the bundle.",
        dict(issued),
        ("root",),
    )


def _crl_dates(held: Collateral, roots: tuple[Root, ...]) -> Mapping[tuple[str, ...], float]:
    lists = {root.ark.common_name: newest(held.crls, root) for root in roots if not root.simulated}
    return {(name,): crl.this_update.timestamp() for name, crl in lists.items() if crl is not None}


class _Policies:
    """Remembers the policy in force: to read one takes longer than all the rest of a scrape."""

    def __init__(self) -> None:
        self._known: tuple[str, Policy | None] = ("", None)

    def get(self, tx: Transaction, found: Gauges) -> Policy | None:
        """The policy in force; None if there is none, or this release cannot read it."""
        digest, policy = self._known
        if digest != found.policy_digest:
            row = tx.policies.get(found.policy_version)
            try:
                policy = None if row is None else load(row.text)
            except VtpmCaError:
                policy = None
            self._known = (found.policy_digest, policy)
        return policy


def _floors(policy: Policy | None, at: datetime) -> Iterator[Metric]:
    """The levels that count now, and when the next ones begin to."""
    levels: dict[tuple[str, ...], float] = {}
    coming: dict[tuple[str, ...], float] = {}
    for platform in () if policy is None else policy.platforms.values():
        for product, floors in platform.floors.items():
            floor = in_force(floors, at)
            kinds = () if floor is None else (("reported", floor.reported), ("committed", floor.committed))
            for kind, least in kinds:
                for component, level in (least or {}).items():
                    levels[platform.name, product.value, kind, component] = level
            later = [floor.since for floor in floors if floor.since is not None and floor.since > at]
            if later:
                coming[platform.name, product.value] = min(later).timestamp()
    yield _gauge(
        "tcb_floor",
        "Least TCB levels that are admitted now.",
        levels,
        ("platform", "product", "tcb", "component"),
    )
    yield _gauge(
        "tcb_floor_next_timestamp_seconds",
        "When the next floor begins to count.",
        coming,
        ("platform", "product"),
    )
