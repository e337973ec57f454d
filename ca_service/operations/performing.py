"""Performing an operation by its name."""

import contextlib

import sqlalchemy as sa

from ca_service.judgment import BadRequest, Unavailable, VtpmCaError
from ca_service.operations.context import Json, Operation, OperationContext
from ca_service.operations.kept import keep_state
from ca_service.operations.registry import OPERATIONS
from ca_service.store import Taken
from vtpm.wire.encoding import Members
from vtpm.wire.errors import WireError

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
