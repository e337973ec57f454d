"""The rules of the ledger: one TPM per instance, one instance per key, one resource per secret, no way back.

An instance is a (KBS id, resource); where the policy marks the resource as shared, the volume's salt counts
too. The checks here give a refusal its rule and an alarm its reason; the database's constraints hold the same
rules against every race.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from ca_service.enrollment.submission import Submission
from ca_service.judgment import Check, Finding, failed, passed
from ca_service.policy import Policy, kbs_for
from ca_service.store import (
    CertificateRow,
    CertificateState,
    TpmRow,
    TpmState,
    Transaction,
    live_key,
    precedes,
)
from vtpm.wire.templates import name


@dataclass(frozen=True)
class KeyClaim:
    """One TPM key: its role ("ek", "iak", "idevid"), template id, TPMT_PUBLIC and Name in hex."""

    role: str
    template: str
    public: bytes
    name: str

    @property
    def live(self) -> str:
        """What the unique column holds for a live certificate of this key."""
        return live_key(self.role, self.name)


@dataclass(frozen=True)
class Claim:
    """Who a TPM says it is, in the ledger's terms.

    Attributes:
        kbs_id: the KBS's stable id in the policy.
        resource: the KBS resource of the persistence key.
        salt: the volume's salt in hex if it counts for the identity, else empty.
        volume_salt: the volume's salt in hex, for the record.
        ek_set: what identifies the TPM, see `Submission.ek_set`.
        keys: all keys, EKs first, the naming one foremost; then IAK and IDevID.
        key_id: id of the persistence key.
        counter: the store's update counter.
        root: the store's root, hex.
        report_id: REPORT_ID of the launch, hex.
    """

    kbs_id: str
    resource: str
    salt: str
    volume_salt: str
    ek_set: str
    keys: tuple[KeyClaim, ...]
    key_id: str
    counter: int
    root: str
    report_id: str

    @classmethod
    def of(cls, submission: Submission, policy: Policy) -> Self | None:
        """The claim in a submission; a KBS that the policy does not list gets a name that no listed one can have.

        None for evidence that states no grant or no store: there is no instance then that the TPM could live in.
        """
        data = submission.claims
        if data.grant is None or data.store is None:
            return None
        claims, thumbprint = data.grant.claims, data.grant.jwk.thumbprint()
        kbs = kbs_for(policy, thumbprint)
        shared = kbs is not None and kbs.shares(claims.resource)
        roles = [("ek", ek) for ek in data.tpm.eks] + [("iak", data.tpm.iak), ("idevid", data.tpm.idevid)]
        return cls(
            kbs_id=f"unlisted:{thumbprint}" if kbs is None else kbs.id,
            resource=claims.resource,
            salt=data.store.salt.hex() if shared else "",
            volume_salt=data.store.salt.hex(),
            ek_set=submission.ek_set(),
            keys=tuple(
                KeyClaim(role, key.template, key.public, name(key.public).hex()) for role, key in roles
            ),
            key_id=data.store.key_id,
            counter=data.store.counter,
            root=data.store.root.hex(),
            report_id=submission.report.report_id.hex(),
        )


@dataclass(frozen=True)
class LedgerFacts:
    """A claim, and what the ledger knows about it.

    Attributes:
        claim: who the TPM says it is.
        instance_id: number of the instance; None if it is new.
        occupant: the TPM that lives there.
        key_instances: the instance that each known Name is bound to.
        key_id_owner: (KBS id, resource) that the persistence key is bound to.
        live: the live certificates of the claim's keys, by `KeyClaim.live`.
        revoked: serials of the occupant's revoked certificates.
    """

    claim: Claim
    instance_id: int | None
    occupant: TpmRow | None
    key_instances: Mapping[str, int]
    key_id_owner: tuple[str, str] | None
    live: Mapping[str, CertificateRow]
    revoked: tuple[str, ...]

    @property
    def known(self) -> bool:
        """Whether this very TPM lives in the instance and every key of it has its certificate."""
        return (
            self.occupant is not None
            and self.occupant.ek_set == self.claim.ek_set
            and not self.wanting()
            and all(row.state is CertificateState.ISSUED for row in self.live.values())
        )

    def wanting(self) -> tuple[KeyClaim, ...]:
        """The keys that have no live certificate, neither issued nor intended."""
        return tuple(key for key in self.claim.keys if key.live not in self.live)

    def open_intents(self) -> set[str]:
        """Ids of the intents that are about to issue certificates for these keys."""
        return {row.intent_id for row in self.live.values() if row.state is CertificateState.INTENDED}


def gather(tx: Transaction, claim: Claim) -> LedgerFacts:
    """What the ledger knows about a claim."""
    instance = tx.ledger.instance(claim.kbs_id, claim.resource, claim.salt)
    occupant = None if instance is None else tx.ledger.occupant(instance.id)
    certificates = [] if occupant is None else tx.certificates.of_tpm(occupant.id)
    return LedgerFacts(
        claim=claim,
        instance_id=None if instance is None else instance.id,
        occupant=occupant,
        key_instances=tx.ledger.key_instances([key.name for key in claim.keys]),
        key_id_owner=tx.ledger.key_id_owner(claim.key_id),
        live=tx.certificates.live([key.live for key in claim.keys]),
        revoked=tuple(row.serial for row in certificates if row.state is CertificateState.REVOKED),
    )


def settle(tx: Transaction, facts: LedgerFacts, at: datetime) -> int:
    """Write an admitted claim into the ledger; returns the TPM's number.

    Raises:
        Taken: another transaction was faster, and the claim breaks a rule now.
    """
    claim, instance_id = facts.claim, facts.instance_id
    if instance_id is None:
        instance_id = tx.ledger.add_instance(claim.kbs_id, claim.resource, claim.salt, at)
    occupant = facts.occupant
    state = TpmState(claim.counter, claim.root, claim.volume_salt, claim.report_id, at)
    if occupant is not None and occupant.ek_set == claim.ek_set:
        tx.ledger.seen(occupant.id, state)
        tpm_id = occupant.id
    else:
        tpm_id = tx.ledger.add_tpm(instance_id, claim.ek_set, state)
    for key in {key.name: key for key in claim.keys}.values():
        if key.name not in facts.key_instances:
            tx.ledger.bind_key(key.name, instance_id, key.role, key.template)
    if facts.key_id_owner is None:
        tx.ledger.bind_key_id(claim.key_id, claim.kbs_id, claim.resource)
    return tpm_id


@dataclass(frozen=True)
class _KeyUnique:
    """No key of this TPM belongs to another instance."""

    id: str = "ledger.key-unique"

    def judge(self, subject: LedgerFacts) -> Finding:
        foreign = [n for n, instance in subject.key_instances.items() if instance != subject.instance_id]
        if foreign:
            return failed(
                self,
                "a key of this TPM is bound to another instance",
                expected=f"instance {subject.instance_id or 'new'}",
                actual=", ".join(f"{n}: instance {subject.key_instances[n]}" for n in sorted(foreign)),
            )
        return passed(self)


@dataclass(frozen=True)
class _KeyIdUnique:
    """The persistence key belongs to no other resource."""

    id: str = "ledger.key-id-unique"

    def judge(self, subject: LedgerFacts) -> Finding:
        claim, owner = subject.claim, subject.key_id_owner
        if owner is not None and owner != (claim.kbs_id, claim.resource):
            return failed(
                self,
                "the persistence key is bound to another resource",
                expected=f"{claim.kbs_id} {claim.resource}",
                actual=" ".join(owner),
            )
        return passed(self)


@dataclass(frozen=True)
class _InstanceOccupied:
    """No other TPM lives in the instance."""

    id: str = "ledger.instance-occupied"

    def judge(self, subject: LedgerFacts) -> Finding:
        occupant = subject.occupant
        if occupant is not None and occupant.ek_set != subject.claim.ek_set:
            return failed(
                self,
                "another TPM lives in this instance; its operator can reset it",
                expected=occupant.ek_set,
                actual=subject.claim.ek_set,
            )
        return passed(self)


@dataclass(frozen=True)
class _Counter:
    """The store was not rolled back behind the state that the CA has seen, nor beside it.

    No two states of a store's history have the same counter: the same counter with another root is a copy that went its
    own way, or a store that was rolled back and changed again.
    """

    id: str = "ledger.counter"

    def judge(self, subject: LedgerFacts) -> Finding:
        occupant, claim = subject.occupant, subject.claim
        if occupant is None or occupant.ek_set != claim.ek_set:
            return passed(self)
        if precedes(claim.counter, occupant.counter):
            return failed(
                self,
                "the store's counter went back",
                expected=f"{occupant.counter} or after it",
                actual=claim.counter,
            )
        if claim.counter == occupant.counter and claim.root != occupant.root:
            return failed(
                self,
                "the store is another than the one that was seen with the same counter",
                expected=f"root {occupant.root}",
                actual=f"root {claim.root}",
            )
        return passed(self)


@dataclass(frozen=True)
class _NotRevoked:
    """No certificate of the TPM was revoked since it came to live in the instance."""

    id: str = "ledger.not-revoked"

    def judge(self, subject: LedgerFacts) -> Finding:
        if subject.revoked:
            return failed(
                self,
                "certificates of this TPM are revoked; its operator can reset the instance",
                actual=", ".join(subject.revoked),
            )
        return passed(self)


LEDGER_CHECKS: tuple[Check[LedgerFacts], ...] = (
    _KeyUnique(),
    _KeyIdUnique(),
    _InstanceOccupied(),
    _Counter(),
    _NotRevoked(),
)

CLONE_RULES = frozenset({"ledger.key-unique", "ledger.key-id-unique"})
"""Refusals by these rules mean that somebody copied a TPM or a secret: an alarm is raised."""
