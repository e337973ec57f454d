"""Backup and restore of the CA's database.

A restore brings back an old state of the CA's knowledge, and two things of the time since must survive it. What was
revoked stays revoked: every serial on a list that the CA remembers, that the present database holds or that the
operator hands in goes on the next list. And no nonce of before is good again: a new epoch begins.
"""

import shutil
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from ca_service.audit import Log, open_checkpoint, restore_leaf
from ca_service.enrollment import Limits, publish
from ca_service.judgment import BadRequest, Unavailable, VtpmCaError
from ca_service.keys import Authority, PublicAuthority
from ca_service.keys.files import flush_directory
from ca_service.operations.audit import log_key
from ca_service.operations.backup_file import Manifest, Scratch, read_manifest, seal, unseal
from ca_service.operations.context import instant
from ca_service.operations.kept import (
    KeptState,
    check_crl,
    crl_number,
    read_state,
    state_of,
    write_state,
)
from ca_service.profiles import Entropy, serial_hex
from ca_service.store import (
    BlockedKeyRow,
    CertificateState,
    CrlRow,
    EpochRow,
    IssuerRow,
    IssuerState,
    RevocationRow,
    Store,
    Transaction,
    clear_rows,
    copy_rows,
    create_store,
    parse_url,
)

_SALT_SIZE = 32
_PAGE = 500
_GIVEN_UP = (IssuerState.TAINTED, IssuerState.RETIRED)
_GOOD = (CertificateState.ISSUED, CertificateState.SUPERSEDED)


def make_backup(public: PublicAuthority, store: Store, path: Path, at: datetime) -> Manifest:
    """Write the present state of the database into a new file, while the server runs.

    Raises:
        BadRequest: something of that name is there, or it cannot be written.
        Unavailable: the database cannot be read, or the file's disk is full.
    """
    if path.exists() or path.is_symlink():
        raise BadRequest(str(path), "is there already; name another file", code="exists")
    with Scratch(path) as scratch:
        target = create_store(f"sqlite:///{scratch.file.absolute()}")
        try:
            with store.read() as source, target.write() as copy:
                clear_rows(copy)
                rows = copy_rows(source, copy)
        finally:
            target.close()
        try:
            manifest = seal(scratch.file, public.ca_id, _root(public), instant(at) or "", rows)
        except sqlite3.Error:
            raise Unavailable("the backup cannot be written: its disk fails or is full") from None
        scratch.publish()
    return manifest


@dataclass(frozen=True)
class Losses:
    """What a restore does, as far as it can be known before.

    Attributes:
        manifest: of the backup.
        present_readable: whether the present database could be read.
        certificates: how many certificates the present database has that the backup lacks.
        decisions: the same of decisions.
        revocations: how many serials come from outside the backup and stay revoked.
        epoch: the epoch that begins.
    """

    manifest: Manifest
    present_readable: bool
    certificates: int
    decisions: int
    revocations: int
    epoch: int


@dataclass(frozen=True)
class _Survivors:
    """What of the time since the backup is kept."""

    epoch: int
    revocations: Sequence[RevocationRow] = field(repr=False)
    crls: Sequence[CrlRow] = field(repr=False)
    issuers: Sequence[IssuerRow] = field(repr=False)
    blocked: Sequence[BlockedKeyRow] = field(repr=False)
    known: KeptState


def plan_restore(public: PublicAuthority, url: str, path: Path, crls: Iterable[bytes] = ()) -> Losses:
    """What a restore would do; nothing is changed.

    Raises:
        BadRequest: the file is no backup of this CA, or a list is none of its.
        Unavailable: what the CA remembers cannot be read.
    """
    manifest = _read(public, path)
    present = _present(url)
    try:
        survivors = _survivors(public, manifest, present, crls)
        lost = (0, 0) if present is None else _lost(present, path)
    finally:
        if present is not None:
            present.close()
    return Losses(
        manifest, present is not None, *lost, _new_revocations(path, survivors.revocations), survivors.epoch
    )


def restore(
    authority: Authority,
    url: str,
    path: Path,
    crls: Iterable[bytes] = (),
    *,
    at: datetime,
    entropy: Entropy,
    limits: Limits,
) -> Losses:
    """Put a backup in the place of the database. Nobody else may work on the CA meanwhile.

    A SQLite file that is replaced stays beside the new one, under its name and the time. PostgreSQL is replaced in one
    transaction. A file is restored to either kind, so this is also the way from one to the other.

    Raises:
        BadRequest, Unavailable: as `plan_restore`, and if the database cannot be written; it is as it was then.
    """
    losses = plan_restore(authority, url, path, crls)
    present = _present(url)
    try:
        survivors = _survivors(authority, losses.manifest, present, crls)
    finally:
        if present is not None:
            present.close()
    target = Path(parse_url(url).database or "")

    def finish(tx: Transaction) -> None:
        _settle(tx, authority, survivors, at, entropy, limits)

    if parse_url(url).get_backend_name() == "sqlite":
        with Scratch(target) as scratch:
            _unpack(path, scratch.file, finish)
            scratch.flush()
            _take_place(scratch.file, target, at)
    else:
        with Scratch(authority.directory / "restore") as scratch:
            _unpack(path, scratch.file, None)
            _load(scratch.file, url, finish)
    store = Store(url)
    try:
        with store.read() as tx:
            restored = state_of(tx, authority)
    finally:
        store.close()
    write_state(authority, read_state(authority), restored)
    return losses


