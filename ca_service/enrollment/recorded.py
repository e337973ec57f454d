"""A decision with everything that it rests on, to be made anew at any time, by anybody, under any policy.

A decision is a pure function of evidence, policy and time; what else went into it is recorded with it: what the ledger
knew about the claim, and the certificates and revocation lists that the CA's operator kept. What rests on a secret of
the CA is left out, because nobody else could recompute it: whether the nonce was ours, and whether the TPM answered its
challenge right. So is the lint of what was about to be signed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from importlib.metadata import version
from typing import Final, Self

from ca_service.collateral.items import Item, collateral_of, items_of, read_item
from ca_service.enrollment.claim import Claim
from ca_service.enrollment.judge import Judge
from ca_service.enrollment.ledger_state import LedgerKnown, nothing_known
from ca_service.enrollment.submission import Submission
from ca_service.evidence.snp import Collateral
from ca_service.judgment import BadRequest, Trace
from ca_service.policy import Policy
from vtpm.wire.encoding import Members, b64std, unb64std
from vtpm.wire.errors import WireError
from vtpm.wire.frozen import frozen
from vtpm.wire.message_fields import parse_time, time_text

RELEASE: Final = version("vtpm-ca")
"""The release that judges here."""

STAGES: Final = ("enroll", "activate")
MODES: Final = ("production", "simulation")

MAX_RECORDED: Final = 8 * 1024 * 1024
"""Longest file of a recorded decision, in bytes."""

_SCHEMA: Final = 1
_KIND: Final = "vtpm-ca recorded decision"
_MOST_ITEMS: Final = 256
_MOST_BODY: Final = 1024 * 1024


@frozen
class Inputs:
    """What a judge was given besides the request, the policy and the time.

    Attributes:
        ca_id: the CA's id.
        mode: "production" or "simulation": which roots count, and whether Unsafe... entries do.
        release: the release that judged; texts of findings and pinned certificates are its own.
        ledger: what the ledger knew; None if no policy was in force.
        collateral: names (`ca_service.collateral.items.Item.name`) of what the operator kept and the report may need.
    """

    ca_id: str
    mode: str
    release: str
    ledger: LedgerKnown | None
    collateral: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """As it is stored with the trace."""
        return {
            "ca": self.ca_id,
            "mode": self.mode,
            "release": self.release,
            "ledger": None if self.ledger is None else self.ledger.to_json(),
            "collateral": list(self.collateral),
        }

    @classmethod
    def from_json(cls, value: object, path: str = "inputs") -> Self:
        """Inverse of `to_json`.

        Raises:
            WireError: a member is missing, unknown or malformed.
        """
        members = Members(value, path)
        found = cls._read(members)
        members.end()
        return found

    @classmethod
    def _read(cls, members: Members) -> Self:
        ledger = members.value("ledger")
        names = members.array("collateral", 0, _MOST_ITEMS)
        return cls(
            ca_id=members.text("ca", most=256),
            mode=members.one_of("mode", MODES),
            release=members.text("release", most=64),
            ledger=None if ledger is None else LedgerKnown.from_json(ledger, members.at("ledger")),
            collateral=tuple(Members({"name": name}, at).text("name", most=128) for name, at in names),
        )


def collateral_for(judge: Judge, submission: Submission, at: datetime) -> tuple[Item, ...]:
    """What the CA's operator keeps, as far as a judgement of this submission may look at it."""
    kept = judge.collateral()
    return submission.once("kept", (kept,), lambda: _items(judge, submission, at))


def _items(judge: Judge, submission: Submission, at: datetime) -> tuple[Item, ...]:
    items = items_of(judge.evidence(submission, at).relevant)
    # What none of AMD's kinds is vouches for nothing.
    return tuple(item for item in items if item.kind is not None)


