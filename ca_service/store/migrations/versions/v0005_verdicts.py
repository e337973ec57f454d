"""Decisions by what they say and when: the newest refusals, and how many of each there were, are read from an index."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the index; nothing else changes."""
    op.create_index(
        op.f("ix_decisions_admitted_at_stage"), "decisions", ["admitted", "at", "stage"], unique=False
    )
