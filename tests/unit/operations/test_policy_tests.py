"""No document is put in force whose tests fail, and the CA keeps what it takes to run them again."""

import base64
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from ca_service.judgment import BadRequest, Conflict
from ca_service.operations import MAX_EVIDENCE, MAX_REQUEST
from ca_service.policy import load
from ca_service.store import schema

FOLDER = Path(__file__).parents[3] / "policies" / "tested"
TEXT = (FOLDER / "policy.toml").read_text()
FILES = {f"evidence/{path.name}": path.read_bytes() for path in (FOLDER / "evidence").iterdir()}
GENUINE = FILES["evidence/genuine.json"]
PLAIN = TEXT[: TEXT.index("# What must stay admitted")]
ADMITTED = '[[test]]\nname = "good"\nevidence = "evidence/genuine.json"\nexpect = "admitted"\n'


def sent(files):
    return [{"path": path, "content": base64.b64encode(body).decode()} for path, body in files.items()]


EVIDENCE = sent(FILES)


def apply(desk, text=TEXT, evidence=EVIDENCE, **arguments):
    return desk("policy-apply", text=text, evidence=evidence, **arguments)


def refused(desk, *given, code="policy-tests", **arguments):
    """The error of an `apply` that changes nothing."""
    before = desk("policy-log")
    with pytest.raises(BadRequest) as error:
        apply(desk, *given, **arguments)
    assert error.value.code == code
    assert desk("policy-log") == before
    return error.value


def kept(desk):
    with desk.store.read() as tx:
        return set(tx.connection.execute(sa.select(schema.policy_evidence.c.digest)).scalars())


def digests(files):
    return {hashlib.sha256(body).hexdigest() for body in files.values()}


def test_a_document_whose_tests_hold_is_put_in_force_and_its_evidence_kept(empty):
    assert apply(empty)["version"] == 1
    assert kept(empty) == digests(FILES)
    assert apply(empty)["changed"] is False


def test_a_document_whose_tests_fail_is_not(empty):
    text = TEXT.replace('"default/vtpm/*"', '"*/*/*"').replace("max_age_s = 3600", "max_age_s = 604800")
    error = refused(empty, text)
    assert error.detail == "test: 2 of 7 tests fail: a-grant-of-yesterday, foreign-resource"
    assert error.remedy.splitlines()[:2] == [
        "test a-grant-of-yesterday: expected refused by grant.age, got admitted",
        "test foreign-resource: expected refused by kbs.resource, got admitted",
    ]
    assert kept(empty) == set()


def test_of_many_failing_tests_some_are_named(empty):
    one = ADMITTED.replace('"admitted"', '"refused"\nrule = "kbs.listed"')
    text = PLAIN + "".join(one.replace('"good"', f'"t{i}"') for i in range(30))
    error = refused(empty, text, sent({"evidence/genuine.json": GENUINE}))
    assert error.detail == "test: 30 of 30 tests fail: t0, t1, t2, t3, t4, t5, and 24 more"
    assert "test t19: " in error.remedy
    assert "test t20: " not in error.remedy
    assert "and 10 more" in error.remedy


def test_a_production_ca_judges_as_what_it_is(empty):
    empty.context = replace(empty.context, public=replace(empty.context.public, mode="production"))
    error = refused(empty, PLAIN + ADMITTED, sent({"evidence/genuine.json": GENUINE}))
    assert "expected admitted, got refused by snp.chain" in error.remedy


def test_the_way_back_runs_the_tests_again_without_the_files(empty):
    apply(empty)
    apply(empty, "schema = 1\n", [])
    back = empty("policy-rollback", version=1)
    assert (back["version"], back["changed"]) == (3, True)
    apply(empty, "schema = 1\n", [])
    with empty.store.write() as tx:
        other = {**FILES, "evidence/genuine.json": FILES["evidence/foreign-resource.json"]}
        tx.policy_evidence.keep(load(TEXT).digest, other, empty.world.time)
    with pytest.raises(BadRequest, match="2 of 7 tests fail: a-genuine-guest, a-grant-of-yesterday") as error:
        empty("policy-rollback", version=1)
    assert error.value.code == "policy-tests"


