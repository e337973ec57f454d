"""The test files that take longest come first, so that no process is left alone with one of them at the end.

pytest-xdist hands out whole files in the order in which they stand here if it is told ``--no-loadscope-reorder``; else
it puts those with the most tests first, and the longest have few.
"""

from collections.abc import Sequence

import pytest

LONGEST = (
    "e2e/test_keylime.py",
    "consumers/test_consumers.py",
    "attacks/test_attacks.py",
    "unit/api/test_contract_holds.py",
    "e2e/test_readme.py",
    "unit/operations/test_backup.py",
    "unit/enrollment/test_enroller.py",
    "faults/test_boot_parties_down.py",
    "unit/cli/test_commands.py",
    "faults/test_ca_kills.py",
    "unit/store/test_migrations.py",
    "e2e/test_systemd.py",
    "unit/lab/test_machine.py",
    "faults/test_boot_killed.py",
    "faults/test_boot_guest_powers.py",
    "faults/test_ca_crashes.py",
    "e2e/test_wheel.py",
    "unit/policy/test_narrowing.py",
    "unit/enrollment/test_cause.py",
    "faults/test_ca_write_faults.py",
    "faults/test_volume_power_cut.py",
    "faults/test_ca_nodes.py",
    "unit/enrollment/test_concurrency.py",
    "unit/enrollment/test_recorded.py",
    "unit/cli/test_serve.py",
    "unit/enrollment/test_ephemeral.py",
    "unit/kbs/test_directory.py",
    "unit/store/test_postgresql.py",
    "unit/service/test_service_worker.py",
    "unit/api/test_rolled_back.py",
    "faults/test_ca_secrets.py",
    "e2e/test_demo.py",
    "unit/cli/test_upgrade_path.py",
)
"""Below ``tests``; from about seven seconds of a processor on."""

_PLACE = {name: place for place, name in enumerate(LONGEST)}


def longest_first(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """The tests with those of the longest files before all others; the order is kept otherwise."""
    return sorted(items, key=lambda item: _PLACE.get(_below_tests(item), len(_PLACE)))


def _below_tests(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0].removeprefix("tests/")
