"""From an admitted claim to signed certificates, in the order that a CA promises.

`plan` drafts and lints everything that is wanting, without touching the database. `record` makes the intent
durable before any signature. `sign` signs the EK's certificate first, because the others carry its digest.
Only when the caller has stored what `sign` returns may a byte of it leave the process.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from ca_service.enrollment.ledger import KeyClaim, LedgerFacts
from ca_service.enrollment.submission import Submission
from ca_service.evidence.profiles import ISSUED_PROFILES
from ca_service.judgment import VtpmCaError
from ca_service.keys import Authority, IssuingCa, sign_certificate
from ca_service.profiles import (
    Draft,
    Entropy,
    LintPassed,
    Provenance,
    draft_devid,
    draft_ek,
    fill_slot,
    lint,
    serial_hex,
)
from ca_service.store import CertificateRow, CertificateState, Faults, IntentRow, IntentState, Transaction
from vtpm.wire.encoding import canonical
from vtpm.wire.enrollment import CertificateEntry, CertificatesReply
from vtpm.wire.templates import Role


@dataclass(frozen=True)
class Piece:
    """One certificate that is to be made: for which key, by whom, the draft, and the proof of its lint."""

    key: KeyClaim
    issuer: IssuingCa
    draft: Draft
    token: LintPassed = field(repr=False)

    @property
    def serial(self) -> str:
        """The reserved serial number, hex."""
        return serial_hex(self.draft.serial)


@dataclass(frozen=True)
class Plan:
    """What an issuance will do.

    Attributes:
        stored: live certificates that are kept as they are, by `KeyClaim.live`.
        pieces: certificates to be made, EKs first.
        naming_ek: `KeyClaim.live` of the EK that IAK and IDevID name.
    """

    stored: Mapping[str, CertificateRow]
    pieces: tuple[Piece, ...]
    naming_ek: str


@dataclass(frozen=True)
class _Draughtsman:
    """What all drafts of one issuance share."""

    submission: Submission
    authority: Authority
    facts: LedgerFacts
    provenance: Provenance
    at: datetime
    entropy: Entropy

    def ek(self, key: KeyClaim) -> Piece:
        tpm, issuer = self.submission.claims.tpm, self.authority.issuer("ek")
        draft = draft_ek(
            public=key.public,
            manufacturer=tpm.manufacturer,
            vendor=tpm.vendor,
            firmware=tpm.firmware,
            spec=tpm.spec,
            serial=self.authority.new_serial(self.entropy),
            validity=self.authority.device_validity(self.at, issuer),
            issuer=issuer.info,
            provenance=self.provenance,
        )
        return Piece(key, issuer, draft, lint(draft, issuer.info))

    def devid(self, key: KeyClaim, naming: "Piece | CertificateRow") -> Piece:
        issuer = self.authority.issuer("devid")
        if isinstance(naming, Piece):
            serial, aki, digest = naming.draft.serial, naming.issuer.info.key_id, None
        else:
            serial, aki, digest = int(naming.serial, 16), bytes.fromhex(naming.issuer), _digest(naming)
        draft = draft_devid(
            Role(key.role),
            public=key.public,
            ek_name=bytes.fromhex(self.facts.claim.keys[0].name),
            manufacturer=self.submission.claims.tpm.manufacturer,
            ek_serial=serial,
            ek_aki=aki,
            ek_digest=digest,
            serial=self.authority.new_serial(self.entropy),
            validity=self.authority.device_validity(self.at, issuer),
            issuer=issuer.info,
            provenance=self.provenance,
        )
        return Piece(key, issuer, draft, lint(draft, issuer.info))


def _digest(row: CertificateRow) -> str:
    if row.der is None:
        raise VtpmCaError("a live EK certificate is not stored", code="store")
    return hashlib.sha256(row.der).hexdigest()


def plan(
    submission: Submission,
    facts: LedgerFacts,
    authority: Authority,
    *,
    policy_digest: str,
    decision_id: str,
    at: datetime,
    entropy: Entropy,
) -> Plan:
    """Draft and lint every certificate that the claim's keys do not have yet.

    Raises:
        LintFailed: a draft must not be signed.
        VtpmCaError: the evidence is of a profile on which nothing is issued; no admitted enrolment is.
    """
    profile, grant = submission.claims.profile, submission.claims.grant
    if profile not in ISSUED_PROFILES or grant is None:
        raise VtpmCaError("an admitted enrolment is of a profile on which nothing is issued", code="internal")
    draughtsman = _Draughtsman(
        submission=submission,
        authority=authority,
        facts=facts,
        provenance=Provenance(
            kbs_thumbprint=grant.jwk.thumbprint(),
            resource=facts.claim.resource,
            measurement=submission.report.measurement,
            policy_digest=policy_digest,
            decision_id=decision_id,
            profile=profile,
        ),
        at=at,
        entropy=entropy,
    )
    wanting = facts.wanting()
    eks = [draughtsman.ek(key) for key in wanting if key.role == "ek"]
    first = facts.claim.keys[0].live
    naming = next((piece for piece in eks if piece.key.live == first), None)
    devids = [
        draughtsman.devid(key, facts.live[first] if naming is None else naming)
        for key in wanting
        if key.role != "ek"
    ]
    return Plan(facts.live, (*eks, *devids), first)


def record(tx: Transaction, plan_: Plan, intent: IntentRow) -> None:
    """Make the intent durable: serials reserved, exact bytes to be signed kept.

    Raises:
        Taken: one of the keys has a live certificate by now, or a serial is not new.
    """
    tx.intents.add(intent)
    for piece in plan_.pieces:
        tx.certificates.add(
            CertificateRow(
                serial=piece.serial,
                issuer=piece.issuer.skid,
                profile=piece.key.role,
                template=piece.key.template,
                key_name=piece.key.name,
                live=piece.key.live,
                intent_id=intent.id,
                tpm_id=intent.tpm_id,
                state=CertificateState.INTENDED,
                tbs=piece.draft.tbs,
                slot=piece.draft.slot,
                der=None,
                issued_at=None,
            )
        )


def sign(plan_: Plan, faults: Faults) -> dict[str, bytes]:
    """Sign what was recorded, EKs first.

    Returns:
        DER by `KeyClaim.live`, of the new certificates and the stored ones alike. Nothing of it may leave the
        process before it is stored.
    """
    signed = {live: row.der for live, row in plan_.stored.items() if row.der is not None}
    for piece in plan_.pieces:
        naming = signed[plan_.naming_ek] if piece.draft.slot is not None else None
        tbs = (
            piece.draft.tbs if naming is None else fill_slot(piece.draft, hashlib.sha256(naming).hexdigest())
        )
        faults(f"before signing {piece.key.role}")
        signed[piece.key.live] = sign_certificate(
            tbs, piece.token, piece.issuer.signer, piece.issuer.certificate, ek_certificate=naming
        )
        faults(f"after signing {piece.key.role}")
    return signed


def store_signed(
    tx: Transaction, intent_id: str, plan_: Plan, signed: Mapping[str, bytes], at: datetime
) -> bool:
    """Store all certificates of an intent; says whether it was still open. If not, none may be used."""
    if not tx.intents.close(intent_id, IntentState.ISSUED, at):
        return False
    stored = [tx.certificates.issued(piece.serial, signed[piece.key.live], at) for piece in plan_.pieces]
    return all(stored)


def reply_bytes(
    authority: Authority,
    enrollment_id: str,
    decision_id: str,
    facts: LedgerFacts,
    signed: Mapping[str, bytes],
) -> bytes:
    """The answer with all certificates of a TPM, as it is stored and sent.

    Args:
        authority: whose chains go along.
        enrollment_id: the enrolment.
        decision_id: the decision that admitted.
        facts: whose TPM it is.
        signed: DER by `KeyClaim.live`.
    """
    entries: dict[str, list[CertificateEntry]] = {"ek": [], "iak": [], "idevid": []}
    for key in facts.claim.keys:
        chain = authority.chain(authority.issuer("ek" if key.role == "ek" else "devid"))
        entries[key.role].append(CertificateEntry(key.template, signed[key.live], chain))
    reply = CertificatesReply(
        enrollment_id, decision_id, tuple(entries["ek"]), entries["iak"][0], entries["idevid"][0]
    )
    return canonical(reply.to_json())
