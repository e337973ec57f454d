"""`vtpm-ca policy test`, and what `apply` reads beside a document."""

import json
import os
import shutil
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[3] / "policies" / "tested"


@pytest.fixture
def folder(tmp_path):
    """A copy of the example."""
    return Path(shutil.copytree(EXAMPLE, tmp_path / "tested"))


@pytest.fixture
def policy(folder):
    return folder / "policy.toml"


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_it_needs_no_ca(here, policy):
    done = here("policy", "test", policy)
    assert (done.code, done.err) == (0, "")
    first, *_, last = done.out.splitlines()
    assert first.split() == [
        *("ok", "a-genuine-guest", "admitted", "(at", "2026-11-23T12:00:00Z,"),
        *("recorded", "by", "a", "simulation", "CA)"),
    ]
    assert last == "all 7 tests hold"
    told = json.loads(here("policy", "test", policy, "--json").out)
    assert told["holds"] is True
    assert [test["holds"] for test in told["tests"]] == [True] * 7


def test_what_fails_is_said_with_both_sides(here, policy):
    edit(policy, 'rule = "kbs.origin"', 'rule = "kbs.status"')
    edit(policy, '"default/vtpm/*"', '"*/*/*"')
    done = here("policy", "test", policy)
    assert (done.code, done.err) == (1, "")
    lines = done.out.splitlines()
    at = next(i for i, line in enumerate(lines) if "provisioned-secret" in line)
    assert lines[at].startswith(
        "FAILED  provisioned-secret    expected refused by kbs.status; got refused by "
    )
    assert lines[at + 1 : at + 4] == [
        "        kbs.origin: secrets of this origin are not admitted",
        "        expected kbs-generated",
        "        actual provisioned",
    ]
    assert any(
        line.startswith("FAILED  foreign-resource      expected refused by kbs.resource; got admitted")
        for line in lines
    )
    assert lines[-1] == "2 of 7 tests fail"
    told = here("policy", "test", policy, "--json")
    assert (told.code, json.loads(told.out)["holds"]) == (1, False)


