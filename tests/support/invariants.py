"""What must hold after every disaster, read off the database, the CA's directory and what the clients received.

Plain SQL and no code of the CA: a mistake of its repositories must not hide here. `check` evaluates all `INVARIANTS`;
each is a function that yields one sentence per violation.
"""

import hashlib
import json
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import second_log
import sqlalchemy as sa
from cryptography import x509
from enrolment_load import read_record, unb64

ISSUED, SUPERSEDED, REVOKED, ABANDONED, INTENDED = "issued", "superseded", "revoked", "abandoned", "intended"
_SLOT = 64

_QUERIES = {
    "submissions": "nonce, body_digest, decision_id, status, reply",
    "enrollments": "id, nonce, state, reply",
    "decisions": "id, stage, admitted, evidence_digest",
    "evidence": "digest, body",
    "instances": "id, kbs_id, resource, salt",
    "tpms": "id, instance_id, occupies, freed_at",
    "intents": "id, enrollment_id, state",
    "certificates": "serial, issuer, profile, key_name, live, intent_id, tpm_id, state, tbs, slot, der,"
    " tbs_digest",
    "revocations": "issuer, serial",
    "crls": "issuer, shard, number, der",
    "tpm_keys": "name, instance_id",
    "log_leaves": "position, kind, subject, data, hashes",
    "log_head": "size, frontier, checkpoint",
}


class Row(dict):
    """A row whose members are attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def _plain(value: object) -> object:
    return bytes(value) if isinstance(value, memoryview) else value


@dataclass(frozen=True)
class Answered:
    """An answer that a client received to an enrolment or an activation."""

    step: str
    nonce: str
    request: str
    status: int
    digest: str


@dataclass
class Received:
    """All that clients received: certificates (DER), answers, nonces, and what the log said about itself."""

    certificates: set[bytes] = field(default_factory=set)
    answers: set[Answered] = field(default_factory=set)
    nonces: Counter = field(default_factory=Counter)
    logs: list[tuple[list[bytes], dict[str, list]]] = field(default_factory=list)
    """Of each answer with certificates: these, and the proofs and checkpoints that came along."""
    lines: int = 0

    @classmethod
    def read(cls, records: Iterable[Path]) -> "Received":
        """From the records of a load."""
        received = cls()
        for line in (line for path in records for line in read_record(path)):
            received.lines += 1
            certificates = [unb64(text) for text in line.get("certificates", ())]
            received.certificates.update(certificates)
            if certificates:
                received.logs.append((certificates, line["log"]))
            if line["step"] == "nonce":
                # A node that is away answers too, and hands out none.
                received.nonces.update([line["nonce"]] if "nonce" in line else [])
            elif line["status"] in (200, 201):
                words = (line["step"], line["nonce"], line["request"], line["status"], line["digest"])
                received.answers.add(Answered(*words))
        return received


@dataclass
class Evidence:
    """Everything that the invariants are judged by."""

    tables: dict[str, list[Row]] = field(repr=False)
    directory: Path
    received: Received = field(repr=False)
    published: Mapping[tuple[str, int], bytes] = field(repr=False)

    def __getattr__(self, name: str) -> list[Row]:
        try:
            return self.__dict__["tables"][name]
        except KeyError:
            raise AttributeError(name) from None

    @cached_property
    def by_serial(self) -> dict[int, Row]:
        return {int(row.serial, 16): row for row in self.certificates}

    @cached_property
    def parsed(self) -> dict[bytes, x509.Certificate]:
        """Every certificate that is stored or was received."""
        stored = {row.der for row in self.certificates if row.der is not None}
        return {der: x509.load_der_x509_certificate(der) for der in stored | self.received.certificates}

    @cached_property
    def revoked(self) -> dict[str, set[int]]:
        """Serials on the CRLs in force, by issuer, of lists that the issuer signed."""
        issuers = {}
        for path in (self.directory / "certs").glob("*.pem"):
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
            issuers[_skid(certificate)] = certificate
        latest: dict[tuple[str, int], Row] = {}
        for row in self.crls:
            key = row.issuer, row.shard
            if key not in latest or latest[key].number < row.number:
                latest[key] = row
        lists = {key: row.der for key, row in latest.items()} | dict(self.published)
        found: dict[str, set[int]] = {}
        for (skid, _), der in lists.items():
            crl = x509.load_der_x509_crl(der)
            assert crl.is_signature_valid(issuers[skid].public_key())
            found.setdefault(skid, set()).update(entry.serial_number for entry in crl)
        return found

    @cached_property
    def log_key(self) -> second_log.Verifier | None:
        """The log's verifier key; None for a CA without a log."""
        log = tomllib.loads((self.directory / "ca.toml").read_text()).get("log")
        return None if log is None else second_log.Verifier.of(log["origin"], unb64(log["public"]))

    @cached_property
    def tree(self) -> second_log.Tree:
        return second_log.Tree([row.data for row in sorted(self.log_leaves, key=lambda row: row.position)])


