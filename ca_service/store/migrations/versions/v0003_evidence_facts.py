"""What certificates are revoked by, beside the evidence that it stands in."""

import base64
import hashlib
import json
from collections.abc import Mapping

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


# The tables as this migration finds them: the program's own description of them may change later.
_EVIDENCE = sa.table(
    "evidence",
    sa.column("digest", sa.String),
    sa.column("body", sa.LargeBinary),
    *(
        sa.column(name, sa.String)
        for name in ("measurement", "chip_id", "kbs_key", "product", "reported_tcb", "ek_set")
    ),
)
_DECISIONS = sa.table(
    "decisions",
    sa.column("evidence_digest", sa.String),
    sa.column("admitted", sa.Integer),
    sa.column("trace", sa.Text),
)
_FACTS = ("measurement", "chip_id", "kbs_key", "product", "reported_tcb", "ek_set")

_BATCH = 500
"""How many requests are in memory at once, some 8 KiB each."""

_REPORT_SIZE = 1184
_CPUID_SINCE = 3
_MODELS = (
    ("Milan", 0x19, range(0x10)),
    ("Genoa", 0x19, range(0x10, 0x20)),
    ("Genoa", 0x19, range(0xA0, 0xB0)),
    ("Turin", 0x1A, range(0x12)),
)
"""Product, CPUID family and models."""

_HASHES = {0x0004: "sha1", 0x000B: "sha256", 0x000C: "sha384", 0x000D: "sha512"}
"""TPM_ALG_ID of the hash that makes a key's Name."""

_SERVICES_PROFILE = "amd-svsm-services"
"""The evidence profile whose manifest has a table of services; the other one's is the bare EK."""

_KBS_SERVICE = bytes.fromhex("af878d6f7f5e404f9585bfc809809566")
"""GUID of the service that carries the key broker's key, as it stands in AMD's services manifest."""

_HEAD, _ENTRY = 24, 24
"""Bytes before the entries of a services manifest, and of an entry."""


def upgrade() -> None:
    """Make the columns and indexes, and fill them from the stored requests."""
    for name, length in zip(_FACTS, (96, 128, 43, 16, 16, 64), strict=True):
        op.add_column("evidence", sa.Column(name, sa.String(length=length), nullable=True))
    _fill(op.get_bind())
    for columns in (["measurement"], ["chip_id"], ["kbs_key"], ["product", "reported_tcb"]):
        op.create_index(op.f("ix_evidence_" + "_".join(columns)), "evidence", columns, unique=False)
    op.create_index(op.f("ix_decisions_policy_version"), "decisions", ["policy_version"], unique=False)


def _fill(connection: sa.Connection) -> None:
    """Read every stored request, in the order of the primary key."""
    table = _EVIDENCE.c
    page = sa.select(table.digest, table.body).order_by(table.digest).limit(_BATCH)
    write = (
        _EVIDENCE.update()
        .where(table.digest == sa.bindparam("of_digest"))
        .values({name: sa.bindparam("the_" + name) for name in _FACTS})
    )
    last = ""
    while rows := connection.execute(page.where(table.digest > last)).all():
        last = rows[-1].digest
        changes = []
        for row in rows:
            facts = _facts(row.body)
            if facts and facts["product"] is None:
                facts["product"] = _judged_product(connection, row.digest)
            if facts:
                changes.append(
                    {"of_digest": row.digest, **{"the_" + name: value for name, value in facts.items()}}
                )
        if changes:
            connection.execute(write, changes)
    _fill_from_intents(connection)


def _fill_from_intents(connection: sa.Connection) -> None:
    """Whose evidence it is, the intent says too, for what cannot be read."""
    unread = connection.execute(
        sa.text(
            "SELECT DISTINCT e.digest, t.ek_set FROM intents i JOIN tpms t ON t.id = i.tpm_id"
            " JOIN evidence e ON e.digest = i.evidence_digest WHERE e.ek_set IS NULL"
        )
    ).all()
    if unread:
        table = _EVIDENCE.c
        write = _EVIDENCE.update().where(table.digest == sa.bindparam("of_digest"))
        connection.execute(
            write.values(ek_set=sa.bindparam("the_ek_set")),
            [{"of_digest": row.digest, "the_ek_set": row.ek_set} for row in unread],
        )


