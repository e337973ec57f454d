"""What the application is made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ca_service.api.journal import LineBudget
from ca_service.api.tally import Tally
from ca_service.enrollment import Enroller
from ca_service.judgment import NotFound
from ca_service.keys import Authority
from ca_service.store import Store

Operations = Callable[[str, str, Mapping[str, object]], object]
"""What operators may do: the operation's name, the operator's name, named parameters in; a JSON value out."""


def no_operations(_name: str, _by: str, _parameters: Mapping[str, object]) -> object:
    """Operators may do nothing here."""
    raise NotFound("there is no such operation")


@dataclass(frozen=True)
class HttpLimits:
    """How much the application takes on; how many requests are at work at once is the listener's to bound.

    Attributes:
        requests_per_second: of one client address, sustained, for requests that cost work.
        burst: how many of them at once.
        verdict_s: how long a process goes by what it found when it last asked whether it can issue, in seconds.
    """

    requests_per_second: float = 200.0
    burst: int = 1000
    verdict_s: float = 2.0


@dataclass(frozen=True)
class Services:
    """The rooms behind the application.

    Attributes:
        store: its database.
        enroller: the state machine of enrolment.
        operations: what operators may do.
        limits: how much the application takes on.
        tally: the counts that it shares with the other processes of the server.
        budget: of the lines about requests that prove nothing.
    """

    store: Store
    enroller: Enroller
    operations: Operations = no_operations
    limits: HttpLimits = field(default_factory=HttpLimits)
    tally: Tally = field(default_factory=Tally)
    budget: LineBudget = field(default_factory=LineBudget)

    @property
    def authority(self) -> Authority:
        """Names, certificates and keys of the CA, as they are now."""
        return self.enroller.desk.authority
