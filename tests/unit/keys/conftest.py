"""A CA that a real ceremony made, once; tests that change it take a copy."""

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ca_service.keys import CeremonyConfig, Sealer, run_ceremony

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
PASSPHRASE = b"correct horse battery staple"
CONFIG = """
mode = "simulation"
organization = "Example Organisation"
publication_url = "http://127.0.0.1:8443"
"""


@pytest.fixture(scope="session")
def config():
    return CeremonyConfig.from_toml(CONFIG)


@pytest.fixture(scope="session")
def perform():
    def run(directory, config, **changes):
        values = {"clock": lambda: NOW, "entropy": os.urandom}
        with pytest.MonkeyPatch.context() as patch:
            # A quarter of what sealing costs elsewhere; `test_sealed` looks at that.
            patch.setitem(Sealer.__init__.__kwdefaults__, "log2_n", 14)
            return run_ceremony(directory, config, PASSPHRASE, **(values | changes))

    return run


@pytest.fixture(scope="session")
def pristine(tmp_path_factory, config, perform):
    directory = tmp_path_factory.mktemp("ca") / "simulation"
    perform(directory, config)
    return directory


@pytest.fixture
def ca(pristine, tmp_path):
    """A copy that a test may spoil."""
    return Path(shutil.copytree(pristine, tmp_path / "ca", copy_function=shutil.copy2))