def test_an_edit_of_the_document_in_force_means_the_same_files(empty):
    apply(empty)
    edited = TEXT.replace("max_age_s = 3600", "max_age_s = 1800")
    assert apply(empty, edited, [])["version"] == 2
    # From here on it has its own.
    apply(empty, "schema = 1\n", [])
    assert empty("policy-rollback", version=2)["changed"] is True
    apply(empty, "schema = 1\n", [])
    error = refused(empty, TEXT.replace("max_age_s = 3600", "max_age_s = 900"), [], code="policy-evidence")
    assert error.path == "test a-genuine-guest"
    assert "was not sent, and this CA does not keep it" in error.detail


def test_evidence_that_the_ca_keeps_is_named_by_its_digest(empty):
    digest = hashlib.sha256(GENUINE).hexdigest()
    by_digest = PLAIN + ADMITTED.replace("evidence/genuine.json", f"sha256:{digest}")
    pinned = PLAIN + ADMITTED + f'sha256 = "{digest}"\n'
    refused(empty, by_digest, [], code="policy-evidence")
    refused(empty, pinned, [], code="policy-evidence")
    apply(empty, pinned, sent({"evidence/genuine.json": GENUINE}))
    apply(empty, "schema = 1\n", [])
    assert apply(empty, by_digest, [])["changed"] is True
    assert apply(empty, pinned, [])["changed"] is True
    other = {"evidence/genuine.json": FILES["evidence/cloned-tpm.json"]}
    assert (
        "not the file that the document pins"
        in refused(empty, pinned, sent(other), code="policy-evidence").detail
    )


def test_damage_in_the_database_is_noticed(empty):
    apply(empty)
    with empty.store.write() as tx:
        table = schema.policy_evidence
        tx.connection.execute(sa.update(table).values(body=FILES["evidence/cloned-tpm.json"]))
    assert "is damaged" in refused(empty, TEXT, [], code="policy-evidence").detail


def test_what_is_tested_with_is_what_was_sent_last(empty):
    apply(empty)
    other = {**FILES, "evidence/genuine.json": FILES["evidence/provisioned-secret.json"]}
    assert "a-genuine-guest" in refused(empty, TEXT, sent(other)).detail
    again = {**FILES, "evidence/provisioned-secret.json": GENUINE + b"\n"}
    text = TEXT.replace('rule = "kbs.origin"', "").replace(
        'provisioned-secret.json"\nexpect = "refused"', 'provisioned-secret.json"\nexpect = "admitted"'
    )
    assert apply(empty, text, sent(again))["version"] == 2
    assert (
        apply(empty, text, sent({**again, "evidence/provisioned-secret.json": GENUINE}))["changed"] is False
    )
    with empty.store.read() as tx:
        files = tx.policy_evidence.files(load(text).digest)
    assert files["evidence/provisioned-secret.json"] == hashlib.sha256(GENUINE).hexdigest()


def test_a_document_without_tests_keeps_nothing(empty):
    assert apply(empty, PLAIN, [])["version"] == 1
    assert kept(empty) == set()


def test_the_present_ledger_has_no_part_in_it(desk):
    """The CA that has worked knows other TPMs; what it knows changes no test, and a test changes nothing of it."""
    instances = desk("instance-list")
    told = desk("policy-test", text=TEXT, evidence=EVIDENCE)
    assert told["holds"] is True
    assert len(told["tests"]) == 7
    assert desk("instance-list") == instances


def test_a_trial_changes_nothing(empty):
    text = TEXT.replace('"default/vtpm/*"', '"*/*/*"')
    told = empty("policy-test", text=text, evidence=EVIDENCE)
    assert [test["name"] for test in told["tests"] if not test["holds"]] == ["foreign-resource"]
    assert empty("policy-log") == []
    assert kept(empty) == set()
    assert empty("policy-test", text="schema = 1\n")["tests"] == []
    with pytest.raises(BadRequest):
        empty("policy-test", text="schema = 2\n")


