"""`vtpm-ca decision record|replay` on a CA that really worked."""

import json
import re
import shlex
from pathlib import Path

import pytest
import sqlalchemy as sa
from operations_stage import w

from ca_service.enrollment.recorded import Recorded
from ca_service.policy import load
from ca_service.store import open_store

DOCUMENT = (Path(__file__).parents[3] / "docs" / "decisions.md").read_text()


def edit(ca, statement: str) -> None:
    store = open_store(f"sqlite:///{ca}/ca.sqlite3")
    with store.write() as tx:
        assert tx.connection.execute(sa.text(statement)).rowcount
    store.close()


def ids(here, ca) -> dict[str, str]:
    rows = json.loads(here("decision", "list", "--dir", ca, "--json").out)
    return {row["verdict"]: row["id"] for row in rows}


class TestReplay:
    def test_all_agree(self, here, ca):
        done = here("decision", "replay", "all", "--dir", ca)
        assert (done.code, done.out, done.err) == (0, "2 agree in every finding\n", "")
        found = json.loads(here("decision", "replay", "all", "--dir", ca, "--json").out)
        assert (found["decisions"], found["outcomes"]["agrees"], found["wrong"]) == (2, 2, [])

    def test_one_that_differs_is_named(self, here, ca):
        edit(
            ca, """UPDATE decisions SET trace = replace(trace, '"verdict":"failed"', '"verdict":"passed"')"""
        )
        refused = ids(here, ca)["refused"]
        done = here("decision", "replay", refused, "--dir", ca)
        assert done.code == 1
        assert refused in done.out
        assert "1 of 1 decisions do not come out as they are stored" in done.err
        (wrong,) = json.loads(here("decision", "replay", "all", "--dir", ca, "--json").out)["wrong"]
        assert (wrong["id"], wrong["outcome"]) == (refused, "differs")

    def test_an_export_needs_its_key_and_no_ca(self, here, ca, tmp_path):
        key = json.loads(here("audit", "export", tmp_path / "auditor", "--dir", ca, "--json").out)["key"]
        done = here("decision", "replay", "all", "--export", tmp_path / "auditor", "--key", key)
        assert (done.code, done.out) == (0, "2 agree in every finding\n")
        for words in (("--export", tmp_path / "auditor"), ("--key", key)):
            assert here("decision", "replay", "all", *words).code == 2
        next((tmp_path / "auditor" / "traces").iterdir()).write_text("[]")
        done = here("decision", "replay", "all", "--export", tmp_path / "auditor", "--key", key)
        assert done.code == 1
        assert "not as it was logged" in done.err

    def test_as_the_document_has_it(self, here, ca, tmp_path, monkeypatch):
        block = re.search(r"<!-- tested: replay -->\n```sh\n(.*?)```", DOCUMENT, re.DOTALL)
        monkeypatch.chdir(tmp_path)
        key = ""
        for line in block[1].splitlines():
            done = here(*shlex.split(line.replace("$LOG_KEY", key))[1:], env={"VTPM_CA_DIR": str(ca)})
            assert (done.code, done.err) == (0, "")
            key = key or "".join(re.findall(r"--key (\S+)", done.out))
        assert key

    def test_an_id_that_nobody_has(self, here, ca):
        done = here("decision", "replay", "00", "--dir", ca)
        assert done.code == 1
        assert "there is no decision with this id" in done.err


class TestRecord:
    @pytest.fixture
    def written(self, here, ca, tmp_path):
        path = tmp_path / "recorded.json"
        done = here("decision", "record", ids(here, ca)["admitted"], "--dir", ca, "--output", path)
        assert (done.code, done.out) == (0, "")
        return path

    def test_it_is_all_that_the_decision_rests_on(self, written, worked_ca):
        found = Recorded.from_json(json.loads(written.read_text()))
        assert found.judge(load(worked_ca.policy())).admitted
        assert found.judge(load(worked_ca.policy(status="suspended"))).refusal.rule == "kbs.status"
        assert w.PASSPHRASE.decode() not in written.read_text()

    def test_nothing_is_overwritten(self, here, ca, written):
        before = written.read_bytes()
        done = here("decision", "record", ids(here, ca)["refused"], "--dir", ca, "--output", written)
        assert done.code == 1
        assert "is there already" in done.err
        assert written.read_bytes() == before

    def test_to_standard_output(self, here, ca, written):
        done = here("decision", "record", ids(here, ca)["admitted"], "--dir", ca)
        assert json.loads(done.out) == json.loads(written.read_text())

    def test_one_of_an_earlier_release_has_nothing_to_write(self, here, ca):
        edit(ca, "UPDATE decisions SET trace = '[]'")
        done = here("decision", "record", ids(here, ca)["admitted"], "--dir", ca)
        assert done.code == 1
        assert "before 0.5" in done.err
        done = here("decision", "replay", "all", "--dir", ca)
        assert done.code == 0
        assert "2 were made by releases before 0.5" in done.out
