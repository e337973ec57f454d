"""What differs between the tests of two policies. They judge nobody, so no difference changes who is admitted."""

from collections.abc import Iterator, Sequence

from ca_service.policy.changes.effects import Change, Effect
from ca_service.policy.entries.expectations import Expectation


def compare_tests(old: Sequence[Expectation], new: Sequence[Expectation]) -> Iterator[Change]:
    """Differences between tests, by name: a test that is gone or says something else is named as what it said."""
    before = {test.name: test for test in old}
    after = {test.name: test for test in new}
    for name in sorted(before.keys() | after.keys()):
        earlier, later = before.get(name), after.get(name)
        if earlier == later:
            continue
        if earlier is not None:
            yield Change(f"test {name}", f"no longer tests that {_said(earlier)}", Effect.NEUTRAL)
        if later is not None:
            yield Change(f"test {name}", f"tests that {_said(later)}", Effect.NEUTRAL)


def _said(test: Expectation) -> str:
    said = f"{test.evidence} is {test.expect}"
    if test.rule:
        said += f" by {test.rule}"
    if test.path and test.digest:
        said += f" ({test.digest[:16]}...)"
    return said if test.at is None else f"{said} at {test.at.isoformat()}"