@pytest.mark.parametrize(
    ("evidence", "message"),
    [
        ({}, "evidence: must be an array"),
        ([{"path": "a"}], r"evidence\[0\].content: is missing"),
        ([{"path": "a", "content": "e30"}], r"evidence\[0\].content: must be standard base64"),
        ([{"path": "a", "content": "", "x": 1}], r"evidence\[0\].x: is no member"),
        ([{"path": "a", "content": ""}] * 2, r"evidence\[1\].path: stands twice"),
        ([{"path": "a", "content": ""}] * 65, "0 to 64 elements"),
        (sent({"surplus.json": b"{}"}), "surplus.json: no test of the document names this file"),
        (
            sent({str(i): bytes(MAX_EVIDENCE // 4) for i in range(4)} | {"one": b"x"}),
            f"at most {MAX_EVIDENCE}",
        ),
    ],
)
def test_what_is_sent_is_read_strictly(empty, evidence, message):
    for name in ("policy-apply", "policy-test"):
        with pytest.raises(BadRequest, match=message):
            empty(name, text=PLAIN + ADMITTED, evidence=evidence)
    assert empty("policy-log") == []


def test_what_is_kept_counts_as_what_is_sent(empty):
    """However many documents brought them in, files that one names together are as bounded as those that are sent."""
    tests, padding = [], MAX_EVIDENCE // 2
    for i in range(2):
        body = GENUINE + b" " * (padding + i)
        apply(empty, PLAIN + ADMITTED, sent({"evidence/genuine.json": body}))
        digest = hashlib.sha256(body).hexdigest()
        tests.append(ADMITTED.replace("good", f"t{i}").replace("evidence/genuine.json", f"sha256:{digest}"))
    assert apply(empty, PLAIN + tests[0], [])["changed"] is True
    error = refused(empty, PLAIN + "".join(tests), [], code="policy-evidence")
    assert error.path == "test t1"
    assert f"longer than {MAX_EVIDENCE} bytes" in error.detail


def test_as_much_as_may_be_sent_fits_a_request():
    most = sent({f"{i:>0256}": bytes(MAX_EVIDENCE // 64) for i in range(64)})
    longest_text = 3 * 4 * 1024 * 1024
    assert sum(len(str(file)) + 8 for file in most) + longest_text < MAX_REQUEST


def test_a_base_counts_as_ever(empty):
    apply(empty, base=0)
    with pytest.raises(Conflict):
        apply(empty, PLAIN, [], base=0)


class TestNarrowing:
    """Who takes trust away in a hurry is not held up by what his document leaves to mend."""

    def test_a_test_that_fails_by_it_is_named_and_does_not_stop_it(self, empty):
        apply(empty)
        suspended = TEXT.replace('status = "trusted"', 'status = "suspended"')
        refused(empty, suspended)
        told = apply(empty, suspended, narrowing=True)
        assert (told["state"], told["effect"]) == ("in-force", "narrows")
        (note,) = told["notes"]
        assert "tests fail" in note
        # The next document has to be whole again.
        refused(empty, suspended + "\n# once more\n", narrowing=False)

    def test_neither_does_an_open_question(self, empty):
        apply(empty, PLAIN, [])
        unstated = PLAIN.replace('status = "trusted"', 'status = "suspended"').replace(
            '"author-key", ', "", 1
        )
        refused(empty, unstated, [], code="policy-unstated")
        told = apply(empty, unstated, [], narrowing=True)
        assert (told["state"], load(empty("policy-show")["text"]).unstated != ()) == ("in-force", True)
        assert "author-key" in told["notes"][0]

    def test_but_nothing_is_widened_by_it(self, empty):
        apply(empty, PLAIN.replace('status = "trusted"', 'status = "suspended"'), [])
        with pytest.raises(Conflict) as error:
            apply(empty, narrowing=True)
        assert error.value.code == "policy-widens"
        assert len(empty("policy-log")) == 1
