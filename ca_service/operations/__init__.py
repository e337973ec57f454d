"""What an operator may do, once: called by the command line and by the server's operator socket alike."""

from typing import TYPE_CHECKING

from ca_service.faces import on_demand

if TYPE_CHECKING:
    from ca_service.keys import upgrade_directory
    from ca_service.operations.bounds import MAX_EVIDENCE, MAX_POLICY, MAX_REQUEST
    from ca_service.operations.context import Json, Operation, OperationContext
    from ca_service.operations.databases import database_url, open_database, upgrade_database
    from ca_service.operations.issuers import ROLES, TRUSTED, ensure_issuers, missing_keys
    from ca_service.operations.kept import check_not_rolled_back, keep_seen, keep_state
    from ca_service.operations.performing import NO_OPERATION, perform
    from ca_service.operations.policies import unanswered
    from ca_service.operations.registry import OPERATIONS, load_all
    from ca_service.operations.root_list import publish_root_list, read_root_list, root_list_warning
    from ca_service.operations.setup import init, remember
else:
    __getattr__ = on_demand(
        __name__,
        {
            "ca_service.keys": "upgrade_directory",
            ".context": "Json Operation OperationContext",
            ".databases": "database_url open_database upgrade_database",
            ".issuers": "ROLES TRUSTED ensure_issuers missing_keys",
            ".kept": "check_not_rolled_back keep_seen keep_state",
            ".performing": "NO_OPERATION perform",
            ".policies": "unanswered",
            ".registry": "OPERATIONS load_all",
            ".root_list": "publish_root_list read_root_list root_list_warning",
            ".setup": "init remember",
            ".bounds": "MAX_EVIDENCE MAX_POLICY MAX_REQUEST",
        },
    )

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
    "load_all",
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
