import logging
import tempfile
from pathlib import Path

import pytest

from vtpm.lab.attacks import Lab, furnished
from vtpm.lab.attacks.scene import staged


@pytest.fixture(scope="session")
def lab():
    """A CA's keys and a processor, made once per process; every attempt has its own world on top."""
    with furnished() as made:
        yield made


@pytest.fixture
def scene(lab: Lab):
    """A world in which everything is checked."""
    with (
        tempfile.TemporaryDirectory(dir=lab.directory) as directory,
        staged(lab, Path(directory), frozenset(), origins=("kbs-generated",)) as made,
    ):
        yield made


@pytest.fixture(autouse=True)
def _hosts_say_nothing(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.CRITICAL, "vtpm")
