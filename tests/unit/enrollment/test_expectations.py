"""The tests of a policy document, run: on the example that has all kinds of them, and on evidence that is none."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ca_service.enrollment.expectations import check_rules, known_rules, outcome, run_tests
from ca_service.enrollment.submission import Submission
from ca_service.judgment import BadRequest
from ca_service.policy import load, load_complete

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "policies" / "tested"
TEXT = (FOLDER / "policy.toml").read_text()
GENUINE = (FOLDER / "evidence" / "genuine.json").read_bytes()
BODY = json.loads(GENUINE)["body"]
DAY = datetime(2026, 11, 23, 12, tzinfo=UTC)

POLICY = load_complete(TEXT)
RULES = {test.name: test.rule for test in POLICY.tests}


def beside(test):
    return (FOLDER / test.path).read_bytes()


def of(*entries):
    """The example with other tests."""
    lines = "".join(
        "[[test]]\n" + "".join(f"{name} = {value}\n" for name, value in entry.items()) for entry in entries
    )
    return load(TEXT[: TEXT.index("# What must stay admitted")] + lines)


GOOD = {"name": '"good"', "evidence": '"evidence/genuine.json"', "expect": '"admitted"'}
BAD = {**GOOD, "name": '"bad"', "expect": '"refused"', "rule": '"kbs.listed"'}


def test_the_example_holds_in_each_of_its_tests():
    tried = run_tests(POLICY, beside)
    assert [(each.expectation.name, each.got) for each in tried if not each.holds] == []
    assert outcome(POLICY, tried)["holds"] is True
    assert {each.recorded_mode for each in tried} == {"simulation"}
    assert [each.at for each in tried if each.expectation.at is None] == [DAY] * (len(tried) - 1)


@pytest.mark.parametrize("name", sorted(RULES))
def test_no_test_of_the_example_would_hold_if_it_said_otherwise(name):
    others = [
        ("refused", "kbs.status") if RULES[name] == "" else ("admitted", ""),
        ("refused", "kbs.valid"),
    ]
    for expect, rule in others:
        turned = tuple(
            replace(test, expect=expect, rule=rule) if test.name == name else test for test in POLICY.tests
        )
        tried = run_tests(replace(POLICY, tests=turned), beside)
        assert [each.expectation.name for each in tried if not each.holds] == [name]
        assert outcome(POLICY, tried)["holds"] is False


def test_each_test_guards_what_it_is_named_for():
    """Give the example's constraints up, one at a time: a test says so."""
    for old, new, failing in (
        ('"default/vtpm/*"', '"*/*/*"', {"foreign-resource"}),
        ('origins = ["kbs-generated"]', 'origins = ["kbs-generated", "provisioned"]', {"provisioned-secret"}),
        ("max_age_s = 3600", "max_age_s = 604800", {"a-grant-of-yesterday"}),
        ('status = "trusted"', 'status = "suspended"', {*RULES} - {"unlisted-key-broker", "unreviewed-svsm"}),
    ):
        assert old in TEXT
        tried = run_tests(load(TEXT.replace(old, new)), beside)
        assert {each.expectation.name for each in tried if not each.holds} == failing, new


def test_a_production_ca_takes_no_simulated_evidence():
    tried = run_tests(POLICY, beside, "production")
    assert {(each.mode, each.recorded_mode) for each in tried} == {("production", "simulation")}
    assert {each.got for each in tried} == {"refused by snp.chain"}


def test_what_scripts_read():
    (admitted, refused) = outcome(of(GOOD, BAD), run_tests(of(GOOD, BAD), beside))["tests"]
    assert admitted["got"] == {"verdict": "admitted", "rule": "", "reason": "", "expected": "", "actual": ""}
    assert refused["holds"] is False
    assert refused["expected"] == {"verdict": "refused", "rule": "kbs.listed"}
    assert refused["sha256"] == hashlib.sha256(GENUINE).hexdigest()
    assert (refused["mode"], refused["at"]) == ("simulation", "2026-11-23T12:00:00Z")


