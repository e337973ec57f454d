import importlib.util
import sys
from pathlib import Path

import pytest

_NAME = "client_certifier"


def _load():
    """The helper module beside this file; test folders are no packages."""
    if _NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(_NAME, Path(__file__).with_name("certifier.py"))
        module = importlib.util.module_from_spec(spec)
        sys.modules[_NAME] = module
        spec.loader.exec_module(module)
    return sys.modules[_NAME]


certifier = _load()


@pytest.fixture(scope="session")
def authority():
    return certifier.Certifier()
