"""What the rules of the ledger look at: a claim, and what the ledger knew about it when it was judged.

The ledger moves on, so a decision keeps this part of it: without it nobody could judge the same request anew.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Self

from ca_service.enrollment.claim import Claim
from vtpm.wire.encoding import Members
from vtpm.wire.errors import WireError
from vtpm.wire.frozen import frozen

_MOST_KEYS = 1024
_MOST_NUMBER = 2**53 - 1
_MOST_TEXT = 1024


@frozen
class Occupant:
    """The TPM that lives in an instance: its EKs, and the store's counter and root when it was last seen."""

    ek_set: str
    counter: int
    root: str


@frozen
class LedgerKnown:
    """What the ledger knows about a claim, as far as rules look at it.

    Attributes:
        instance: (KBS id, resource, salt) that was looked up.
        instance_id: number of the instance; None if it is new.
        occupant: the TPM that lives there.
        key_instances: the instance that each known Name is bound to.
        key_id_owner: (KBS id, resource) that the persistence key is bound to.
        standing: the keys, as `KeyClaim.live` has them, whose certificate is good for a while.
        revoked: serials of the occupant's revoked certificates.
        blocked: digests of the claim's keys that get no certificate.
    """

    instance: tuple[str, str, str]
    instance_id: int | None
    occupant: Occupant | None
    key_instances: Mapping[str, int]
    key_id_owner: tuple[str, str] | None
    standing: frozenset[str]
    revoked: tuple[str, ...]
    blocked: frozenset[str]

    def about(self, claim: Claim) -> "LedgerState":
        """The same for a claim of the same TPM, which another policy may put into another instance.

        What was looked up for the one instance says nothing of another: that one counts as new.
        """
        known = self
        if self.instance != (claim.kbs_id, claim.resource, claim.salt):
            known = replace(self, instance_id=None, occupant=None, standing=frozenset(), revoked=())
        return LedgerState(claim, known)

    def to_json(self) -> dict[str, object]:
        """As it is stored."""
        occupant = self.occupant
        return {
            "instance": list(self.instance),
            "number": self.instance_id,
            "occupant": None
            if occupant is None
            else {"ek_set": occupant.ek_set, "counter": str(occupant.counter), "root": occupant.root},
            "keys": dict(sorted(self.key_instances.items())),
            "key_id_owner": None if self.key_id_owner is None else list(self.key_id_owner),
            "standing": sorted(self.standing),
            "revoked": list(self.revoked),
            "blocked": sorted(self.blocked),
        }

    @classmethod
    def from_json(cls, value: object, path: str = "") -> Self:
        """Inverse of `to_json`.

        Raises:
            WireError: a member is missing, unknown or malformed.
        """
        members = Members(value, path)
        instance, owner = _texts(members, "instance", 3), None
        if members.value("key_id_owner") is not None:
            owner = _texts(members, "key_id_owner", 2)
        known = cls(
            instance=(instance[0], instance[1], instance[2]),
            instance_id=None
            if members.value("number") is None
            else members.integer("number", 0, _MOST_NUMBER),
            occupant=None if members.value("occupant") is None else _occupant(members.members("occupant")),
            key_instances=_numbers(members.members("keys")),
            key_id_owner=None if owner is None else (owner[0], owner[1]),
            standing=_set(members, "standing"),
            revoked=_texts(members, "revoked"),
            blocked=_set(members, "blocked"),
        )
        members.end()
        return known


@frozen
class LedgerState:
    """The subject of the ledger's rules: who the TPM says it is, and what is known about it."""

    claim: Claim
    known: LedgerKnown

    @property
    def settled(self) -> bool:
        """Whether this very TPM lives in the instance and every key of it has its certificate, good for a while."""
        occupant = self.known.occupant
        return (
            occupant is not None
            and occupant.ek_set == self.claim.ek_set
            and all(key.live in self.known.standing for key in self.claim.keys)
        )


def nothing_known(claim: Claim) -> LedgerKnown:
    """What an empty ledger knows."""
    return LedgerKnown(
        instance=(claim.kbs_id, claim.resource, claim.salt),
        instance_id=None,
        occupant=None,
        key_instances={},
        key_id_owner=None,
        standing=frozenset(),
        revoked=(),
        blocked=frozenset(),
    )


def _texts(members: Members, name: str, count: int | None = None) -> tuple[str, ...]:
    least, most = (0, _MOST_KEYS) if count is None else (count, count)
    array: Iterable[tuple[object, str]] = members.array(name, least, most)
    return tuple(
        Members({"value": value}, path).text("value", least=0, most=_MOST_TEXT) for value, path in array
    )


def _set(members: Members, name: str) -> frozenset[str]:
    texts = _texts(members, name)
    if any(former >= later for former, later in pairwise(texts)):
        raise WireError(members.at(name), "must be sorted, and name nothing twice")
    return frozenset(texts)


def _occupant(members: Members) -> Occupant:
    found = Occupant(
        ek_set=members.text("ek_set"),
        counter=_decimal(members, "counter"),
        root=members.text("root", least=0),
    )
    members.end()
    return found


def _decimal(members: Members, name: str) -> int:
    text = members.text(name, most=39)
    if not (text.isascii() and text.isdigit()):
        raise WireError(members.at(name), "must be a decimal number")
    return int(text)


def _numbers(members: Members) -> dict[str, int]:
    return {name: members.integer(name, 0, _MOST_NUMBER) for name in members.unread()}
