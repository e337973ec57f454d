"""Policy versions that come in force at a time, some of them only when a second operator has approved them."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Say of each version what was true of it: it followed the one before, in force when it was applied."""
    op.add_column("policies", sa.Column("base", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("policies", sa.Column("requested_from", sa.String(length=20), nullable=True))
    op.create_table(
        "policy_starts",
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("in_force_from", sa.String(length=20), nullable=False),
        sa.Column("released_at", sa.String(length=20), nullable=False),
        sa.ForeignKeyConstraint(["version"], ["policies.version"], name=op.f("fk_policy_starts_version")),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_policy_starts")),
    )
    op.create_table(
        "policy_verdicts",
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("by", sa.String(length=256), nullable=False),
        sa.Column("at", sa.String(length=20), nullable=False),
        sa.ForeignKeyConstraint(["version"], ["policies.version"], name=op.f("fk_policy_verdicts_version")),
        sa.PrimaryKeyConstraint("version", "verdict", name=op.f("pk_policy_verdicts")),
    )
    op.execute("UPDATE policies SET base = version - 1")
    op.execute(
        "INSERT INTO policy_starts (version, in_force_from, released_at)"
        " SELECT version, applied_at, applied_at FROM policies"
    )
