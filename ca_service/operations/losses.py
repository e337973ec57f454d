"""What a restore does, said before it is done: what the present database has that the backup lacks, and what stays."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ca_service.keys import PublicAuthority
from ca_service.operations.backup_file import Manifest
from ca_service.operations.context import Json
from ca_service.operations.restored_policies import plan_line
from ca_service.operations.survivors import Survivors, own_database, readable
from ca_service.store import PolicyRow, RevocationRow, Transaction

_PAGE = 500
_LOST_POLICY = "NOTHING IS ADMITTED until a policy is applied: what is in force now cannot be read"


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
        policies: how many policy versions come after those of the backup.
        policy_version: the one in force afterwards; 0 for none.
        policy_lost: whether nothing is admitted until a policy is applied, since the present one is not known.
        own_database: the database in the CA's directory, if it is there and is not the one that is replaced. It is
            read as the present ones are, and stays as it is.
    """

    manifest: Manifest
    present_readable: bool
    certificates: int
    decisions: int
    revocations: int
    epoch: int
    policies: int
    policy_version: int
    policy_lost: bool
    own_database: Path | None

    def to_json(self) -> dict[str, Json]:
        """The same for scripts."""
        manifest = self.manifest
        return {
            "made_at": manifest.at,
            "schema": manifest.schema,
            "rows": dict(manifest.rows),
            "present_database": "read" if self.present_readable else "not readable",
            "certificates_lost": self.certificates,
            "decisions_lost": self.decisions,
            "revocations_kept": self.revocations,
            "epoch": self.epoch,
            "policies_added": self.policies,
            "policy_version": self.policy_version,
            "policy": self._policy(),
            "own_database": None if self.own_database is None else str(self.own_database),
        }

    def _policy(self) -> str:
        if self.policy_lost:
            return _LOST_POLICY
        return "the present one stays in force" if self.policy_version else "none was ever applied"


def losses_of(
    public: PublicAuthority, url: str, path: Path, manifest: Manifest, survivors: Survivors, at: datetime
) -> Losses:
    """What a restore of the backup at `path` into the database at `url` does, if `survivors` are what is kept."""
    newest = survivors.newest
    present = None if newest is None else newest.policies
    line = plan_line(_policies(path, at), present, current=survivors.current, at=at)
    return Losses(
        manifest,
        newest is not None,
        *((0, 0) if newest is None else _lost(newest.url, path)),
        revocations=_new_revocations(path, survivors.revocations),
        epoch=survivors.epoch,
        policies=len(line.added),
        policy_version=line.in_force,
        policy_lost=line.lost,
        own_database=own_database(public, url),
    )


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)


def _policies(path: Path, at: datetime) -> list[PolicyRow]:
    """The versions in a backup; only what a plan needs of them is read."""
    query = "SELECT version, digest, text, applied_by FROM policies ORDER BY version"
    with closing(_connect(path)) as backup:
        return [
            PolicyRow(version, digest, text, at, by) for version, digest, text, by in backup.execute(query)
        ]


def _lost(url: str, path: Path) -> tuple[int, int]:
    """How many certificates and decisions of a database the backup lacks."""
    store = readable(url)
    if store is None:
        return 0, 0
    try:
        with closing(_connect(path)) as backup, store.read() as tx:
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
    finally:
        store.close()


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
