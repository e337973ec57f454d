"""What an admitted decision rests on in the policy, and how far it is from the next no."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from ca_service.policy.allowlist import Policy, kbs_for
from ca_service.policy.entries.floors import Floor, meets
from ca_service.policy.entries.launches import PlatformEntry
from ca_service.policy.judging.checks import rules_out
from ca_service.policy.judging.facts import LaunchFacts, PolicyFacts
from ca_service.policy.judging.platform_rules import present_floor
from ca_service.policy.judging.selection import judged
from vtpm.wire.report import Product, tcb_components


@dataclass(frozen=True)
class FloorDistance:
    """How far a processor is above the floor of its product.

    Attributes:
        product: of the processor.
        since: from when on the floor counts; None: from the beginning.
        above: levels of REPORTED_TCB above the floor, by component; empty if the floor does not state any.
        misses_from: from when on an announced floor counts that REPORTED_TCB does not reach; None if none is announced.
    """

    product: Product
    since: datetime | None
    above: Mapping[str, int]
    misses_from: datetime | None


@dataclass(frozen=True)
class Basis:
    """The entries of a policy on which an enrolment rests.

    Attributes:
        kbs: id of the key broker; empty if the evidence states none.
        launch: name of the launch entry; empty if a permissive entry took its place.
        platform: name of the platform, likewise.
        grant_age_s: age of the grant at the time of the decision, in seconds; None without a grant.
        floor: None if the platform has none for this product.
    """

    kbs: str
    launch: str
    platform: str
    grant_age_s: int | None
    floor: FloorDistance | None


def basis(policy: Policy, mode: str, facts: PolicyFacts) -> Basis:
    """What the enrolment with these facts rests on.

    Args:
        policy: that admits it.
        mode: of the CA.
        facts: what the policy was asked about.
    """
    entry = judged(policy, facts.launch, rules_out(policy, mode))
    platform = None if entry is None else entry.platform
    broker = kbs_for(policy, facts.kbs_thumbprint) if facts.kbs_thumbprint else None
    return Basis(
        kbs="" if broker is None else broker.id,
        launch="" if entry is None else entry.name,
        platform="" if platform is None else platform.name,
        grant_age_s=int(facts.at.timestamp()) - facts.grant_iat if facts.kbs_thumbprint else None,
        floor=None if platform is None else _distance(platform, facts.launch),
    )


def _distance(platform: PlatformEntry, facts: LaunchFacts) -> FloorDistance | None:
    floor, product = present_floor(platform, facts), facts.product
    if floor is None or product is None:
        return None
    reported = facts.report.reported_tcb
    levels = tcb_components(reported, product)
    later = (row for row in platform.floors.get(product, ()) if _counts_after(row, facts.at))
    missed = (row.since for row in later if row.reported and not meets(reported, row.reported, product))
    return FloorDistance(
        product=product,
        since=floor.since,
        above={name: levels[name] - least for name, least in (floor.reported or {}).items()},
        misses_from=next(missed, None),
    )


def _counts_after(floor: Floor, at: datetime) -> bool:
    return floor.since is not None and floor.since > at
