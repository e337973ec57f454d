"""What stands in a policy, in short: for whoever wrote a document and wants to see how it was understood."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from ca_service.policy.allowlist import Policy
from ca_service.policy.entries.terms import USUAL_ENROLMENTS, USUAL_REFUSALS, USUAL_WINDOW_S
from vtpm.wire.templates import Role


def summary(policy: Policy, at: datetime) -> dict[str, object]:
    """The policy as JSON values.

    Args:
        policy: what was read.
        at: now, aware; for the warnings.

    Returns:
        ``digest``, ``kbs``, ``launch``, ``platform`` and ``unsafe`` (names), ``tenants`` (ids of their key brokers),
        ``grant_max_age_s`` and ``kbs_grant_max_age_s`` (seconds, the latter by key broker), ``templates`` (by role),
        ``iak_profile``, ``certificate_days`` (by role, null for as long as the key ceremony allows), ``store_formats``,
        ``ephemeral`` (null if nothing is admitted), ``limits``, ``approval`` (null for what the CA's mode asks),
        ``test`` (names) and ``warnings``.
    """
    terms = policy.ephemeral
    return {
        "digest": policy.digest,
        "kbs": sorted(entry.id for entry in policy.brokers()),
        "tenants": tenants(policy),
        "launch": [entry.name for entry in policy.launches.entries()],
        "platform": sorted(policy.platforms),
        "grant_max_age_s": policy.grant_max_age,
        "kbs_grant_max_age_s": {
            entry.id: entry.grant_max_age for entry in policy.brokers() if entry.grant_max_age is not None
        },
        "templates": {role.value: sorted(policy.templates.get(role, ())) for role in Role},
        "iak_profile": policy.iak_profile,
        "certificate_days": {role.value: policy.certificate_days.get(role) for role in Role},
        "store_formats": sorted(policy.store_formats),
        "ephemeral": {
            "days": terms.days,
            "profiles": sorted(terms.profiles),
            "volatile_stores": terms.volatile_stores,
        }
        if terms.profiles or terms.volatile_stores
        else None,
        "limits": {
            "instance_enrolments": policy.limits.instance_enrolments or USUAL_ENROLMENTS,
            "instance_window_s": policy.limits.instance_window_s or USUAL_WINDOW_S,
            "launch_refusals_per_hour": policy.limits.launch_refusals_per_hour or USUAL_REFUSALS,
        },
        "approval": policy.approval,
        "unsafe": sorted(policy.unsafe),
        "test": [test.name for test in policy.tests],
        "warnings": policy.warnings(at),
    }


def tenants(policy: Policy) -> dict[str, list[str]]:
    """The ids of the key brokers of each tenant."""
    found: dict[str, list[str]] = {}
    for entry in policy.brokers():
        if entry.tenant:
            found.setdefault(entry.tenant, []).append(entry.id)
    return {tenant: sorted(found[tenant]) for tenant in sorted(found)}


def in_words(policy: Policy) -> Mapping[str, str]:
    """The same for people, a few words for each part; without the warnings."""
    return {
        "kbs": _names(entry.id for entry in policy.brokers()),
        "tenants": "; ".join(f"{name}: {', '.join(ids)}" for name, ids in tenants(policy).items()) or "none",
        "launch": _names(entry.name for entry in policy.launches.entries()),
        "platform": _names(policy.platforms),
        "grant age": "; ".join(_grant_ages(policy)),
        "templates": "; ".join(f"{role.value}: {_names(policy.templates.get(role, ()))}" for role in Role),
        "iak profile": policy.iak_profile,
        "certificates": "; ".join(
            f"{role.value}: {_life(policy.certificate_days.get(role))}" for role in Role
        ),
        "stores": _names(policy.store_formats),
        "ephemeral": _ephemeral(policy),
        "limits": (
            f"{policy.limits.instance_enrolments or USUAL_ENROLMENTS} enrolments of an instance in "
            f"{policy.limits.instance_window_s or USUAL_WINDOW_S} s, "
            f"{policy.limits.launch_refusals_per_hour or USUAL_REFUSALS} refusals of a launch in an hour"
        ),
        "operators to widen": policy.approval or "as the CA's mode has it",
        "unsafe": _names(policy.unsafe),
        "tests": ", ".join(test.name for test in policy.tests) or "none",
        "digest": policy.digest,
    }


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _grant_ages(policy: Policy) -> Iterator[str]:
    yield "every grant is too old" if policy.grant_max_age is None else f"at most {policy.grant_max_age} s"
    for entry in policy.brokers():
        if entry.grant_max_age is not None:
            yield f"{entry.id}: at most {entry.grant_max_age} s"


def _life(days: int | None) -> str:
    return "as the key ceremony says" if days is None else f"at most {days} days"


def _ephemeral(policy: Policy) -> str:
    terms = policy.ephemeral
    if not terms.profiles and not terms.volatile_stores:
        return "nothing"
    admitted = sorted(terms.profiles) + (["volatile stores"] if terms.volatile_stores else [])
    return f"{', '.join(admitted)}, for {terms.days} days"