def _root(public: PublicAuthority) -> str:
    return public.root.fingerprint(hashes.SHA256()).hex()


def _read(public: PublicAuthority, path: Path) -> Manifest:
    manifest = read_manifest(path)
    if (manifest.ca_id, manifest.root) != (public.ca_id, _root(public)):
        raise BadRequest(str(path), f"is a backup of another CA, {manifest.ca_id!r}", code="other-ca")
    return manifest


def _present(url: str) -> Store | None:
    """The present database if it can be read with this program's schema."""
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
        return None
    store = Store(url)
    try:
        store.check()
    except VtpmCaError:
        store.close()
        return None
    return store


def _survivors(
    public: PublicAuthority, manifest: Manifest, present: Store | None, crls: Iterable[bytes]
) -> _Survivors:
    kept = read_state(public)
    known, epochs = kept, [kept.epoch, manifest.epoch]
    revocations: dict[tuple[str, str], RevocationRow] = {}
    issuers: list[IssuerRow] = []
    blocked: list[BlockedKeyRow] = []
    lists = [(f"{kept_of} of the CA's memory", der) for kept_of, der in kept.crls.items()]
    if present is not None:
        with present.read() as tx:
            now = _state_if_sound(tx, public)
            issuers, blocked = tx.issuers.all(), tx.blocked_keys.all()
            epoch = tx.epochs.current()
            epochs.append(0 if epoch is None else epoch.number)
            for issuer in public.issuers:
                row = tx.crls.latest(issuer.skid)
                lists += [] if row is None else [(f"{issuer.skid} of the present database", row.der)]
                for revoked in tx.revocations.of_issuer(issuer.skid):
                    revocations[revoked.issuer, revoked.serial] = revoked
        if now is not None and (now.epoch, now.log_size) > (known.epoch, known.log_size):
            known = now
    lists += [("--crl", der) for der in crls]
    newest: dict[str, CrlRow] = {}
    for what, der in lists:
        row, entries = _read_crl(public, what, der)
        if row.issuer not in newest or newest[row.issuer].number < row.number:
            newest[row.issuer] = row
        for entry in entries:
            revocations.setdefault((entry.issuer, entry.serial), entry)
    return _Survivors(
        max(epochs) + 1, tuple(revocations.values()), tuple(newest.values()), issuers, blocked, known
    )


def _state_if_sound(tx: Transaction, public: PublicAuthority) -> KeptState | None:
    try:
        return state_of(tx, public)
    except (VtpmCaError, ValueError):
        # A damaged log may be the reason for the restore.
        return None


def _read_crl(public: PublicAuthority, what: str, given: bytes) -> tuple[CrlRow, list[RevocationRow]]:
    try:
        crl = x509.load_pem_x509_crl(given) if given.startswith(b"-----") else x509.load_der_x509_crl(given)
        der = crl.public_bytes(Encoding.DER)
        identifier = crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        skid = (identifier or b"").hex()
        check_crl(public, skid, der)
        row = CrlRow(
            skid, crl_number(der), crl.last_update_utc, crl.next_update_utc or crl.last_update_utc, der
        )
        return row, [_revocation(skid, entry) for entry in crl]
    except (ValueError, x509.ExtensionNotFound):
        raise BadRequest(
            what, "is no revocation list that an issuing CA of this CA has signed", code="crl"
        ) from None


def _revocation(skid: str, entry: x509.RevokedCertificate) -> RevocationRow:
    try:
        reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason.value
    except x509.ExtensionNotFound:
        reason = "unspecified"
    return RevocationRow(
        skid, serial_hex(entry.serial_number), entry.revocation_date_utc, reason, "stood on a published list"
    )


