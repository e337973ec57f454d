"""What an enrolment writes lies together: hashes of the log beside their leaves, and no index that nobody asks."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter

import sqlalchemy as sa
from alembic import op

from ca_service.judgment import Unavailable

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_BATCH = 1000
_HASH = 32

_UNASKED = (
    ("ix_certificates_key_name", "certificates"),
    ("ix_certificates_intent_id", "certificates"),
    ("ix_certificates_issuer_state_not_after", "certificates"),
    ("ix_decisions_admitted_at_stage", "decisions"),
    ("ix_decisions_at", "decisions"),
    ("ix_intents_enrollment_id", "intents"),
    ("ix_intents_state", "intents"),
    ("ix_tpms_ek_set", "tpms"),
)
_OF_SOME = (
    ("ix_certificates_settled", "certificates", ["issuer", "state", "not_after"], "state != 'intended'"),
    ("ix_decisions_refused", "decisions", ["at"], "admitted = 0"),
    ("ix_intents_open", "intents", ["enrollment_id"], "state = 'open'"),
)

_LEAVES = sa.table(
    "log_leaves",
    sa.column("position", sa.BigInteger),
    sa.column("kind", sa.String),
    sa.column("subject", sa.String),
    sa.column("data", sa.LargeBinary),
)
_LEAVES_NEW = sa.table("log_leaves_new", *(sa.column(c.name, c.type) for c in _LEAVES.c), sa.column("hashes"))
_ALL_LEAVES = sa.select(_LEAVES).order_by(_LEAVES.c.position).execution_options(yield_per=_BATCH)
# The leaf that completes a subtree is its last one.
_NODES = sa.text(
    "SELECT ((position + 1) << level) - 1 AS leaf, level, hash FROM log_nodes ORDER BY leaf, level"
).execution_options(yield_per=_BATCH)
# As `_completed` does it: what stands behind a gap has a level that is not its rank.
_BESIDE_THEIR_LEAVES = f"""
    UPDATE log_leaves l SET hashes = n.hashes FROM (
        SELECT leaf, string_agg(hash, ''::bytea ORDER BY level) AS hashes FROM (
            SELECT leaf, level, hash, row_number() OVER (PARTITION BY leaf ORDER BY level) - 1 AS rank FROM (
                SELECT ((position + 1) << level) - 1 AS leaf, level, hash FROM log_nodes
                WHERE octet_length(hash) = {_HASH}
            ) placed
        ) ranked WHERE rank = level GROUP BY leaf
    ) n WHERE n.leaf = l.position
"""  # noqa: S608 - our own words


def upgrade() -> None:
    """Replace the indexes, and bring the log into its new form; the large tables stay where they are.

    A log that is damaged is so afterwards: a hash that is not there, or is none, is missing.
    """
    sqlite = op.get_bind().dialect.name == "sqlite"
    if not sqlite:
        op.execute("SET LOCAL statement_timeout = 0")
    for index, table in _UNASKED:
        op.drop_index(op.f(index), table_name=table)
    op.create_index(op.f("ix_decisions_at_admitted_stage"), "decisions", ["at", "admitted", "stage"])
    for index, table, columns, condition in _OF_SOME:
        some = sa.text(condition)
        op.create_index(index, table, columns, sqlite_where=some, postgresql_where=some)
    # NULL says that the release which issued it kept what it signed.
    op.add_column("certificates", sa.Column("tbs_digest", sa.String(length=64), nullable=True))
    if sqlite:
        _make_leaves_anew()
    else:
        op.add_column("log_leaves", sa.Column("hashes", sa.LargeBinary(), nullable=False, server_default=""))
        op.execute(_BESIDE_THEIR_LEAVES)
        op.alter_column("log_leaves", "hashes", server_default=None)
    op.drop_table("log_nodes")


def _make_leaves_anew() -> None:
    op.create_table(
        "log_leaves_new",
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("subject", sa.String(length=64), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("hashes", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_log_leaves")),
        sa.UniqueConstraint("kind", "subject", name=op.f("uq_log_leaves_kind_subject")),
    )
    connection = op.get_bind()
    leaves = connection.execute(_ALL_LEAVES)
    nodes = connection.execute(_NODES)
    completed = _completed((leaf, level, hash_) for leaf, level, hash_ in nodes)
    last, hashes = next(completed, (None, b""))
    for some in leaves.mappings().partitions():
        rows = list[dict[str, object]]()
        for row in some:
            if not isinstance(row["position"], int):
                raise _no_position()
            while last is not None and last < row["position"]:
                last, hashes = next(completed, (None, b""))
            rows.append({**row, "hashes": hashes if last == row["position"] else b""})
        connection.execute(_LEAVES_NEW.insert(), rows)
    # Hashes of leaves that are not there are left over, and SQLite drops no table that is still read.
    nodes.close()
    op.drop_table("log_leaves")
    op.rename_table("log_leaves_new", "log_leaves")


def _no_position() -> Unavailable:
    return Unavailable(
        "the database cannot be upgraded: the log is damaged, a leaf stands at a position that is no number",
        code="log",
        remedy="Look at it with `vtpm-ca audit verify` of the release before, or restore a backup.",
    )


def _completed(nodes: Iterable[tuple[int, int, object]]) -> Iterator[tuple[int, bytes]]:
    """Leaves with the hashes of what each completes, from its own on without a gap."""
    for leaf, some in groupby(nodes, key=itemgetter(0)):
        hashes = b""
        for _, level, hash_ in some:
            if len(hashes) != level * _HASH or not isinstance(hash_, bytes) or len(hash_) != _HASH:
                break
            hashes += hash_
        yield leaf, hashes
