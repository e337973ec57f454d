"""What an operator may do, once: called by the command line and by the server's operator socket alike."""

from collections.abc import Mapping

from ca_service.judgment import BadRequest
from ca_service.operations import certificates, instances, policies, records
from ca_service.operations.context import Json, Operation, OperationContext
from ca_service.operations.setup import database_url, init
from vtpm.wire.encoding import Members
from vtpm.wire.errors import WireError

OPERATIONS: Mapping[str, Operation] = {
    operation.name: operation
    for operation in (
        *policies.OPERATIONS,
        *instances.OPERATIONS,
        *certificates.OPERATIONS,
        *records.OPERATIONS,
    )
}
"""All operations by name."""


def perform(context: OperationContext, name: str, arguments: object) -> Json:
    """Run the operation `name` with its arguments, a JSON object.

    Raises:
        BadRequest: there is no such operation, or an argument is missing, unknown or malformed.
        VtpmCaError: as the operation says.
    """
    operation = OPERATIONS.get(name)
    if operation is None:
        raise BadRequest("", "there is no such operation", code="operation")
    try:
        return operation.run(context, Members(arguments))
    except WireError as error:
        raise BadRequest(error.path, error.problem) from error


__all__ = ["OPERATIONS", "Json", "Operation", "OperationContext", "database_url", "init", "perform"]
