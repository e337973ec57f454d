"""After a history that nobody has thought out, every decision is made anew and comes out as it was stored."""

import random
import shutil
from collections import Counter

import decision_history as h
import enrollment_world as w
import pytest

from ca_service.enrollment.replay import Outcome
from ca_service.operations.replay import replay_database

STEPS = 60


@pytest.fixture(scope="session")
def prepared(ceremony, tmp_path_factory: pytest.TempPathFactory):
    """A CA with two generations of issuing CAs and two platforms."""
    return h.prepare(ceremony, tmp_path_factory.mktemp("prepared") / "world")


@pytest.fixture
def world(prepared, tmp_path, database_url):
    directory = tmp_path / "world"
    shutil.copytree(prepared.directory, directory)
    made = w.World(directory, prepared.authority, database_url)
    yield made
    made.close()


@pytest.fixture
def history(world, store, tpms, request):
    seed = request.config.getoption("randomly_seed", default=0)
    print(f"seed {seed}")
    made = h.History(world, store, tpms, random.Random(seed))  # noqa: S311 - to be repeated, not to be secret
    yield made
    made.store.close()


def outcomes(store) -> Counter:
    return Counter(found.outcome for found in replay_database(store))


def test_every_decision_comes_out_as_it_was_stored(history):
    history.run(STEPS)
    print(dict(history.done))
    h.check_traces(list(h.traces(history.store)))
    found = outcomes(history.store)
    print(found)
    assert found.keys() <= {Outcome.AGREES, Outcome.BEYOND}
