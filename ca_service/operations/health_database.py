"""Checks of the database, the log in it, the clock, and what waits for an operator."""

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import quote

from ca_service.audit.log import check_head
from ca_service.enrollment.issuance import RENEWED
from ca_service.operations.backup import last_backup
from ca_service.operations.context import instant
from ca_service.operations.health_model import (
    HealthCheck,
    HealthContext,
    Seen,
    Status,
    Threshold,
    Unit,
    failing,
    failing_store,
    graded,
    shown,
)
from ca_service.operations.kept import check_not_rolled_back
from ca_service.operations.log_identity import log_key
from ca_service.store import Store, parse_url

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_MIB: Final = 2**20
_ALARM_WINDOW: Final = timedelta(hours=24)
_AHEAD: Final = timedelta(minutes=1)
_INTEGRITY_S: Final = 10.0
_STEPS: Final = 100_000
_UNREADABLE: Final = "See the file's permissions, those of its folder, and what the disk says."
_CHECKSUMS: Final = "SELECT checksum_failures FROM pg_stat_database WHERE datname = current_database()"


def _sqlite_file(context: HealthContext) -> Path | None:
    """The file that the database lies in; None if a server has it."""
    url = parse_url(context.url)
    return Path(url.database or "") if url.get_backend_name() == "sqlite" else None


def _integrity(context: HealthContext, _threshold: Threshold | None) -> Iterable[Seen]:
    path = _sqlite_file(context)
    if path is None:
        with context.store.read() as tx:
            failures = tx.connection.exec_driver_sql(_CHECKSUMS).scalar()
        if failures is None:
            yield Seen(
                Status.OK, "PostgreSQL keeps no checksums of its pages, so it is left to its own checks"
            )
        elif failures:
            yield Seen(Status.CRITICAL, f"PostgreSQL has found {failures} pages whose checksum is wrong")
        else:
            yield Seen(Status.OK, "PostgreSQL has found no page whose checksum is wrong")
        return
    deadline = time.monotonic() + _INTEGRITY_S
    name = f"file:{quote(str(path.absolute()))}?mode=ro"
    try:
        with closing(sqlite3.connect(name, uri=True)) as connection:
            connection.set_progress_handler(lambda: int(time.monotonic() > deadline), _STEPS)
            (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname == "SQLITE_INTERRUPT":
            yield Seen(
                Status.OK, f"nothing wrong was found in {_INTEGRITY_S:.0f} seconds, then the look ended"
            )
            return
        # That nobody may or can open it says nothing about what is in it: to restore a backup would be wrong.
        yield Seen(
            Status.CRITICAL if error.sqlite_errorname.startswith("SQLITE_IOERR") else Status.UNKNOWN,
            f"the file cannot be read: {error.sqlite_errorname}",
            _UNREADABLE,
        )
    except sqlite3.DatabaseError as error:
        yield Seen(Status.CRITICAL, f"the file is damaged: {error.sqlite_errorname}")
    else:
        if answer == "ok":
            yield Seen(Status.OK, "the file's structure is whole")
        else:
            yield Seen(Status.CRITICAL, "the file's structure is damaged")


def _check_head(context: HealthContext, store: Store) -> None:
    with store.read() as tx:
        check_head(tx, log_key(context.public))


def _clock(context: HealthContext, threshold: Threshold | None) -> Iterable[Seen]:
    found = context.gauges
    pairs = (("the log's last checkpoint", found.log_at), ("the last decision", found.decided_at))
    for what, at in pairs:
        if at is not None:
            behind = (at - context.at).total_seconds()
            text = f"is {shown(behind, Unit.SECONDS)} behind {what}" if behind > 0 else f"is after {what}"
            yield graded(threshold, behind, f"the clock {text}, {instant(at)}")


def _intents(context: HealthContext, threshold: Threshold | None) -> Iterable[Seen]:
    count, oldest = context.gauges.open_intents, context.gauges.oldest_intent_at
    if oldest is None:
        yield Seen(Status.OK, "no issuance is under way")
        return
    age = (context.at - oldest).total_seconds()
    yield graded(threshold, age, f"{count} issuances are open, the first since {instant(oldest)}")


def _alarms(context: HealthContext, threshold: Threshold | None) -> Iterable[Seen]:
    with context.store.read() as tx:
        found = dict(tx.alarms.count_since(context.at - _ALARM_WINDOW))
    renewed = found.pop(RENEWED, 0)
    by_kind = ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))
    yield graded(threshold, sum(found.values()), f"in the last 24 hours: {by_kind or 'none'}")
    if renewed:
        # Each bounded certificate ends in one: nothing is wrong, but keylime takes a new EK certificate for an attack.
        yield Seen(Status.NOTICE, f"in the last 24 hours certificates of {renewed} TPMs were replaced")


