"""docs/guest.md: its commands run, its policy is one, and its tables are those of the program."""

import re
import shlex
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import amd_guest
import click
import pytest

from ca_service.policy import load
from vtpm.cli.enroll import enroll
from vtpm.guest import DEFAULT_TCTI, FILES, REPORTS, folder, tsm
from vtpm.wire.amd_evidence import MAX_EVIDENCE_MANIFEST, VTPM_PROFILE
from vtpm.wire.certtable import MAX_TABLE

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "guest.md").read_text()
BLOCKS = dict(re.findall(r"<!-- tested: ([a-z]+) -->\n```sh\n(.*?)```", TEXT, re.DOTALL))
FIRSTS = [line.split("|")[1] for line in TEXT.splitlines() if line.startswith("| `")]
NAMED = {name for first in FIRSTS for name in re.findall("`([^`]+)`", first)}


@pytest.fixture
def today(world):
    """openssl knows no clock but the machine's."""
    world.time = datetime.now(UTC).replace(microsecond=0)
    return world


def test_the_commands(today, vtpm_enroll, ca, tcti, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program, command, *words = shlex.split(BLOCKS["enroll"])
    assert (program, command) == ("vtpm", "enroll")
    with ca() as url:
        done = vtpm_enroll(*(url if word == "https://ca.example" else word for word in words), "--tcti", tcti)
    assert done.code == 0, done.err
    assert {path.name for path in Path("certificates").iterdir()} == {*FILES, folder.RECORD}
    root = today.authority.chain(today.authority.issuer("ephemeral"))[-1]
    Path("root.der").write_bytes(root)
    subprocess.run(["openssl", "x509", "-in", "root.der", "-inform", "DER", "-out", "root.pem"], check=True)
    shown = subprocess.run(
        ["sh", "-e", "-c", BLOCKS["verify"]], check=True, capture_output=True, text=True, timeout=60
    )
    assert shown.stdout.split("\n") == ["certificates/iak.pem: OK", "certificates/idevid.pem: OK", ""]


def test_the_policy(world):
    (table,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    wanted = load(amd_guest.policy(world, profiles=(VTPM_PROFILE,), days=3)).ephemeral
    assert load(amd_guest.policy(world, profiles=(), extra=table)).ephemeral == wanted


def test_the_options():
    options = {name for option in enroll.params if isinstance(option, click.Option) for name in option.opts}
    assert {name for name in NAMED if name.startswith("--")} == options
    assert all(option.help for option in enroll.params)
    assert f"`{DEFAULT_TCTI}` if not said" in TEXT
    assert f"`{REPORTS}` if not said" in TEXT


def test_the_files():
    assert {name for name in NAMED if name.endswith((".pem", ".json"))} == {*FILES, folder.RECORD}


def test_the_rules():
    sources = "".join(path.read_text() for path in (ROOT / "vtpm" / "guest").glob("*.py"))
    used = set(re.findall(r'"((?:guest|profile)\.[a-z-]+|certificates\.ephemeral)"', sources))
    assert {name for name in NAMED if name.startswith(("guest.", "profile.ek", "certificates.e"))} == used


def test_the_bounds():
    assert f"at most {MAX_EVIDENCE_MANIFEST:,}" in TEXT
    assert f"1,184 and {MAX_TABLE:,} bytes" in TEXT
    assert (tsm.ATTEMPTS, tsm.PAUSE_S) == (3, 2.0)
    assert "three times in all, two seconds apart" in TEXT
