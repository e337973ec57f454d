"""What an operator may do, once: called by the command line and by the server's operator socket alike."""

from collections.abc import Mapping

from ca_service.operations import certificates, desk, instances, policies, records
from ca_service.operations.desk import Desk, Json, Operation
from ca_service.operations.setup import database_url, init

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


def perform(at: Desk, name: str, arguments: object) -> Json:
    """Run the operation `name` with its arguments, a JSON object; see `desk.perform`."""
    return desk.perform(OPERATIONS, at, name, arguments)


__all__ = ["OPERATIONS", "Desk", "Json", "Operation", "database_url", "init", "perform"]
