"""The first schema: nonces, decisions, ledger, intents, certificates, revocations, CRLs, alarms."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make all tables."""
    op.create_table(
        "alarms",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.String(length=20), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("decision_id", sa.String(length=64), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alarms")),
    )
    op.create_table(
        "crls",
        sa.Column("issuer", sa.String(length=40), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("this_update", sa.String(length=20), nullable=False),
        sa.Column("next_update", sa.String(length=20), nullable=False),
        sa.Column("der", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("issuer", "number", name=op.f("pk_crls")),
    )
    op.create_table(
        "decisions",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("at", sa.String(length=20), nullable=False),
        sa.Column("stage", sa.String(length=16), nullable=False),
        sa.Column("admitted", sa.Integer(), nullable=False),
        sa.Column("rule", sa.String(length=64), nullable=False),
        sa.Column("trace", sa.Text(), nullable=False),
        sa.Column("policy_version", sa.Integer(), nullable=False),
        sa.Column("policy_digest", sa.String(length=64), nullable=False),
        sa.Column("evidence_digest", sa.String(length=64), nullable=False),
        sa.Column("kbs_id", sa.String(length=256), nullable=False),
        sa.Column("resource", sa.String(length=256), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_decisions")),
    )
    op.create_index(op.f("ix_decisions_at"), "decisions", ["at"], unique=False)
    op.create_index(op.f("ix_decisions_evidence_digest"), "decisions", ["evidence_digest"], unique=False)
    op.create_table(
        "evidence",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("received_at", sa.String(length=20), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_evidence")),
    )
    op.create_table(
        "instances",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kbs_id", sa.String(length=256), nullable=False),
        sa.Column("resource", sa.String(length=256), nullable=False),
        sa.Column("salt", sa.String(length=512), nullable=False),
        sa.Column("created_at", sa.String(length=20), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instances")),
        sa.UniqueConstraint("kbs_id", "resource", "salt", name=op.f("uq_instances_kbs_id_resource_salt")),
    )
    op.create_table(
        "key_ids",
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("kbs_id", sa.String(length=256), nullable=False),
        sa.Column("resource", sa.String(length=256), nullable=False),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_key_ids")),
    )
    op.create_table(
        "policies",
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("applied_at", sa.String(length=20), nullable=False),
        sa.Column("applied_by", sa.String(length=256), nullable=False),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_policies")),
    )
    op.create_table(
        "revocations",
        sa.Column("issuer", sa.String(length=40), nullable=False),
        sa.Column("serial", sa.String(length=40), nullable=False),
        sa.Column("at", sa.String(length=20), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("cause", sa.String(length=256), nullable=False),
        sa.PrimaryKeyConstraint("issuer", "serial", name=op.f("pk_revocations")),
    )
    op.create_table(
        "submissions",
        sa.Column("nonce", sa.String(length=128), nullable=False),
        sa.Column("body_digest", sa.String(length=64), nullable=False),
        sa.Column("consumed_at", sa.String(length=20), nullable=False),
        sa.Column("decision_id", sa.String(length=64), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("reply", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["decision_id"], ["decisions.id"], name=op.f("fk_submissions_decision_id")),
        sa.PrimaryKeyConstraint("nonce", name=op.f("pk_submissions")),
    )
    op.create_table(
        "tpm_keys",
        sa.Column("name", sa.String(length=160), nullable=False),
        sa.Column("instance_id", sa.Integer(), nullable=False),
        sa.Column("role", sa.String(length=8), nullable=False),
        sa.Column("template", sa.String(length=16), nullable=False),
        sa.ForeignKeyConstraint(["instance_id"], ["instances.id"], name=op.f("fk_tpm_keys_instance_id")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_tpm_keys")),
    )
    op.create_index(op.f("ix_tpm_keys_instance_id"), "tpm_keys", ["instance_id"], unique=False)
    op.create_table(
        "tpms",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("instance_id", sa.Integer(), nullable=False),
        sa.Column("occupies", sa.Integer(), nullable=True),
        sa.Column("ek_set", sa.String(length=64), nullable=False),
        sa.Column("counter", sa.String(length=39), nullable=False),
        sa.Column("root", sa.String(length=160), nullable=False),
        sa.Column("salt", sa.String(length=512), nullable=False),
        sa.Column("report_id", sa.String(length=160), nullable=False),
        sa.Column("first_at", sa.String(length=20), nullable=False),
        sa.Column("last_at", sa.String(length=20), nullable=False),
        sa.Column("freed_at", sa.String(length=20), nullable=True),
        sa.ForeignKeyConstraint(["instance_id"], ["instances.id"], name=op.f("fk_tpms_instance_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tpms")),
        sa.UniqueConstraint("occupies", name=op.f("uq_tpms_occupies")),
    )
    op.create_index(op.f("ix_tpms_ek_set"), "tpms", ["ek_set"], unique=False)
    op.create_index(op.f("ix_tpms_instance_id"), "tpms", ["instance_id"], unique=False)
    op.create_table(
        "enrollments",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("nonce", sa.String(length=128), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("expires_at", sa.String(length=20), nullable=False),
        sa.Column("decision_id", sa.String(length=64), nullable=False),
        sa.Column("policy_version", sa.Integer(), nullable=False),
        sa.Column("evidence_digest", sa.String(length=64), nullable=False),
        sa.Column("reply", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(["decision_id"], ["decisions.id"], name=op.f("fk_enrollments_decision_id")),
        sa.ForeignKeyConstraint(
            ["evidence_digest"], ["evidence.digest"], name=op.f("fk_enrollments_evidence_digest")
        ),
        sa.ForeignKeyConstraint(["nonce"], ["submissions.nonce"], name=op.f("fk_enrollments_nonce")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_enrollments")),
        sa.UniqueConstraint("nonce", name=op.f("uq_enrollments_nonce")),
    )
    op.create_table(
        "intents",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("enrollment_id", sa.String(length=64), nullable=False),
        sa.Column("tpm_id", sa.Integer(), nullable=False),
        sa.Column("decision_id", sa.String(length=64), nullable=False),
        sa.Column("policy_version", sa.Integer(), nullable=False),
        sa.Column("evidence_digest", sa.String(length=64), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.String(length=20), nullable=False),
        sa.Column("closed_at", sa.String(length=20), nullable=True),
        sa.ForeignKeyConstraint(["decision_id"], ["decisions.id"], name=op.f("fk_intents_decision_id")),
        sa.ForeignKeyConstraint(["enrollment_id"], ["enrollments.id"], name=op.f("fk_intents_enrollment_id")),
        sa.ForeignKeyConstraint(["tpm_id"], ["tpms.id"], name=op.f("fk_intents_tpm_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_intents")),
    )
    op.create_index(op.f("ix_intents_enrollment_id"), "intents", ["enrollment_id"], unique=False)
    op.create_index(op.f("ix_intents_state"), "intents", ["state"], unique=False)
    op.create_table(
        "certificates",
        sa.Column("serial", sa.String(length=40), nullable=False),
        sa.Column("issuer", sa.String(length=40), nullable=False),
        sa.Column("profile", sa.String(length=16), nullable=False),
        sa.Column("template", sa.String(length=16), nullable=False),
        sa.Column("key_name", sa.String(length=160), nullable=False),
        sa.Column("live", sa.String(length=180), nullable=True),
        sa.Column("intent_id", sa.String(length=64), nullable=False),
        sa.Column("tpm_id", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("tbs", sa.LargeBinary(), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=True),
        sa.Column("der", sa.LargeBinary(), nullable=True),
        sa.Column("issued_at", sa.String(length=20), nullable=True),
        sa.ForeignKeyConstraint(["intent_id"], ["intents.id"], name=op.f("fk_certificates_intent_id")),
        sa.ForeignKeyConstraint(["tpm_id"], ["tpms.id"], name=op.f("fk_certificates_tpm_id")),
        sa.PrimaryKeyConstraint("serial", name=op.f("pk_certificates")),
        sa.UniqueConstraint("live", name=op.f("uq_certificates_live")),
    )
    op.create_index(op.f("ix_certificates_intent_id"), "certificates", ["intent_id"], unique=False)
    op.create_index(op.f("ix_certificates_issuer"), "certificates", ["issuer"], unique=False)
    op.create_index(op.f("ix_certificates_key_name"), "certificates", ["key_name"], unique=False)
    op.create_index(op.f("ix_certificates_tpm_id"), "certificates", ["tpm_id"], unique=False)


def downgrade() -> None:
    """Drop all tables, and with them everything that the CA knows."""
    op.drop_index(op.f("ix_certificates_tpm_id"), table_name="certificates")
    op.drop_index(op.f("ix_certificates_key_name"), table_name="certificates")
    op.drop_index(op.f("ix_certificates_issuer"), table_name="certificates")
    op.drop_index(op.f("ix_certificates_intent_id"), table_name="certificates")
    op.drop_table("certificates")
    op.drop_index(op.f("ix_intents_state"), table_name="intents")
    op.drop_index(op.f("ix_intents_enrollment_id"), table_name="intents")
    op.drop_table("intents")
    op.drop_table("enrollments")
    op.drop_index(op.f("ix_tpms_instance_id"), table_name="tpms")
    op.drop_index(op.f("ix_tpms_ek_set"), table_name="tpms")
    op.drop_table("tpms")
    op.drop_index(op.f("ix_tpm_keys_instance_id"), table_name="tpm_keys")
    op.drop_table("tpm_keys")
    op.drop_table("submissions")
    op.drop_table("revocations")
    op.drop_table("policies")
    op.drop_table("key_ids")
    op.drop_table("instances")
    op.drop_table("evidence")
    op.drop_index(op.f("ix_decisions_evidence_digest"), table_name="decisions")
    op.drop_index(op.f("ix_decisions_at"), table_name="decisions")
    op.drop_table("decisions")
    op.drop_table("crls")
    op.drop_table("alarms")
