"""`vtpm-ca revoke`, with a server and without one."""

import functools
import json
import re
import shlex
import shutil
import signal
import sqlite3
import urllib.request
from pathlib import Path

import click
import operations_stage as s
import pytest
import structlog
from cryptography import x509

from ca_service.cli import revocation as command
from ca_service.cli.main import commands
from ca_service.enrollment import revoke_by_cause
from ca_service.judgment import Unavailable
from ca_service.store import open_store

w = s.w


@pytest.fixture
def measurement(worked_ca):
    return worked_ca.launch.measurement.hex()


@pytest.fixture
def two(worked_ca, short):
    """The directory of a CA with two enrolled TPMs."""
    world = s.world_in(Path(shutil.copytree(worked_ca.directory, short / "w")), worked_ca.authority)
    store = open_store(world.url)
    enroller = world.enroller(store)
    w.issue(world, enroller, w.SoftTpm(), w.Boot(resource="default/vtpm/guest-b", secret=b"b" * 32))
    store.close()
    world.close()
    return world.directory / "ca"


def states(here, ca) -> list[str]:
    done = here("cert", "list", "--all", "--json", "--dir", ca)
    return sorted(row["state"] for row in json.loads(done.out))


def test_first_a_dry_run_then_the_deed(here, ca, measurement):
    words = ("revoke", "--measurement", measurement, "--dir", ca)
    plan = here(*words)
    assert (plan.code, plan.err) == (0, "")
    assert re.search(r"accepted decisions that fit: 1\n", plan.out)
    assert "Dry run: --yes would revoke 3 certificates of 1 TPM. Nothing was changed." in plan.out
    assert (
        len(re.findall(r"^[0-9a-f]{34} .* issued +org-kbs +default/vtpm/guest-a ", plan.out, re.MULTILINE))
        == 3
    )
    assert "instance reset" in plan.out
    assert "does not say" not in plan.out
    assert states(here, ca) == ["issued"] * 3
    assert json.loads(here(*words, "--json").out)["counts"]["certificates"] == 3

    done = here(*words, "--yes", "--reason", "keyCompromise", "--cause", "a hole")
    assert (done.code, done.err) == (0, "")
    assert "Revoked: 3 certificates of 1 TPM. They stand on the published CRLs." in done.out
    assert states(here, ca) == ["revoked"] * 3
    assert here("audit", "verify", "--dir", ca).code == 0
    assert here("db", "check", "--dir", ca).code == 0
    assert "nothing to revoke" in here(*words, "--yes").out


@pytest.mark.parametrize(
    "change",
    ["measurement = NULL", "chip_id = 'ab'", "kbs_key = x'00'", "ek_set = '00'", "product = 'Turin'"],
)
def test_who_hides_a_tpm_from_it_is_found(here, ca, change):
    with sqlite3.connect(ca / "ca.sqlite3") as database:
        database.execute(f"UPDATE evidence SET {change}")  # noqa: S608 - our own
    database.close()
    done = here("audit", "verify", "--json", "--dir", ca)
    # Its certificates rest on the evidence, so who changes the TPM there is found by them too.
    misplaced = {"certificate.misplaced": 3} if change.startswith("ek_set") else {}
    assert (done.code, json.loads(done.out)["counts"]) == (1, {"evidence.facts": 2, **misplaced})


def test_more_than_is_listed(here, ca):
    done = here("revoke", "--policy-version", "1", "--limit", "1", "--dir", ca)
    assert (done.code, "and 2 more; --limit lists them" in done.out) == (0, True)
    assert "nothing to revoke" not in here("revoke", "--policy-version", "1", "--limit", "0", "--dir", ca).out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "choose what to revoke"),
        (("--yes",), 2, "choose what to revoke"),
        (("--salt", "5a", "--policy-version", "1"), 2, "--salt goes with --instance"),
        (("--measurement", ""), 2, "measurement"),
        (("--measurement", "xy"), 2, "measurement"),
        (("--kbs", "org-kbs"), 2, "compromised_since: is needed"),
        (("--all",), 2, "kbs"),
        (("--kbs", "org-kbs", "--compromised-since", "soon"), 2, "ISO 8601"),
        (("--tcb-below", "Milan"), 2, "tcb_below[0]: must be PRODUCT:COMPONENT=LEVEL"),
        (("--instance", "org-kbs"), 2, "2 arguments"),
        (("--instance", "org-kbs", "default/vtpm/none"), 1, "no such instance"),
        (("--serial", "00"), 1, "no issued certificate"),
        (("--policy-version", "9"), 1, "no policy of version 9"),
        (("--policy-version", "0"), 2, "0"),
        (("--policy-version", "1", "--reason", "whim"), 2, "whim"),
    ],
)
def test_what_cannot_be_meant(here, ca, words, code, said):
    done = here("revoke", "--dir", ca, *words)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert states(here, ca) == ["issued"] * 3


