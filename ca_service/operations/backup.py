"""Backup and restore of the CA's database.

A restore brings back an old state of the CA's knowledge, and two things of the time since must survive it. What was
revoked stays revoked: every serial on a list that the CA remembers, that the present database holds or that the
operator hands in goes on the next list. And no nonce of before is good again: a new epoch begins.
"""

import contextlib
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import sqlalchemy as sa
from cryptography.hazmat.primitives import hashes

from ca_service.enrollment import Limits
from ca_service.judgment import BadRequest, Unavailable
from ca_service.keys import Authority, PublicAuthority, files
from ca_service.keys.layout import RUN
from ca_service.operations.backup_file import Manifest, Scratch, put_in_place, read_manifest, seal, unseal
from ca_service.operations.context import instant
from ca_service.operations.databases import require_alone, require_unicode
from ca_service.operations.kept import read_state, state_of, write_state
from ca_service.operations.losses import Losses, losses_of
from ca_service.operations.survivors import gather, settle
from ca_service.profiles import Entropy
from ca_service.store import (
    Store,
    Transaction,
    clear_rows,
    copy_rows,
    create_store,
    parse_url,
    sqlite_url,
    take_time,
)

_LAST = "last-backup"
_NO_LISTS: Mapping[str, bytes] = MappingProxyType({})


def make_backup(public: PublicAuthority, store: Store, path: Path, at: datetime) -> Manifest:
    """Write the present state of the database into a new file, while the server runs.

    Raises:
        BadRequest: something of that name is there (code ``exists``).
        Unavailable: the file cannot be written (code ``storage``), its disk is full, or the database cannot be read.
    """
    if path.exists() or path.is_symlink():
        raise BadRequest(str(path), "is there already; name another file", code="exists")
    with Scratch(path) as scratch:
        target = create_store(sqlite_url(scratch.file))
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
    _remember(public, at)
    return manifest


def _remember(public: PublicAuthority, at: datetime) -> None:
    """Note when it was, for the check of the CA's health; the backup is good without."""
    with contextlib.suppress(OSError):
        files.replace_file(
            public.directory / RUN / _LAST, (instant(at) or "").encode("ascii"), files.PRIVATE_FILE
        )


def last_backup(public: PublicAuthority) -> datetime | None:
    """When the last backup was made from this directory, aware; None if that is not known.

    Raises:
        OSError: this user may not look.
    """
    try:
        found = datetime.fromisoformat((public.directory / RUN / _LAST).read_text(encoding="ascii"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return found if found.tzinfo is not None else None


def plan_restore(
    public: PublicAuthority, url: str, path: Path, crls: Mapping[str, bytes] = _NO_LISTS
) -> Losses:
    """What a restore would do; nothing is changed.

    Raises:
        BadRequest: the file is no backup of this CA, or a list is none of its.
        Unavailable: what the CA remembers cannot be read, or the database cannot hold what is in the file.
    """
    require_unicode(url)
    manifest = _read(public, path)
    at = datetime.now(UTC)
    return losses_of(public, url, path, manifest, gather(public, url, manifest.epoch, crls, at), at)


def restore(
    authority: Authority,
    url: str,
    path: Path,
    crls: Mapping[str, bytes] = _NO_LISTS,
    *,
    at: datetime,
    entropy: Entropy,
    limits: Limits,
) -> Losses:
    """Put a backup in the place of the database. Nobody else may work on the CA meanwhile.

    A SQLite file that is replaced stays beside the new one, under its name and the time. PostgreSQL is replaced in one
    transaction. A file is restored to either kind, so this is also the way from one to the other.

    Raises:
        BadRequest, Unavailable: as `plan_restore`, and if somebody else works on the database (code ``busy``) or it
            cannot be written; it is as it was then.
    """
    require_unicode(url)
    require_alone(url)
    manifest = _read(authority, path)
    survivors = gather(authority, url, manifest.epoch, crls, at)
    losses = losses_of(authority, url, path, manifest, survivors, at)

    def finish(tx: Transaction) -> None:
        settle(tx, authority, survivors, at, entropy, limits)

    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        target = Path(parsed.database or "")
        for left in target.parent.glob(f".{target.name}.*.part*"):
            # Of a restore that was killed: what it holds is as secret as the database.
            left.unlink(missing_ok=True)
        with Scratch(target, give=True) as old, Scratch(target, give=True) as new:
            _unpack(path, old.file)
            _load(old.file, sqlite_url(new.file), finish)
            put_in_place(new.file, target, at)
    else:
        with Scratch(authority.directory / "restore") as old:
            _unpack(path, old.file)
            _load(old.file, url, finish)
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


def _unpack(path: Path, file: Path) -> None:
    """A database with this program's schema from a backup of this or an earlier one."""
    try:
        shutil.copyfile(path, file)
        unseal(file)
    except (OSError, sqlite3.Error):
        raise Unavailable("the backup cannot be copied: the disk fails or is full") from None
    create_store(sqlite_url(file)).close()


def _load(file: Path, url: str, finish: Callable[[Transaction], None]) -> None:
    """Only rows come out of a backup: tables, indexes and constraints are this program's own."""
    source, target = Store(sqlite_url(file)), create_store(url)
    try:
        with source.read() as rows, target.write() as tx:
            take_time(tx)
            clear_rows(tx)
            try:
                copy_rows(rows, tx)
            except sa.exc.IntegrityError:
                raise BadRequest("backup", "holds rows that contradict each other", code="damaged") from None
            finish(tx)
    finally:
        source.close()
        target.close()
