"""What an enrolment writes lies together: hashes of the log beside their leaves, and no index that nobody asks."""

from collections.abc import Iterator

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_UNASKED = (
    ("ix_certificates_key_name", "certificates"),
    ("ix_certificates_intent_id", "certificates"),
    ("ix_certificates_issuer_state_not_after", "certificates"),
    ("ix_intents_enrollment_id", "intents"),
    ("ix_intents_state", "intents"),
    ("ix_tpms_ek_set", "tpms"),
)


def upgrade() -> None:
    """Replace the indexes, and bring the small tables into their new form; the large ones stay where they are."""
    for index, table in _UNASKED:
        op.drop_index(op.f(index), table_name=table)
    opened, settled = sa.text("state = 'open'"), sa.text("state != 'intended'")
    op.create_index("ix_intents_open", "intents", ["enrollment_id"], sqlite_where=opened, postgresql_where=opened)
    op.create_index(
        "ix_certificates_settled",
        "certificates",
        ["issuer", "state", "not_after"],
        sqlite_where=settled,
        postgresql_where=settled,
    )
