"""The test files that take longest come first, so that no process is left alone with one of them at the end.

pytest-xdist hands out whole files in the order in which they stand here if it is told ``--no-loadscope-reorder``; else
it puts those with the most tests first, and the longest have few.
"""

from collections.abc import Sequence

import pytest

LONGEST = (
    "e2e/test_keylime.py",
    "e2e/test_readme.py",
    "consumers/test_consumers.py",
    "faults/test_boot_parties_down.py",
    "faults/test_boot_killed.py",
    "faults/test_boot_guest_powers.py",
    "attacks/test_attacks.py",
    "unit/api/test_contract_holds.py",
    "unit/enrollment/test_enroller.py",
    "unit/operations/test_backup.py",
    "unit/cli/test_commands.py",
    "faults/test_ca_kills.py",
    "faults/test_ca_nodes.py",
    "faults/test_volume_power_cut.py",
    "e2e/test_systemd.py",
    "e2e/test_demo.py",
    "e2e/test_wheel.py",
    "unit/lab/test_machine.py",
    "unit/store/test_migrations.py",
    "unit/enrollment/test_cause.py",
    "unit/cli/test_upgrade_path.py",
    "unit/policy/test_narrowing.py",
    "unit/enrollment/test_concurrency.py",
    "faults/test_ca_crashes.py",
    "unit/store/test_postgresql.py",
    "faults/test_ca_write_faults.py",
    "unit/cli/test_serve.py",
    "unit/service/test_service_worker.py",
)
"""Below ``tests``; from about ten seconds of a processor on."""

_PLACE = {name: place for place, name in enumerate(LONGEST)}


def longest_first(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """The tests with those of the longest files before all others; the order is kept otherwise."""
    return sorted(items, key=lambda item: _PLACE.get(_below_tests(item), len(_PLACE)))


def _below_tests(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0].removeprefix("tests/")
