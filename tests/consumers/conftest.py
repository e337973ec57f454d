"""What this CA issues, for the programs of others."""

import every_certificate
import pytest


@pytest.fixture(scope="session")
def every(tmp_path_factory):
    """A CA that has issued a certificate of every kind; nothing here changes it."""
    return every_certificate.make(tmp_path_factory.mktemp("every"))
