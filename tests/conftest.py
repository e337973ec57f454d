"""What all tests share."""

import gc
import os
import sys

import pytest
from databases import database, databases, postgres, templates  # noqa: F401 - fixtures
from forked import forks  # noqa: F401 - a fixture
from forked_programs import programs  # noqa: F401 - a fixture
from hypothesis import HealthCheck, settings
from longest_first import longest_first
from memory_folders import keep_in_memory
from remembered_keys import remember_keys
from remembered_schema import remember_schema
from remembered_statements import remember_statements

# Where no bytecode is kept, each process compiles anew all that it imports: two thirds of what collecting costs.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# libtss2 writes its own log lines to standard error unless told not to before it is loaded.
os.environ.setdefault("TSS2_LOG", "all+none")

# The machine is shared: a deadline per example would measure its neighbours.
settings.register_profile("full", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# Each run has other examples. What a property needs more of, it says itself; `make test-long` has all of them.
settings.register_profile("suite", settings.get_profile("full"), max_examples=40)
settings.load_profile("suite")

keep_in_memory()
remember_keys()
remember_schema()
remember_statements()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection():
    """Ten thousand tests are made here, and none is garbage: looking for some takes a tenth of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector):
    """Every other process begins at the end: of two in a new checkout, each compiles one half of the modules.

    Whoever comes second finds what the first one kept. pytest-randomly puts the tests into the same order everywhere.
    """
    report = yield
    config = collector.config
    if isinstance(collector, pytest.Directory) and config.getoption("randomly_reorganize", default=False):
        number = getattr(config, "workerinput", {}).get("workerid", "gw0").removeprefix("gw")
        if int(number) % 2:
            report.result.reverse()
    return report


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = longest_first(items)
