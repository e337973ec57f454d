"""A backup is one SQLite file with all rows and a manifest, whatever database the CA lies in.

The manifest says of which CA it is, when and of which schema, and holds the SHA-256 over the rows of each table: a
damaged or edited file is not restored. It is no signature: whoever can write the file can write the manifest.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from ca_service.judgment import BadRequest, Unavailable
from ca_service.keys.files import flush_directory
from vtpm.wire.encoding import Members, parse_json
from vtpm.wire.errors import WireError

FORMAT = 1
MANIFEST = "vtpm_ca_backup"
MOST_EPOCH = 2**31 - 2
"""The restored database's epoch is the next one, and its column holds no higher number."""

_BATCH = 500
_MAX_MANIFEST = 64 * 1024
_MAX_ROWS = 2**53 - 1
_MAX_TABLES = 100
_PASSING = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


@dataclass(frozen=True)
class Manifest:
    """What a backup says about itself.

    Attributes:
        format: of the file; 1.
        ca_id: the CA's name in the protocol.
        root: SHA-256 of the root's certificate, hex.
        at: when it was made, RFC 3339 in UTC.
        schema: revision of the tables.
        epoch: of the database.
        rows: number of rows by table.
        sha256: over the rows of each table, hex.
    """

    format: int
    ca_id: str
    root: str
    at: str
    schema: str
    epoch: int
    rows: Mapping[str, int]
    sha256: Mapping[str, str]


class Scratch:
    """A file beside `path` that takes its name when it is whole, and is gone otherwise; only its owner may read it.

    With `give` the owner is the one of the folder, also if root makes the file: the CA's user has to work with it.
    """

    def __init__(self, path: Path, *, give: bool = False) -> None:
        self.path = path
        self._give = give
        self.file = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")

    def __enter__(self) -> Self:
        try:
            descriptor = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            try:
                if self._give and os.geteuid() == 0:
                    owner = self.path.parent.stat()
                    os.fchown(descriptor, owner.st_uid, owner.st_gid)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise Unavailable(f"{self.path} cannot be written: {error.strerror}", code="storage") from None
        return self

    def __exit__(self, *_: object) -> None:
        for suffix in ("", "-wal", "-shm", "-journal"):
            self.file.with_name(self.file.name + suffix).unlink(missing_ok=True)

    def flush(self) -> None:
        """Have all of it on the disk; raises `OSError`."""
        _flush(self.file)

    def publish(self) -> None:
        """Give the file its name.

        Raises:
            BadRequest: something of that name is there meanwhile.
            Unavailable: the disk fails or is full.
        """
        try:
            self.flush()
            second_name(self.file, self.path)
        except FileExistsError:
            raise BadRequest(str(self.path), "is there already; name another file", code="exists") from None
        except OSError as error:
            raise Unavailable(f"the backup cannot be written: {error.strerror}") from None


