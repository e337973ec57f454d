"""The tables of the CA, as SQLAlchemy Core describes them.

What must never happen is forbidden here and not only in code: a nonce used twice, two live certificates for
one (profile, key), two live TPMs in one instance, one key or one secret in two instances. Where a rule holds
only for *live* rows, a nullable column with a unique constraint carries it: SQLite and PostgreSQL both let
NULL stand many times.

All binary identities (Names, digests, serial numbers) are lower-case hexadecimal text, so that an operator
with a plain SQL shell can read and compare them.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache

from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    literal_column,
)
from sqlalchemy.sql.elements import ColumnElement

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
"""One name per constraint, so that every database calls it the same and a migration can find it."""


@lru_cache(maxsize=256)
def _text(at: datetime | None) -> str | None:
    """A time in UTC; those that are equal have one text, and a transaction writes the same one many times."""
    if at is None:
        return None
    if at.tzinfo is None:
        raise ValueError("a point in time needs its time zone")
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


@lru_cache(maxsize=256)
def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


class Instant(TypeDecorator[datetime]):
    """A point in time, whole seconds, UTC, stored as RFC 3339 text: it sorts right everywhere.

    What converts is handed on as it is, since most of its time would go into the calls around it.
    """

    impl = String(20)
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Callable[[datetime | None], str | None]:  # noqa: ARG002 - SQLAlchemy's signature
        """Writes an aware datetime."""
        return _text

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[str | None], datetime | None]:  # noqa: ARG002 - SQLAlchemy's signature
        """Reads it back as an aware datetime."""
        return _time


class Counter(TypeDecorator[int]):
    """A counter below 2**128 as 39 decimal digits, since no integer column would hold it; `precedes` compares."""

    impl = String(39)
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Write a counter."""
        if value is None:
            return None
        if not 0 <= value < 1 << 128:
            raise ValueError("a counter is below 2**128 and not negative")
        return f"{value:039}"

    def process_result_value(self, value: str | None, dialect: Dialect) -> int | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Read it back."""
        return None if value is None else int(value)


def literally(value: str) -> ColumnElement[str]:
    """One of this program's own words as SQL has it.

    An index over some of the rows serves those statements only that say in the same words which rows they want: a
    value that is bound says nothing when the statement is planned.
    """
    return literal_column(f"'{value}'", String)


metadata = MetaData(naming_convention=NAMING)

WHERE = "where"
"""In the `info` of an index: of which rows it is. The migration makes it so; as an option of the index it would load
PostgreSQL's dialect at each start."""

_ID = String(64)
_HEX = String(160)
_TEXT = String(256)
_SALT = String(512)

policies = Table(
    "policies",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("digest", String(64), nullable=False),
    Column("text", Text, nullable=False),
    Column("applied_at", Instant, nullable=False),
    Column("applied_by", _TEXT, nullable=False),
    # The version that this one was to follow, 0 for none; not in force any more, it may not be approved either.
    Column("base", Integer, nullable=False, server_default="0"),
    # From when on it was to be in force; NULL: at once.
    Column("requested_from", Instant, nullable=True),
)

policy_starts = Table(
    "policy_starts",
    metadata,
    # From when on a version is in force. None for one that waits for approval, or was ended before its time. Beside
    # the versions, since every decision looks here and the texts are long.
    Column("version", Integer, ForeignKey("policies.version"), primary_key=True, autoincrement=False),
    Column("in_force_from", Instant, nullable=False),
    Column("released_at", Instant, nullable=False),
)

policy_verdicts = Table(
    "policy_verdicts",
    metadata,
    # What operators said about a version, each thing once: "approve", "withdraw", "drop".
    Column("version", Integer, ForeignKey("policies.version"), primary_key=True, autoincrement=False),
    Column("verdict", String(16), primary_key=True),
    Column("by", _TEXT, nullable=False),
    Column("at", Instant, nullable=False),
)

decisions = Table(
    "decisions",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("at", Instant, nullable=False),
    Column("stage", String(16), nullable=False),
    Column("admitted", Integer, nullable=False),
    Column("rule", String(64), nullable=False),
    Column("trace", Text, nullable=False),
    Column("policy_version", Integer, nullable=False, index=True),
    Column("policy_digest", String(64), nullable=False),
    Column("evidence_digest", String(64), nullable=False, index=True),
    Column("kbs_id", _TEXT, nullable=False),
    Column("resource", _TEXT, nullable=False),
    # Of the instance, as in `instances`.
    Column("salt", _SALT, nullable=False, server_default=""),
    Index(None, "kbs_id", "resource", "salt", "at"),
    # Both verdicts are counted by time without a look at any row.
    Index(None, "at", "admitted", "stage"),
)
REFUSED = decisions.c.admitted == literal_column("0")
"""Whether a decision is a refusal. So it must be asked for where the index of refusals is to serve."""
# Refusals by time without a look at each admission.
Index("ix_decisions_refused", decisions.c.at, info={WHERE: REFUSED})

