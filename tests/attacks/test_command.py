"""`vtpm attack`: the stable JSON, and the exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner
from forked import DEVICE

from vtpm.cli import attack as module
from vtpm.cli.attack import attack
from vtpm.lab.attacks import ATTACKS, Attack, Case, Result, Verdict


@pytest.fixture(autouse=True)
def logs_as_they_were():
    """The command silences the logs of its process, and some tests run it in this one."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="module")
def vtpm_attack(forks):
    """Runs `vtpm attack` as a process of its own."""
    environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "TSS2_LOG": os.environ["TSS2_LOG"]}
    return lambda *arguments: forks.run(DEVICE, ("attack", *arguments), env=environment, timeout=100)


def test_run_prints_nothing_but_the_json():
    command = [Path(sys.executable).with_name("vtpm"), "attack", "run", "S3", "--json"]
    environment = {name: value for name, value in os.environ.items() if name != "TSS2_LOG"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    (result,) = json.loads(done.stdout)
    stable = {name: result[name] for name in ("id", "unchecked", "checked", "rules")}
    assert stable == {"id": "s3", "unchecked": "succeeded", "checked": "refused", "rules": ["store.key"]}
    assert result["alone"] == {"store.key": "refused"}
    assert result["refused_by"] == "store.key"


def test_run_for_a_person(vtpm_attack):
    done = vtpm_attack("run", "s3")
    assert (done.returncode, done.stderr) == (0, "")
    assert "store.key alone" in done.stdout
    assert "succeeded" in done.stdout


@pytest.mark.parametrize("arguments", [("run",), ("run", "--all", "m1"), ("run", "m99"), ("run", "--such")])
def test_usage(vtpm_attack, arguments):
    done = vtpm_attack(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_list():
    listed = json.loads(CliRunner().invoke(attack, ["list", "--json"]).output)
    assert [one["id"] for one in listed] == list(ATTACKS)
    assert all(one["rules"] or one["awaits"] for one in listed)
    text = CliRunner().invoke(attack, ["list"]).output
    assert all(f"{name} " in text for name in ATTACKS)


@pytest.mark.parametrize(
    ("checked", "code"), [(Verdict.REFUSED, 0), (Verdict.SUCCEEDED, 1), (Verdict.OTHERWISE, 1)]
)
def test_the_exit_code_tells_an_attack_that_was_not_stopped(monkeypatch, lab, checked, code):
    def pretend(one: Attack, _lab) -> Result:
        gained = Case(Verdict.SUCCEEDED, "", "something")
        return Result(one, gained, Case(checked, "", ""), {})

    class _Lab:
        def __enter__(self):
            return lab

        def __exit__(self, *_error):
            return None

    monkeypatch.setattr(module.attacks, "run", pretend)
    monkeypatch.setattr(module.attacks, "furnished", _Lab)
    assert CliRunner().invoke(attack, ["run", "m1", "--json"]).exit_code == code
