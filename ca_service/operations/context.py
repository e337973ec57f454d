"""What an operation works with, and the form in which operations are called.

An operation is called by the server for a request on its operator socket, or by the command line when no server
runs. Both go through `ca_service.operations.perform`, so there is no second path to a change.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from ca_service.enrollment import Limits
from ca_service.keys import Authority, PublicAuthority
from ca_service.logger import logger
from ca_service.store import Store
from vtpm.wire.encoding import Members
from vtpm.wire.errors import WireError

if TYPE_CHECKING:
    from ca_service.evidence.snp import Collateral

Json = object
"""A value that JSON can carry."""


@dataclass(frozen=True)
class OperationContext:
    """What an operation works with.

    Attributes:
        public: the CA's public side.
        unlock: gives the CA with its keys; asked for only by operations that sign.
        store: the CA's database.
        clock: gives the aware present time.
        by: who the operator is, for the record.
        limits: lifetimes of what is published.
        collateral: gives what evidence is judged with; None: it lies in the directory.
        served: whether a server performs it, so that there is a log.
    """

    public: PublicAuthority
    unlock: Callable[[], Authority] = field(repr=False)
    store: Store
    clock: Callable[[], datetime]
    by: str
    limits: Limits
    collateral: "Callable[[], Collateral] | None" = None
    served: bool = False


@dataclass(frozen=True)
class Operation:
    """A named thing that an operator may do.

    Attributes:
        name: what it is called.
        run: does it; reads its arguments strictly.
        publishes: whether it may make a revocation list, which must not be forgotten with the database.
    """

    name: str
    run: Callable[[OperationContext, Members], Json]
    publishes: bool = False


def optional_text(members: Members, name: str, *, most: int = 1024) -> str:
    """A text argument that may be left out; then it is empty."""
    return members.text(name, least=0, most=most) if members.has(name) else ""


def optional_flag(members: Members, name: str) -> bool:
    """A flag that may be left out; then it is False."""
    return members.boolean(name) if members.has(name) else False


def text_block(members: Members, name: str, most: int) -> str:
    """A longer text of any Unicode, at most `most` bytes in UTF-8."""
    value = members.value(name)
    if not isinstance(value, str):
        raise WireError(members.at(name), "must be a string")
    try:
        size = len(value.encode("utf-8"))
    except UnicodeEncodeError:
        raise WireError(members.at(name), "must be Unicode text") from None
    if size > most:
        raise WireError(members.at(name), f"must be at most {most} bytes long")
    return value


def recorded_cause(context: OperationContext, what: str, cause: str) -> str:
    """Who did it and why, as it is kept with a revocation."""
    return f"{what} by {context.by}" + (f": {cause}" if cause else "")


def note(context: OperationContext, what: str, **facts: object) -> None:
    """Say in the server's log who did something that stands in no other record.

    A command that works without a server has no log.
    """
    if context.served:
        logger(__name__).info(what, by=context.by, **facts)


def instant(at: datetime | None) -> str | None:
    """A time as RFC 3339 in UTC."""
    return None if at is None else at.strftime("%Y-%m-%dT%H:%M:%SZ")