evidence = Table(
    "evidence",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("body", LargeBinary, nullable=False),
    Column("received_at", Instant, nullable=False),
    # What certificates are revoked by. NULL: the evidence does not say, or it could not be read when this came.
    Column("measurement", String(96), nullable=True, index=True),
    Column("chip_id", String(128), nullable=True, index=True),
    Column("kbs_key", String(43), nullable=True, index=True),
    Column("product", String(16), nullable=True),
    Column("reported_tcb", String(16), nullable=True),
    Column("ek_set", String(64), nullable=True),
    Index(None, "product", "reported_tcb"),
)

collateral = Table(
    "collateral",
    metadata,
    # What of the operator's bundle decisions rest on, under the name that it has there: kind and SHA-256.
    Column("name", String(80), primary_key=True),
    Column("body", LargeBinary, nullable=False),
)

submissions = Table(
    "submissions",
    metadata,
    Column("nonce", String(128), primary_key=True),
    Column("body_digest", String(64), nullable=False),
    Column("consumed_at", Instant, nullable=False),
    Column("decision_id", _ID, ForeignKey("decisions.id"), nullable=False),
    Column("status", Integer, nullable=False),
    Column("reply", LargeBinary, nullable=False),
)

enrollments = Table(
    "enrollments",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("nonce", String(128), ForeignKey("submissions.nonce"), nullable=False, unique=True),
    Column("state", String(16), nullable=False),
    Column("expires_at", Instant, nullable=False),
    Column("decision_id", _ID, ForeignKey("decisions.id"), nullable=False),
    Column("policy_version", Integer, nullable=False),
    Column("evidence_digest", String(64), ForeignKey("evidence.digest"), nullable=False),
    Column("reply", LargeBinary, nullable=True),
)

instances = Table(
    "instances",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kbs_id", _TEXT, nullable=False),
    Column("resource", _TEXT, nullable=False),
    Column("salt", _SALT, nullable=False),
    Column("created_at", Instant, nullable=False),
    UniqueConstraint("kbs_id", "resource", "salt"),
)

tpms = Table(
    "tpms",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("instance_id", Integer, ForeignKey("instances.id"), nullable=False, index=True),
    # The instance's id while this is its live TPM, NULL afterwards: one live TPM per instance.
    Column("occupies", Integer, nullable=True, unique=True),
    Column("ek_set", String(64), nullable=False),
    Column("counter", Counter, nullable=False),
    Column("root", _HEX, nullable=False),
    Column("salt", _SALT, nullable=False),
    Column("report_id", _HEX, nullable=False),
    Column("first_at", Instant, nullable=False),
    Column("last_at", Instant, nullable=False),
    Column("freed_at", Instant, nullable=True),
)

tpm_keys = Table(
    "tpm_keys",
    metadata,
    # A Name belongs to one instance for good, whatever happens to its certificates.
    Column("name", _HEX, primary_key=True),
    Column("instance_id", Integer, ForeignKey("instances.id"), nullable=False, index=True),
    Column("role", String(8), nullable=False),
    Column("template", String(16), nullable=False),
)

key_ids = Table(
    "key_ids",
    metadata,
    # A persistence key belongs to one resource of one KBS for good.
    Column("key_id", String(64), primary_key=True),
    Column("kbs_id", _TEXT, nullable=False),
    Column("resource", _TEXT, nullable=False),
)