def test_each_file_is_read_once_and_a_pin_counts_wherever_it_stands():
    asked = []

    def find(test):
        asked.append(test.path)
        return GENUINE

    pin = {"sha256": f'"{hashlib.sha256(GENUINE).hexdigest()}"'}
    policy = of(GOOD, {**GOOD, **pin, "name": '"pinned"'})
    assert all(each.holds for each in run_tests(policy, find))
    assert asked == ["evidence/genuine.json"]
    with pytest.raises(BadRequest, match="not the file that the document pins") as error:
        run_tests(of(GOOD, {**GOOD, "name": '"pinned"', "sha256": f'"{"ab" * 32}"'}), find)
    assert (error.value.code, error.value.path) == ("policy-evidence", "test good")


def broken(**changes):
    return json.dumps({**json.loads(GENUINE), **changes}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b"[" * 100_000,
        GENUINE[:-3],
        broken(kind="something else"),
        broken(schema=2),
        broken(surprise=1),
        broken(body="e30="),
        broken(body=""),
        broken(at="yesterday"),
        broken(mode="any"),
        broken(collateral=["leaf"]),
    ],
)
def test_what_is_no_recorded_decision_is_named_with_its_test(content):
    with pytest.raises(BadRequest, match=r"^test good: evidence/genuine.json: ") as error:
        run_tests(of(GOOD), lambda _test: content)
    assert error.value.code == "policy-evidence"
    assert error.value.detail.isprintable()


def test_a_rule_that_there_is_not_fails_no_test_but_is_an_error():
    for rule in ("kbs.listd", "nonce.unexpired", "activation.secret", "policy.in-force"):
        policy = of(GOOD, {**BAD, "rule": f'"{rule}"'})
        with pytest.raises(BadRequest, match=rf"no rule {rule}.*entry \"bad\"") as error:
            run_tests(policy, beside)
        assert (error.value.code, error.value.path) == ("policy-invalid", "test[1].rule")
    check_rules(of(GOOD, BAD))


def test_the_known_rules_are_those_of_the_protocol():
    text = (ROOT / "docs" / "protocol.md").read_text()
    text = text[text.index("\n## 9 Rules\n") : text.index("\n## 10 ")]
    cells = [line.split("|")[1] for line in text.splitlines() if re.match(r"\| `[a-z]+\.[a-z-]+`", line)]
    named = {rule for cell in cells for rule in re.findall(r"`([a-z]+\.[a-z-]+)`", cell)}
    others = {rule for rule in named if rule.startswith(("nonce.", "activation.", "lint."))}
    assert {"kbs.listed", "nonce.unexpired"} <= named
    assert known_rules() == named - others - {"policy.in-force"}


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["", "production", "e30="]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=4,
)


def tried_or_not(content):
    """The example's evidence in another form: what came of it, and the error that it is none."""
    try:
        (tried,) = run_tests(of(GOOD), lambda _test: json.dumps(content).encode())
    except BadRequest as error:
        return None, error
    return tried, None


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_stands_in_a_record_is_judged_or_refused(data):
    content = json.loads(GENUINE)
    place = content if data.draw(st.booleans()) else content["ledger"]
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(JSON)
    tried, error = tried_or_not(content)
    if error is not None:
        assert error.code == "policy-evidence"
        assert error.detail.isprintable()
    else:
        assert tried.holds or tried.refusal is not None


def test_names_in_a_record_steer_no_terminal():
    content = json.loads(GENUINE)
    content["items"] = {"\x1b[2J" * 100: None}
    _tried, error = tried_or_not(content)
    assert "?[2J" in error.detail
    assert error.detail.isprintable()
    assert len(error.detail) < 400


@settings(max_examples=40, deadline=None)
@given(at=st.integers(0), bit=st.integers(0, 7))
def test_a_record_of_an_altered_request_is_worth_nothing(at, bit):
    """What a record holds is signed as it ever was."""
    content = json.loads(GENUINE)
    body = bytearray(base64.b64decode(content["body"]))
    body[at % len(body)] ^= 1 << bit
    content["body"] = base64.b64encode(body).decode()
    tried, error = tried_or_not(content)
    if error is not None:
        assert error.code == "policy-evidence"
    elif tried.trace.admitted:
        # Nothing but what nobody looks at is another: white space, or certificates that no host is believed.
        altered, genuine = (Submission.parse(each).request for each in (bytes(body), base64.b64decode(BODY)))
        assert altered.certify == genuine.certify
        for name in ("profile", "runtime_data", "report"):
            assert getattr(altered.evidence, name) == getattr(genuine.evidence, name)
