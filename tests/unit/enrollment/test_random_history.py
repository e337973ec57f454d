"""After a history that nobody has thought out, every decision is made anew and comes out as it was stored."""

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing, contextmanager

import decision_history as h
import enrollment_world as w
import pytest

from ca_service.enrollment.replay import Outcome
from ca_service.operations.audit import audit_ca, export_ca
from ca_service.operations.log_identity import log_key
from ca_service.operations.replay import replay_database
from ca_service.policy import load
from ca_service.store import open_store

STEPS, LONG = 50, 3000
FINE = {Outcome.AGREES, Outcome.BEYOND}
"""Nobody but the CA can say whether a nonce was its own, and whether a challenge was answered right."""


@pytest.fixture(scope="session")
def prepared(ceremony, tmp_path_factory: pytest.TempPathFactory):
    """A CA with two generations of issuing CAs and two platforms."""
    return h.prepare(ceremony, tmp_path_factory.mktemp("prepared") / "world")


def begun(prepared, directory, url, tpms, request):
    """A history on a copy of the CA, by a seed that is printed."""
    seed = request.config.getoption("randomly_seed", default=0)
    print(f"{request.node.name}: seed {seed}")
    shutil.copytree(prepared.directory, directory)
    world = w.World(directory, prepared.authority, url)
    return h.History(world, world.new_store(), tpms, random.Random(f"{seed}"))  # noqa: S311 - to be repeated


@pytest.fixture(scope="module")
def lived(prepared, tpms, request, tmp_path_factory):
    """A history that is over."""
    made = begun(prepared, tmp_path_factory.mktemp("lived") / "world", None, tpms, request)
    made.run(STEPS)
    print(dict(made.done))
    yield made
    made.store.close()
    made.world.close()


@contextmanager
def copied(history, path):
    """Another copy of its database, and a way to write to it behind the CA's back."""
    with (
        closing(sqlite3.connect(history.world.directory / "ca.sqlite3")) as source,
        closing(sqlite3.connect(path)) as copy,
    ):
        source.backup(copy)
        yield copy


def replayed(url: str) -> dict[str, Outcome]:
    store = open_store(url)
    try:
        return {found.id: found.outcome for found in replay_database(store)}
    finally:
        store.close()


def check(history) -> None:
    h.check_traces(list(h.traces(history.store)))
    found = {one.id: (one.outcome, one.rule, one.rules, one.detail) for one in replay_database(history.store)}
    assert found
    assert [members for members in found.values() if members[0] not in FINE] == []
    beyond = {rule for outcome, rule, *_ in found.values() if outcome is Outcome.BEYOND}
    assert beyond <= {"activation.secret"}


def test_every_decision_comes_out_as_it_was_stored(lived):
    check(lived)


def test_an_auditor_with_the_logs_key_alone_finds_the_same(lived, tmp_path):
    """In another process, in which sets and dictionaries have another order, without the CA's directory."""
    export_ca(lived.world.authority, lived.store, tmp_path / "export")
    command = [sys.executable, "-W", "ignore", "-c", "from ca_service.cli import main; main()"]
    command += ["decision", "replay", "all", "--json", "--export", str(tmp_path / "export")]
    command += ["--key", str(log_key(lived.world.authority))]
    environment = os.environ | {
        "PYTHONHASHSEED": "815",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run(
        command, env=environment, capture_output=True, timeout=100, check=False, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, b"")
    counts = Counter(found.outcome for found in replay_database(lived.store))
    assert json.loads(done.stdout)["outcomes"] == {str(outcome): counts[outcome] for outcome in Outcome}


def turned(text: str, chance, part: slice) -> str:
    """One character of a part of the text, exchanged for another one that may stand there."""
    places = [n for n in range(*part.indices(len(text))) if text[n].isalnum()]
    n = chance.choice(places)
    other = chance.choice([c for c in "0123456789abcdef" if c != text[n]])
    return text[:n] + other + text[n + 1 :]


class Tampering:
    """Changes one byte, and names the decisions that rest on it and the subject of the auditor's finding."""

    def __init__(self, copy, chance) -> None:
        self.copy, self.chance = copy, chance

    def one(self, query: str) -> tuple:
        rows = self.copy.execute(query).fetchall()
        return self.chance.choice(rows)

    def ids(self, condition: str, *values: object) -> set[str]:
        return {row[0] for row in self.copy.execute(f"SELECT id FROM decisions WHERE {condition}", values)}  # noqa: S608

    def trace(self) -> tuple[set[str], str]:
        judged = "SELECT id, trace FROM decisions WHERE rule NOT LIKE 'activation.%'"
        decision, text = self.one(judged)
        # What comes before is about the nonce, which nobody else can judge; what comes after, findings rest on.
        findings = slice(text.index('"snp.version"'), text.index('"inputs"'))
        self.copy.execute(
            "UPDATE decisions SET trace = ? WHERE id = ?", (turned(text, self.chance, findings), decision)
        )
        return {decision}, decision

    def evidence(self) -> tuple[set[str], str]:
        digest, body = self.one("SELECT digest, body FROM evidence")
        # In the part of the report that is signed: of what comes along, not every byte is looked at.
        begin = body.index(b'"report": "') + len(b'"report": "')
        at = self.chance.choice([n for n in range(begin, begin + 800) if chr(body[n]).isalnum()])
        changed = body[:at] + (b"A" if body[at : at + 1] != b"A" else b"B") + body[at + 1 :]
        self.copy.execute("UPDATE evidence SET body = ? WHERE digest = ?", (changed, digest))
        return self.ids("evidence_digest = ?", digest), digest

    def policy(self) -> tuple[set[str], str]:
        used = "SELECT p.version, p.digest, p.text FROM policies p JOIN decisions d ON d.policy_version = p.version"
        version, digest, text = self.one(used)
        changed = text.replace('max_age_s" = 3', 'max_age_s" = 4').replace('max_age_s" = 1', 'max_age_s" = 2')
        assert load(changed).digest != digest
        self.copy.execute("UPDATE policies SET text = ? WHERE digest = ?", (changed, digest))
        return self.ids("policy_digest = ?", digest), str(version)


@pytest.mark.parametrize("what", ["trace", "evidence", "policy"])
def test_one_byte_that_was_changed_is_found_and_nothing_else(lived, tmp_path, request, what):
    path = tmp_path / "copy.sqlite3"
    chance = random.Random(f"{what} {request.config.getoption('randomly_seed', default=0)}")  # noqa: S311
    with copied(lived, path) as copy:
        tampering = Tampering(copy, chance)
        affected, subject = getattr(tampering, what)()
        # A wrong answer ends an enrolment before anything else is looked at.
        unjudged = tampering.ids("rule = ?", "activation.secret")
        copy.commit()
    found = replayed(f"sqlite:///{path}")
    wrong = {decision for decision, outcome in found.items() if outcome not in FINE}
    assert wrong - unjudged == affected - unjudged
    store = open_store(f"sqlite:///{path}")
    report = audit_ca(lived.world.authority, store)
    store.close()
    assert subject in {finding.subject for finding in report.findings}, report.findings


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_so_does_every_decision_of_a_long_history(prepared, tmp_path, tpms, request, kind):
    url = None
    if kind == "postgresql":
        cluster = request.getfixturevalue("postgres")
        url = cluster.url(cluster.new_database())
    history = begun(prepared, tmp_path / "world", url, tpms, request)
    history.run(LONG)
    print(dict(history.done))
    check(history)
    history.store.close()
    history.world.close()
