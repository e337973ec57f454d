"""`vtpm-ca policy simulate` and `vtpm-ca tcb forecast`: the example of docs/policy-changes.md, and how they end."""

import json
import re
import shlex
import shutil
from pathlib import Path

import click
import operations_stage as s
import pytest

from ca_service.cli.main import commands
from ca_service.enrollment import revoke_by_cause
from ca_service.judgment import Unavailable
from ca_service.store import open_store
from vtpm.lab.allowlist import launch_entry, platform_entry

w = s.w

DOCUMENT = (Path(__file__).parents[3] / "docs" / "policy-changes.md").read_text()
CAPABILITIES = ("verifies-grants", "reports-state")
LEVELS = "{ bootloader = 4, tee = 0, snp = 28, microcode = 219 }"
FLOOR = f"""
[[platform.tcb]]
product = "Milan"
from = 2099-01-01T00:00:00Z
firmware = "1.55.29"
reported = {LEVELS}
committed = {LEVELS}
launch = {LEVELS}
"""


@pytest.fixture(scope="module")
def history(worked_ca, tmp_path_factory: pytest.TempPathFactory):
    """A CA with two TPMs: guest-a, and guest-b from a build that the policy lists as "old-build"."""
    world = s.world_in(
        Path(shutil.copytree(worked_ca.directory, tmp_path_factory.mktemp("s") / "w")), worked_ca.authority
    )
    old = world.platform.launch([(0x1000, bytes([7]) * 4096)])
    store = open_store(world.url)
    world.apply(store, world.policy(extra=launch_entry("old-build", old.measurement, CAPABILITIES)))
    draft = world.policy().replace(platform_entry(), platform_entry() + FLOOR)
    (world.directory / "ca" / "draft.toml").write_text(draft)
    world.launch = old
    tpm, boot = w.SoftTpm(), w.Boot(resource="default/vtpm/guest-b", secret=b"b" * 32)
    w.issue(world, world.enroller(store), tpm, boot)
    store.close()
    world.close()
    return world.directory / "ca"


@pytest.fixture
def ca(history, short, monkeypatch):
    """A copy of its directory, which is where commands run, with the draft."""
    directory = Path(shutil.copytree(history, short / "ca"))
    monkeypatch.chdir(directory)
    return directory


def examples() -> list[tuple[str, str]]:
    """Each command of the document's example with what it prints."""
    blocks = re.findall(r"```console\n(.*?)```", DOCUMENT, re.DOTALL)
    calls = [re.split(r"^\$ ", block, flags=re.MULTILINE)[1:] for block in blocks]
    return [(call.partition("\n")[0], call.partition("\n")[2]) for block in calls for call in block]


def plain(text: str) -> str:
    """A text without what differs from run to run; columns are as wide as what is in them, so blanks count once."""
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME", re.sub(r"[0-9a-f]{12,}", "HEX", text))
    return re.sub(r"[ ]+", " ", text).strip()


def states(here, ca) -> list[str]:
    return sorted(
        row["state"] for row in json.loads(here("cert", "list", "--all", "--json", "--dir", ca).out)
    )


def test_the_example(here, ca):
    """In its order, for what is revoked is told no more."""
    told = examples()
    assert len(told) >= 4
    for command, output in told:
        program, *words = shlex.split(command)
        assert program == "vtpm-ca"
        done = here(*words, env={"VTPM_CA_DIR": str(ca)})
        assert (done.code, done.err) == (0, ""), command
        assert plain(done.out) == plain(output), command
    assert states(here, ca) == ["issued"] * 3 + ["revoked"] * 3
    assert here("db", "check", "--dir", ca).code == 0


def test_every_command_of_the_document_exists():
    lines = [
        line for block in re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL) for line in block.splitlines()
    ]
    assert lines
    for line in lines:
        command, context, words = commands, click.Context(commands), shlex.split(line)[1:]
        while isinstance(command, click.Group):
            command = command.get_command(context, words.pop(0))
            assert command is not None, line
        command.make_parser(click.Context(command)).parse_args(words)


