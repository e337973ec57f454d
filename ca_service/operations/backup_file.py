"""A backup is one SQLite file with all rows and a manifest, whatever database the CA lies in.

The manifest says of which CA it is, when and of which schema, and holds the SHA-256 over the rows of each table: a
damaged or edited file is not restored. It is no signature: whoever can write the file can write the manifest.
"""

import hashlib
import json
import os
import secrets
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from ca_service.judgment import BadRequest
from ca_service.keys.files import flush_directory

FORMAT = 1
MANIFEST = "vtpm_ca_backup"
_BATCH = 500


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
    """A file beside `path` that takes its name when it is whole, and is gone otherwise; only its owner may read it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")

    def __enter__(self) -> Self:
        try:
            descriptor = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise BadRequest(str(self.path), f"cannot be written: {error.strerror}", code="output") from None
        os.close(descriptor)
        return self

    def __exit__(self, *_: object) -> None:
        for suffix in ("", "-wal", "-shm", "-journal"):
            self.file.with_name(self.file.name + suffix).unlink(missing_ok=True)

    def flush(self) -> None:
        """Have all of it on the disk."""
        descriptor = os.open(self.file, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def publish(self) -> None:
        """Give the file its name; raises `BadRequest` if something of that name is there meanwhile."""
        self.flush()
        try:
            os.link(self.file, self.path)
        except FileExistsError:
            raise BadRequest(str(self.path), "is there already; name another file", code="exists") from None
        flush_directory(self.path.parent)


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
            (text,) = connection.execute(f"SELECT manifest FROM {MANIFEST}").fetchone()  # noqa: S608 - a constant
            members = json.loads(text)
            if members.get("format") != FORMAT:
                raise BadRequest(str(file), "has a format of another release", code="format")
            manifest = Manifest(**members)
            if _digests(connection) != manifest.sha256:
                raise BadRequest(
                    str(file), "is damaged: its rows are not those that were written", code="damaged"
                )
    except (sqlite3.Error, TypeError, ValueError, AttributeError):
        raise BadRequest(str(file), "is no backup of a CA, or is damaged", code="damaged") from None
    return manifest


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
