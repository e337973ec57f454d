"""What this CA issues, for the programs of others."""

from datetime import UTC, datetime, timedelta

import every_certificate
import pytest


@pytest.fixture(scope="session")
def every(tmp_path_factory):
    """A CA that has issued a certificate of every kind; nothing here changes it.

    At the present time, for not every program can be told another.
    """
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)
    return every_certificate.make(tmp_path_factory.mktemp("every"), start)
