import client_certifier as certifier
import pytest


@pytest.fixture(scope="session")
def authority():
    return certifier.Certifier()