def _flush(file: Path) -> None:
    descriptor = os.open(file, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def second_name(file: Path, name: Path) -> None:
    """Let `name` hold what `file` holds, durably: a link, or a copy where the file system has none.

    Raises:
        FileExistsError: something of that name is there; it stays as it is.
        OSError: it cannot be done; nothing of that name is left.
    """
    try:
        os.link(file, name)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _copy(file, name)
    flush_directory(name.parent)


def _copy(file: Path, name: Path) -> None:
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as target, file.open("rb") as source:
            shutil.copyfileobj(source, target)
            target.flush()
            os.fsync(target.fileno())
    except BaseException:
        name.unlink(missing_ok=True)
        raise


def put_in_place(file: Path, target: Path, at: datetime) -> None:
    """Let a new SQLite database take the place of the present one, which stays beside it under its name and the time.

    At every moment the one or the other is there, whole. The present one's log is folded in first, for a new
    database must never meet the log of an old one.

    Raises:
        Unavailable: it cannot be done, or somebody works with the present one; it is in its place then.
    """
    try:
        with closing(sqlite3.connect(file, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")
        _flush(file)
        if target.exists():
            _keep_beside(target, at)
        file.rename(target)
        flush_directory(target.parent)
    except OSError as error:
        raise Unavailable(f"the database cannot be replaced: {error.strerror}") from None
    except sqlite3.Error:
        raise Unavailable("the database cannot be replaced: its disk fails or is full") from None


def _keep_beside(target: Path, at: datetime) -> None:
    folded = _fold(target)
    for name in target.parent.glob(f"{target.name}.*"):
        if os.path.samestat(name.lstat(), target.lstat()):
            # A restore that was killed before its last step left it: two names for one database would part.
            name.unlink()
    stamp = at.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    number = 0
    while True:
        kept = target.with_name(f"{target.name}.{stamp}" + (f".{number}" if number else ""))
        try:
            second_name(target, kept)
            break
        except FileExistsError:
            number += 1
    if folded:
        return
    # A damaged one cannot be folded; its log goes along.
    for suffix in ("-wal", "-shm"):
        part = target.with_name(target.name + suffix)
        if part.exists():
            second_name(part, kept.with_name(kept.name + suffix))
            part.unlink()
    flush_directory(target.parent)


def _fold(target: Path) -> bool:
    """Make one file of a database and its log; False if it is damaged."""
    try:
        with closing(sqlite3.connect(target, isolation_level=None, timeout=5)) as connection:
            (mode,) = connection.execute("PRAGMA journal_mode=DELETE").fetchone()
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _PASSING:
            raise Unavailable(
                "the database cannot be replaced: somebody works with it, or its disk is full"
            ) from None
        return False
    if mode != "delete":
        raise Unavailable("the database cannot be replaced: somebody works with it")
    return True


def seal(file: Path, ca_id: str, root: str, at: str, rows: Mapping[str, int]) -> Manifest:
    """Write the manifest into a copied database, and make one file of it."""
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        schema = connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]
        epoch = connection.execute("SELECT coalesce(max(number), 0) FROM epochs").fetchone()[0]
        manifest = Manifest(FORMAT, ca_id, root, at, schema, epoch, dict(rows), _digests(connection))
        text = json.dumps(asdict(manifest), sort_keys=True)
        connection.execute(f"CREATE TABLE {MANIFEST} (manifest TEXT NOT NULL)")
        connection.execute(f"INSERT INTO {MANIFEST} VALUES (?)", (text,))  # noqa: S608 - a constant
    return manifest


def read_manifest(file: Path) -> Manifest:
    """Read and verify a backup.

    Raises:
        BadRequest: there is no such file, it is no backup, or its rows are not those that were written.
    """
    if not file.is_file():
        raise BadRequest(str(file), "is not there, or is no file", code="unreadable")
    try:
        with closing(
            sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        ) as connection:
            query = f"SELECT substr(manifest, 1, {_MAX_MANIFEST + 1}) FROM {MANIFEST}"  # noqa: S608 - constants
            (text,) = connection.execute(query).fetchone()
            manifest = _manifest(file, str(text))
            if _digests(connection) != manifest.sha256 or not _only_tables(connection):
                raise BadRequest(
                    str(file), "is damaged: its rows are not those that were written", code="damaged"
                )
    except (sqlite3.Error, TypeError, WireError):
        raise BadRequest(str(file), "is no backup of a CA, or is damaged", code="damaged") from None
    return manifest


def _manifest(file: Path, text: str) -> Manifest:
    members = Members(parse_json(text.encode("utf-8", "replace"), "manifest", most=_MAX_MANIFEST), "manifest")
    if members.value("format") != FORMAT:
        raise BadRequest(str(file), "has a format of another release", code="format")
    rows, digests = members.members("rows"), members.members("sha256")
    manifest = Manifest(
        format=members.integer("format", FORMAT, FORMAT),
        ca_id=members.text("ca_id"),
        root=members.hex("root", size=hashlib.sha256().digest_size).hex(),
        at=members.text("at", most=32),
        schema=members.text("schema", most=32),
        epoch=members.integer("epoch", 0, MOST_EPOCH),
        rows={name: rows.integer(name, 0, _MAX_ROWS) for name in _names(rows)},
        sha256={name: digests.hex(name, size=32).hex() for name in _names(digests)},
    )
    for each in (rows, digests, members):
        each.end()
    return manifest


def _names(members: Members) -> list[str]:
    names = members.unread()
    if len(names) > _MAX_TABLES:
        raise WireError(members.path, f"must have at most {_MAX_TABLES} members")
    return names


def _only_tables(connection: sqlite3.Connection) -> bool:
    """Whether nothing is there that would act by itself: the digests are about rows."""
    query = "SELECT count(*) FROM sqlite_master WHERE type NOT IN ('table', 'index') OR sql LIKE 'create virtual%'"
    return bool(connection.execute(query).fetchone() == (0,))


def unseal(file: Path) -> None:
    """Make a plain database of a copy of a backup."""
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute(f"DROP TABLE {MANIFEST}")


def _digests(connection: sqlite3.Connection) -> dict[str, str]:
    names = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name <> ? AND name NOT LIKE 'sqlite%' ORDER BY name",
        (MANIFEST,),
    ).fetchall()
    return {name: _digest(connection, name) for (name,) in names}


def _digest(connection: sqlite3.Connection, table: str) -> str:
    digest = hashlib.sha256()
    quoted = table.replace('"', '""')
    cursor = connection.execute(f'SELECT * FROM "{quoted}" ORDER BY rowid')  # noqa: S608 - quoted, from the catalogue
    while rows := cursor.fetchmany(_BATCH):
        for row in rows:
            # The repr of integers, text, bytes and None tells them apart and has one form.
            line = repr(row).encode("utf-8", "surrogatepass")
            digest.update(len(line).to_bytes(8, "big") + line)
    return digest.hexdigest()
