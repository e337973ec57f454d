"""CAs as released versions left them (tests/vectors/databases), put where a test can upgrade and work with them."""

import base64
import hashlib
import json
import lzma
import shutil
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import enrollment_world as w
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ca_service.keys import Authority
from ca_service.store.backends import parse_url

VECTORS = Path(__file__).parents[1] / "vectors" / "databases"
RELEASES = ("0.1", "0.2", "0.3")
"""Those of the first schema; `Release` knows later ones too."""

FIRST_SCHEMA = "0001"


class Release:
    """One CA of a released version."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.folder = VECTORS / version
        self.manifest = json.loads((self.folder / "manifest.json").read_text())
        self.passphrase = self.manifest["passphrase"].encode()
        self.sql = lzma.decompress((self.folder / "database.sql.xz").read_bytes()).decode()

    @property
    def end(self) -> datetime:
        """When the CA stopped working."""
        return datetime.fromisoformat(self.manifest["ends_at"]).astimezone(UTC)

    def put_directory(self, directory: Path) -> None:
        """The CA's directory as the release made it, without its database; and its platform beside it."""
        directory.mkdir(parents=True, exist_ok=True)
        for part in ("ca", "platform"):
            shutil.copytree(self.folder / part, directory / part)
        ca = directory / "ca"
        # Neither modes nor empty folders are kept in a repository.
        for private in (ca / "private", ca / "offline"):
            private.chmod(0o700)
            for file in private.iterdir():
                file.chmod(0o600)
        (ca / "run").mkdir(mode=0o700)

    def put_database(self, url: str) -> None:
        """The rows into the empty database `url`, in the schema of then."""
        if url.startswith("sqlite:"):
            with sqlite3.connect(url.removeprefix("sqlite:///")) as file:
                file.executescript(self.sql)
            file.close()
            return
        engine = sa.create_engine(parse_url(url))
        with engine.begin() as connection:
            config = Config()
            config.set_main_option("script_location", "ca_service.store:migrations")
            config.attributes["connection"] = connection
            command.upgrade(config, self.schema)
            tables = sa.MetaData()
            tables.reflect(connection)
            # A migration may write rows of its own; the release's are all in its dump.
            for table in reversed(tables.sorted_tables):
                if table.name != "alembic_version":
                    connection.execute(table.delete())
            for table in tables.sorted_tables:
                if table.name != "alembic_version":
                    _fill(connection, table, self.rows(table.name))
        engine.dispose()

    @property
    def schema(self) -> str:
        """The revision of its schema."""
        return str(self.rows("alembic_version")[0]["version_num"])

    def rows(self, table: str) -> list[dict[str, object]]:
        """What the release wrote into a table."""
        with sqlite3.connect(":memory:") as file:
            file.executescript(self.sql)
            file.row_factory = sqlite3.Row
            found = [dict(row) for row in file.execute(f"SELECT * FROM {table}")]  # noqa: S608 - names of the tests'
        file.close()
        return found

    @property
    def tables(self) -> list[str]:
        """Names of the tables of then."""
        with sqlite3.connect(":memory:") as file:
            file.executescript(self.sql)
            found = file.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
            )
            names = [name for (name,) in found]
        file.close()
        return [name for name in names if name != "alembic_version"]

    def tpm(self, name: str) -> w.SoftTpm:
        """A TPM that the CA knows."""
        pem = self.manifest["tpms"][name]["keys"]
        keys = iter([load_pem_private_key(pem[role].encode(), None) for role in ("ek", "iak", "idevid")])
        return w.SoftTpm(keys=lambda _template: next(keys))

    def boot(self, name: str, **changed: object) -> w.Boot:
        """The next boot of the guest with that TPM."""
        known = self.manifest["tpms"][name]
        return w.Boot(
            **{
                "resource": f"default/vtpm/{known['guest']}",
                "secret": hashlib.sha256(known["guest"].encode()).digest(),
                "counter": known["counter"] + 1,
                **changed,
            }
        )

    def certificates(self, name: str) -> list[bytes]:
        """What the TPM got then, DER."""
        return [base64.b64decode(text) for text in self.manifest["tpms"][name]["certificates"]]

    def world(self, directory: Path, url: str, authority: Authority) -> w.World:
        """The world around the CA in `directory`, a day after the release's last act."""
        world = w.World(directory, authority, url)
        world.time = self.end
        world.later(days=1)
        return world


def _fill(connection: sa.Connection, table: sa.Table, rows: list[dict[str, object]]) -> None:
    if rows:
        connection.execute(table.insert(), rows)
    column = table.autoincrement_column
    if column is not None and isinstance(column.type, sa.Integer) and column.server_default is not None:
        highest = max((row[column.name] for row in rows), default=0)
        if highest:
            sequence = sa.func.pg_get_serial_sequence(table.name, column.name)
            connection.execute(sa.select(sa.func.setval(sequence, highest)))
