"""Operations are named before they are loaded: the names are those of the modules."""

import pkgutil
from importlib import import_module

import ca_service.operations
from ca_service.operations.registry import OPERATIONS


def test_the_registry_has_what_the_modules_have():
    found = {}
    for module in pkgutil.iter_modules(ca_service.operations.__path__):
        if module.name != "registry":
            loaded = import_module(f"ca_service.operations.{module.name}")
            found |= {
                operation.name: operation
                for operation in getattr(loaded, "OPERATIONS", ())
                if loaded.OPERATIONS is not OPERATIONS
            }
    assert dict(OPERATIONS) == found
    assert len(OPERATIONS) == len(found) > 0


def test_each_is_found_by_its_own_name():
    assert {name: operation.name for name, operation in OPERATIONS.items()} == {n: n for n in OPERATIONS}
    assert OPERATIONS.get("format-disk") is None