def _skid(certificate: x509.Certificate) -> str:
    return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex()


Invariant = Callable[[Evidence], Iterator[str]]
INVARIANTS: dict[str, Invariant] = {}


def _invariant(name: str) -> Callable[[Invariant], Invariant]:
    def add(function: Invariant) -> Invariant:
        INVARIANTS[name] = function
        return function

    return add


@_invariant("received.in-database")
def _received_in_database(e: Evidence) -> Iterator[str]:
    for der in e.received.certificates:
        serial = e.parsed[der].serial_number
        row = e.by_serial.get(serial)
        if row is None or row.der != der:
            yield f"certificate {serial:x} was received and is not in the database"
        elif row.state not in (ISSUED, SUPERSEDED, REVOKED):
            yield f"certificate {serial:x} was received and is {row.state} in the database"


@_invariant("received.in-log")
def _received_in_log(e: Evidence) -> Iterator[str]:
    if e.log_key is None:
        return
    leaves = {row.subject: row.data for row in e.log_leaves if row.kind == "certificate"}
    for der in e.received.certificates:
        row = e.by_serial.get(e.parsed[der].serial_number)
        data = None if row is None else leaves.get(row.serial)
        if data is None or hashlib.sha256(der).hexdigest().encode() not in data:
            yield f"certificate {e.parsed[der].serial_number:x} was received and is not in the log"


@_invariant("answers.stored")
def _answers_stored(e: Evidence) -> Iterator[str]:
    """What a client was told is what the CA would tell again, byte for byte."""
    submissions = {row.nonce: row for row in e.submissions}
    replies = {
        row.nonce: hashlib.sha256(row.reply).hexdigest() for row in e.enrollments if row.reply is not None
    }
    for answer in e.received.answers:
        row = submissions.get(answer.nonce)
        if row is None or row.body_digest != answer.request:
            yield f"an answer to nonce {answer.nonce[:16]} was received, and its request is not stored"
        elif answer.step == "enroll" and (
            (row.status, hashlib.sha256(row.reply).hexdigest()) != (answer.status, answer.digest)
        ):
            yield f"the answer to nonce {answer.nonce[:16]} is not the one that was received"
        elif answer.step == "activate" and replies.get(answer.nonce) != answer.digest:
            yield f"the certificates for nonce {answer.nonce[:16]} are not the ones that were received"


@_invariant("nonce.once")
def _nonce_once(e: Evidence) -> Iterator[str]:
    yield from (f"nonce {nonce[:16]} was handed out twice" for nonce in _twice(e.received.nonces))
    judged = Counter(row.evidence_digest for row in e.decisions if row.stage == "enroll")
    yield from (f"request {digest[:16]} was judged twice" for digest in _twice(judged))
    began = Counter(row.nonce for row in e.enrollments)
    yield from (f"nonce {nonce[:16]} began two enrolments" for nonce in _twice(began))
    used = Counter(nonce for row in e.evidence if (nonce := _nonce_in(row.body)) is not None)
    yield from (f"nonce {nonce[:16]} is in two stored requests" for nonce in _twice(used))
    accepted: dict[str, set[str]] = defaultdict(set)
    for answer in e.received.answers:
        accepted[answer.nonce].add(answer.request)
    yield from (
        f"nonce {nonce[:16]} was good for two requests" for nonce, all_ in accepted.items() if len(all_) > 1
    )


def _twice(counts: Mapping[str, int]) -> list[str]:
    return [name for name, count in counts.items() if count > 1]


def _nonce_in(body: bytes) -> str | None:
    evidence = json.loads(body)["evidence"]
    if "runtime_data" not in evidence:
        return None
    return json.loads(unb64(evidence["runtime_data"]))["nonce"]


