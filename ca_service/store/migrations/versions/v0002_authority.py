"""Issuers with states, epochs, blocked keys, the Merkle log, renewal of certificates."""

import secrets
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the new tables, columns and indexes."""
    op.create_index(
        op.f("ix_decisions_kbs_id_resource_at"), "decisions", ["kbs_id", "resource", "at"], unique=False
    )
    op.add_column("certificates", sa.Column("not_after", sa.String(length=20), nullable=True))
    op.add_column("certificates", sa.Column("replaces", sa.String(length=40), nullable=True))
    op.create_table(
        "issuers",
        sa.Column("skid", sa.String(length=40), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("pair", sa.String(length=24), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("active", sa.String(length=48), nullable=True),
        sa.Column("certificate", sa.LargeBinary(), nullable=False),
        sa.Column("added_at", sa.String(length=20), nullable=False),
        sa.Column("changed_at", sa.String(length=20), nullable=False),
        sa.PrimaryKeyConstraint("skid", name=op.f("pk_issuers")),
        sa.UniqueConstraint("active", name=op.f("uq_issuers_active")),
    )
    epochs = op.create_table(
        "epochs",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("salt", sa.String(length=64), nullable=False),
        sa.Column("begun_at", sa.String(length=20), nullable=False),
        sa.Column("cause", sa.String(length=256), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_epochs")),
    )
    op.bulk_insert(
        epochs,
        [
            {
                "number": 1,
                "salt": secrets.token_hex(32),
                "begun_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "cause": "the database was made, or upgraded to this schema",
            }
        ],
    )
    op.create_table(
        "blocked_keys",
        sa.Column("spki", sa.String(length=64), nullable=False),
        sa.Column("at", sa.String(length=20), nullable=False),
        sa.Column("by", sa.String(length=256), nullable=False),
        sa.Column("cause", sa.String(length=256), nullable=False),
        sa.PrimaryKeyConstraint("spki", name=op.f("pk_blocked_keys")),
    )
    op.create_table(
        "log_leaves",
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("subject", sa.String(length=64), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_log_leaves")),
        sa.UniqueConstraint("kind", "subject", name=op.f("uq_log_leaves_kind_subject")),
    )
    op.create_table(
        "log_nodes",
        sa.Column("level", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("level", "position", name=op.f("pk_log_nodes")),
    )
    op.create_table(
        "log_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("frontier", sa.LargeBinary(), nullable=False),
        sa.Column("checkpoint", sa.Text(), nullable=False),
        sa.Column("at", sa.String(length=20), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_log_head")),
    )