def _settle(
    tx: Transaction,
    authority: Authority,
    survivors: _Survivors,
    at: datetime,
    entropy: Entropy,
    limits: Limits,
) -> None:
    """Everything that must hold from the restored database's first moment on."""
    at = at.astimezone(UTC).replace(microsecond=0)
    for crl in survivors.crls:
        latest = tx.crls.latest(crl.issuer)
        if latest is None or latest.number < crl.number:
            tx.crls.add(crl)
    for row in survivors.revocations:
        tx.revocations.add(row)
        certificate = tx.certificates.get(row.serial)
        if certificate is not None and certificate.state in _GOOD:
            tx.certificates.end(row.serial, CertificateState.REVOKED)
    _keep_refusals(tx, survivors, at)
    tx.epochs.begin(EpochRow(survivors.epoch, entropy(_SALT_SIZE).hex(), at, "restored from a backup"))
    known = survivors.known
    checkpoint = (
        open_checkpoint(known.checkpoint.encode("utf-8"), log_key(authority)) if known.checkpoint else None
    )
    log = Log(log_key(authority).name, authority.log_key)
    log.append(tx, [restore_leaf(survivors.epoch, at, checkpoint)], at)
    publish(tx, authority, [issuer.skid for issuer in authority.issuers], at, limits)


def _keep_refusals(tx: Transaction, survivors: _Survivors, at: datetime) -> None:
    """Keys stay blocked, and an issuing CA that was given up signs no more; one that took over signs on."""
    known = tx.blocked_keys.among([row.spki for row in survivors.blocked])
    for key in survivors.blocked:
        if key.spki not in known:
            tx.blocked_keys.add(key)
    states = tx.issuers.states()
    for row in survivors.issuers:
        if row.state in _GIVEN_UP and states.get(row.skid) not in (None, row.state, IssuerState.RETIRED):
            tx.issuers.move(row.skid, row.state, at)
    for row in survivors.issuers:
        free = row.active is not None and row.active not in tx.issuers.active()
        if free and tx.issuers.states().get(row.skid) is IssuerState.PREPARED:
            tx.issuers.move(row.skid, IssuerState.ACTIVE, at)


def _unpack(path: Path, file: Path, finish: Callable[[Transaction], None] | None) -> None:
    """A database with this program's schema from a backup of this or an earlier one."""
    try:
        shutil.copyfile(path, file)
        unseal(file)
    except (OSError, sqlite3.Error):
        raise Unavailable("the backup cannot be copied: the disk fails or is full") from None
    store = create_store(f"sqlite:///{file.absolute()}")
    try:
        if finish is not None:
            with store.write() as tx:
                finish(tx)
    finally:
        store.close()
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")


def _load(file: Path, url: str, finish: Callable[[Transaction], None]) -> None:
    source, target = Store(f"sqlite:///{file.absolute()}"), create_store(url)
    try:
        with source.read() as rows, target.write() as tx:
            clear_rows(tx)
            copy_rows(rows, tx)
            finish(tx)
    finally:
        source.close()
        target.close()


def _take_place(file: Path, target: Path, at: datetime) -> None:
    """Rename the new database over the present one, which stays beside it."""
    stamp = at.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    try:
        for suffix in ("-wal", "-shm", ""):
            old = target.with_name(target.name + suffix)
            if old.exists():
                # The log goes first: a new database must never meet the log of the old one.
                old.rename(target.with_name(f"{target.name}.{stamp}{suffix}"))
        file.rename(target)
        flush_directory(target.parent)
    except OSError as error:
        raise Unavailable(f"the database cannot be replaced: {error.strerror}") from None


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)


def _lost(present: Store, path: Path) -> tuple[int, int]:
    """How many certificates and decisions of the present database the backup lacks."""
    with closing(_connect(path)) as backup, present.read() as tx:
        return (
            _missing(
                tx,
                backup,
                "SELECT serial FROM certificates WHERE der IS NOT NULL",
                "certificates",
                "serial",
            ),
            _missing(tx, backup, "SELECT id FROM decisions", "decisions", "id"),
        )


def _missing(tx: Transaction, backup: sqlite3.Connection, query: str, table: str, key: str) -> int:
    count = 0
    rows = tx.connection.execution_options(yield_per=_PAGE).exec_driver_sql(query)
    for batch in rows.scalars().partitions():
        marks = ",".join("?" * len(batch))
        found = backup.execute(f"SELECT count(*) FROM {table} WHERE {key} IN ({marks})", tuple(batch))  # noqa: S608 - constants
        count += len(batch) - found.fetchone()[0]
    return count


def _new_revocations(path: Path, revocations: Sequence[RevocationRow]) -> int:
    with closing(_connect(path)) as backup:
        return sum(
            backup.execute(
                "SELECT 1 FROM revocations WHERE issuer = ? AND serial = ?", (row.issuer, row.serial)
            ).fetchone()
            is None
            for row in revocations
        )


def as_json(losses: Losses) -> Mapping[str, object]:
    """The same for scripts."""
    manifest = losses.manifest
    return {
        "made_at": manifest.at,
        "schema": manifest.schema,
        "rows": dict(manifest.rows),
        "present_database": "read" if losses.present_readable else "not readable",
        "certificates_lost": losses.certificates,
        "decisions_lost": losses.decisions,
        "revocations_kept": losses.revocations,
        "epoch": losses.epoch,
    }
