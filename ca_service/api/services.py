"""What the application is made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ca_service.enrollment import Enroller
from ca_service.keys import Authority
from ca_service.store import Store

Operation = Callable[[Mapping[str, object]], object]
"""What an operator may do: named parameters in, a JSON value out."""


@dataclass(frozen=True)
class HttpLimits:
    """How much the application takes on.

    Attributes:
        requests_per_second: of one client address, sustained, for requests that cost work.
        burst: how many of them at once.
        at_work: enrolments and activations of this process at the same time.
    """

    requests_per_second: float = 200.0
    burst: int = 1000
    at_work: int = 128


@dataclass(frozen=True)
class Services:
    """The rooms behind the application.

    Attributes:
        authority: names, certificates and keys of the CA.
        store: its database.
        enroller: the state machine of enrolment.
        operations: what operators may do, by name.
        limits: how much the application takes on.
    """

    authority: Authority
    store: Store
    enroller: Enroller
    operations: Mapping[str, Operation] = field(default_factory=dict)
    limits: HttpLimits = field(default_factory=HttpLimits)
