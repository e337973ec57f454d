"""Rollover of issuing CAs: prepare, activate, taint. The last step, `retirement`, is for itself.

The directory has their certificates and keys, the database says where each stands. A change of state is one write
transaction, so it comes wholly before or wholly after every issuance.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from cryptography import x509

from ca_service.enrollment import publish_every
from ca_service.judgment import BadRequest, Conflict, NotFound, Unavailable
from ca_service.keys import DEFAULT_PAIR, Authority, PublicAuthority, sign_and_check
from ca_service.operations.context import Json, Operation, OperationContext, instant, note, optional_flag
from ca_service.operations.issuers import (
    MOST_GENERATION,
    ROLES,
    ensure_issuers,
    entries,
    generation_of,
    take_up,
)
from ca_service.operations.root_list import revoked_issuers
from ca_service.profiles import IssuerRole
from ca_service.store import IssuerRow, IssuerState, Transaction
from vtpm.wire.encoding import Members
from vtpm.wire.errors import WireError

PAIR_ROLES: tuple[IssuerRole, ...] = ("ek", "devid")
"""The roles that are meant if an operator names none; the Ephemeral CA is rolled over for itself."""

_SKID = re.compile(r"[0-9a-f]{40}\Z")


@dataclass(frozen=True)
class Choice:
    """Which issuing CAs an operator means; no generation: whichever are in the right state."""

    pair: str
    roles: tuple[IssuerRole, ...]
    generation: int | None

    @classmethod
    def read(cls, arguments: Members) -> Self:
        """Take the choice from the arguments `pair`, `roles` and `generation`, which may all be left out."""
        pair = arguments.text("pair", most=24) if arguments.has("pair") else DEFAULT_PAIR
        roles: list[IssuerRole] = []
        if arguments.has("roles"):
            for value, path in arguments.array("roles", 0, len(ROLES)):
                if value not in ROLES or value in roles:
                    raise WireError(path, "must be one of " + ", ".join(ROLES) + ", each once")
                roles.append(value)
        number = arguments.integer("generation", 1, MOST_GENERATION) if arguments.has("generation") else None
        return cls(pair, tuple(roles) or PAIR_ROLES, number)


class Change:
    """One write transaction on the issuing CAs of a pair."""

    def __init__(self, context: OperationContext, tx: Transaction, choice: Choice) -> None:
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
        return [row for role in self.choice.roles for row in self.of(role, *states)]

    def active(self, role: str) -> IssuerRow | None:
        """The one that signs for a role, chosen or not."""
        found = [row for row in self.rows if row.role == role and row.state is IssuerState.ACTIVE]
        return found[0] if found else None

    def name(self, row: IssuerRow) -> str:
        """How people call an issuing CA."""
        return f"{row.role} CA of the pair {row.pair}, generation {generation_of(self._public, row) or 'unknown'}"

    def move(self, row: IssuerRow, state: IssuerState) -> str:
        """Change a state; returns the subject key id."""
        self.tx.issuers.move(row.skid, state, self.at)
        return row.skid


def preparable(context: OperationContext, arguments: Members) -> Json:
    """Say whether a next generation may be made, and which: not while one is prepared already. Changes no state.

    Returns:
        `generations`, the number that each role's next one has, and `known`, the key ids of all issuing CAs that the
        database knows, see `prepare_issuing`.
    """
    choice = Choice.read(arguments)
    arguments.end()
    ensure_issuers(context.store, context.public, context.clock())
    roles = choice.roles
    with context.store.read() as tx:
        known = tx.issuers.all()
    rows = [row for row in known if row.pair == choice.pair and row.role in roles]
    waiting = [row for row in rows if row.state is IssuerState.PREPARED]
    if waiting:
        names = ", ".join(f"{row.role} CA {row.skid}" for row in waiting)
        raise Conflict(
            f"prepared already in the pair {choice.pair}: {names}",
            code="rollover",
            remedy="Activate it, or retire it by its generation.",
        )
    held = {ca.skid for ca in context.public.issuers}
    if lacking := [row for row in rows if row.skid not in held]:
        names = ", ".join(f"{row.role} CA {row.skid}" for row in lacking)
        raise Conflict(
            f"this node's directory lacks what another node has prepared: {names}",
            code="issuer",
            remedy="Copy what is new in certs/ and private/, and then ca.toml, from that node, or prepare there.",
        )
    return {
        "pair": choice.pair,
        "roles": list(roles),
        "generations": {role: _next_generation(context.public, rows, role, choice.pair) for role in roles},
        "known": [row.skid for row in known],
    }


def _next_generation(public: PublicAuthority, rows: Iterable[IssuerRow], role: str, pair: str) -> int:
    """One more than the directory or the database knows."""
    numbers = [ca.generation for ca in public.issuers if (ca.role, ca.pair) == (role, pair)]
    numbers += [generation_of(public, row) or 0 for row in rows if row.role == role]
    return max(numbers, default=0) + 1


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
    note(context, "issuing CAs were prepared", skids=skids)
    return entries(context, skids)


def _publish_first(
    context: OperationContext, tx: Transaction, authority: Authority, skids: Iterable[str]
) -> None:
    """The CRLs that a relying party finds before the first certificate appears."""
    held = {ca.skid for ca in authority.issuers}
    wanting = [skid for skid in skids if skid in held and tx.crls.latest(skid) is None]
    publish_every(tx, authority, wanting, context.clock(), context.limits)


def activate(context: OperationContext, arguments: Members) -> Json:
    """Let the prepared issuing CAs of a pair sign from now on; those that signed become old.

    With a generation named, one that is old may sign again.
    """
    choice = Choice.read(arguments)
    arguments.end()
    authority = context.unlock()
    with context.store.write() as tx:
        change = Change(context, tx, choice)
        states = (
            (IssuerState.PREPARED,) if choice.generation is None else (IssuerState.PREPARED, IssuerState.OLD)
        )
        candidates = change.chosen(*states)
        signing = change.chosen(IssuerState.ACTIVE) if choice.generation is not None else []
        if not candidates and not signing:
            raise Conflict(
                f"no issuing CA of the pair {choice.pair} is prepared",
                code="rollover",
                remedy="`vtpm-ca ca prepare` makes the next generation. The Ephemeral CA is meant by --role only.",
            )
        moved = _activate(context, change, authority, candidates, IssuerState.OLD)
    note(context, "issuing CAs were activated", skids=moved)
    return {"changed": entries(context, moved)}


def _activate(
    context: OperationContext,
    change: Change,
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
    revoked = revoked_issuers(context.public)
    for row in candidates:
        _check_good(change, row, revoked)
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


def _check_good(change: Change, row: IssuerRow, revoked: Collection[int]) -> None:
    """What it signed would count for nobody, while the present one may sign well."""
    certificate = x509.load_der_x509_certificate(row.certificate)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if certificate.serial_number in revoked:
        code, fault = "revoked", "is revoked on the root's list"
    elif not begin <= change.at < end:
        code, fault = "validity", f"is valid from {instant(begin)} to {instant(end)} only"
    else:
        return
    remedy = "Retire it by its generation, and prepare another one."
    raise Conflict(f"the {change.name(row)} {fault}", code=code, remedy=remedy)


def taint(context: OperationContext, arguments: Members) -> Json:
    """Have the certificates of old issuing CAs replaced: TPMs that enrol again get new ones.

    With `active`, the one that signs is tainted and the prepared one signs in its place, at once.
    """
    choice = Choice.read(arguments)
    at_once = optional_flag(arguments, "active")
    arguments.end()
    authority = context.unlock() if at_once else None
    with context.store.write() as tx:
        change = Change(context, tx, choice)
        moved = _taint_old(change) if authority is None else _taint_active(context, change, authority)
    note(context, "issuing CAs were tainted", skids=moved)
    return {"changed": entries(context, moved)}


def _taint_old(change: Change) -> list[str]:
    old, done = change.chosen(IssuerState.OLD), change.chosen(IssuerState.TAINTED)
    if not old and not done:
        raise Conflict(
            f"no issuing CA of the pair {change.choice.pair} is old",
            code="rollover",
            remedy="The one that signs becomes old when a prepared one is activated. After a compromise: "
            "`vtpm-ca ca prepare`, then `vtpm-ca ca taint --active`.",
        )
    return [change.move(row, IssuerState.TAINTED) for row in old]


def _taint_active(context: OperationContext, change: Change, authority: Authority) -> list[str]:
    if change.choice.generation is not None:
        raise BadRequest("generation", "goes without --active: only one generation signs")
    candidates: list[IssuerRow] = []
    for role in change.choice.roles:
        prepared = change.of(role, IssuerState.PREPARED)
        if not prepared or change.active(role) is None:
            raise Conflict(
                f"no {role} CA of the pair {change.choice.pair} is prepared to take over",
                code="rollover",
                remedy="Run `vtpm-ca ca prepare` first, or name the roles that are meant with --role.",
            )
        candidates += prepared
    return _activate(context, change, authority, candidates, IssuerState.TAINTED)


OPERATIONS = (
    Operation("issuer-preparable", preparable),
    Operation("issuer-announce", announce, publishes=True),
    Operation("issuer-activate", activate, publishes=True),
    Operation("issuer-taint", taint, publishes=True),
)
