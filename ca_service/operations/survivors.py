"""What of the time since a backup survives its restore, and how the restored database takes it up.

It comes from the CA's memory, from lists that the operator hands in, and from the databases that can still be read: the
one that is replaced, and the one in the CA's own directory, from which a CA may just be moving to another. What takes
trust away survives from all of them. States that may go both ways, and the policy, come from the newest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca_service.audit import Log, open_checkpoint, restore_leaf
from ca_service.enrollment import Limits, publish_every
from ca_service.judgment import BadRequest, VtpmCaError
from ca_service.keys import Authority, PublicAuthority
from ca_service.keys.layout import LISTS, ROOT_LIST_FILE
from ca_service.operations.databases import database_url, is_there, require_own, require_own_remains
from ca_service.operations.kept import (
    KeptState,
    check_crl,
    compare,
    crl_number,
    read_state,
    shard_of,
    state_of,
)
from ca_service.operations.log_identity import log_key
from ca_service.operations.restored_policies import PolicyLine, plan_line, read_line, take_up
from ca_service.operations.versions import read_policy
from ca_service.profiles import Entropy, serial_hex
from ca_service.store import (
    BlockedKeyRow,
    CertificateState,
    CrlRow,
    EpochRow,
    IssuerRow,
    IssuerState,
    ListKey,
    RevocationRow,
    Store,
    Transaction,
    parse_url,
)

_SALT_SIZE = 32
_LIFE = tuple(IssuerState)
"""States of an issuing CA, each further on its way than those before."""
_MAY_SIGN = (IssuerState.PREPARED, IssuerState.OLD)
_GOOD = (CertificateState.ISSUED, CertificateState.SUPERSEDED)


@dataclass(frozen=True)
class Present:
    """What one readable database knows.

    Attributes:
        url: of the database.
        state: its epoch, lists and log; None if its log is damaged.
        epoch: number of its epoch, 0 for none.
        revocations: all of them.
        crls: the newest lists of each issuing CA.
        issuers: all of them.
        blocked: keys that get no certificate.
        policies: all versions, with what has become of them.
    """

    url: str = field(repr=False)
    state: KeptState | None
    epoch: int
    revocations: Sequence[RevocationRow] = field(repr=False)
    crls: Sequence[CrlRow] = field(repr=False)
    issuers: Sequence[IssuerRow] = field(repr=False)
    blocked: Sequence[BlockedKeyRow] = field(repr=False)
    policies: PolicyLine = field(repr=False)

    def age(self) -> tuple[int, int]:
        """The higher, the newer."""
        return self.epoch, -1 if self.state is None else self.state.log_size


@dataclass(frozen=True)
class Survivors:
    """What of the time since the backup is kept.

    Attributes:
        epoch: the one that begins.
        newest: the newest readable database; None if none can be read.
        current: whether it is not behind what the CA remembers and has a policy in force, so that this is the present
            policy.
        revocations: serials that are revoked.
        crls: the newest lists of each issuing CA.
        known: the newest log that is known.
    """

    epoch: int
    newest: Present | None
    current: bool
    revocations: Sequence[RevocationRow] = field(repr=False)
    crls: Sequence[CrlRow] = field(repr=False)
    known: KeptState


def readable(url: str) -> Store | None:
    """The database if it is there and can be read with this program's schema."""
    if not is_there(url):
        return None
    store = Store(url)
    try:
        store.check()
    except VtpmCaError:
        store.close()
        return None
    return store


def own_database(public: PublicAuthority, url: str) -> Path | None:
    """The database in the CA's directory, if there is one and `url` names another."""
    own = Path(parse_url(database_url(public.directory)).database or "")
    parsed = parse_url(url)
    same = parsed.get_backend_name() == "sqlite" and Path(parsed.database or "").resolve() == own.resolve()
    return own if own.is_file() and not same else None


def gather(
    public: PublicAuthority, url: str, epoch: int, given: Mapping[str, bytes], at: datetime
) -> Survivors:
    """Find what survives.

    Args:
        public: the CA.
        url: the database that is replaced.
        epoch: of the backup.
        given: revocation lists that the operator hands in, DER or PEM, by what he calls them.
        at: now; the policy that is in force at this moment is the present one.

    Raises:
        BadRequest: a list is none of this CA's, or a database is another CA's: to replace it would destroy that one.
        Unavailable: what the CA remembers cannot be read, or a database fails meanwhile.
    """
    kept = read_state(public)
    urls = [url] + ([] if own_database(public, url) is None else [database_url(public.directory)])
    presents = sorted(
        (present for present in (_look(public, each, at) for each in urls) if present is not None),
        key=Present.age,
        reverse=True,
    )
    revocations: dict[tuple[str, str], RevocationRow] = {}
    lists = [(f"{skid} of the CA's memory", der) for (skid, _), der in kept.crls.items()]
    for present in presents:
        revocations = {(row.issuer, row.serial): row for row in present.revocations} | revocations
        lists += [(f"{row.issuer} of the present database", row.der) for row in present.crls]
    newest: dict[ListKey, CrlRow] = {}
    for what, der in [*lists, *given.items()]:
        row, entries = _read_crl(public, what, der)
        if row.key not in newest or newest[row.key].number < row.number:
            newest[row.key] = row
        for entry in entries:
            revocations.setdefault((entry.issuer, entry.serial), entry)
    states = [kept, *(present.state for present in presents if present.state is not None)]
    best = presents[0] if presents else None
    return Survivors(
        epoch=max(epoch, *(present.epoch for present in presents), kept.epoch) + 1,
        newest=best,
        current=best is not None
        and best.state is not None
        and bool(best.policies.in_force)
        and not compare(kept, best.state),
        revocations=tuple(revocations.values()),
        crls=tuple(newest.values()),
        known=max(states, key=lambda state: (state.epoch, state.log_size)),
    )


