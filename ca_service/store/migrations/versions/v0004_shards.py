"""Revocation lists in shards: in which one a certificate, a revocation and a list belong; OCSP responders."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Number the lists. All that there is belongs to number 0: its certificates say so."""
    op.create_table(
        "responders",
        sa.Column("serial", sa.String(length=40), nullable=False),
        sa.Column("issuer", sa.String(length=40), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("tbs", sa.LargeBinary(), nullable=False),
        sa.Column("der", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.String(length=20), nullable=False),
        sa.Column("issued_at", sa.String(length=20), nullable=True),
        sa.Column("not_after", sa.String(length=20), nullable=False),
        sa.Column("shard", sa.Integer(), nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("serial", name=op.f("pk_responders")),
    )
    op.create_index(
        op.f("ix_responders_issuer_state_not_after"),
        "responders",
        ["issuer", "state", "not_after"],
        unique=False,
    )
    for table in ("certificates", "revocations"):
        op.add_column(table, sa.Column("shard", sa.Integer(), nullable=False, server_default="0"))
    op.create_index(op.f("ix_revocations_issuer_shard"), "revocations", ["issuer", "shard"], unique=False)
    with op.batch_alter_table("crls") as batch:
        batch.add_column(
            sa.Column("shard", sa.Integer(), autoincrement=False, nullable=False, server_default="0")
        )
        batch.drop_constraint(op.f("pk_crls"), type_="primary")
        batch.create_primary_key(op.f("pk_crls"), ["issuer", "shard", "number"])
