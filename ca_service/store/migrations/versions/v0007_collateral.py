"""What decisions rest on besides evidence and policy: the certificates and lists that the CA's operator kept."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table; decisions of earlier releases have nothing in it."""
    op.create_table(
        "collateral",
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_collateral")),
    )
