"""`vtpm kbs key`: what an operator copies into the CA's policy."""

import json
import tomllib

import pytest
from click.testing import CliRunner

from vtpm.cli.kbs import kbs as command
from vtpm.kbs import Kbs


@pytest.fixture
def key(tmp_path):
    directory = tmp_path / "broker"

    def run(*options):
        done = CliRunner().invoke(command, ["key", str(directory), *options], catch_exceptions=False)
        assert done.exit_code == 0
        return done.output

    run.directory = directory
    return run


def test_each_key_as_a_jwk(key):
    grants, tokens = json.loads(key()), json.loads(key("--ear"))
    kbs = Kbs.create_or_open(key.directory)
    assert grants == kbs.public_jwk().members()
    assert tokens == kbs.token_jwk().members()


def test_policy_entry_asks_for_no_token_and_says_how(key):
    text = key("--policy")
    (entry,) = tomllib.loads(text)["kbs"]
    assert set(entry) == {"id", "label", "status", "origins", "release_policies", "key", "resource"}
    assert text.rstrip().splitlines()[-1].startswith("# ")
    assert "--ear" in text.rstrip().splitlines()[-1]


def test_policy_entry_that_asks_for_a_token(key):
    plain, text = key("--policy"), key("--policy", "--ear", "--id", "demo-kbs")
    (entry,) = tomllib.loads(text)["kbs"]
    tokens = Kbs.create_or_open(key.directory).token_jwk().members()
    assert entry.pop("ear") == {"max_age_s": 3600, "key": [{"jwk": tokens}]}
    assert [entry] == tomllib.loads(plain)["kbs"]


def test_several_entries_in_one_document(key):
    """The sub-table belongs to the entry that it follows."""
    text = key("--policy", "--ear", "--id", "one") + key("--policy", "--id", "two")
    assert ["ear" in entry for entry in tomllib.loads(text)["kbs"]] == [True, False]
