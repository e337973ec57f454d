"""What an operator may do, once: called by the command line and by the server's operator socket alike."""

import contextlib
from collections.abc import Mapping

import sqlalchemy as sa

from ca_service.judgment import BadRequest, Unavailable, VtpmCaError
from ca_service.keys import upgrade_directory
from ca_service.operations import (
    brokers,
    certificates,
    draft_revocation,
    health,
    instances,
    issuers,
    keys,
    policies,
    policy_trial,
    records,
    retirement,
    revocation,
    rollover,
)
from ca_service.operations.context import Json, Operation, OperationContext
from ca_service.operations.issuers import ROLES, TRUSTED, ensure_issuers, missing_keys
from ca_service.operations.kept import check_not_rolled_back, keep_seen, keep_state
from ca_service.operations.policies import MAX_POLICY, unanswered
from ca_service.operations.policy_tests import MAX_EVIDENCE, MAX_SENT
from ca_service.operations.root_list import publish_root_list, read_root_list, root_list_warning
from ca_service.operations.setup import database_url, init, open_database, remember, upgrade_database
from ca_service.store import Taken
from vtpm.wire.encoding import Members
from vtpm.wire.errors import WireError

OPERATIONS: Mapping[str, Operation] = {
    operation.name: operation
    for operation in (
        *policies.OPERATIONS,
        *policy_trial.OPERATIONS,
        *brokers.OPERATIONS,
        *instances.OPERATIONS,
        *certificates.OPERATIONS,
        *revocation.OPERATIONS,
        *draft_revocation.OPERATIONS,
        *keys.OPERATIONS,
        *records.OPERATIONS,
        *issuers.OPERATIONS,
        *rollover.OPERATIONS,
        *retirement.OPERATIONS,
        *health.OPERATIONS,
    )
}
"""All operations by name."""

MAX_REQUEST = 3 * MAX_POLICY + MAX_SENT + 64 * 1024
"""Longest JSON text of an operation's arguments, in bytes. The longest is a policy document with its evidence, and
escaped as JSON in ASCII no text takes more than three times its bytes in UTF-8 (TOML has no control characters but
line ends and tabs)."""


NO_OPERATION = "operation"
"""Code of the error that there is no such operation."""


def perform(context: OperationContext, name: str, arguments: object) -> Json:
    """Run the operation `name` with its arguments, a JSON object.

    Raises:
        BadRequest: there is no such operation, or an argument is missing, unknown or malformed.
        Unavailable: the database cannot do it now.
        VtpmCaError: as the operation says.
    """
    operation = OPERATIONS.get(name)
    if operation is None:
        raise BadRequest("", "there is no such operation", code=NO_OPERATION)
    try:
        return _run(context, operation, arguments)
    except WireError as error:
        raise BadRequest(error.path, error.problem) from error
    except Taken as error:
        raise Unavailable("another request was faster; try again") from error
    except sa.exc.SQLAlchemyError as error:
        raise Unavailable("the database cannot do this now; it may be damaged") from error


def _run(context: OperationContext, operation: Operation, arguments: object) -> Json:
    if not operation.publishes:
        return operation.run(context, Members(arguments))
    try:
        result = operation.run(context, Members(arguments))
    except BaseException:
        # A part of it may be done; what went wrong first is what the operator has to know.
        with contextlib.suppress(VtpmCaError):
            keep_state(context.public, context.store)
        raise
    # Before the operator is told: what is revoked stays revoked, whatever becomes of the database.
    keep_state(context.public, context.store)
    return result


__all__ = [
    "MAX_EVIDENCE",
    "MAX_POLICY",
    "MAX_REQUEST",
    "NO_OPERATION",
    "OPERATIONS",
    "ROLES",
    "TRUSTED",
    "Json",
    "Operation",
    "OperationContext",
    "check_not_rolled_back",
    "database_url",
    "ensure_issuers",
    "init",
    "keep_seen",
    "keep_state",
    "missing_keys",
    "open_database",
    "perform",
    "publish_root_list",
    "read_root_list",
    "remember",
    "root_list_warning",
    "unanswered",
    "upgrade_database",
    "upgrade_directory",
]
