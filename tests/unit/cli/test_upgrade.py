"""A CA that an earlier release has worked with: its policy still loads, and admits nothing that it does not state."""

import json
import re

import pytest

from ca_service.judgment import Refused
from ca_service.policy import load
from ca_service.store import open_store

_KNOWN_SINCE_0_3 = 9
"""What release 0.3 asks of a launch that states its measurement, and 0.2 did not."""


def _as_0_2(text):
    """A policy document with what release 0.2 knew: launches without demands, no platforms."""
    text = text[: text.index("[[platform]]")]
    return re.sub(r"^(guest_policy|platform|unconstrained) = .*\n", "", text, flags=re.MULTILINE)


@pytest.fixture
def old(ca, worked_ca, stage):
    """The directory of the CA, with a policy of release 0.2 in force; and its text."""
    text = _as_0_2(stage.w.World.policy(worked_ca))
    assert "platform" not in text
    store = open_store(f"sqlite:///{ca}/ca.sqlite3")
    with store.write() as tx:
        tx.policies.append(load(text).digest, text, worked_ca.time, "release 0.2")
    store.close()
    return ca, text


def test_it_can_be_read_and_not_be_applied_again(here, old, tmp_path):
    directory, text = old
    shown = here("policy", "show", "--dir", directory)
    assert (shown.code, shown.out.strip()) == (0, text.strip())
    (tmp_path / "old.toml").write_text(text)
    for command in (("policy", "check"), ("policy", "apply", "--dir", directory)):
        done = here(*command, tmp_path / "old.toml")
        assert done.code == 1
        assert 'launch[0].host_data: must be stated, or "host-data" named in unconstrained' in done.err
        assert "launch[0].platform: must name a platform" in done.err
        assert done.err.count("launch[0].") == _KNOWN_SINCE_0_3


def test_the_server_starts_and_says_what_is_open(serve, old):
    server = serve(old[0])
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    (warning,) = (line for line in lines if line["event"] == "enrolments are refused")
    assert "launch[0]" in warning["reason"]


def test_it_admits_nobody(old, worked_ca, stage):
    store = open_store(f"sqlite:///{old[0]}/ca.sqlite3")
    enroller = worked_ca.enroller(store)
    try:
        with pytest.raises(Refused) as refusal:
            stage.w.issue(worked_ca, enroller, stage.w.SoftTpm(), stage.w.Boot(resource="default/vtpm/new"))
        assert refusal.value.rule.startswith(("launch.", "platform."))
    finally:
        enroller.desk.liveness.close()
        store.close()
