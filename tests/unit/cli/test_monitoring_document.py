"""docs/monitoring.md says what is so: the metrics, the log's members, the checks, and commands that run."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ca_service.api import journal
from ca_service.cli.channel import get_from_server
from ca_service.operations.health import CHECKS

DOCUMENT = (Path(__file__).parents[3] / "docs" / "monitoring.md").read_text()


def table(head: str) -> list[list[str]]:
    (block,) = re.findall(rf"^\| {head} \|.*\n\|[ -|]+\n((?:\|.*\n)+)", DOCUMENT, re.MULTILINE)
    return [re.split(r"\s*\|\s*", line)[1:-1] for line in block.splitlines()]


def commands_in(mark: str) -> list[str]:
    (block,) = re.findall(rf"<!-- tested: {mark} -->\n```sh\n(.*?)```", DOCUMENT, re.DOTALL)
    return block.splitlines()


def test_the_checks():
    documented = {name.strip("`"): (what, limit.strip()) for name, what, limit in table("check")}
    assert documented == {
        check.id: (check.looks_at, "" if check.threshold is None else str(check.threshold))
        for check in CHECKS.values()
    }


def test_the_bounds_of_the_log():
    text = (
        f"of each kind (route, status, rule or code) {journal.KIND_AT_ONCE} at once and then one a second, and of all "
        f"kinds together {journal.LINES_AT_ONCE} at once and then {journal.LINES_PER_SECOND:.0f} a second"
    )
    assert text in DOCUMENT
    assert (journal.KIND_PER_SECOND, journal.MAX_VALUE, journal.MAX_LINE) == (1, 240, 4000)


@pytest.fixture
def documented():
    """Kind and labels of each metric, by name."""
    return {
        name.strip("`"): (kind, set(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels, _ in table("metric")
    }


def test_the_metrics_and_how_to_get_them(ca, serve, documented):
    server = serve(ca)
    (command,) = commands_in("metrics")
    done = subprocess.run(
        ["bash", "-c", command], env={"VTPM_CA_DIR": str(ca), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True,
        check=True, timeout=60,
    )  # fmt: skip
    assert (get_from_server(ca, "/metrics")[0], server.workers) == (200, server.workers)
    found = {}
    for family in text_string_to_metric_families(done.stdout):
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        name = family.name + ("_total" if family.type == "counter" else "")
        found[name] = (family.type, labels)
    # One is there only while an issuance is under way, one while a policy version is to come.
    assert set(documented) - set(found) == {
        "vtpm_ca_oldest_open_intent_timestamp_seconds",
        "vtpm_ca_policy_next_timestamp_seconds",
    }
    assert set(found) <= set(documented)
    for name, (kind, labels) in found.items():
        assert kind == documented[name][0], name
        # A family without a sample has no labels to show.
        assert labels in (set(), documented[name][1]), name


def test_the_commands(here, ca):
    for line in commands_in("health"):
        program, *words = shlex.split(line)
        done = here(*words, env={"VTPM_CA_DIR": str(ca)})
        expected = {("--list",): 0, ("--only",): 0}.get(tuple(words[1:2]), 6)
        assert (program, done.code) == ("vtpm-ca", expected), (line, done)
