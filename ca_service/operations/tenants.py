"""Whose key brokers they are, as the policy in force says."""

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType

from ca_service.judgment import BadRequest, NotFound
from ca_service.policy import load
from ca_service.store import Transaction

_KEPT = 2


def tenants(tx: Transaction, at: datetime) -> Mapping[str, str]:
    """The tenant at `at` of each key broker that has one, by its id; none if the policy in force cannot be read."""
    row = tx.policies.in_force(at)
    return MappingProxyType({}) if row is None else _of(row.text)


def brokers_of(tenant: str, known: Mapping[str, str]) -> frozenset[str]:
    """The ids of a tenant's key brokers.

    Raises:
        NotFound: it has none, as far as the policy in force knows; whoever mistypes a name must not be told that
            nothing is there.
    """
    found = frozenset(kbs for kbs, owner in known.items() if owner == tenant)
    if not found:
        raise NotFound(
            "no key broker of the policy in force has this tenant",
            remedy="`vtpm-ca policy show` has the `tenant` of each [[kbs]].",
        )
    return found


@lru_cache(maxsize=_KEPT)
def _of(text: str) -> Mapping[str, str]:
    try:
        policy = load(text)
    except BadRequest:
        return MappingProxyType({})
    return MappingProxyType({entry.id: entry.tenant for entry in policy.brokers() if entry.tenant})
