"""Issuers with states, epochs, blocked keys, the Merkle log, renewal of certificates."""

import secrets
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op
from cryptography import x509

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


# The table as this migration finds it: the program's own description of it may change later.
_CERTIFICATES = sa.table(
    "certificates",
    sa.column("serial", sa.String),
    sa.column("tbs", sa.LargeBinary),
    sa.column("der", sa.LargeBinary),
    sa.column("not_after", sa.String),
)

_BATCH = 1000
"""How many certificates are in memory at once."""

_AFTER_TBS = bytes.fromhex("300a06082a8648ce3d040303 03020000")
"""What makes a certificate of a TBSCertificate (RFC 5280, section 4.1): ecdsa-with-SHA384, and no signature in it."""


def upgrade() -> None:
    """Make the new tables, columns and indexes, and record until when the certificates are valid."""
    op.add_column("decisions", sa.Column("salt", sa.String(length=512), nullable=False, server_default=""))
    op.create_index(
        op.f("ix_decisions_kbs_id_resource_salt_at"),
        "decisions",
        ["kbs_id", "resource", "salt", "at"],
        unique=False,
    )
    op.drop_index(op.f("ix_certificates_issuer"), table_name="certificates")
    op.add_column("certificates", sa.Column("not_after", sa.String(length=20), nullable=True))
    op.add_column("certificates", sa.Column("replaces", sa.String(length=40), nullable=True))
    op.create_index(
        op.f("ix_certificates_issuer_state_not_after"),
        "certificates",
        ["issuer", "state", "not_after"],
        unique=False,
    )
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
    _fill_not_after(op.get_bind())


def _fill_not_after(connection: sa.Connection) -> None:
    """Write each certificate's notAfter into its row, in the order of the primary key."""
    table = _CERTIFICATES.c
    page = sa.select(table.serial, table.tbs, table.der).order_by(table.serial).limit(_BATCH)
    write = (
        _CERTIFICATES.update()
        .where(table.serial == sa.bindparam("of_serial"))
        .values(not_after=sa.bindparam("ends"))
    )
    last = ""
    while rows := connection.execute(page.where(table.serial > last)).all():
        last = rows[-1].serial
        connection.execute(
            write,
            [{"of_serial": row.serial, "ends": _not_after(row.der or _unsigned(row.tbs))} for row in rows],
        )


def _unsigned(tbs: bytes) -> bytes:
    """A certificate that was never signed, in the form of one that was."""
    content = bytes(tbs) + _AFTER_TBS
    size = len(content).to_bytes(4, "big").lstrip(b"\x00")
    return bytes([0x30, 0x80 | len(size)]) + size + content


def _not_after(der: bytes) -> str | None:
    """The end of a certificate's validity as the database writes instants; None if it is damaged.

    What has no end on record counts as valid for good, and the audit names damaged certificates: a single one must not
    keep the CA from starting.
    """
    try:
        end = x509.load_der_x509_certificate(bytes(der)).not_valid_after_utc
    except ValueError:
        return None
    return end.replace(tzinfo=None).isoformat(timespec="seconds") + "Z"
