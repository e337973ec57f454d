"""What a document may say in its tests, and what a change of them is called."""

import posixpath
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ca_service.judgment import BadRequest
from ca_service.policy import MOST_FILES, Expectation, load
from ca_service.policy.changes import Effect, compare
from ca_service.policy.document.tests import MOST_TESTS

ONE, OTHER = "ab" * 32, "cd" * 32
ADMITTED = {"name": "good", "evidence": "evidence/good.json", "expect": "admitted"}
REFUSED = {"name": "bad", "evidence": "bad.json", "sha256": ONE, "expect": "refused", "rule": "kbs.listed"}


@pytest.fixture
def tests(content, toml):
    """The policy of a document with these tests."""
    return lambda *entries: load(toml(content | {"test": list(entries)}))


def test_tests_are_read_in_their_order(tests):
    at = datetime(2026, 11, 24, 12, tzinfo=UTC)
    kept = {"name": "kept", "evidence": f"sha256:{OTHER}", "expect": "admitted", "at": at}
    read = tests(REFUSED, ADMITTED, kept).tests
    assert read == (
        Expectation("bad", "bad.json", ONE, "refused", "kbs.listed"),
        Expectation("good", "evidence/good.json", "", "admitted", ""),
        Expectation("kept", "", OTHER, "admitted", "", at),
    )
    assert [test.evidence for test in read] == ["bad.json", "evidence/good.json", f"sha256:{OTHER}"]
    assert tests().tests == ()


@pytest.mark.parametrize(
    ("entry", "path", "detail"),
    [
        ({"evidence": "/etc/passwd"}, "evidence", "absolute"),
        ({"evidence": "../good.json"}, "evidence", "lead out"),
        ({"evidence": "a/../../b"}, "evidence", "lead out"),
        ({"evidence": "./good.json"}, "evidence", "relative path"),
        ({"evidence": "a//b"}, "evidence", "relative path"),
        ({"evidence": "a\\b"}, "evidence", "relative path"),
        ({"evidence": "-o"}, "evidence", "relative path"),
        ({"evidence": "a\n"}, "evidence", "relative path"),
        ({"evidence": ""}, "evidence", "relative path"),
        ({"evidence": "a" * 257}, "evidence", "256 characters"),
        ({"evidence": "sha256:ABC"}, "evidence", "64 lower-case hex digits"),
        ({"evidence": f"sha256:{ONE}", "sha256": ONE}, "sha256", "names the digest already"),
        ({"sha256": ONE.upper()}, "sha256", "64 lower-case hex digits"),
        ({"expect": "maybe"}, "expect", "admitted"),
        ({"expect": "refused"}, "rule", "must be stated"),
        ({"rule": "kbs.listed"}, "rule", "belongs to refusals"),
        ({"expect": "refused", "rule": "kbs"}, "rule", "id of a rule"),
        ({"at": datetime(2026, 1, 1)}, "at", "time zone"),  # noqa: DTZ001 - that is the point
        ({"at": datetime(2026, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC)}, "at", "whole second"),
        ({"name": "Not a name"}, "name", "must be 1 to 64 of"),
        ({"surprise": 1}, "surprise", "no member of this table"),
    ],
)
def test_what_a_test_must_not_say(tests, entry, path, detail):
    with pytest.raises(BadRequest, match=detail) as error:
        tests(REFUSED, {**ADMITTED, **entry})
    assert error.value.code == "policy-invalid"
    assert error.value.path == f"test[1].{path}"
    assert "(entry " in error.value.detail


def test_a_time_that_no_clock_in_utc_shows(content, toml):
    text = toml(content | {"test": [ADMITTED]})
    beyond = "[{at = 0001-01-01T00:00:00+01:00, "
    with pytest.raises(BadRequest, match="beyond the calendar"):
        load(text.replace("test = [{", f"test = {beyond}"))


def test_what_tests_must_not_say_together(tests):
    for entries, detail in (
        ((ADMITTED, ADMITTED), r"test\[1\].name: stands twice"),
        (
            ({**ADMITTED, "evidence": "bad.json", "sha256": OTHER}, REFUSED),
            r"test\[1\].sha256: is another digest",
        ),
    ):
        with pytest.raises(BadRequest, match=detail):
            tests(*entries)
    # What one test pins is pinned for all.
    assert [test.digest for test in tests({**ADMITTED, "evidence": "bad.json"}, REFUSED).tests] == [ONE, ONE]


def test_how_many_there_may_be(tests):
    many = [{**ADMITTED, "name": f"t{i}", "evidence": f"{i % MOST_FILES}.json"} for i in range(MOST_TESTS)]
    assert len(tests(*many).tests) == MOST_TESTS
    with pytest.raises(BadRequest, match=f"at most {MOST_TESTS}"):
        tests(*many, {**ADMITTED, "name": "more"})
    with pytest.raises(BadRequest, match=f"{MOST_FILES} files"):
        tests(*many[: MOST_TESTS - 1], {**ADMITTED, "name": "more"})


@given(st.text(alphabet=st.sampled_from("a.-/~\\ \0\n:"), max_size=12) | st.text(max_size=12))
@example("a/..")
@example("..")
def test_no_path_leads_out_of_the_folder(path):
    text = f'schema = 1\n[[test]]\nname = "t"\nexpect = "admitted"\nevidence = "{path}"\n'
    try:
        (test,) = load(text).tests
    except BadRequest:
        return
    assert test.path == posixpath.normpath(path)
    assert not posixpath.isabs(test.path)
    assert not any(step.startswith((".", "-")) for step in test.path.split("/"))


def test_they_count_in_the_digest_and_judge_nobody(tests, facts, refusals):
    without, with_tests = tests(), tests(REFUSED)
    assert without.digest != with_tests.digest
    assert refusals(without, facts) == refusals(with_tests, facts) == []


def told(old, new):
    comparison = compare(old, new, "simulation")
    assert comparison.effect is Effect.NEUTRAL
    return [str(change) for change in comparison.changes]


def test_whoever_takes_a_test_away_is_seen_to(tests):
    assert told(tests(REFUSED, ADMITTED), tests(ADMITTED)) == [
        f"test bad: no longer tests that bad.json is refused by kbs.listed ({ONE[:16]}...)"
    ]
    assert told(tests(), tests(ADMITTED)) == ["test good: tests that evidence/good.json is admitted"]
    assert told(tests(REFUSED, ADMITTED), tests(ADMITTED, REFUSED)) == []


def test_a_test_that_says_something_else(tests):
    at = datetime(2026, 11, 24, 12, tzinfo=UTC)
    assert told(tests(ADMITTED), tests({**ADMITTED, "at": at})) == [
        "test good: no longer tests that evidence/good.json is admitted",
        "test good: tests that evidence/good.json is admitted at 2026-11-24T12:00:00+00:00",
    ]