@_invariant("certificate.one-live")
def _certificate_one_live(e: Evidence) -> Iterator[str]:
    launches = _launches(e)
    live = Counter(
        (row.profile, row.key_name, launches[row.tpm_id])
        for row in e.certificates
        if row.state in (ISSUED, INTENDED)
    )
    for (profile, name, _), count in live.items():
        if count > 1:
            yield f"{count} live certificates of profile {profile} for key {name[:16]}"
    for row in e.certificates:
        wanted = _mark(row, launches[row.tpm_id]) if row.state in (ISSUED, INTENDED) else None
        if row.live != wanted:
            yield f"certificate {row.serial} is {row.state}, and its column live is {row.live}"


def _launches(e: Evidence) -> dict[int, str]:
    """By TPM: the launch that it is ephemeral in, or nothing for one that comes back."""
    found = {}
    instances = {row.id: row for row in e.instances}
    for row in e.tpms:
        instance = instances.get(row.instance_id)
        ephemeral = instance is not None and instance.kbs_id == "ephemeral:"
        found[row.id] = instance.resource.split("/")[1] if ephemeral else ""
    return found


def _mark(row: Row, launch: str) -> str:
    if not launch:
        return f"{row.profile}:{row.key_name}"
    return f"ephemeral-{row.profile}:{hashlib.sha256(f'{launch}:{row.key_name}'.encode()).hexdigest()}"


@_invariant("tpm.one-live")
def _tpm_one_live(e: Evidence) -> Iterator[str]:
    live = Counter(row.instance_id for row in e.tpms if row.freed_at is None)
    yield from (f"{count} live TPMs in instance {number}" for number, count in live.items() if count > 1)
    for row in e.tpms:
        if row.occupies != (row.instance_id if row.freed_at is None else None):
            yield f"TPM {row.id} of instance {row.instance_id} occupies {row.occupies}"
    named = Counter((row.kbs_id, row.resource, row.salt) for row in e.instances)
    yield from (f"instance {name} is there twice" for name, count in named.items() if count > 1)


@_invariant("tpm.backed")
def _tpm_backed(e: Evidence) -> Iterator[str]:
    """A live TPM has certificates: an instance is not blocked by one that never got any."""
    served = {row.tpm_id for row in e.certificates if row.state in (ISSUED, SUPERSEDED, REVOKED)}
    for row in e.tpms:
        if row.freed_at is None and row.id not in served:
            yield f"TPM {row.id} lives in instance {row.instance_id} and has no certificate"


@_invariant("key.one-instance")
def _key_one_instance(e: Evidence) -> Iterator[str]:
    tpms = {row.id: row.instance_id for row in e.tpms}
    bound = {row.name: row.instance_id for row in e.tpm_keys}
    launches = _launches(e)
    for row in e.certificates:
        # An ephemeral TPM may come back elsewhere, so its keys are bound to nothing.
        if launches[row.tpm_id]:
            continue
        if bound.get(row.key_name) != tpms[row.tpm_id]:
            yield f"the key of certificate {row.serial} is bound to another instance"


@_invariant("intent.closed")
def _intent_closed(e: Evidence) -> Iterator[str]:
    yield from (f"intent {row.id} is open" for row in e.intents if row.state == "open")
    yield from (f"enrolment {row.id} is issuing" for row in e.enrollments if row.state == "issuing")
    states = {row.id: row.state for row in e.intents}
    for row in e.certificates:
        if (row.state == ABANDONED) != (states[row.intent_id] == ABANDONED) or row.state == INTENDED:
            yield f"certificate {row.serial} is {row.state}, its intent {states[row.intent_id]}"


@_invariant("serial.accounted")
def _serial_accounted(e: Evidence) -> Iterator[str]:
    """Every reserved serial is issued or on the published CRL, never both and never neither."""
    for row in e.certificates:
        listed = int(row.serial, 16) in e.revoked.get(row.issuer, ())
        if row.state in (ISSUED, SUPERSEDED):
            if row.der is None:
                yield f"certificate {row.serial} is {row.state} and has no bytes"
            if listed:
                yield f"certificate {row.serial} is {row.state} and on the CRL"
        elif not listed:
            yield f"certificate {row.serial} is {row.state} and not on the CRL"
    for row in e.revocations:
        if int(row.serial, 16) not in e.revoked.get(row.issuer, ()):
            yield f"{row.serial} is revoked and not on the CRL"