@dataclass(frozen=True)
class Recorded:
    """A decision with its inputs.

    Attributes:
        decision_id: its id.
        stage: "enroll" or "activate".
        at: when it was made, aware, whole seconds.
        body: the request to enrol, as it was received.
        inputs: what was known besides.
        collateral: the certificates and lists that `inputs` names.
    """

    decision_id: str
    stage: str
    at: datetime
    body: bytes = field(repr=False)
    inputs: Inputs
    collateral: Collateral = field(default=Collateral(), repr=False)

    @property
    def mode(self) -> str:
        """Mode of the CA that decided."""
        return self.inputs.mode

    @property
    def ledger(self) -> LedgerKnown | None:
        """What the ledger knew."""
        return self.inputs.ledger

    @property
    def submission(self) -> Submission:
        """The request, read; raises BadRequest where this release reads it no more."""
        return Submission.parse(self.body)

    @cached_property
    def judge_then(self) -> Judge:
        """A judge who is given what the one of then was given."""
        return Judge.of(self.inputs.ca_id, self.mode, lambda: self.collateral)

    def judge(self, policy: Policy | None, *, mode: str | None = None) -> Trace:
        """Decide anew.

        Args:
            policy: the policy to decide by; None for none in force.
            mode: as a CA of this mode would, if not as the one that decided.

        Returns:
            The findings, in the order of a CA's own trace and without those that rest on its secrets.

        Raises:
            BadRequest: the request cannot be read by this release.
        """
        judge = self.judge_then
        if mode is not None and mode != self.mode:
            judge = Judge.of(self.inputs.ca_id, mode, lambda: self.collateral)
        submission = self.submission
        authentic = judge.authenticate(submission, self.at)
        if not authentic.admitted:
            return authentic
        if policy is None:
            return authentic + judge.conclude(submission, None, None, self.at)
        claim = Claim.of(submission, policy)
        known = nothing_known(claim) if self.ledger is None else self.ledger
        return authentic + judge.conclude(submission, policy, known.about(claim), self.at)

    def to_json(self) -> dict[str, object]:
        """The decision as one file: what policies are tested with."""
        return {
            "kind": _KIND,
            "schema": _SCHEMA,
            "decision": self.decision_id,
            "stage": self.stage,
            "at": time_text(self.at),
            **self.inputs.to_json(),
            "items": {item.name: b64std(item.der) for item in items_of(self.collateral)},
            "body": b64std(self.body),
        }

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Inverse of `to_json`.

        Raises:
            BadRequest: it is no recorded decision; the member at fault is named.
        """
        try:
            members = Members(value)
            members.one_of("kind", (_KIND,))
            members.integer("schema", _SCHEMA, _SCHEMA)
            inputs = Inputs._read(members)  # noqa: SLF001 - of this module
            held = members.members("items")
            contents = {
                name: unb64std(held.text(name, least=0, most=_MOST_BODY * 2), held.at(name))
                for name in held.unread()
            }
            body = unb64std(members.text("body", most=_MOST_BODY * 2), members.at("body"), most=_MOST_BODY)
            found = cls.of(
                decision_id=members.text("decision", most=64),
                stage=members.one_of("stage", STAGES),
                at=parse_time(members.text("at"), members.at("at")),
                body=body,
                inputs=inputs,
                contents=contents,
            )
            members.end()
        except WireError as error:
            raise BadRequest(
                error.path,
                error.problem,
                code="recorded",
                remedy="`vtpm-ca decision record ID` writes such a file.",
            ) from error
        return found

    @classmethod
    def of(
        cls,
        *,
        decision_id: str,
        stage: str,
        at: datetime,
        body: bytes,
        inputs: Inputs,
        contents: Mapping[str, bytes],
    ) -> Self:
        """Put a decision together.

        Args:
            decision_id: its id.
            stage: as the attribute.
            at: likewise.
            body: likewise.
            inputs: likewise.
            contents: certificates and lists in DER, by the names that `inputs` has for them; others are left out.

        Raises:
            BadRequest: one is missing, or is not what its name says (code ``recorded``).
        """
        items = []
        for name in inputs.collateral:
            item = read_item(name, contents.get(name, b""))
            if item is None:
                raise BadRequest(
                    "items", f"{_printable(name)} is missing or not what its name says", code="recorded"
                )
            items.append(item)
        return cls(decision_id, stage, at, body, inputs, _joined(items))


def _joined(items: Iterable[Item]) -> Collateral:
    return collateral_of(items)


def _printable(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name)
