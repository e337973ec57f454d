"""The example documents that ship with the CA."""

import re
from importlib import resources
from pathlib import Path

from ca_service.judgment import NotFound

_NAME = re.compile(r"[a-z][a-z0-9-]*\.toml\Z")


def example_document(name: str) -> str:
    """The text of an example from `policies/`, such as ``simulation.toml``.

    Raises:
        NotFound: there is none of that name.
    """
    if _NAME.match(name):
        packaged = resources.files("ca_service").joinpath("data", "policies", name)
        checkout = Path(__file__).parents[3] / "policies" / name
        for place in (packaged, checkout):
            if place.is_file():
                return place.read_text(encoding="utf-8")
    raise NotFound("there is no example document of that name")
