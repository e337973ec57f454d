"""One CA and one real TPM for all tests of quotes."""

import pytest
from quoting_tpm import scene as quoting_scene


@pytest.fixture(scope="session")
def scene(tmp_path_factory):
    with quoting_scene(tmp_path_factory.mktemp("quoting")) as made:
        yield made
