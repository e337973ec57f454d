"""The recorded evidence that a policy document's tests name, so that they can be run again."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add two tables; no document of an earlier release has tests."""
    op.create_table(
        "policy_evidence",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("kept_at", sa.String(length=20), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_policy_evidence")),
    )
    op.create_table(
        "policy_files",
        sa.Column("policy", sa.String(length=64), nullable=False),
        sa.Column("path", sa.String(length=256), nullable=False),
        sa.Column("evidence", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["evidence"], ["policy_evidence.digest"], name=op.f("fk_policy_files_evidence")
        ),
        sa.PrimaryKeyConstraint("policy", "path", name=op.f("pk_policy_files")),
    )