def test_a_document_without_tests(here, tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text("schema = 1\n")
    done = here("policy", "test", path)
    assert (done.code, done.out) == (0, "no tests\n")
    assert json.loads(here("policy", "test", path, "--json").out)["tests"] == []
    assert here("policy", "test", tmp_path / "none.toml").code == 2
    path.write_text("schema = 2\n")
    assert here("policy", "test", path).code == 1


def _remove(path):
    path.unlink()


def _link(path):
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


def _link_on_the_way(path):
    path.parent.rename(path.parents[1] / "real")
    path.parent.symlink_to(path.parents[1] / "real")


def _pipe(path):
    path.unlink()
    os.mkfifo(path)


def _folder(path):
    path.unlink()
    path.mkdir()


def _rubbish(path):
    path.write_bytes(b"\xff")


def _too_long(path):
    with path.open("r+b") as file:
        file.truncate(4 * 1024 * 1024 + 1)


SAID = {
    _remove: "cannot be read, and no link is followed: No such file",
    _link: "cannot be read, and no link is followed: Too many levels of symbolic links",
    _link_on_the_way: "cannot be read, and no link is followed: Not a directory",
    _pipe: "cannot be read, and no link is followed: is no regular file",
    _folder: "cannot be read, and no link is followed: Is a directory",
    _rubbish: "is no recorded decision: must be UTF-8 text",
    _too_long: "all evidence together is longer than 4194304 bytes",
}


@pytest.mark.parametrize("harm", SAID, ids=lambda harm: harm.__name__)
def test_evidence_that_cannot_be_read_is_named_with_its_test(here, policy, folder, harm):
    harm(folder / "evidence" / "genuine.json")
    done = here("policy", "test", policy)
    assert (done.code, done.out) == (2, "")
    assert f"test a-genuine-guest: evidence/genuine.json: {SAID[harm]}" in done.err
    assert here("policy", "test", policy, "--json").out == ""


@pytest.mark.parametrize("harm", [_link, _pipe, _rubbish], ids=lambda harm: harm.__name__)
def test_nothing_of_the_kind_is_applied(here, empty, policy, folder, harm):
    harm(folder / "evidence" / "genuine.json")
    done = here("policy", "apply", policy, "--dir", empty)
    assert done.code == 2
    assert "test a-genuine-guest: " in done.err
    assert json.loads(here("policy", "log", "--json", "--dir", empty).out) == []


def test_check_says_which_rule_there_is_not(here, policy):
    assert "cloned-tpm" in here("policy", "check", policy).out
    edit(policy, 'rule = "kbs.origin"', 'rule = "kbs.orgin"')
    for verb in ("check", "test"):
        done = here("policy", verb, policy)
        assert done.code == 1
        assert (
            'test[4].rule: there is no rule kbs.orgin in what evidence is judged by (entry "provisioned-secret")'
            in (done.err)
        )


def test_apply_sends_the_evidence_along_and_the_ca_keeps_it(here, empty, policy, folder):
    edit(policy, "max_age_s = 3600", "max_age_s = 604800")
    done = here("policy", "apply", policy, "--dir", empty)
    assert done.code == 1
    assert "1 of 7 tests fail: a-grant-of-yesterday" in done.err
    assert "expected refused by grant.age, got admitted" in done.err
    edit(policy, "max_age_s = 604800", "max_age_s = 3600")
    assert here("policy", "apply", policy, "--dir", empty).code == 0
    # Now without the files: of what the CA keeps, but not by a machine that has neither.
    edit(policy, "max_age_s = 3600", "max_age_s = 1800")
    shutil.rmtree(folder / "evidence")
    assert here("policy", "test", policy, env={"VTPM_CA_DIR": str(empty)}).code == 2
    for words in (("policy", "test", policy, "--dir", empty), ("--dir", empty, "policy", "test", policy)):
        done = here(*words)
        assert (done.code, done.out.splitlines()[-1]) == (0, "all 7 tests hold")
    assert "version 2 is in force" in here("policy", "apply", policy, "--dir", empty).out
    edit(policy, "max_age_s = 1800", "max_age_s = 604800")
    assert here("policy", "test", policy, "--dir", empty).code == 1
    assert here("policy", "rollback", "1", "--dir", empty).code == 0


def test_evidence_that_a_ca_keeps_needs_one(here, policy):
    edit(policy, '"evidence/cloned-tpm.json"', f'"sha256:{"ab" * 32}"')
    done = here("policy", "test", policy)
    assert done.code == 2
    assert "test cloned-tpm: sha256:ab" in done.err
    assert "name its directory with --dir" in done.err


def test_a_test_that_is_gone_shows_in_the_difference(here, empty, policy):
    assert here("policy", "apply", policy, "--dir", empty).code == 0
    text = policy.read_text()
    policy.write_text(text[: text.index('[[test]]\nname = "unreviewed-svsm"')])
    told = here("policy", "diff", policy, "--dir", empty).out.splitlines()
    assert told[0].endswith("admits the same as version 1")
    (gone,) = told[1:]
    assert gone.split("no longer") == [
        "  neutral  test unreviewed-svsm: ",
        " tests that evidence/unreviewed-svsm.json is refused by launch.measurement",
    ]


def test_from_a_decision_to_a_test_of_the_policy_that_made_it(here, ca, tmp_path):
    """What an operator does who has looked at a refusal and wants it to stay one."""
    rows = json.loads(here("decision", "list", "--json", "--dir", ca).out)
    text = here("policy", "show", "--dir", ca).out
    assert sorted(row["verdict"] for row in rows) == ["admitted", "refused"]
    for row in rows:
        name = f"{row['stage']}-{row['verdict']}"
        file = tmp_path / f"{name}.json"
        assert here("decision", "record", row["id"], "--output", file, "--dir", ca).code == 0
        text += f'[[test]]\nname = "{name}"\nevidence = "{file.name}"\nexpect = "{row["verdict"]}"\n'
        text += f'rule = "{row["rule"]}"\n' if row["rule"] else ""
    policy = tmp_path / "policy.toml"
    policy.write_text(text)
    done = here("policy", "test", policy)
    assert (done.code, done.out.splitlines()[-1]) == (0, "all 2 tests hold")
    assert here("policy", "apply", policy, "--dir", ca).code == 0
    assert here("policy", "test", policy, "--dir", ca).out == done.out
