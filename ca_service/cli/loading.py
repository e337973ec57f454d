"""Loading what a command needs, when it is known which command it is."""

import gc
from importlib import import_module
from types import ModuleType
from typing import Final

_USUAL: Final = gc.get_threshold()
_RARELY: Final = 50_000
"""New objects between two looks for garbage."""


def collect_rarely() -> None:
    """Look for garbage rarely: nothing of what a module brings is any, and a command does little else than load.

    It takes an eighth of a server's start.
    """
    gc.set_threshold(_RARELY)


def collect_as_usual() -> None:
    """Look for garbage as often as the interpreter does by itself; for what runs longer than a command."""
    gc.set_threshold(*_USUAL)


def load(name: str) -> ModuleType:
    """The module of this name in this package."""
    return import_module(f"ca_service.cli.{name}")