def test_a_dry_run_changes_nothing(here, ca):
    before = (ca / "ca.sqlite3").read_bytes()
    plan = here("policy", "simulate", "draft.toml", "--revoke", "--dir", ca)
    assert (plan.code, plan.err) == (0, "")
    assert "Dry run: nothing was changed. To revoke what these TPMs have: " in plan.out
    told = json.loads(here("policy", "simulate", "draft.toml", "--json", "--dir", ca).out)
    assert told["certified"] == {
        "tpms": 2, "certificates": 6, "refused_tpms": 1, "refused_certificates": 3, "unknown_tpms": 0,
    }  # fmt: skip
    assert told["revocation"] is None
    assert (ca / "ca.sqlite3").read_bytes() == before
    assert states(here, ca) == ["issued"] * 6


def test_step_by_step(here, ca, monkeypatch):
    """What a step has revoked stays so, whatever becomes of the next; to ask again goes on with the rest."""
    monkeypatch.setattr("ca_service.operations.draft_revocation.MOST_TPMS", 1)
    draft = ca / "draft.toml"
    draft.write_text(draft.read_text().replace('status = "trusted"', 'status = "suspended"'))
    words = ("policy", "simulate", "draft.toml", "--last", "0", "--revoke", "--yes", "--dir", ca)
    steps = []

    def failing(*arguments):
        steps.append(1)
        if len(steps) == 2:
            raise Unavailable("the disk is full")
        return revoke_by_cause(*arguments)

    monkeypatch.setattr("ca_service.operations.draft_revocation.revoke_by_cause", failing)
    done = here(*words)
    assert (done.code, done.out) == (3, "")
    assert done.err == "3 certificates revoked and published\nvtpm-ca: the disk is full\n"
    assert states(here, ca) == ["issued"] * 3 + ["revoked"] * 3
    again = here(*words, "--reason", "cessationOfOperation", "--json")
    assert (again.code, again.err) == (0, "")
    assert json.loads(again.out)["revocation"]["counts"] == {
        "tpms": 1, "certificates": 3, "being_issued": 0,
    }  # fmt: skip
    assert states(here, ca) == ["revoked"] * 6


def test_what_cannot_be_meant(here, history):
    for words, said in (
        (("--yes",), "--yes goes with --revoke"),
        (("--last", "-1"), "-1"),
        (("--since", "soon"), "ISO 8601"),
        (("--reason", "whim"), "whim"),
    ):
        done = here("policy", "simulate", history / "draft.toml", "--dir", history, *words)
        assert (done.code, done.out) == (2, "")
        assert said in done.err


def test_a_draft_that_could_not_be_applied(here, history, tmp_path):
    for content in ("schema = 2", "nonsense", 'schema = 1\n[[launch]]\nname = "x"\n'):
        draft = tmp_path / "draft.toml"
        draft.write_text(content)
        for words in (("policy", "simulate", draft), ("tcb", "forecast", "--policy", draft)):
            done = here(*words, "--dir", history)
            assert (done.code, done.out) == (1, "")
            assert done.err


def test_a_forecast_of_another_day(here, history):
    def told(*words):
        done = here("tcb", "forecast", "--json", "--dir", history, *words)
        assert (done.code, done.err) == (0, "")
        return json.loads(done.out)

    assert told()["groups"] == []
    draft = ("--policy", history / "draft.toml")
    assert told(*draft)["counts"] == {
        "tpms": 2, "below": 0, "falling": 1, "safe": 0, "unlisted": 1, "unknown": 0,
    }  # fmt: skip
    later = told(*draft, "--at", "2099-01-01")
    assert later["counts"]["below"] == 1
    (group,) = later["groups"]
    assert (group["from"], group["count"], len(group["tpms"])) == (None, 1, 1)
    short = group["tpms"][0]["short"]
    assert {(part["rule"], part["component"], part["has"], part["needs"]) for part in short} == {
        (f"platform.{which}-tcb", "snp", "27", "28") for which in ("reported", "committed", "launch")
    }
    assert told(*draft, "--limit", "0")["groups"][0]["omitted"] == 1


def test_without_a_policy(here, empty):
    done = here("tcb", "forecast", "--dir", empty)
    assert (done.code, done.out) == (1, "")
    assert "no policy is in force" in done.err