def test_step_by_step(here, two, monkeypatch):
    # As after a test that has looked at the log: a command has none, whatever the process was told of one.
    structlog.configure()
    by_one = functools.partial(revoke_by_cause, most=1)
    monkeypatch.setattr("ca_service.operations.revocation.revoke_by_cause", by_one)
    done = here("revoke", "--kbs", "org-kbs", "--all", "--yes", "--json", "--limit", "4", "--dir", two)
    assert (done.code, done.err) == (0, "3 revoked and published, going on\n")
    result = json.loads(done.out)
    assert (result["done"], result["more"], result["omitted"]) == (True, False, 2)
    assert result["counts"] == {"tpms": 2, "certificates": 6, "being_issued": 0, "beside": 0}
    assert [row["resource"][-1] for row in result["certificates"]] == ["a", "a", "a", "b"]
    assert states(here, two) == ["revoked"] * 6


def test_an_interruption_says_how_far_it_is(here, two, monkeypatch):
    steps = []

    def failing(*arguments):
        steps.append(1)
        if len(steps) == 2:
            raise Unavailable("the disk is full")
        return revoke_by_cause(*arguments, most=1)

    monkeypatch.setattr("ca_service.operations.revocation.revoke_by_cause", failing)
    words = ("revoke", "--policy-version", "1", "--yes", "--dir", two)
    done = here(*words)
    assert (done.code, done.out) == (3, "")
    assert "3 revoked and published, going on\nvtpm-ca: the disk is full\n" in done.err
    assert states(here, two) == ["issued"] * 3 + ["revoked"] * 3
    assert "Revoked: 3 certificates of 1 TPM" in here(*words).out
    assert states(here, two) == ["revoked"] * 6


def test_through_a_running_server(serve, here, two, measurement):
    server = serve(two, "--workers", "2")

    def on_lists() -> set[str]:
        found = set[str]()
        for row in json.loads(here("ca", "list", "--json", "--dir", two).out):
            if row["role"] in ("ek", "devid"):
                url = f"http://127.0.0.1:{server.port}/crl/{row['skid']}/0.crl"
                with urllib.request.urlopen(url, timeout=20) as answer:
                    found |= {
                        f"{entry.serial_number:034x}" for entry in x509.load_der_x509_crl(answer.read())
                    }
        return found

    words = (
        "revoke",
        "--measurement",
        measurement,
        "--instance",
        "org-kbs",
        "default/vtpm/guest-b",
        "--json",
    )
    plan = here(*words, "--dir", two)
    assert (plan.code, plan.err) == (0, "")
    planned = {row["serial"] for row in json.loads(plan.out)["certificates"]}
    assert (len(planned), on_lists()) == (3, set())
    done = here(*words, "--yes", "--dir", two)
    assert (done.code, done.err) == (0, "")
    # On every worker, when the command is back.
    assert {row["serial"] for row in json.loads(done.out)["certificates"]} == planned
    assert [on_lists() for _ in range(4)] == [planned] * 4
    wrong = here("revoke", "--measurement", "ab", "--dir", two)
    assert (wrong.code, "measurement: must be 48 bytes" in wrong.err) == (2, True)
    assert server.end(signal.SIGTERM) == 0
    assert "certificates were revoked by cause" in server.log.read_text()
    assert "Traceback" not in server.log.read_text()
    assert states(here, two) == ["issued"] * 3 + ["revoked"] * 3


def test_the_commands_of_the_document(monkeypatch, tmp_path):
    """Each line of the operator's page is a command with options that it has, and the table names them all."""
    document = (Path(__file__).parents[3] / "docs" / "revocation.md").read_text()
    lines = [
        line for block in re.findall(r"```sh\n(.*?)```", document, re.DOTALL) for line in block.splitlines()
    ]
    assert len(lines) > 9
    monkeypatch.setenv("VTPM_CA_DIR", str(tmp_path))
    (tmp_path / "policy.toml").touch()
    monkeypatch.chdir(tmp_path)
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "vtpm-ca"
        command, context = commands, click.Context(commands)
        while isinstance(command, click.Group):
            command = command.get_command(context, words.pop(0))
        command.make_context(line, words)
    (revoke,) = [commands.get_command(click.Context(commands), "revoke")]
    options = {name for parameter in revoke.params for name in parameter.opts}
    assert {name for name in options if f"`{name}" not in document and f" {name}" not in document} == {
        "--dir"
    }


def test_tpms_beside_are_shown(capsys):
    """What is left alone must not be overlooked by people."""
    beside = [{"kbs": "org-kbs", "resource": "default/vtpm/b", "salt": "", "tpm": 7}]
    counts = {"tpms": 0, "certificates": 0, "being_issued": 0, "decisions": 1, "unknown": 0, "beside": 2}
    command.show_revocation(
        {
            "done": False,
            "counts": counts,
            "certificates": [],
            "omitted": 0,
            "beside": beside,
            "advice": ["Look."],
        }
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[-4:] == [
        "tpm  kbs      resource        salt",
        "7    org-kbs  default/vtpm/b",
        "2 other TPMs beside, left alone",
        "- Look.",
    ]
