"""One CA and one real TPM for all tests of quotes."""

import pytest
from quoting_tpm import scene as quoting_scene

from vtpm.tpm import GuestGateway, Swtpm


@pytest.fixture(scope="session")
def scene(tmp_path_factory):
    with quoting_scene(tmp_path_factory.mktemp("quoting")) as made:
        yield made


@pytest.fixture
def bare_tpm():
    """The TCTI of a TPM without IAK and certificates."""
    with Swtpm() as tpm:
        tpm.power_on(None)
        with GuestGateway(tpm) as gateway:
            yield gateway.tcti