intents = Table(
    "intents",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("enrollment_id", _ID, ForeignKey("enrollments.id"), nullable=False),
    Column("tpm_id", Integer, ForeignKey("tpms.id"), nullable=False),
    Column("decision_id", _ID, ForeignKey("decisions.id"), nullable=False),
    Column("policy_version", Integer, nullable=False),
    Column("evidence_digest", String(64), nullable=False),
    Column("owner", _ID, nullable=False),
    Column("state", String(16), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("closed_at", Instant, nullable=True),
)
Index("ix_intents_open", intents.c.enrollment_id, info={WHERE: intents.c.state == literally("open")})

certificates = Table(
    "certificates",
    metadata,
    Column("serial", String(40), primary_key=True),
    Column("issuer", String(40), nullable=False),
    Column("profile", String(16), nullable=False),
    Column("template", String(16), nullable=False),
    Column("key_name", _HEX, nullable=False),
    # "profile:Name" from the intent on, NULL once revoked or abandoned: one live one per (profile, key).
    Column("live", String(180), nullable=True, unique=True),
    Column("intent_id", _ID, ForeignKey("intents.id"), nullable=False),
    Column("tpm_id", Integer, ForeignKey("tpms.id"), nullable=False, index=True),
    Column("state", String(16), nullable=False),
    # What is to be signed; empty once `der` is there, which has it in it. Releases up to 0.6 kept it.
    Column("tbs", LargeBinary, nullable=False),
    Column("slot", Integer, nullable=True),
    Column("der", LargeBinary, nullable=True),
    Column("issued_at", Instant, nullable=True),
    Column("not_after", Instant, nullable=True),
    # Serial of the certificate in whose place this one came: it stops being live when this one is intended.
    Column("replaces", String(40), nullable=True),
    # Which of its issuer's revocation lists its CRL distribution point names. Earlier releases knew number 0 only.
    Column("shard", Integer, nullable=False, server_default="0"),
    # SHA-256 over what was to be signed, as the intent had it. Releases up to 0.6 have none.
    Column("tbs_digest", String(64), nullable=True),
)
# What rests on an issuer is counted when it is to be retired. What is only intended rests on nothing yet.
SETTLED = certificates.c.state != literally("intended")
"""Whether a certificate was issued or given up. It must be asked for wherever its index is to serve."""
Index(
    "ix_certificates_settled",
    certificates.c.issuer,
    certificates.c.state,
    certificates.c.not_after,
    info={WHERE: SETTLED},
)

responders = Table(
    "responders",
    metadata,
    # Certificates of the CA's own OCSP responders. Their keys are derived and stored nowhere.
    Column("serial", String(40), primary_key=True),
    Column("issuer", String(40), nullable=False),
    Column("state", String(16), nullable=False),
    Column("tbs", LargeBinary, nullable=False),
    Column("der", LargeBinary, nullable=True),
    Column("created_at", Instant, nullable=False),
    Column("issued_at", Instant, nullable=True),
    Column("not_after", Instant, nullable=False),
    Column("shard", Integer, nullable=False, server_default="0"),
    Index(None, "issuer", "state", "not_after"),
)

revocations = Table(
    "revocations",
    metadata,
    Column("issuer", String(40), primary_key=True),
    Column("serial", String(40), primary_key=True),
    Column("at", Instant, nullable=False),
    Column("reason", String(32), nullable=False),
    Column("cause", _TEXT, nullable=False),
    # The list on which it stands: that of the certificate's distribution point.
    Column("shard", Integer, nullable=False, server_default="0"),
    Index(None, "issuer", "shard"),
)

crls = Table(
    "crls",
    metadata,
    Column("issuer", String(40), nullable=False),
    Column("number", Integer, autoincrement=False, nullable=False),
    Column("this_update", Instant, nullable=False),
    Column("next_update", Instant, nullable=False),
    Column("der", LargeBinary, nullable=False),
    # Each shard is a list of its own, with numbers of its own.
    Column("shard", Integer, autoincrement=False, nullable=False, server_default="0"),
    PrimaryKeyConstraint("issuer", "shard", "number"),
)

alarms = Table(
    "alarms",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Instant, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("decision_id", _ID, nullable=False),
    Column("detail", Text, nullable=False),
)

issuers = Table(
    "issuers",
    metadata,
    # Subject key id of the issuing CA. Its certificate and key lie in the CA's directory.
    Column("skid", String(40), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("pair", String(24), nullable=False),
    Column("state", String(16), nullable=False),
    # "role:pair" while it is the one that signs, else NULL: one active issuer per role and pair.
    Column("active", String(48), nullable=True, unique=True),
    Column("certificate", LargeBinary, nullable=False),
    Column("added_at", Instant, nullable=False),
    Column("changed_at", Instant, nullable=False),
)

epochs = Table(
    "epochs",
    metadata,
    # Counts the restores of this CA's database; the nonce key of an epoch is made with its salt.
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("salt", String(64), nullable=False),
    Column("begun_at", Instant, nullable=False),
    Column("cause", _TEXT, nullable=False),
)

blocked_keys = Table(
    "blocked_keys",
    metadata,
    # SHA-256 over the DER SubjectPublicKeyInfo of a key that gets no certificate.
    Column("spki", String(64), primary_key=True),
    Column("at", Instant, nullable=False),
    Column("by", _TEXT, nullable=False),
    Column("cause", _TEXT, nullable=False),
)

log_leaves = Table(
    "log_leaves",
    metadata,
    # SQLite finds rows by an INTEGER key without an index, and only by one of that name; its integers have 64 bits.
    Column("position", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("kind", String(16), nullable=False),
    Column("subject", _ID, nullable=False),
    Column("data", LargeBinary, nullable=False),
    # Hashes of the subtrees that this leaf completes, one after the other: its own first, the largest one last.
    Column("hashes", LargeBinary, nullable=False),
    UniqueConstraint("kind", "subject"),
)

log_head = Table(
    "log_head",
    metadata,
    # One row, number 1: it serialises the appends.
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("size", BigInteger, nullable=False),
    # Roots of the complete subtrees that make up the tree, largest first, one after the other.
    Column("frontier", LargeBinary, nullable=False),
    # The signed note of this size; empty while none was signed.
    Column("checkpoint", Text, nullable=False),
    Column("at", Instant, nullable=False),
)

policy_evidence = Table(
    "policy_evidence",
    metadata,
    # Recorded evidence that tests of policy documents name, under the SHA-256 of the file.
    Column("digest", String(64), primary_key=True),
    Column("body", LargeBinary, nullable=False),
    Column("kept_at", Instant, nullable=False),
)

policy_files = Table(
    "policy_files",
    metadata,
    # What the document with the digest `policy` means by a path, where it does not say so by itself.
    Column("policy", String(64), primary_key=True),
    Column("path", _TEXT, primary_key=True),
    Column("evidence", String(64), ForeignKey("policy_evidence.digest"), nullable=False),
)
