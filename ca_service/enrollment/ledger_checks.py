"""The rules of the ledger: one TPM per instance, one instance per key, one resource per secret, no way back.

They give a refusal its rule and an alarm its reason; the database's constraints hold the same rules against every race.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ca_service.enrollment.ledger_state import LedgerState
from ca_service.judgment import Check, Finding, failed, passed
from ca_service.store import precedes


@dataclass(frozen=True)
class _KeyUnique:
    """No key of this TPM belongs to another instance."""

    id: str = "ledger.key-unique"

    def judge(self, subject: LedgerState) -> Finding:
        foreign = [
            n for n, instance in subject.known.key_instances.items() if instance != subject.known.instance_id
        ]
        if foreign:
            return failed(
                self,
                "a key of this TPM is bound to another instance",
                expected=f"instance {subject.known.instance_id or 'new'}",
                actual=", ".join(f"{n}: instance {subject.known.key_instances[n]}" for n in sorted(foreign)),
            )
        return passed(self)


@dataclass(frozen=True)
class _KeyIdUnique:
    """The persistence key belongs to no other resource."""

    id: str = "ledger.key-id-unique"

    def judge(self, subject: LedgerState) -> Finding:
        claim, owner = subject.claim, subject.known.key_id_owner
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

    def judge(self, subject: LedgerState) -> Finding:
        occupant = subject.known.occupant
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

    def judge(self, subject: LedgerState) -> Finding:
        occupant, claim = subject.known.occupant, subject.claim
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

    def judge(self, subject: LedgerState) -> Finding:
        if subject.known.revoked:
            return failed(
                self,
                "certificates of this TPM are revoked; its operator can reset the instance",
                actual=", ".join(subject.known.revoked),
            )
        return passed(self)


@dataclass(frozen=True)
class _NotBlocked:
    """No key of the TPM is on the block list."""

    id: str = "key.not-blocked"

    def judge(self, subject: LedgerState) -> Finding:
        if subject.known.blocked:
            return failed(
                self,
                "a key of this TPM is blocked by the CA's operator",
                actual=", ".join(sorted(subject.known.blocked)),
            )
        return passed(self)


LEDGER_CHECKS: tuple[Check[LedgerState], ...] = (
    _NotBlocked(),
    _KeyUnique(),
    _KeyIdUnique(),
    _InstanceOccupied(),
    _Counter(),
    _NotRevoked(),
)

ALARMS: Mapping[str, str] = {
    "ledger.key-unique": "clone",
    "ledger.key-id-unique": "clone",
    "ledger.counter": "rollback",
}
"""Rules whose refusal means that somebody copied a TPM or a secret, or brought an old state back: the alarm's kind."""
