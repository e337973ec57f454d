"""From an admitted claim to signed certificates, in the order that a CA promises.

`plan` drafts and lints everything that is wanting, without touching the database. `record` makes the intent
durable before any signature. `sign` signs the EK's certificate first, because the others carry its digest.
Only when the caller has stored what `sign` returns may a byte of it leave the process.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import field
from datetime import datetime
from typing import TypedDict

from ca_service.audit import Leaf, certificate_leaf
from ca_service.enrollment.claim import KeyClaim
from ca_service.enrollment.desk import Desk, View
from ca_service.enrollment.ledger import LedgerFacts
from ca_service.enrollment.observing import Alarmed, Observer, unobserved
from ca_service.enrollment.reply import Issued
from ca_service.enrollment.submission import Submission
from ca_service.judgment import VtpmCaError
from ca_service.keys import Authority, IssuingCa, sign_certificate
from ca_service.profiles import (
    Draft,
    Entropy,
    IssuerInfo,
    LintPassed,
    Provenance,
    Validity,
    draft_devid,
    draft_ek,
    draft_iak_webauthn,
    lint,
    serial_hex,
)
from ca_service.store import CertificateRow, CertificateState, Faults, IntentRow, IntentState, Transaction
from vtpm.wire.frozen import frozen
from vtpm.wire.lazy import cached_property
from vtpm.wire.templates import Role

RENEWED = "renewed"
"""The kind of alarm that says that certificates were replaced."""


@frozen
class Piece:
    """A certificate that is to be made: its key, its issuer, the draft, the proof of its lint, whose place it takes."""

    key: KeyClaim
    issuer: IssuingCa
    draft: Draft
    token: LintPassed = field(repr=False)
    replaces: str | None

    @cached_property
    def serial(self) -> str:
        """The reserved serial number, hex."""
        return serial_hex(self.draft.serial)


@frozen
class Plan:
    """What an issuance will do.

    Attributes:
        kept: live certificates that stay as they are, by `KeyClaim.live`.
        pieces: certificates to be made, EKs first.
        naming_ek: `KeyClaim.live` of the EK that IAK and IDevID name.
    """

    kept: Mapping[str, Issued]
    pieces: tuple[Piece, ...]
    naming_ek: str


@frozen
class _Draughtsman:
    """What all drafts of one issuance share."""

    submission: Submission
    authority: Authority
    issuers: Mapping[str, IssuingCa]
    validity: Callable[[Role, IssuingCa], Validity]
    facts: LedgerFacts
    provenance: Provenance
    entropy: Entropy

    def _piece(self, key: KeyClaim, issuer: IssuingCa, draft: Draft) -> Piece:
        stored = self.facts.live.get(key.live)
        return Piece(key, issuer, draft, lint(draft, issuer.info), None if stored is None else stored.serial)

    def ek(self, key: KeyClaim) -> Piece:
        tpm, issuer = self.submission.claims.tpm, self.issuers["ek"]
        draft = draft_ek(
            public=key.public,
            manufacturer=tpm.manufacturer,
            vendor=tpm.vendor,
            firmware=tpm.firmware,
            spec=tpm.spec,
            serial=self.authority.new_serial(self.entropy),
            validity=self.validity(Role.EK, issuer),
            issuer=issuer.info,
            provenance=self.provenance,
        )
        return self._piece(key, issuer, draft)

    def devid(self, key: KeyClaim, naming: "Piece | CertificateRow") -> Piece:
        tpm, issuer, role = self.submission.claims.tpm, self.issuers["devid"], Role(key.role)
        common: _DevidArguments = {
            "public": key.public,
            "ek_name": bytes.fromhex(self.facts.claim.keys[0].name),
            "manufacturer": tpm.manufacturer,
            **_naming(naming),
            "serial": self.authority.new_serial(self.entropy),
            "validity": self.validity(role, issuer),
            "issuer": issuer.info,
            "provenance": self.provenance,
        }
        if key.profile == "iak-webauthn":
            draft = draft_iak_webauthn(vendor=tpm.vendor, firmware=tpm.firmware, **common)
        else:
            draft = draft_devid(role, **common)
        return self._piece(key, issuer, draft)


class _NamingEk(TypedDict):
    """The EK certificate that IAK and IDevID name; its digest is None until it is signed."""

    ek_serial: int
    ek_aki: bytes
    ek_digest: str | None


class _DevidArguments(_NamingEk):
    """What both forms of an identity's certificate are made of."""

    public: bytes
    ek_name: bytes
    manufacturer: str
    serial: int
    validity: Validity
    issuer: IssuerInfo
    provenance: Provenance


def _naming(naming: Piece | CertificateRow) -> _NamingEk:
    if isinstance(naming, Piece):
        return {"ek_serial": naming.draft.serial, "ek_aki": naming.issuer.info.key_id, "ek_digest": None}
    return {
        "ek_serial": int(naming.serial, 16),
        "ek_aki": bytes.fromhex(naming.issuer),
        "ek_digest": _digest(naming),
    }