@_invariant("certificate.as-intended")
def _certificate_as_intended(e: Evidence) -> Iterator[str]:
    """What was signed is what was made durable before, but for the slot of the EK certificate's digest."""
    for row in e.certificates:
        if row.der is None:
            continue
        certificate = e.parsed[row.der]
        if certificate.serial_number != int(row.serial, 16):
            yield f"the bytes of certificate {row.serial} have serial number {certificate.serial_number:x}"
        signed = certificate.tbs_certificate_bytes
        if row.slot is not None:
            signed = signed[: row.slot] + b"0" * _SLOT + signed[row.slot + _SLOT :]
        if hashlib.sha256(signed).hexdigest() != row.tbs_digest:
            yield f"certificate {row.serial} is not what was intended"


@_invariant("enrolment.answered")
def _enrolment_answered(e: Evidence) -> Iterator[str]:
    stored = {row.der for row in e.certificates if row.state in (ISSUED, SUPERSEDED, REVOKED)}
    for row in e.enrollments:
        if (row.state == ISSUED) != (row.reply is not None):
            yield f"enrolment {row.id} is {row.state} and has {'no' if row.reply is None else 'a'} reply"
        elif row.reply is not None:
            reply = json.loads(row.reply)
            entries = [*reply["ek"], reply["iak"], reply["idevid"]]
            if not {unb64(entry["certificate"]) for entry in entries} <= stored:
                yield f"the reply of enrolment {row.id} has a certificate that is not stored"


@_invariant("log.tree")
def _log_tree(e: Evidence) -> Iterator[str]:
    """Leaves without a gap; hashes, frontier and checkpoint as a second implementation computes them."""
    if e.log_key is None:
        return
    positions = sorted(row.position for row in e.log_leaves)
    if positions != list(range(len(positions))):
        yield "the positions of the leaves are not 0, 1, 2, ..."
        return
    if not e.log_head:
        yield "the log has no head"
        return
    size = len(e.tree)
    for row in e.log_leaves:
        levels = [level for level in range(size.bit_length()) if (row.position + 1) % (1 << level) == 0]
        if row.hashes != b"".join(e.tree.node(level, row.position >> level) for level in levels):
            yield f"the hashes beside the leaf at {row.position} are wrong"
    (head,) = e.log_head
    if head.size != size:
        yield f"the head counts {head.size} leaves, there are {size}"
    frontier, at = b"", 0
    for level in reversed(range(size.bit_length())):
        if size >> level & 1:
            frontier += e.tree.node(level, at >> level)
            at += 1 << level
    if head.frontier != frontier:
        yield "the frontier is wrong"
    yield from _checkpoint_faults(e, head.checkpoint, size)


def _checkpoint_faults(e: Evidence, note: str, size: int | None = None) -> Iterator[str]:
    checkpoint = _opened(e, note)
    if isinstance(checkpoint, str):
        yield checkpoint
    elif checkpoint.size > len(e.tree) or (size is not None and checkpoint.size != size):
        yield f"a checkpoint is of size {checkpoint.size}, the log has {len(e.tree)}"
    elif e.tree.root(checkpoint.size) != checkpoint.root:
        yield f"the checkpoint of size {checkpoint.size} has another root than the log had then"


def _opened(e: Evidence, note: str) -> second_log.Checkpoint | str:
    assert e.log_key is not None
    try:
        return e.log_key.open(note)
    except (second_log.LogFault, ValueError) as error:
        return f"a checkpoint is not good: {error}"


@_invariant("log.proofs")
def _log_proofs(e: Evidence) -> Iterator[str]:
    """What clients were told about the log holds: each certificate came with a proof, and nothing was taken back."""
    if e.log_key is None:
        return
    for certificates, log in e.received.logs:
        leaves = [unb64(proof["leaf"]) for proof in log["proofs"]]
        for der in certificates:
            digest = hashlib.sha256(der).hexdigest().encode()
            if not any(digest in leaf for leaf in leaves):
                yield f"certificate {e.parsed[der].serial_number:x} came without a proof"
        for note in log["checkpoints"]:
            yield from _checkpoint_faults(e, note)
            checkpoint = _opened(e, note)
            if isinstance(checkpoint, second_log.Checkpoint):
                yield from _proof_faults(e, checkpoint, log["proofs"])


