"""A log with decisions and certificates behind it, made row by row: quick, and every value is known."""

import hashlib
import json
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from ca_service.audit import Issuers, Leaf, Log, Receipt, certificate_leaf, decision_leaf
from ca_service.policy import load
from ca_service.store import (
    CertificateRow,
    CertificateState,
    CrlRow,
    DecisionRow,
    EnrollmentRow,
    EnrollmentState,
    IntentRow,
    IntentState,
    Store,
    SubmissionRow,
    TpmState,
    live_key,
)

AT = datetime(2026, 11, 26, 12, 0, 0, tzinfo=UTC)
ORIGIN = "test-ca/log"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
POLICY = "schema = 1\n"
ISSUER = "ab" * 20
ISSUER_KEY = ec.derive_private_key(0x1234567, ec.SECP256R1())
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuing CA")])
END = AT + timedelta(days=365)


def sign_certificate(serial: int, name: x509.Name = NAME, end: datetime = END) -> x509.Certificate:
    """A certificate of the issuing CA; its key is the issuer's own, which nobody asks."""
    builder = x509.CertificateBuilder(NAME, name, ISSUER_KEY.public_key(), serial, AT, end)
    identifier = x509.AuthorityKeyIdentifier(bytes.fromhex(ISSUER), None, None)
    return builder.add_extension(identifier, critical=False).sign(ISSUER_KEY, hashes.SHA256())


ISSUING = sign_certificate(1)
ISSUERS = Issuers(ISSUING, {ISSUER: ISSUING})


def crl(number: int, serials, *, key=ISSUER_KEY, at: datetime = AT) -> CrlRow:
    """A revocation list of the issuing CA, or one that somebody else has signed."""
    builder = x509.CertificateRevocationListBuilder(NAME, at, at + timedelta(days=7))
    for serial in serials:
        entry = x509.RevokedCertificateBuilder(int(serial, 16), at).build()
        builder = builder.add_revoked_certificate(entry)
    signed = builder.add_extension(x509.CRLNumber(number), critical=False).sign(key, hashes.SHA256())
    return CrlRow(ISSUER, number, at, at + timedelta(days=7), signed.public_bytes(Encoding.DER))


def decision(number: int, *, admitted: bool = True) -> DecisionRow:
    body = b"evidence %d" % number
    trace = [
        {
            "rule": "snp.vmpl",
            "verdict": "passed" if admitted else "failed",
            "reason": "\N{GREEK SMALL LETTER ALPHA}",
        }
    ]
    return DecisionRow(
        id=f"{number:032x}",
        at=AT + timedelta(seconds=number),
        stage="enroll",
        admitted=int(admitted),
        rule="" if admitted else "snp.vmpl",
        trace=json.dumps(trace, ensure_ascii=False),
        policy_version=1,
        policy_digest=load(POLICY).digest,
        evidence_digest=hashlib.sha256(body).hexdigest(),
        kbs_id="org",
        resource=f"default/vtpm/{number}",
    )


@dataclass
class Stage:
    """A database and its log."""

    store: Store
    log: Log

    def policy(self) -> None:
        with self.store.write() as tx:
            tx.policies.append(load(POLICY).digest, POLICY, AT, "tests")

    def decide(self, number: int, *, admitted: bool = True, logged: bool = True) -> DecisionRow:
        """One decision with its evidence and its leaf, in one transaction."""
        row = decision(number, admitted=admitted)
        with self.store.write() as tx:
            tx.decisions.keep_evidence(row.evidence_digest, b"evidence %d" % number, row.at)
            tx.decisions.add(row)
            if logged:
                self.log.append(tx, [decision_leaf(row)], row.at)
        return row

    def issue(self, number: int, count: int = 3, *, logged: bool = True) -> list[CertificateRow]:
        """A decision, and `count` certificates that rest on it, each group in one transaction."""
        row = self.decide(number, logged=logged)
        at = row.at + timedelta(seconds=1)
        digest = row.evidence_digest
        with self.store.write() as tx:
            tx.submissions.add(SubmissionRow(f"n{number}", digest, at, row.id, 201, b"{}"))
            enrollment = EnrollmentRow(
                row.id, f"n{number}", EnrollmentState.ISSUED, at, row.id, 1, digest, None
            )
            tx.enrollments.add(enrollment)
            instance = tx.ledger.add_instance("org", row.resource, "", at)
            tpm = tx.ledger.add_tpm(instance, f"ek-set-{number}", TpmState(1, "00", "01", "02", at))
            intent = IntentRow(row.id, row.id, tpm, row.id, 1, digest, "me", IntentState.ISSUED, at, at)
            tx.intents.add(intent)
            rows = [self._certificate(number, i, intent, at) for i in range(count)]
            tx.certificates.add_all(rows)
            if logged:
                self.log.append(tx, [leaf_of(certificate, row.id) for certificate in rows], at)
        return rows

    @staticmethod
    def _certificate(number: int, index: int, intent: IntentRow, at: datetime) -> CertificateRow:
        serial = f"{number:030x}{index:04x}"
        certificate = sign_certificate(int(serial, 16))
        profile, key_name = ("ek", "iak", "idevid")[index % 3], f"000b{number:060x}{index:04x}"
        return CertificateRow(
            serial=serial,
            issuer=ISSUER,
            profile=profile,
            template="H-3",
            key_name=key_name,
            live=live_key(profile, key_name),
            intent_id=intent.id,
            tpm_id=intent.tpm_id,
            state=CertificateState.ISSUED,
            tbs=b"",
            slot=None,
            der=certificate.public_bytes(Encoding.DER),
            issued_at=at,
            not_after=certificate.not_valid_after_utc,
            tbs_digest=hashlib.sha256(certificate.tbs_certificate_bytes).hexdigest(),
        )

    def edit(self, statement: str, **values: object) -> None:
        """What an attacker with an SQL shell does: no foreign keys, no code of ours."""
        connection = sqlite3.connect(self.store.url.removeprefix("sqlite:///"))
        connection.execute(statement, values)
        connection.commit()
        connection.close()

    def append(self, *leaves: Leaf) -> Receipt:
        with self.store.write() as tx:
            return self.log.append(tx, leaves, AT)


def leaf_of(row: CertificateRow, decision_id: str) -> Leaf:
    return certificate_leaf(
        serial=row.serial,
        issuer=row.issuer,
        profile=row.profile,
        key_name=row.key_name,
        der=row.der,
        decision_id=decision_id,
        at=row.issued_at,
    )
