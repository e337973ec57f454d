"""Setting a CA up: ceremony, database and first revocation lists, whole or not at all."""

import hashlib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa

from ca_service.audit import Log
from ca_service.enrollment import Limits, publish_all
from ca_service.judgment import Unavailable
from ca_service.keys import (
    NOBODY,
    Authority,
    CeremonyConfig,
    Occasion,
    PinSource,
    RootCa,
    Transcript,
    TranscriptList,
    load_public,
    no_pin,
    promise_state,
    run_ceremony,
)
from ca_service.operations.issuers import ensure_issuers
from ca_service.operations.kept import keep_state
from ca_service.operations.root_list import publish_root_list
from ca_service.profiles import Entropy
from ca_service.store import CrlRow, Store, create_store, open_store, parse_url

DATABASE = "ca.sqlite3"


def database_url(directory: Path) -> str:
    """The database that a CA uses unless it is told otherwise."""
    return f"sqlite:///{(directory / DATABASE).absolute()}"


def open_database(url: str) -> Store:
    """Open a CA's database, and never make one: a new one would not know what the CA has issued.

    Args:
        url: as SQLAlchemy writes it. It may hold a password, so no error repeats it.

    Raises:
        BadRequest: no such URL, or the driver for it is not installed.
        Unavailable: the database is missing, damaged, out of reach, or has another schema.
    """
    return _existing(url, open_store)


def upgrade_database(url: str) -> None:
    """Bring a CA's database to this program's schema; raises as `open_database` does.

    A database without tables is refused: `init` and a restore make them. An empty one would not know what is revoked.
    """
    _existing(url, _upgraded).close()


def remember(directory: Path, url: str) -> None:
    """Let a CA of an earlier release remember where its database stands, from now on.

    Raises:
        Unavailable: the database is older than what it remembers already, or something cannot be read or written.
    """
    store = open_database(url)
    try:
        keep_state(load_public(directory), store)
    finally:
        store.close()
    promise_state(directory)


def _upgraded(url: str) -> Store:
    store = Store(url)
    try:
        _require_tables(store)
        store.upgrade()
    except BaseException:
        store.close()
        raise
    return store


def _require_tables(store: Store) -> None:
    if store.revision() is None:
        raise Unavailable(
            "the database is empty: no CA's tables are in it",
            code="empty",
            remedy="Bring the CA's database into it from a backup, with `vtpm-ca db restore`.",
        )


def _existing(url: str, open_: Callable[[str], Store]) -> Store:
    try:
        parsed = parse_url(url)
        if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
            raise Unavailable(
                f"the CA's database {parsed.database} is missing",
                remedy="Restore it from a backup: the CA must know what it has issued.",
            )
        return open_(url)
    except sa.exc.DBAPIError:
        raise Unavailable(
            "the CA's database is damaged, or is none", remedy="Restore it from a backup."
        ) from None


def init(
    directory: Path,
    config: CeremonyConfig,
    passphrase: bytes,
    *,
    clock: Callable[[], datetime],
    entropy: Entropy,
    root_passphrase: bytes | None = None,
    pin: PinSource = no_pin,
    root_pin: PinSource = no_pin,
    occasion: Occasion = NOBODY,
) -> Transcript:
    """Make a CA in `directory`; arguments and errors as of `run_ceremony`, and after an error nothing is there."""

    def finish(authority: Authority, root: RootCa) -> list[TranscriptList]:
        at = clock()
        first = publish_root_list(authority.directory, root, at)
        store = create_store(database_url(authority.directory))
        try:
            ensure_issuers(store, authority, at)
            with store.write() as tx:
                # The empty log has a checkpoint too: who looks at a CA that has not served yet finds nothing missing.
                Log(authority.log.origin, authority.log_key).catch_up(tx, at)
            rows = publish_all(store, authority, at, Limits())
            keep_state(authority, store)
            promise_state(authority.directory)
        finally:
            store.close()
        return [first, *(_entry(authority, row) for row in rows)]

    return run_ceremony(
        directory,
        config,
        passphrase,
        clock=clock,
        entropy=entropy,
        finish=finish,
        root_passphrase=root_passphrase,
        pin=pin,
        root_pin=root_pin,
        occasion=occasion,
    )


def _entry(authority: Authority, row: CrlRow) -> TranscriptList:
    role, digest = authority.issuer_of(row.issuer).role, hashlib.sha256(row.der).hexdigest()
    return TranscriptList(role, row.issuer, row.number, row.this_update, row.next_update, digest, row.shard)
