"""Rollover of issuing CAs: prepare, activate, taint, retire.

The directory has their certificates and keys, the database says where each stands. A change of state is one write
transaction, so it comes wholly before or wholly after every issuance.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from ca_service.enrollment import publish
from ca_service.judgment import BadRequest, Conflict, NotFound, Unavailable
from ca_service.keys import DEFAULT_PAIR, Authority, sign_and_check
from ca_service.operations.context import Json, Operation, OperationContext, instant, optional_flag
from ca_service.operations.issuers import (
    MOST_GENERATION,
    ROLES,
    ensure_issuers,
    entries,
    generation_of,
    take_up,
)
from ca_service.profiles import IssuerRole
from ca_service.store import IssuerRow, IssuerState, RestingRow, Transaction
from vtpm.wire.encoding import Members
from vtpm.wire.errors import WireError

PAIR_ROLES: tuple[IssuerRole, ...] = ("ek", "devid")
"""The roles that are meant if an operator names none and something new begins."""

_FORMER = (IssuerState.OLD, IssuerState.TAINTED)
_MOST_ABANDONED = 2**31
_SKID = re.compile(r"[0-9a-f]{40}\Z")


@dataclass(frozen=True)
class _Choice:
    """Which issuing CAs an operator means; no roles: all, no generation: whichever is in the right state."""

    pair: str
    roles: tuple[IssuerRole, ...]
    generation: int | None

    @classmethod
    def read(cls, arguments: Members) -> Self:
        pair = arguments.text("pair", most=24) if arguments.has("pair") else DEFAULT_PAIR
        roles: list[IssuerRole] = []
        if arguments.has("roles"):
            for value, path in arguments.array("roles", 0, len(ROLES)):
                if value not in ROLES or value in roles:
                    raise WireError(path, "must be one of " + ", ".join(ROLES) + ", each once")
                roles.append(value)
        number = arguments.integer("generation", 1, MOST_GENERATION) if arguments.has("generation") else None
        return cls(pair, tuple(roles), number)

    def named_or(self, default: tuple[IssuerRole, ...]) -> tuple[IssuerRole, ...]:
        return self.roles or default


class _Change:
    """One write transaction on the issuing CAs of a pair."""

    def __init__(self, context: OperationContext, tx: Transaction, choice: _Choice) -> None:
        self.tx = tx
        self.at = context.clock()
        self.choice = choice
        self._public = context.public
        take_up(tx, context.public, self.at)
        self.rows = [row for row in tx.issuers.all() if row.pair == choice.pair]
        if not self.rows:
            raise NotFound(f"there is no pair {choice.pair}", remedy="`vtpm-ca ca list` names the pairs.")

    def of(self, role: str, *states: IssuerState) -> list[IssuerRow]:
        """The chosen issuing CAs of a role that are in one of these states."""
        return [
            row
            for row in self.rows
            if row.role == role
            and row.state in states
            and self.choice.generation in (None, generation_of(self._public, row))
        ]

    def chosen(self, *states: IssuerState) -> list[IssuerRow]:
        """The chosen issuing CAs that are in one of these states."""
        return [row for role in self.choice.named_or(ROLES) for row in self.of(role, *states)]

    def active(self, role: str) -> IssuerRow | None:
        """The one that signs for a role, chosen or not."""
        found = [row for row in self.rows if row.role == role and row.state is IssuerState.ACTIVE]
        return found[0] if found else None

    def name(self, row: IssuerRow) -> str:
        """How people call an issuing CA."""
        return f"{row.role} CA of the pair {row.pair}, generation {generation_of(self._public, row) or 'unknown'}"

    def move(self, row: IssuerRow, state: IssuerState) -> str:
        self.tx.issuers.move(row.skid, state, self.at)
        return row.skid


def preparable(context: OperationContext, arguments: Members) -> Json:
    """Say whether a next generation may be made: not while one is prepared already. Changes no state."""
    choice = _Choice.read(arguments)
    arguments.end()
    ensure_issuers(context.store, context.public, context.clock())
    roles = choice.named_or(PAIR_ROLES)
    with context.store.read() as tx:
        waiting = [
            row
            for row in tx.issuers.all()
            if row.pair == choice.pair and row.role in roles and row.state is IssuerState.PREPARED
        ]
    if waiting:
        names = ", ".join(f"{row.role} CA {row.skid}" for row in waiting)
        raise Conflict(
            f"prepared already in the pair {choice.pair}: {names}",
            code="rollover",
            remedy="Activate it, or retire it by its generation.",
        )
    return {"pair": choice.pair, "roles": list(roles)}


def announce(context: OperationContext, arguments: Members) -> Json:
    """Make new issuing CAs of the directory, `skids`, known and publish their first CRLs; returns them."""
    skids = []
    for value, path in arguments.array("skids", 1, len(ROLES)):
        if not isinstance(value, str) or not _SKID.match(value):
            raise WireError(path, "must be a subject key id in hex")
        skids.append(value)
    arguments.end()
    authority, at = context.unlock(), context.clock()
    if not set(skids) <= {ca.skid for ca in authority.issuers}:
        raise Unavailable(
            "the server does not find the new issuing CAs in its directory",
            code="issuer",
            remedy="See its log; it takes them up when it can read them.",
        )
    with context.store.write() as tx:
        take_up(tx, authority, at)
        _publish_first(context, tx, authority, skids)
    return entries(context, skids)


def _publish_first(
    context: OperationContext, tx: Transaction, authority: Authority, skids: Iterable[str]
) -> None:
    """The CRL that a relying party finds before the first certificate appears."""
    held = {ca.skid for ca in authority.issuers}
    wanting = [skid for skid in skids if skid in held and tx.crls.latest(skid) is None]
    publish(tx, authority, wanting, context.clock(), context.limits)


def activate(context: OperationContext, arguments: Members) -> Json:
    """Let the prepared issuing CAs of a pair sign from now on; those that signed become old.

    With a generation named, one that is old may sign again.
    """
    choice = _Choice.read(arguments)
    arguments.end()
    authority = context.unlock()
    with context.store.write() as tx:
        change = _Change(context, tx, choice)
        states = (
            (IssuerState.PREPARED,) if choice.generation is None else (IssuerState.PREPARED, IssuerState.OLD)
        )
        candidates = change.chosen(*states)
        signing = change.chosen(IssuerState.ACTIVE) if choice.generation is not None else []
        if not candidates and not signing:
            raise Conflict(
                f"no issuing CA of the pair {choice.pair} is prepared",
                code="rollover",
                remedy="`vtpm-ca ca prepare` makes the next generation; `vtpm-ca ca list` shows what there is.",
            )
        moved = _activate(context, change, authority, candidates, IssuerState.OLD)
    return {"changed": entries(context, moved)}


def _activate(
    context: OperationContext,
    change: _Change,
    authority: Authority,
    candidates: Sequence[IssuerRow],
    then: IssuerState,
) -> list[str]:
    moved: list[str] = []
    if len({row.role for row in candidates}) != len(candidates):
        raise Conflict(
            "several generations of one role could be meant",
            code="rollover",
            remedy="Name one with --generation.",
        )
    for row in candidates:
        try:
            ca = authority.issuer_of(row.skid)
        except NotFound:
            raise Unavailable(
                f"this node has not the key of the {change.name(row)}",
                code="issuer",
                remedy="Activate it on the node on which it was prepared, or copy that node's directory first.",
            ) from None
        # A key that cannot sign shows now, while the present one still does.
        sign_and_check(ca.signer, b"vtpm-ca activate")
        before = change.active(row.role)
        if before is not None:
            moved.append(change.move(before, then))
        moved.append(change.move(row, IssuerState.ACTIVE))
    _publish_first(context, change.tx, authority, [row.skid for row in candidates])
    return moved


def taint(context: OperationContext, arguments: Members) -> Json:
    """Have the certificates of old issuing CAs replaced: TPMs that enrol again get new ones.

    With `active`, the one that signs is tainted and the prepared one signs in its place, at once.
    """
    choice = _Choice.read(arguments)
    at_once = optional_flag(arguments, "active")
    arguments.end()
    authority = context.unlock() if at_once else None
    with context.store.write() as tx:
        change = _Change(context, tx, choice)
        moved = _taint_old(change) if authority is None else _taint_active(context, change, authority)
    return {"changed": entries(context, moved)}


def _taint_old(change: _Change) -> list[str]:
    old, done = change.chosen(IssuerState.OLD), change.chosen(IssuerState.TAINTED)
    if not old and not done:
        raise Conflict(
            f"no issuing CA of the pair {change.choice.pair} is old",
            code="rollover",
            remedy="The one that signs becomes old when a prepared one is activated. After a compromise: "
            "`vtpm-ca ca prepare`, then `vtpm-ca ca taint --active`.",
        )
    return [change.move(row, IssuerState.TAINTED) for row in old]


def _taint_active(context: OperationContext, change: _Change, authority: Authority) -> list[str]:
    if change.choice.generation is not None:
        raise BadRequest("generation", "goes without --active: only one generation signs")
    candidates: list[IssuerRow] = []
    for role in change.choice.named_or(PAIR_ROLES):
        prepared = change.of(role, IssuerState.PREPARED)
        if not prepared or change.active(role) is None:
            raise Conflict(
                f"no {role} CA of the pair {change.choice.pair} is prepared to take over",
                code="rollover",
                remedy="Run `vtpm-ca ca prepare` first, or name the roles that are meant with --role.",
            )
        candidates += prepared
    return _activate(context, change, authority, candidates, IssuerState.TAINTED)


def retire(context: OperationContext, arguments: Members) -> Json:
    """End the trust in former issuing CAs; a dry run unless `yes` is true.

    Refused while live certificates rest on them, except if `abandon` is exactly their number; they are listed then. One
    that was prepared and never signed is retired if its generation is named.
    """
    choice = _Choice.read(arguments)
    abandon = arguments.integer("abandon", 0, _MOST_ABANDONED) if arguments.has("abandon") else None
    confirmed = optional_flag(arguments, "yes")
    arguments.end()
    with context.store.write() as tx:
        change = _Change(context, tx, choice)
        candidates = _retirable(change)
        skids = [row.skid for row in candidates]
        resting = _resting(change, candidates, abandon)
        if confirmed:
            for row in candidates:
                change.move(row, IssuerState.RETIRED)
    return {
        "done": confirmed,
        "retired": entries(context, skids),
        "abandoned": [_resting_row(row) for row in resting],
    }


def _retirable(change: _Change) -> list[IssuerRow]:
    choice = change.choice
    former = change.chosen(*_FORMER)
    if choice.generation is None:
        if former:
            return former
        raise Conflict(
            f"no issuing CA of the pair {choice.pair} is old or tainted",
            code="rollover",
            remedy="One that signs is never retired: prepare and activate its successor first.",
        )
    signing = change.chosen(IssuerState.ACTIVE)
    if signing:
        raise Conflict(
            f"the {change.name(signing[0])} is the one that signs",
            code="rollover",
            remedy="Prepare and activate its successor first.",
        )
    former += change.chosen(IssuerState.PREPARED)
    if not former and not change.chosen(IssuerState.RETIRED):
        raise NotFound(f"the pair {choice.pair} has no such issuing CA of generation {choice.generation}")
    return former


def _resting(change: _Change, candidates: Sequence[IssuerRow], abandon: int | None) -> list[RestingRow]:
    """The live certificates, if there are exactly as many as the operator gives up."""
    skids = [row.skid for row in candidates]
    if change.tx.issuers.signing(skids):
        raise Conflict(
            "a certificate of this issuing CA is about to be signed",
            code="in-use",
            remedy="Try again in a moment; the server gives up what a dead process left.",
        )
    counts = change.tx.issuers.live_counts(change.at)
    total = sum(counts.get(skid, 0) for skid in skids)
    if total != (abandon or 0):
        detail = f"live certificates rest on what would be retired: {total}"
        remedy = (
            "Taint it and have their TPMs enrol again, or revoke them. "
            f"`--abandon {total}` retires in spite of exactly that many."
        )
        if abandon is not None:
            detail += f", not {abandon}"
            remedy = "Look again at what would be given up: `vtpm-ca ca list`."
        raise Conflict(detail, code="in-use", remedy=remedy)
    return change.tx.issuers.resting(skids, change.at) if total else []


def _resting_row(row: RestingRow) -> dict[str, Json]:
    return {
        "serial": row.serial,
        "profile": row.profile,
        "template": row.template,
        "key_name": row.key_name,
        "issuer": row.issuer,
        "state": row.state.value,
        "issued_at": instant(row.issued_at),
        "not_after": instant(row.not_after),
    }


OPERATIONS = (
    Operation("issuer-preparable", preparable),
    Operation("issuer-announce", announce),
    Operation("issuer-activate", activate),
    Operation("issuer-taint", taint),
    Operation("issuer-retire", retire),
)
