"""What all tests share."""

import os

from databases import database, databases, postgres, templates  # noqa: F401 - fixtures
from forked import forks  # noqa: F401 - a fixture
from hypothesis import HealthCheck, settings
from remembered_keys import remember_keys

# libtss2 writes its own log lines to standard error unless told not to before it is loaded.
os.environ.setdefault("TSS2_LOG", "all+none")

# The machine is shared: a deadline per example would measure its neighbours.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

remember_keys()
