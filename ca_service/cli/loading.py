"""Loading what a command needs, when it is known which command it is."""

import gc
from importlib import import_module
from types import ModuleType


def load(name: str) -> ModuleType:
    """The module of this name in this package.

    Nothing of what a module brings is garbage; looking for some takes an eighth of a server's start.
    """
    gc.disable()
    try:
        return import_module(f"ca_service.cli.{name}")
    finally:
        gc.enable()