def _proof_faults(e: Evidence, checkpoint: second_log.Checkpoint, proofs: list[dict]) -> Iterator[str]:
    for proof in proofs:
        position, path = int(proof["position"]), [unb64(text) for text in proof["path"]]
        leaf = second_log.leaf_hash(unb64(proof["leaf"]))
        if position >= len(e.tree) or e.tree.leaf(position) != leaf:
            yield f"the leaf that a client was shown at position {position} is another one now"
            continue
        try:
            root = second_log.root_of_path(leaf, position, checkpoint.size, path)
        except second_log.LogFault as error:
            yield f"the proof for position {position} is none: {error}"
            continue
        if root != checkpoint.root:
            yield f"the proof for position {position} does not lead to the root of size {checkpoint.size}"


@_invariant("log.complete")
def _log_complete(e: Evidence) -> Iterator[str]:
    """Every decision and every certificate is in the log, once, and nothing else."""
    if e.log_key is None:
        return
    logged = Counter(
        (row.kind, row.subject) for row in e.log_leaves if row.kind in ("decision", "certificate")
    )
    wanted = {("decision", row.id) for row in e.decisions}
    wanted |= {
        ("certificate", row.serial)
        for row in e.certificates
        if row.state in (ISSUED, SUPERSEDED) or (row.state == REVOKED and row.der is not None)
    }
    for kind, subject in sorted(wanted - set(logged)):
        yield f"{kind} {subject} is not in the log"
    for kind, subject in sorted(set(logged) - wanted):
        yield f"the log has {kind} {subject}, the database has not"
    yield from (f"{kind} {subject} is in the log twice" for (kind, subject), n in logged.items() if n > 1)


@dataclass(frozen=True)
class Found:
    """What `check` found: sentences by invariant, and how much there was to look at."""

    violations: dict[str, list[str]]
    figures: dict[str, int]

    def __str__(self) -> str:
        lines = [f"{name}: {sentence}" for name, all_ in self.violations.items() for sentence in all_[:10]]
        return "\n".join(lines) or "all invariants hold"


def gather(
    url: str,
    directory: Path,
    records: Iterable[Path] = (),
    published: Mapping[tuple[str, int], bytes] | None = None,
) -> Evidence:
    """Read everything, from one view of the database."""
    engine = sa.create_engine(url)
    try:
        with engine.connect() as connection:
            if engine.dialect.name != "sqlite":
                connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
            tables = {
                name: [
                    Row({key: _plain(value) for key, value in row.items()})
                    for row in connection.execute(sa.text(f"SELECT {columns} FROM {name}")).mappings()  # noqa: S608 - our own names
                ]
                for name, columns in _QUERIES.items()
            }
    finally:
        engine.dispose()
    return Evidence(tables, directory, Received.read(records), published or {})


def judge(evidence: Evidence) -> Found:
    """Evaluate all invariants."""
    violations = {name: list(rule(evidence)) for name, rule in INVARIANTS.items()}
    states = Counter(f"certificates {row.state}" for row in evidence.certificates)
    states.update(f"intents {row.state}" for row in evidence.intents)
    states.update(f"enrolments {row.state}" for row in evidence.enrollments)
    figures = {
        **dict(sorted(states.items())),
        "nonces used": len(evidence.submissions),
        "log leaves": len(evidence.log_leaves),
        "certificates received": len(evidence.received.certificates),
        "answers received": len(evidence.received.answers),
    }
    return Found({name: found for name, found in violations.items() if found}, figures)


def check(
    url: str,
    directory: Path,
    records: Iterable[Path] = (),
    published: Mapping[tuple[str, int], bytes] | None = None,
) -> Found:
    """See whether all invariants hold.

    Args:
        url: of the database, as SQLAlchemy writes it.
        directory: the CA's directory.
        records: what clients received, as `enrolment_load.Record` writes it.
        published: CRLs in DER as the CA serves them, by subject key id and shard; else those of the database are taken.
    """
    return judge(gather(url, directory, records, published))


def assert_hold(*arguments: Any, **options: Any) -> Found:
    """`check`, and an assertion that names all violations."""
    found = check(*arguments, **options)
    assert not found.violations, str(found)
    return found


__all__ = ["INVARIANTS", "Evidence", "Found", "Received", "assert_hold", "check", "gather", "judge"]