def _disk(context: HealthContext, threshold: Threshold | None) -> Iterable[Seen]:
    path, seen = _sqlite_file(context), set[int]()
    for what, folder in (
        ("the database", None if path is None else path.parent),
        ("the CA's directory", context.public.directory),
    ):
        if folder is None:
            continue
        device = folder.stat().st_dev
        if device in seen:
            continue
        seen.add(device)
        status = os.statvfs(folder)
        free = status.f_bavail * status.f_frsize
        yield graded(threshold, free, f"{shown(free, Unit.BYTES)} are free on the disk of {what}")
        if not status.f_favail and status.f_files:
            yield Seen(Status.CRITICAL, f"the disk of {what} takes no further file")


def _backup(context: HealthContext, threshold: Threshold | None) -> Iterator[Seen]:
    at = last_backup(context.public)
    if at is None:
        # A CA of yesterday has little to lose yet; and others may have other means than this command.
        young = graded(threshold, _age(context.at, context.public.root.not_valid_before_utc), "")
        status = Status.NOTICE if young.status is Status.OK else Status.WARNING
        yield Seen(status, "no backup was made on this machine with `vtpm-ca db backup`, as far as is known")
        return
    if at > context.at + _AHEAD:
        text = f"the last backup is of {instant(at)}, which is yet to come: since when there is none, nobody knows"
        yield Seen(Status.WARNING, text)
    yield graded(threshold, _age(context.at, at), f"the last backup is of {instant(at)}")


def _age(now: datetime, at: datetime) -> float:
    return (now - at).total_seconds()


CHECKS: Final = (
    HealthCheck(
        "schema",
        "the database is there and has this program's schema",
        "Run `vtpm-ca db upgrade`; a database that is missing or damaged comes back with `vtpm-ca db restore`.",
        failing(lambda context: context.store.check(), "the database has this program's schema"),
    ),
    HealthCheck(
        "database",
        "the database takes a write, and its disk has it",
        "See that its disk has room and may be written, and that no other process holds it.",
        failing_store(lambda _context, store: store.check_writable(), "the database can be written"),
    ),
    HealthCheck(
        "integrity",
        "the structure of the database's file; for at most 10 seconds",
        "Stop the server and bring the last backup back with `vtpm-ca db restore`. See what the disk says.",
        _integrity,
    ),
    HealthCheck(
        "rollback",
        "the database is not older than what the CA remembers of it",
        "Stop all servers. Bring the newest database back, or a backup with `vtpm-ca db restore`.",
        failing_store(
            lambda context, store: check_not_rolled_back(context.public, store),
            "the database is the newest that this CA has seen",
        ),
    ),
    HealthCheck(
        "log",
        "the head of the log fits its checkpoint, and that is signed",
        "Run `vtpm-ca audit verify`, which says what is wrong.",
        failing_store(_check_head, "the head of the log verifies"),
    ),
    HealthCheck(
        "clock",
        "the clock against the log's last checkpoint and the last decision",
        "Set the clock, for example with an NTP service. Until then nonces, grants and lists are judged wrongly.",
        _clock,
        Threshold(Unit.SECONDS, 5, _MINUTE),
    ),
    HealthCheck(
        "intents",
        "issuances that have been under way for too long",
        "Restart the server, which gives them up; on several nodes, the one on which the issuing CA's key lies.",
        _intents,
        Threshold(Unit.SECONDS, 10 * _MINUTE, _HOUR),
    ),
    HealthCheck(
        "alarms",
        "alarms of the last 24 hours; that certificates were replaced is a notice",
        "`vtpm-ca alarm list --kind clone`, or `rollback`, says what they are about: both want somebody to look.",
        _alarms,
        Threshold(Unit.COUNT, 1, 10),
    ),
    HealthCheck(
        "disk",
        "room on the disks of the database and of the CA's directory",
        "Make room. A CA on a full disk issues nothing, and what it has issued stays good.",
        _disk,
        Threshold(Unit.BYTES, 1024 * _MIB, 256 * _MIB, falling=True),
    ),
    HealthCheck(
        "backup",
        "age of the last backup that was made on this machine; that a younger CA has none is a notice",
        "Run `vtpm-ca db backup FILE` regularly, and take the file to another machine.",
        _backup,
        Threshold(Unit.SECONDS, 2 * _DAY, 7 * _DAY),
    ),
)
"""In the order in which they are shown."""
