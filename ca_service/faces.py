"""The public faces of packages whose rooms are costly to load.

A command uses two or three names of a package and ends after half a second. Were each face to load all that stands
behind it, every command would load the whole CA, with all libraries.
"""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module


def on_demand(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """The ``__getattr__`` of a package (PEP 562): a name is loaded from its home when it is first asked for.

    For type checkers and readers the package states the same under `TYPE_CHECKING`; a test compares the two. No name
    may be that of a module of the package: whoever loads that module would put it in the name's place.

    Args:
        package: its ``__name__``.
        homes: the names that each module gives, separated by spaces, by the module; one of the package itself begins
            with a dot.
    """
    home_of = {name: home for home, names in homes.items() for name in names.split()}

    def find(name: str) -> object:
        home = home_of.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value: object = getattr(import_module(home, package), name)
        setattr(sys.modules[package], name, value)
        return value

    return find