def _digest(row: CertificateRow) -> str:
    if row.der is None:
        raise VtpmCaError("a live EK certificate is not stored", code="store")
    return hashlib.sha256(row.der).hexdigest()


def plan(desk: Desk, submission: Submission, view: View, *, decision_id: str, at: datetime) -> Plan:
    """Draft and lint every certificate that the claim's keys do not have yet.

    Raises:
        LintFailed: a draft must not be signed.
        Unavailable: no CA signs such certificates now, or this process has not its key.
        VtpmCaError: the enrolment is not an admitted one.
    """
    facts, policy, grant = view.facts, view.policy, submission.claims.grant
    if facts is None or policy is None:
        raise VtpmCaError("an admitted enrolment has no claim", code="internal")
    draughtsman = _Draughtsman(
        submission=submission,
        authority=desk.authority,
        issuers={
            kind: desk.issuer(view, role, facts.claim.pair, at)
            for kind, role in facts.claim.issuer_roles.items()
        },
        validity=lambda role, issuer: desk.validity(facts.claim, policy, role, issuer, at),
        facts=facts,
        provenance=Provenance(
            kbs_thumbprint=None if grant is None else grant.jwk.thumbprint(),
            resource=None if grant is None else grant.claims.resource,
            measurement=submission.report.measurement,
            policy_digest=view.digest,
            decision_id=decision_id,
            profile=submission.claims.profile,
            ephemeral=facts.claim.ephemeral,
        ),
        entropy=desk.entropy,
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
    new = {key.live for key in wanting}
    kept = {
        live: Issued(row.serial, row.issuer, row.der)
        for live, row in facts.live.items()
        if live not in new and row.der is not None
    }
    return Plan(kept, (*eks, *devids), first)


def record(tx: Transaction, plan_: Plan, intent: IntentRow) -> None:
    """Make the intent durable: serials reserved, exact bytes to be signed kept.

    Raises:
        Taken: one of the keys has a live certificate by now, or a serial is not new.
    """
    tx.intents.add(intent)
    for piece in plan_.pieces:
        if piece.replaces is not None:
            tx.certificates.supersede(piece.replaces)
    tx.certificates.add_all([_intended(piece, intent) for piece in plan_.pieces])


def _intended(piece: Piece, intent: IntentRow) -> CertificateRow:
    return CertificateRow(
        serial=piece.serial,
        issuer=piece.issuer.skid,
        profile=piece.key.profile,
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
        not_after=piece.draft.content.validity.not_after,
        replaces=piece.replaces,
        shard=piece.issuer.info.shard_of(piece.draft.serial),
        tbs_digest=hashlib.sha256(piece.draft.tbs).hexdigest(),
    )


def note_renewal(
    tx: Transaction, facts: LedgerFacts, plan_: Plan, intent: IntentRow, observe: Observer = unobserved
) -> None:
    """Tell operators that certificates are replaced: keylime refuses an agent whose EK certificate is another one."""
    replaced: dict[str, list[str]] = {}
    for piece in plan_.pieces:
        if piece.replaces is not None:
            replaced.setdefault(piece.key.role, []).append(piece.replaces)
    if replaced and not facts.claim.ephemeral:
        detail = {"kbs": facts.claim.kbs_id, "resource": facts.claim.resource, "replaced": replaced}
        tx.alarms.add(RENEWED, intent.decision_id, json.dumps(detail), intent.created_at)
        tx.when_committed(lambda: observe(Alarmed(RENEWED)))


def sign(plan_: Plan, faults: Faults) -> dict[str, Issued]:
    """Sign what was recorded, EKs first.

    Returns:
        All certificates of the TPM by `KeyClaim.live`, the new and the kept ones. Nothing of the new ones may leave the
        process before they are stored.
    """
    signed = dict(plan_.kept)
    for piece in plan_.pieces:
        naming = signed[plan_.naming_ek].der if piece.draft.slot is not None else None
        faults(f"before signing {piece.key.role}")
        der = sign_certificate(
            piece.draft.tbs, piece.token, piece.issuer.signer, piece.issuer.certificate, ek_certificate=naming
        )
        signed[piece.key.live] = Issued(piece.serial, piece.issuer.skid, der)
        faults(f"after signing {piece.key.role}")
    return signed


def store_signed(
    tx: Transaction, intent_id: str, plan_: Plan, signed: Mapping[str, Issued], at: datetime
) -> bool:
    """Store all certificates of an intent; says whether it was still open. If not, none may be used."""
    if not tx.intents.close(intent_id, IntentState.ISSUED, at):
        return False
    return tx.certificates.issued_all(
        {piece.serial: signed[piece.key.live].der for piece in plan_.pieces}, at
    )


def leaves_of(plan_: Plan, signed: Mapping[str, Issued], decision_id: str, at: datetime) -> tuple[Leaf, ...]:
    """What the log says about the new certificates of an issuance."""
    return tuple(
        certificate_leaf(
            serial=piece.serial,
            issuer=piece.issuer.skid,
            profile=piece.key.profile,
            key_name=piece.key.name,
            der=signed[piece.key.live].der,
            decision_id=decision_id,
            at=at,
        )
        for piece in plan_.pieces
    )
