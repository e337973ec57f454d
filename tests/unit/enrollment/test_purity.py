"""A decision follows from evidence, policy and time, whatever was decided before, by whom, and in which process."""

import os
import pickle
import random
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, replace
from datetime import timedelta
from pathlib import Path

import amd_guest
import decision_history
import enrollment_world as w
import pytest
import same_judgement as s
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ca_service.enrollment.submission import Submission
from ca_service.evidence.snp import SnpEvidence
from ca_service.judgment import standing
from ca_service.policy import Policy
from ca_service.policy.judging import fleet
from vtpm.snp import Platform, SimulatedChain
from vtpm.wire.amd_evidence import SERVICES_PROFILE
from vtpm.wire.report import Product

FUZZ = settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
COUNT = 30
SUPPORT = Path(s.__file__).parent


@pytest.fixture(scope="module")
def world(ceremony, tmp_path_factory):
    """A world that all tests here ask about, and none changes."""
    directory = tmp_path_factory.mktemp("asked") / "world"
    shutil.copytree(ceremony.directory, directory)
    made = w.World(directory, ceremony.authority)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _clean():
    """What one test here has made of a request, another one must not meet: some of it is wrong on purpose."""
    Submission.parse.cache_clear()
    yield
    Submission.parse.cache_clear()


@pytest.fixture(scope="module")
def questions(world, tpms):
    """Questions of which each differs from the one before in one thing, as a rule."""
    store = world.new_store()
    enroller = world.enroller(store)
    enroller.recover()
    milan = world.launch
    genoa = Platform.create(world.directory / "genoa", Product.GENOA, clock=lambda: w.START)
    pages = [(0x1000 * i, bytes([i]) * 4096) for i in range(2)]
    boots = [w.Boot(), w.Boot(certify=False, change=decision_history.volatile)]
    bodies = [world.body(enroller.new_nonce().nonce, tpms(0), boot) for boot in boots]
    guest = amd_guest.Guest(world, enroller, tpms(0))
    bodies.append(w.encode(guest.request(SERVICES_PROFILE)))
    world.launch = genoa.launch(pages)
    bodies.append(world.body(enroller.new_nonce().nonce, tpms(0), boots[0]))
    world.launch = milan
    store.close()
    rising = amd_guest.policy(world).replace(
        '[[platform.tcb]]\nproduct = "Genoa"',
        '[[platform.tcb]]\nproduct = "Milan"\nfrom = 2026-12-20T00:00:00Z\nfirmware = "1.55.29"\n'
        + "".join(
            f"{name} = {{ bootloader = 4, tee = 0, snp = 28, microcode = 219 }}\n"
            for name in ("reported", "committed", "launch")
        )
        + '[[platform.tcb]]\nproduct = "Genoa"',
    )
    documents = decision_history.documents(world)
    texts = [documents[n] for n in (0, 1, 5, 7, 9, 12, 17)]
    chain = SimulatedChain.shipped(Product.GENOA)
    lists = [chain.crl(number=n + 1, this_update=world.time - timedelta(days=20 * n)) for n in range(2)]
    values = {
        "body": bodies,
        "document": [*texts, rising],
        "at": [world.time + timedelta(seconds=seconds) for seconds in (0, 11, 86400 * 15, 86400 * 40)],
        "mode": ["simulation", "simulation", "production"],
        "lists": [(), (lists[0],), (lists[1],)],
        "certify": [True, False],
    }
    chance = random.Random(7)  # noqa: S311 - the same questions each time
    asked = [s.Question(*(of[0] for of in values.values()))]
    while len(asked) < COUNT:
        name = chance.choice(["body", "document", "document", "at", "at", "mode", "lists", "certify"])
        # Back to the first body now and then: what is remembered of it must still be right.
        asked.append(replace(asked[chance.choice([-1, -1, -1, 0])], **{name: chance.choice(values[name])}))
    # And one policy under which every day counts.
    asked += [replace(asked[0], document=rising, at=at) for at in values["at"]]
    # And one under which it is a matter of the collateral which of two entries counts.
    return [
        *asked,
        *(replace(asked[0], body=bodies[3], document=texts[3], lists=held) for held in values["lists"]),
    ]


@pytest.fixture(scope="module")
def answers(questions):
    return [s.cold(question) for question in questions]


def test_the_questions_are_different_ones(answers):
    assert len(set(answers)) > len(answers) // 3


@FUZZ
@given(data=st.data())
def test_no_order_of_questions_changes_an_answer(questions, answers, data):
    order = data.draw(st.permutations(range(len(answers))))
    warm = s.Warm()
    for n in [*order, *order[:10]]:
        assert warm(questions[n]) == answers[n]


def test_nor_do_others_that_are_asked_at_the_same_time(questions, answers):
    warm, order = s.Warm(), [*range(len(answers))] * 2
    random.Random(1).shuffle(order)  # noqa: S311 - the same order each time
    with ThreadPoolExecutor(4) as pool:
        for n, found in zip(order, pool.map(lambda n: warm(questions[n]), order), strict=True):
            assert found == answers[n]


def test_another_process_finds_the_same(questions, answers, tmp_path):
    """One in which sets and dictionaries have another order."""
    file = tmp_path / "questions"
    file.write_bytes(pickle.dumps([astuple(question) for question in questions]))
    seed = {"PYTHONHASHSEED": "4711", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-W", "ignore", str(SUPPORT / "same_judgement.py"), str(file)]
    done = subprocess.run(command, env=os.environ | seed, capture_output=True, timeout=100, check=True)
    assert done.stdout.decode().strip() == s.digest(answers)


# -- that a cache with a wrong key would be found ----------------------------------------------------------------


def whatever_it_rests_on(monkeypatch):
    once = Submission.once
    monkeypatch.setattr(Submission, "once", lambda self, kind, _basis, make: once(self, kind, (), make))


def whatever_the_mode(monkeypatch):
    once = Policy.once
    monkeypatch.setattr(Policy, "once", lambda self, kind, _mode, make: once(self, kind, "", make))


def whatever_the_floors(monkeypatch):
    monkeypatch.setattr(fleet, "first_day", lambda _floor: w.START)


def whatever_the_entry(monkeypatch):
    judged, seen = fleet.judged, {}

    def first(policy, *about):
        return seen.setdefault(id(policy), judged(policy, *about))

    monkeypatch.setattr(fleet, "judged", first)


def whatever_the_time(monkeypatch):
    monkeypatch.setattr(standing.Steps, "all", lambda self, *_subjects: self._trace)


def whatever_the_clock(monkeypatch):
    monkeypatch.setattr(SnpEvidence, "at_time", lambda self, _at: self)


def whatever_the_body(monkeypatch):
    parse, seen = Submission.parse, {}
    monkeypatch.setattr(Submission, "parse", lambda body: seen.setdefault(len(body) // 1000, parse(body)))


@pytest.mark.parametrize(
    "wrong",
    [
        whatever_it_rests_on,
        whatever_the_mode,
        whatever_the_floors,
        whatever_the_entry,
        whatever_the_time,
        whatever_the_clock,
        whatever_the_body,
    ],
    ids=lambda wrong: wrong.__name__,
)
def test_a_cache_with_a_wrong_key_is_found(questions, answers, monkeypatch, wrong):
    wrong(monkeypatch)
    warm = s.Warm()
    found = [
        warm(question) == answer
        for _ in range(2)
        for question, answer in zip(questions, answers, strict=True)
    ]
    assert not all(found)
