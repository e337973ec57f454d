"""The arguments of operators' operations, heard from the operations themselves while they read an example.

An operation reads its arguments and then acts. Here it is stopped between the two, and what it looks up before that it
looks up in nothing, so no CA is needed.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Final, NoReturn, Self, cast

from ca_service.api.contract.schemas import Schema, Schemas
from ca_service.operations import OPERATIONS, Operation, OperationContext
from vtpm.wire.encoding import Members

_SERIAL: Final = "0123456789abcdef0123456789abcdef01"
_SKID: Final = "01" * 20
_DIGEST: Final = "ab" * 32
_INSTANCE: Final[dict[str, object]] = {"kbs": "broker", "resource": "default/vtpm/vm-1", "salt": ""}
_CAUSE: Final = "ticket 1234"
_EVIDENCE: Final = [{"path": "evidence/admitted.json", "content": "e30="}]
_CHOICE: Final[dict[str, object]] = {"pair": "default", "roles": ["ek", "devid"], "generation": 2}

EXAMPLES: Final[Mapping[str, tuple[dict[str, object], ...]]] = {
    "policy-apply": (
        {"text": "the policy document", "base": 3, "at": "2027-01-31T06:00:00Z", "evidence": _EVIDENCE},
        {"text": "the policy document", "narrowing": True},
    ),
    "policy-rollback": ({"version": 3, "base": 4},),
    "policy-approve": ({"version": 5},),
    "policy-withdraw": ({"version": 5},),
    "policy-diff": ({"old": 3, "text": "the policy document"}, {"new": 4}),
    "policy-test": ({"text": "the policy document", "evidence": _EVIDENCE},),
    "policy-show": ({"version": 3},),
    "policy-log": ({},),
    "kbs-list": ({},),
    "kbs-show": ({"id": "broker"},),
    "instance-list": ({"tenant": "payments"},),
    "instance-show": (_INSTANCE,),
    "instance-reset": ({**_INSTANCE, "cause": _CAUSE, "yes": False},),
    "cert-list": ({"all": True, "limit": 200},),
    "cert-show": ({"serial": _SERIAL},),
    "cert-revoke": ({"serial": _SERIAL, "reason": "superseded", "cause": _CAUSE, "yes": False},),
    "crl-publish": ({},),
    "revoke": (
        {
            "kbs": "broker",
            "compromised_since": "2026-01-31T12:00:00Z",
            "reason": "keyCompromise",
            "cause": _CAUSE,
            "limit": 100,
            "yes": False,
        },
        {
            "serial": _SERIAL,
            "instance": _INSTANCE,
            "kbs_key": "A" * 43,
            "all": True,
            "chip": "01" * 64,
            "measurement": "01" * 48,
            "tcb_below": ["Milan:snp=20,microcode=210"],
            "policy_version": 3,
        },
    ),
    "policy-revoke": (
        {"text": "the draft", "tpms": [17, 23], "reason": "cessationOfOperation", "yes": False},
    ),
    "key-list": ({},),
    "key-block": ({"digest": _DIGEST, "cause": _CAUSE, "revoke": True, "yes": False},),
    "key-unblock": ({"digest": _DIGEST, "yes": False},),
    "decision-list": ({"limit": 200},),
    "decision-show": ({"id": "ZGVjaXNpb24tMQ"},),
    "decision-record": ({"id": "ZGVjaXNpb24tMQ"},),
    "alarm-list": ({"limit": 200, "kind": "clone"},),
    "issuer-list": ({},),
    "issuer-certificates": ({},),
    "issuer-preparable": (_CHOICE,),
    "issuer-announce": ({"skids": [_SKID]},),
    "issuer-activate": (_CHOICE,),
    "issuer-taint": ({**_CHOICE, "active": True},),
    "issuer-retire": ({**_CHOICE, "abandon": 0, "yes": False},),
    "health": ({"only": ["database"], "settings": ["crl=24,0"]},),
}
"""For each operation arguments that together have all that it knows. They are shown to integrators, too."""


class _Read(Exception):
    """The operation has read its arguments."""


class _Arguments(Members):
    def end(self) -> NoReturn:
        super().end()
        raise _Read


class _Nothing:
    """Stands for the CA: whatever is asked for, there is something and it is nothing."""

    def __getattr__(self, _name: str) -> Self:
        return self

    def __call__(self, *_given: object, **_named: object) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        return None

    def __iter__(self) -> Iterator[object]:
        return iter(())


def arguments(operation: Operation, schemas: Schemas) -> Schema:
    """The schema of an operation's arguments, a JSON object.

    Raises:
        Unshown: the examples of this operation lack one.
        KeyError: there is no example.
    """
    context = cast("OperationContext", _Nothing())

    def read(example: object) -> None:
        with contextlib.suppress(_Read):
            operation.run(context, _Arguments(example))

    return schemas.of(read, EXAMPLES[operation.name])


def operations() -> Iterator[tuple[Operation, tuple[dict[str, object], ...]]]:
    """All operations with their examples, by name."""
    for name in sorted(OPERATIONS):
        yield OPERATIONS[name], EXAMPLES[name]
