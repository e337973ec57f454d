"""Setting a CA up: ceremony, database and first revocation lists, whole or not at all."""

import hashlib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from ca_service.audit import Log
from ca_service.enrollment import Limits, publish_all
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
from ca_service.operations.databases import database_url, open_database
from ca_service.operations.issuers import ensure_issuers
from ca_service.operations.kept import keep_state
from ca_service.operations.root_list import publish_root_list
from ca_service.profiles import Entropy
from ca_service.store import CrlRow, create_store


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
