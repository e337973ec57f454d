"""The operations by name. Each is loaded when it is looked up: a command performs one of them."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Final

from ca_service.operations.context import Operation

_NAMES: Final = {
    "policies": (
        "policy-apply policy-rollback policy-approve policy-withdraw policy-show policy-diff policy-log"
    ),
    "policy_trial": "policy-test",
    "brokers": "kbs-list kbs-show",
    "instances": "instance-list instance-show instance-reset",
    "certificates": "cert-list cert-show cert-revoke crl-publish",
    "revocation": "revoke",
    "draft_revocation": "policy-revoke",
    "keys": "key-list key-block key-unblock",
    "records": "decision-list alarm-list",
    "decisions": "decision-show decision-record",
    "issuers": "issuer-list issuer-certificates",
    "rollover": "issuer-preparable issuer-announce issuer-activate issuer-taint",
    "retirement": "issuer-retire",
    "health": "health",
}
"""The operations of each module of this package, separated by spaces."""


class _Operations(Mapping[str, Operation]):
    """All operations by name."""

    def __init__(self) -> None:
        self._module_of = MappingProxyType(
            {name: module for module, names in _NAMES.items() for name in names.split()}
        )

    def __getitem__(self, name: str) -> Operation:
        module = import_module(f"ca_service.operations.{self._module_of[name]}")
        found: dict[str, Operation] = {operation.name: operation for operation in module.OPERATIONS}
        return found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._module_of)

    def __len__(self) -> int:
        return len(self._module_of)


OPERATIONS: Final[Mapping[str, Operation]] = _Operations()


def load_all() -> None:
    """Load every operation: a server does it before it answers, so that no request waits for it."""
    tuple(OPERATIONS.values())