def _look(public: PublicAuthority, url: str, at: datetime) -> Present | None:
    store = readable(url)
    if store is None:
        require_own_remains(public, url)
        return None
    try:
        with store.read() as tx:
            issuers = tx.issuers.all()
            require_own(public, {issuer.skid for issuer in issuers})
            epoch = tx.epochs.current()
            lists = tx.crls.newest([issuer.skid for issuer in public.issuers])
            return Present(
                url=url,
                state=_state_if_sound(tx, public),
                epoch=0 if epoch is None else epoch.number,
                revocations=[
                    row for issuer in public.issuers for row in tx.revocations.of_issuer(issuer.skid)
                ],
                crls=list(lists.values()),
                issuers=issuers,
                blocked=tx.blocked_keys.all(),
                policies=read_line(tx, at),
            )
    finally:
        store.close()


def _state_if_sound(tx: Transaction, public: PublicAuthority) -> KeptState | None:
    try:
        return state_of(tx, public)
    except (VtpmCaError, ValueError):
        # A damaged log may be the reason for the restore.
        return None


def _read_crl(public: PublicAuthority, what: str, given: bytes) -> tuple[CrlRow, list[RevocationRow]]:
    try:
        crl = x509.load_pem_x509_crl(given) if given.startswith(b"-----") else x509.load_der_x509_crl(given)
        if crl.is_signature_valid(public.root.public_key()):  # type: ignore[arg-type] # as in `check_crl`
            raise BadRequest(
                what,
                "is the root's list, which is not kept in the database",
                code="crl",
                remedy=f"Leave it out here. If it is newer than {LISTS}/{ROOT_LIST_FILE} of the CA's directory, put it "
                "there.",
            )
        der = crl.public_bytes(Encoding.DER)
        identifier = crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        skid = (identifier or b"").hex()
        check_crl(public, skid, der)
        shard = shard_of(public, skid, crl)
        row = CrlRow(
            skid, crl_number(der), crl.last_update_utc, crl.next_update_utc or crl.last_update_utc, der, shard
        )
        return row, [_revocation(skid, shard, entry) for entry in crl]
    except (ValueError, x509.ExtensionNotFound):
        raise BadRequest(
            what, "is no revocation list that an issuing CA of this CA has signed", code="crl"
        ) from None


def _revocation(skid: str, shard: int, entry: x509.RevokedCertificate) -> RevocationRow:
    try:
        reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason.value
    except x509.ExtensionNotFound:
        reason = "unspecified"
    return RevocationRow(
        skid,
        serial_hex(entry.serial_number),
        entry.revocation_date_utc,
        reason,
        "stood on a published list",
        shard,
    )


def settle(
    tx: Transaction,
    authority: Authority,
    survivors: Survivors,
    at: datetime,
    entropy: Entropy,
    limits: Limits,
) -> None:
    """Bring into a restored database all that must hold from its first moment on."""
    at = at.astimezone(UTC).replace(microsecond=0)
    for crl in survivors.crls:
        latest = tx.crls.latest(*crl.key)
        if latest is None or latest.number < crl.number:
            tx.crls.add(crl)
    for row in survivors.revocations:
        tx.revocations.add(row)
        certificate = tx.certificates.get(row.serial)
        if certificate is not None and certificate.state in _GOOD:
            tx.certificates.end(row.serial, CertificateState.REVOKED)
    present = None if survivors.newest is None else survivors.newest.policies
    before = read_policy(tx.policies.in_force(at))
    rule = None if before is None else before.approval
    line = plan_line(tx.policies.all(), present, current=survivors.current, at=at, rule=rule)
    take_up(tx, line, present, at)
    if survivors.newest is not None:
        _keep_blocked(tx, survivors.newest.blocked)
        _keep_issuers(tx, survivors.newest.issuers, at)
    tx.epochs.begin(EpochRow(survivors.epoch, entropy(_SALT_SIZE).hex(), at, "restored from a backup"))
    known = survivors.known
    checkpoint = (
        open_checkpoint(known.checkpoint.encode("utf-8"), log_key(authority)) if known.checkpoint else None
    )
    log = Log(log_key(authority).name, authority.log_key)
    # A backup that was made before the first start has no log yet, and the leaf of the restore makes one.
    log.catch_up(tx, at)
    log.add(tx, [restore_leaf(survivors.epoch, at, checkpoint)], at)
    publish_every(tx, authority, [issuer.skid for issuer in authority.issuers], at, limits)


def _keep_blocked(tx: Transaction, blocked: Sequence[BlockedKeyRow]) -> None:
    known = tx.blocked_keys.among([row.spki for row in blocked])
    for key in blocked:
        if key.spki not in known:
            tx.blocked_keys.add(key)


def _keep_issuers(tx: Transaction, issuers: Sequence[IssuerRow], at: datetime) -> None:
    """An issuing CA goes on its way and never back; one that took over, or signs again, signs on."""
    for row in issuers:
        state = tx.issuers.states().get(row.skid)
        if state is None:
            # It is made to sign below, when the one before it has ended.
            waits = row.state is IssuerState.ACTIVE
            tx.issuers.add(replace(row, state=IssuerState.PREPARED, active=None) if waits else row)
        elif row.state is not IssuerState.ACTIVE and _LIFE.index(state) < _LIFE.index(row.state):
            tx.issuers.move(row.skid, row.state, at)
    for row in issuers:
        free = row.active is not None and row.active not in tx.issuers.active()
        if free and tx.issuers.states().get(row.skid) in _MAY_SIGN:
            tx.issuers.move(row.skid, IssuerState.ACTIVE, at)
