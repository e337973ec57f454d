"""What the ledger knows about a claim, and how an admitted claim is written into it."""

from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256

from ca_service.enrollment.claim import Claim, KeyClaim
from ca_service.enrollment.ledger_state import LedgerKnown, LedgerState, Occupant
from ca_service.profiles import DEVICE_LIFETIME
from ca_service.store import CertificateRow, CertificateState, LedgerView, TpmState, Transaction
from vtpm.wire.frozen import frozen
from vtpm.wire.lazy import cached_property

RENEWAL_SHARE = 3
"""A certificate with an end is renewed in the last third of its life."""


@frozen
class LedgerFacts:
    """A claim, and what the ledger knows about it.

    Attributes:
        claim: who the TPM says it is.
        seen: what the database answered to `Claim.query`.
        due: those keys of `live` whose certificate is to be replaced by a new one.
    """

    claim: Claim
    seen: LedgerView
    due: frozenset[str]

    @property
    def live(self) -> Mapping[str, CertificateRow]:
        """The live certificates of the claim's keys, by `KeyClaim.live`."""
        return self.seen.live

    @cached_property
    def state(self) -> LedgerState:
        """The part that rules look at."""
        claim, seen, occupant = self.claim, self.seen, self.seen.occupant
        standing = [
            key
            for key, row in seen.live.items()
            if row.state is CertificateState.ISSUED and key not in self.due
        ]
        known = LedgerKnown(
            instance=(claim.kbs_id, claim.resource, claim.salt),
            instance_id=seen.instance_id,
            occupant=None if occupant is None else Occupant(occupant.ek_set, occupant.counter, occupant.root),
            key_instances=seen.key_instances,
            key_id_owner=seen.key_id_owner,
            standing=frozenset(standing),
            revoked=seen.revoked,
            blocked=seen.blocked,
        )
        return LedgerState(claim, known)

    @property
    def known(self) -> bool:
        """Whether this very TPM lives in the instance and every key of it has its certificate, good for a while."""
        return self.state.settled

    def wanting(self) -> tuple[KeyClaim, ...]:
        """The keys that get a new certificate.

        IAK and IDevID name the first EK's certificate, so a new one of it means new ones of them.
        """
        keys = self.claim.keys
        wanting = {key.live for key in keys if key.live not in self.live or key.live in self.due}
        if keys[0].live in wanting:
            wanting |= {key.live for key in keys if key.role != "ek"}
        return tuple(key for key in keys if key.live in wanting)

    def open_intents(self) -> set[str]:
        """Ids of the intents that are about to issue certificates for these keys."""
        return {row.intent_id for row in self.live.values() if row.state is CertificateState.INTENDED}


def _role_of(profile: str) -> str:
    """The role of the keys that get certificates of a profile."""
    return "iak" if profile == "iak-webauthn" else profile


def is_due(row: CertificateRow, given_up: frozenset[str], ends: Mapping[str, datetime], at: datetime) -> bool:
    """Whether an issued certificate is to be replaced: its issuer is tainted, or its end near and a new one's later.

    Args:
        row: the certificate.
        given_up: subject key ids of the issuing CAs whose certificates are to be replaced.
        ends: until when a new certificate would hold, by role of the key: "ek", "iak", "idevid".
        at: now.
    """
    if row.state is not CertificateState.ISSUED:
        return False
    if row.issuer in given_up:
        return True
    if row.not_after is None or row.issued_at is None or row.not_after >= DEVICE_LIFETIME:
        return False
    end = ends.get(_role_of(row.profile))
    near = (row.not_after - at) * RENEWAL_SHARE <= row.not_after - row.issued_at
    return near and end is not None and end > row.not_after


def _outlived(claim: Claim, live: Mapping[str, CertificateRow]) -> set[str]:
    """IAKs and IDevIDs whose certificate names none of the live EK certificates.

    That of an IAK rests while a policy wants the other form; if the EK gets a new one meanwhile, it names what was
    replaced. The digest is looked for as it stands in the certificate.
    """
    stored = [(key, row.der) for key in claim.keys if (row := live.get(key.live)) is not None]
    eks = [sha256(der).hexdigest().encode("ascii") for key, der in stored if key.role == "ek" and der]
    return {
        key.live
        for key, der in stored
        if eks and key.role != "ek" and der is not None and not any(ek in der for ek in eks)
    }


def gather(
    view: LedgerView,
    claim: Claim,
    given_up: frozenset[str],
    ends: Mapping[str, datetime],
    at: datetime,
) -> LedgerFacts:
    """What the ledger knows about a claim.

    Args:
        view: what the database answered to `Claim.query`.
        claim: who the TPM says it is.
        given_up: as for `is_due`.
        ends: likewise.
        at: now.
    """
    due: frozenset[str] = frozenset()
    if view.live:
        ending = {key for key, row in view.live.items() if is_due(row, given_up, ends, at)}
        due = frozenset(ending | _outlived(claim, view.live))
    return LedgerFacts(claim, view, due)


def settle(tx: Transaction, facts: LedgerFacts, at: datetime) -> int:
    """Write an admitted claim into the ledger; returns the TPM's number.

    Raises:
        Taken: another transaction was faster, and the claim breaks a rule now.
    """
    claim, seen = facts.claim, facts.seen
    instance_id, occupant = seen.instance_id, seen.occupant
    if instance_id is None:
        instance_id = tx.ledger.add_instance(claim.kbs_id, claim.resource, claim.salt, at)
    state = TpmState(claim.counter, claim.root, claim.volume_salt, claim.report_id, at)
    if occupant is not None and occupant.ek_set == claim.ek_set:
        tx.ledger.seen(occupant.id, state)
        tpm_id = occupant.id
    else:
        tpm_id = tx.ledger.add_tpm(instance_id, claim.ek_set, state)
    if claim.ephemeral:
        return tpm_id
    keys = {key.name: key for key in claim.keys if key.name not in seen.key_instances}
    tx.ledger.bind_keys(((name, key.role, key.template) for name, key in keys.items()), instance_id)
    if seen.key_id_owner is None:
        tx.ledger.bind_key_id(claim.key_id, claim.kbs_id, claim.resource)
    return tpm_id
