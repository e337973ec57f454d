"""Issuing CAs as the database knows them: taken up from the directory, listed, and handed to consumers."""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca_service.judgment import Conflict
from ca_service.keys import DEFAULT_PAIR, Authority, PublicAuthority, PublicIssuer
from ca_service.keys.layout import CERTIFICATES, PRIVATE, issuer_stem
from ca_service.operations.context import Json, Operation, OperationContext, instant
from ca_service.operations.databases import require_own
from ca_service.operations.root_list import revoked_issuers
from ca_service.profiles import IssuerRole, read_ca_name
from ca_service.store import IssuerRow, IssuerState, Store, Transaction, active_key
from vtpm.wire.encoding import Members

ROLES: tuple[IssuerRole, ...] = ("ek", "devid", "ephemeral")
TRUSTED = frozenset({IssuerState.PREPARED, IssuerState.ACTIVE, IssuerState.OLD, IssuerState.TAINTED})
"""States of issuing CAs that consumers are to trust."""

MOST_GENERATION = 999


def unknown_issuers(public: PublicAuthority, rows: Sequence[IssuerRow], at: datetime) -> list[IssuerRow]:
    """Rows for those issuing CAs of the directory that the database does not know yet.

    In a database that knows none, the first generation of each role and pair is the one that signs. Afterwards an
    issuing CA appears as prepared: only an operator makes it sign.

    Raises:
        BadRequest: the database knows issuing CAs, but none of this directory (code ``authority``).
        Conflict: one of the directory has the name of another that the database knows (``issuer-name``): relying
            parties could not tell them apart.
    """
    known = {row.skid for row in rows}
    require_own(public, known)
    if unknown := [ca for ca in public.issuers if ca.skid not in known]:
        _check_names(unknown, rows)
    found: list[IssuerRow] = []
    taken: set[str] = set()
    for ca in sorted(public.issuers, key=lambda ca: ca.generation):
        key = active_key(ca.role, ca.pair)
        signs = not rows and key not in taken
        taken.add(key)
        if ca.skid not in known:
            found.append(
                IssuerRow(
                    skid=ca.skid,
                    role=ca.role,
                    pair=ca.pair,
                    state=IssuerState.ACTIVE if signs else IssuerState.PREPARED,
                    active=key if signs else None,
                    certificate=ca.certificate.public_bytes(Encoding.DER),
                    added_at=at,
                    changed_at=at,
                )
            )
    return found


def _check_names(issuers: Iterable[PublicIssuer], rows: Iterable[IssuerRow]) -> None:
    names = {x509.load_der_x509_certificate(row.certificate).subject for row in rows}
    for ca in issuers:
        if ca.certificate.subject in names:
            stem = issuer_stem(ca.role, ca.pair, ca.generation)
            raise Conflict(
                f"another node has prepared a {ca.certificate.subject.rfc4514_string()} as well as this one, whose is "
                f"{ca.skid}",
                code="issuer-name",
                remedy=f"This node's has signed nothing. Move {CERTIFICATES}/{stem}.pem and, unless the key is on a "
                f"token, {PRIVATE}/{stem}.sealed out of its directory, and copy the other node's; ca.toml last.",
            )


def ensure_issuers(store: Store, public: PublicAuthority, at: datetime) -> list[IssuerRow]:
    """Make the directory's issuing CAs known to the database, as `unknown_issuers` says.

    Safe to repeat, and for several nodes at once.

    Returns:
        Those that were not known.

    Raises:
        BadRequest: the database is another CA's.
        Conflict: as `unknown_issuers`.
        Unavailable: the database cannot be written.
    """
    with store.read() as tx:
        if not unknown_issuers(public, tx.issuers.all(), at):
            return []
    with store.write() as tx:
        return take_up(tx, public, at)


def take_up(tx: Transaction, public: PublicAuthority, at: datetime) -> list[IssuerRow]:
    """The same within a write transaction."""
    rows = unknown_issuers(public, tx.issuers.all(), at)
    for row in rows:
        tx.issuers.add(row)
    return rows


