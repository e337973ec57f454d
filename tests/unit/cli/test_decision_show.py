"""`vtpm-ca decision show`: the failed checks first, then what would have admitted it, safe for a terminal."""

import json

import pytest

from ca_service.cli.explaining import show_decision

PASSED = {"rule": "snp.chain", "verdict": "passed", "reason": "", "expected": "", "actual": ""}
FAILED = {
    "rule": "kbs.resource",
    "verdict": "failed",
    "reason": "the key broker may not vouch for this resource",
    "expected": "one of 1 patterns",
    "actual": "x/y/\x1b[2J",
}
BLIND = {
    "rule": "kbs.valid",
    "verdict": "failed",
    "reason": "no",
    "expected": "a key",
    "actual": "not listed",
}
EDIT = {
    "rules": ["kbs.resource"],
    "entries": ["kbs org-kbs"],
    "words": "kbs org-kbs may release x/y/z",
    "warnings": ["\x1b[31mred"],
    "effect": "widens",
    "changes": [],
    "places": [],
    "toml": '# in [[kbs]] "org-kbs"\n[[kbs.resource]]\npattern = "' + "x" * 200 + '"',
}
OTHER = EDIT | {"words": "another way", "toml": "other = 1"}
REMEDY = {
    "policy_version": 7,
    "admits": True,
    "effect": "widens",
    "edits": [EDIT],
    "alternatives": [[OTHER]],
    "warnings": ["a warning of the policy"],
    "left": [],
    "without_change": ["boot again"],
    "in_force": {"version": 8, "verdict": "refused", "rule": "kbs.status"},
}
DECISION = {
    "id": "ab" * 16,
    "mode": "simulation",
    "at": "2026-11-26T12:00:00Z",
    "stage": "enroll",
    "verdict": "refused",
    "rule": "kbs.resource",
    "kbs": "org-kbs",
    "resource": "x/y/z",
    "policy_version": 7,
    "policy_digest": "cd" * 32,
    "evidence_digest": "ef" * 32,
    "trace": [PASSED, FAILED, BLIND, PASSED],
    "remedy": REMEDY,
    "rests_on": None,
    "unexplained": "",
}


@pytest.fixture
def printed(capsys, monkeypatch):
    """What is printed of a decision with some members changed."""
    monkeypatch.setenv("COLUMNS", "100")

    def of(everything=False, **changes):
        show_decision(DECISION | changes, everything=everything)
        return capsys.readouterr().out

    return of


def test_the_head_says_what_was_decided_and_why(printed):
    head = printed().split("\n\n")[0]
    assert "verdict          refused\n" in head
    assert "rule             kbs.resource\n" in head
    assert "reason           the key broker may not vouch for this resource\n" in head
    assert "policy version   7\n" in head


def test_what_passed_and_what_had_nothing_to_look_at_is_counted(printed):
    short, whole = printed(), printed(everything=True)
    assert "2 checks passed; --all shows them" in short
    assert "1 check had no entry of the policy to look at; --all shows them" in short
    assert "snp.chain" not in short
    assert whole.count("snp.chain") == 2
    assert "kbs.valid" in whole
    assert "--all" not in whole


def test_the_rule_that_refused_is_never_folded(printed):
    assert "FAILED  kbs.valid" in printed(rule="kbs.valid", trace=[BLIND])


def test_the_change_is_there_to_paste_and_nothing_steers_the_terminal(printed):
    out = printed()
    assert "smallest change of policy version 7 that would have admitted it\n1. kbs org-kbs may" in out
    assert f'    pattern = "{"x" * 200}"\n' in out
    assert "\x1b" not in out
    assert r"! \x1b[31mred" in out
    assert r"x/y/\x1b[2J" in out
    assert "or, in place of 1\n- another way\n" in out
    assert "policy version 8, in force now, has it refused by kbs.status" in out
    assert "without a change of the policy\n  boot again\n" in out


def test_where_no_change_helps_that_comes_first(printed):
    left = [{"rule": "ledger.counter", "reason": "the counter went back", "advice": "Reset it."}]
    out = printed(remedy=REMEDY | {"admits": False, "left": left, "alternatives": [], "in_force": None})
    first, second = out.index("no change of the policy admits it"), out.index("would have had to say")
    assert out.index("ledger.counter: the counter went back. Reset it.") in range(first, second)


def test_what_is_admitted_anew_needs_no_change(printed):
    out = printed(remedy=REMEDY | {"edits": [], "alternatives": [], "warnings": []})
    assert "judged anew it is admitted as the policy stands" in out
    assert "smallest change" not in out


def test_an_admission_says_what_it_rests_on(printed):
    floor = {
        "product": "Milan",
        "since": None,
        "reported_above": {"snp": 2, "microcode": 0},
        "misses_from": "2027-01-01T00:00:00Z",
    }
    basis = {
        "kbs": "org-kbs",
        "kbs_label": "",
        "launch": "svsm",
        "platform": "fleet",
        "grant_age_s": 3,
        "grant_age_demanded": "at most 900 s",
        "floor": floor,
        "given_up": ["kbs.origin"],
    }
    out = printed(verdict="admitted", rule="", trace=[PASSED], remedy=None, rests_on=basis)
    assert "reason" not in out
    assert "grant                          3 s old; at most 900 s\n" in out
    assert "snp +2, microcode +0; falls below the floor of 2027-01-01T00:00:00Z" in out
    assert "given up by Unsafe... entries  kbs.origin\n" in out


def test_why_there_is_no_explanation(printed):
    out = printed(remedy=None, unexplained="made by a release before 0.5")
    assert "not explained: made by a release before 0.5" in out


def test_the_command(here, ca):
    listed = json.loads(here("decision", "list", "--json", "--dir", ca).out)
    refused = next(row["id"] for row in listed if row["verdict"] == "refused")
    done = here("decision", "show", refused, "--dir", ca)
    assert (done.code, done.err) == (0, "")
    # The TPM lives in an instance already, so the pattern alone would not have done.
    assert "no change of the policy admits it" in done.out
    assert '    pattern = "elsewhere/vtpm/x"' in done.out
    remedy = json.loads(here("decision", "show", refused, "--json", "--dir", ca).out)["remedy"]
    assert (remedy["admits"], remedy["effect"]) == (False, "widens")
    assert [edit["places"][0]["new"] for edit in remedy["edits"]] == [{"pattern": "elsewhere/vtpm/x"}]
