"""The health of a CA: all checks by name, and the operation that makes them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from ca_service.collateral import FOLDER, CollateralFolder
from ca_service.judgment import BadRequest
from ca_service.operations import health_authority, health_database, health_policy
from ca_service.operations.context import Json, Operation, OperationContext
from ca_service.operations.health_model import ORDER, HealthCheck, HealthContext, Result, Seen, Status
from vtpm.wire.encoding import Members
from vtpm.wire.errors import WireError

SERVER: Final = "server"
"""The one check that whoever asks has to make himself, for a server cannot see itself from outside."""


def _nobody(_context: HealthContext, _threshold: object) -> Iterable[Seen]:
    return [Seen(Status.UNKNOWN, "nobody has looked")]


SERVER_CHECK: Final = HealthCheck(
    SERVER,
    "the server answers on its operator socket, and says that it is ready",
    "Start it with `vtpm-ca serve`, or see its log.",
    _nobody,
)

CHECKS: Final[Mapping[str, HealthCheck]] = {
    check.id: check
    for check in (SERVER_CHECK, *health_database.CHECKS, *health_authority.CHECKS, *health_policy.CHECKS)
}
"""All checks, in the order in which they are shown."""


def choose(only: Sequence[str] = (), settings: Sequence[str] = ()) -> list[HealthCheck]:
    """The checks to make, with their thresholds.

    Args:
        only: names of the checks; empty for all.
        settings: ``NAME=WARNING[,CRITICAL]`` each.

    Raises:
        BadRequest: there is no such check, or it has no such threshold.
    """
    chosen = dict(CHECKS)
    for setting in settings:
        name, _, text = setting.partition("=")
        check = _known(name, "--set")
        if check.threshold is None:
            raise BadRequest("--set", f"{name} has no threshold")
        chosen[name] = replace(check, threshold=check.threshold.reset(text, f"--set {name}"))
    wanted = {_known(name, "--only").id for name in only}
    return [check for name, check in chosen.items() if not wanted or name in wanted]


def _known(name: str, option: str) -> HealthCheck:
    check = CHECKS.get(name)
    if check is None:
        raise BadRequest(
            option, "names no check", remedy="`vtpm-ca health-check --list` names them: " + ", ".join(CHECKS)
        )
    return check


def examine(context: HealthContext, checks: Iterable[HealthCheck]) -> list[Result]:
    """Make the checks, all but the one of the server."""
    return [check.examine(context) for check in checks if check.id != SERVER]


def worst(statuses: Iterable[Status]) -> Status:
    """The worst of several; well if there is none."""
    return max(statuses, key=ORDER.index, default=Status.OK)


def health(context: OperationContext, arguments: Members) -> Json:
    """Make the checks named in `only` (else all), with the thresholds in `settings` (else their own)."""
    only, settings = _texts(arguments, "only"), _texts(arguments, "settings")
    arguments.end()
    seen = HealthContext(
        context.public,
        context.unlock,
        lambda: context.store,
        context.clock(),
        context.collateral or CollateralFolder(context.public.directory / FOLDER).readable,
        context.store.url,
    )
    return [result.to_json() for result in examine(seen, choose(only, settings))]


def _texts(members: Members, name: str) -> list[str]:
    """A list of texts that may be left out."""
    value = members.value(name) if members.has(name) else []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise WireError(members.at(name), "must be a list of strings")
    return value


OPERATIONS = (Operation("health", health),)