def _facts(body: object) -> dict[str, str | None] | None:
    """What a request's evidence says; None if it cannot be read.

    A single one that is damaged must not keep the CA from starting: the audit names it, and whoever revokes by a cause
    is told how many say nothing.
    """
    try:
        evidence = json.loads(bytes(body))["evidence"]  # type: ignore[call-overload] # else it is damaged
        report = _unb64(evidence["report"])
        claims = evidence if "manifest" in evidence else json.loads(_unb64(evidence["runtime_data"]))
        keys = [_name(_unb64(key["pub"])) for key in claims["tpm"]["ek"]]
        broker = _broker(claims)
        if len(report) != _REPORT_SIZE or not keys:
            return None
        chip = report[0x1A0:0x1E0]
        return {
            "measurement": report[0x090:0x0C0].hex(),
            "chip_id": chip.hex() if any(chip) else None,
            "kbs_key": None if broker is None else _thumbprint(broker),
            "product": _stated_product(report),
            "reported_tcb": report[0x180:0x188].hex(),
            "ek_set": hashlib.sha256("\n".join(sorted(keys)).encode("ascii")).hexdigest(),
        }
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return None


def _unb64(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _name(public: bytes) -> str:
    """The Name of a TPM key in hex: its nameAlg, and the hash over its TPMT_PUBLIC."""
    algorithm = public[2:4]
    return (algorithm + hashlib.new(_HASHES[int.from_bytes(algorithm, "big")], public).digest()).hex()


def _broker(claims: Mapping[str, object]) -> Mapping[str, str] | None:
    """The key broker's JWK: in the runtime data, or in a service of AMD's manifest; None if there is none."""
    statement = claims.get("kbs")
    if "manifest" in claims:
        manifest = _unb64(str(claims["manifest"]))
        data = _service(manifest, _KBS_SERVICE) if claims["profile"] == _SERVICES_PROFILE else None
        statement = None if data is None else json.loads(data)
    return None if statement is None else statement["jwk"]  # type: ignore[index] # else it is damaged


def _service(manifest: bytes, guid: bytes) -> bytes | None:
    """The data of one service in a services manifest; None if it is not there."""
    for place in range(_HEAD, _HEAD + _ENTRY * int.from_bytes(manifest[20:24], "little"), _ENTRY):
        entry = manifest[place : place + _ENTRY]
        if len(entry) < _ENTRY:
            return None
        if entry[:16] == guid:
            start, size = (int.from_bytes(entry[i : i + 4], "little") for i in (16, 20))
            return manifest[start : start + size]
    return None


def _thumbprint(jwk: Mapping[str, str]) -> str:
    """SHA-256 over the required members, base64url (RFC 7638)."""
    members = {name: jwk[name] for name in ("crv", "kty", "x", "y")}
    digest = hashlib.sha256(json.dumps(members, separators=(",", ":")).encode("ascii")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def _stated_product(report: bytes) -> str | None:
    """The product by the report's CPUID, which there is since version 3."""
    if int.from_bytes(report[:4], "little") < _CPUID_SINCE:
        return None
    family, model = report[0x188], report[0x189]
    return next(
        (name for name, of_family, models in _MODELS if (of_family, model in models) == (family, True)), None
    )


def _judged_product(connection: sa.Connection, digest: str) -> str | None:
    """The product that the judge found when the evidence was accepted."""
    query = sa.select(_DECISIONS.c.trace).where(
        _DECISIONS.c.evidence_digest == digest, _DECISIONS.c.admitted == 1
    )
    for trace in connection.execute(query).scalars():
        try:
            found = [finding["actual"] for finding in json.loads(trace) if finding["rule"] == "snp.product"]
        except (ValueError, KeyError, TypeError):
            continue
        if found and isinstance(found[0], str) and found[0]:
            return found[0][:16]
    return None
