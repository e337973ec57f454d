"""Key brokers: what the policy in force says of each, and what rests on it.

They are changed by new versions of the policy, see `ca_service.policy.editing.brokers`, and so by ``policy-apply``.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Final, cast

from ca_service.judgment import NotFound
from ca_service.operations.context import Json, Operation, OperationContext, instant
from ca_service.operations.policies import show as show_policy
from ca_service.policy import KbsEntry, load
from ca_service.store import Resting, RestingOnBrokers, resting_on_brokers
from vtpm.wire.encoding import Members

NOT_LISTED: Final = "not-listed"
"""Status of a key broker that the policy no longer lists, while TPMs rest on it."""

_NOTHING: Final = Resting(0, 0)


def list_(context: OperationContext, arguments: Members) -> Json:
    """All key brokers of the policy in force, and those that it no longer lists and TPMs rest on."""
    arguments.end()
    return list(_rows(context))


def show(context: OperationContext, arguments: Members) -> Json:
    """One key broker, as in the list."""
    wanted = arguments.text("id", most=64)
    arguments.end()
    rows = list(_rows(context))
    for row in rows:
        if row["id"] == wanted:
            return row
    known = ", ".join(str(row["id"]) for row in rows) or "none"
    raise NotFound("the policy in force lists no such key broker", remedy=f"It lists: {known}.")


def _rows(context: OperationContext) -> Iterator[dict[str, Json]]:
    shown = cast("Mapping[str, str]", show_policy(context, Members({})))
    policy = load(shown["text"])
    with context.store.read() as tx:
        resting = resting_on_brokers(tx, context.clock())
    entries = {entry.id: entry for entry in policy.kbs.values()}
    for entry in entries.values():
        yield _row(entry, _of(entry, resting))
    for name in sorted(resting.by_id.keys() - entries.keys()):
        yield _unlisted(name, resting.by_id[name])


def _of(entry: KbsEntry, resting: RestingOnBrokers) -> Resting:
    parts = [
        resting.by_id.get(entry.id, _NOTHING),
        *(resting.by_key.get(key, _NOTHING) for key in entry.thumbprints),
    ]
    return Resting(sum(part.tpms for part in parts), sum(part.certificates for part in parts))


def _utc(at: datetime | None) -> str | None:
    return instant(None if at is None else at.astimezone(UTC))


def _row(entry: KbsEntry, resting: Resting) -> dict[str, Json]:
    release = entry.release_policies
    return {
        "id": entry.id,
        "status": entry.status,
        "compromised_since": _utc(entry.compromised_since),
        "tenant": entry.tenant,
        "label": entry.label,
        "pair": entry.pair,
        "keys": list(entry.thumbprints),
        "resources": [
            {"pattern": "/".join(pattern), "shared": shared} for pattern, shared in entry.resources.items()
        ],
        "origins": sorted(entry.origins),
        "release_policies": None if release is None else sorted(release),
        "valid_from": _utc(entry.valid_from),
        "valid_to": _utc(entry.valid_to),
        "tpms": resting.tpms,
        "certificates": resting.certificates,
    }


def _unlisted(name: str, resting: Resting) -> dict[str, Json]:
    return {
        "id": name,
        "status": NOT_LISTED,
        "compromised_since": None,
        "tenant": "",
        "label": "",
        "pair": "",
        "keys": [],
        "resources": [],
        "origins": [],
        "release_policies": None,
        "valid_from": None,
        "valid_to": None,
        "tpms": resting.tpms,
        "certificates": resting.certificates,
    }


OPERATIONS = (Operation("kbs-list", list_), Operation("kbs-show", show))