def missing_keys(store: Store, authority: Authority) -> list[str]:
    """Subject key ids of the issuing CAs that sign now and whose keys this node does not have."""
    held = {ca.skid for ca in authority.issuers}
    with store.read() as tx:
        return [skid for skid in tx.issuers.active().values() if skid not in held]


def generation_of(public: PublicAuthority, row: IssuerRow) -> int | None:
    """Which generation of its role and pair an issuing CA is, as its certificate says; None if it says nothing."""
    for ca in public.issuers:
        if ca.skid == row.skid:
            return ca.generation
    subject = x509.load_der_x509_certificate(row.certificate).subject
    title = read_ca_name(public.organization, public.mode, subject)
    return None if title is None else title.generation


def _entry(public: PublicAuthority, row: IssuerRow, live: int) -> dict[str, Json]:
    certificate = x509.load_der_x509_certificate(row.certificate)
    return {
        "role": row.role,
        "pair": row.pair,
        "generation": generation_of(public, row),
        "state": row.state.value,
        "live": live,
        "subject": certificate.subject.rfc4514_string(),
        "skid": row.skid,
        "sha256": hashlib.sha256(row.certificate).hexdigest(),
        "not_after": instant(certificate.not_valid_after_utc),
        "changed_at": instant(row.changed_at),
    }


def entries(context: OperationContext, skids: Iterable[str]) -> list[dict[str, Json]]:
    """What a listing says about the issuing CAs with these subject key ids, as they are now."""
    wanted = list(skids)
    with context.store.read() as tx:
        counts = tx.issuers.live_counts(context.clock()) if wanted else {}
        rows = {row.skid: row for row in tx.issuers.all()}
    return [_entry(context.public, rows[skid], counts.get(skid, 0)) for skid in wanted]


def list_(context: OperationContext, arguments: Members) -> Json:
    """All issuing CAs: state, and how many live certificates rest on each."""
    arguments.end()
    at = context.clock()
    with context.store.read() as tx:
        rows, counts = tx.issuers.all(), tx.issuers.live_counts(at)
    rows += unknown_issuers(context.public, rows, at)
    order = {role: number for number, role in enumerate(ROLES)}
    rows.sort(
        key=lambda row: (
            row.pair != DEFAULT_PAIR,
            row.pair,
            order.get(cast("IssuerRole", row.role), len(ROLES)),
            generation_of(context.public, row) or MOST_GENERATION,
        )
    )
    return [_entry(context.public, row, counts.get(row.skid, 0)) for row in rows]


def certificates(context: OperationContext, arguments: Members) -> Json:
    """The certificates of all issuing CAs that consumers are to trust, as PEM, and the key ids of those retired.

    One that the root has revoked is neither: its key id is in `revoked`.
    """
    arguments.end()
    fallen = revoked_issuers(context.public)
    at = context.clock()
    with context.store.read() as tx:
        rows = tx.issuers.all()
    rows += unknown_issuers(context.public, rows, at)
    trusted = [row for row in rows if row.state in TRUSTED]
    revoked = [row for row in trusted if _serial(row) in fallen]
    return {
        "trusted": [
            {
                "role": row.role,
                "pair": row.pair,
                "skid": row.skid,
                "state": row.state.value,
                "pem": x509.load_der_x509_certificate(row.certificate)
                .public_bytes(Encoding.PEM)
                .decode("ascii"),
            }
            for row in trusted
            if row not in revoked
        ],
        "revoked": [row.skid for row in revoked],
        "retired": [row.skid for row in rows if row.state is IssuerState.RETIRED],
    }


def _serial(row: IssuerRow) -> int:
    return x509.load_der_x509_certificate(row.certificate).serial_number


OPERATIONS = (Operation("issuer-list", list_), Operation("issuer-certificates", certificates))
