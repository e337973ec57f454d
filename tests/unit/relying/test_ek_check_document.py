"""docs/ek-check.md: its tables are those of the program, and what it shows of Python runs."""

import re
from pathlib import Path

import time_machine
from cryptography.hazmat.primitives.serialization import Encoding
from relying_stage import AT

from ca_service.export.ek_check import configuration, environment
from ca_service.export.relying import CHECKS, LARGEST_CERTIFICATE, rule

TEXT = (Path(__file__).parents[3] / "docs" / "ek-check.md").read_text()


def rows(heading):
    section = TEXT.split(f"## {heading}\n")[1].split("\n## ")[0]
    firsts = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return [name for first in firsts for name in re.findall("`([^`]+)`", first)]


def test_the_checks():
    assert rows("What is checked") == [*CHECKS, "relying.ek"]
    assert f"at most {LARGEST_CERTIFICATE:,} octets" in TEXT


def test_the_members():
    assert set(rows("The configuration")) == {*configuration._MEMBERS, "[provenance]"} - {"provenance"}
    assert all(f"`{member}`" in TEXT for member in rule.MEMBERS)
    assert str(configuration.DEFAULT_PLACE) in TEXT
    assert configuration.PLACE_VARIABLE in TEXT
    assert environment.LONGEST_TEXT > LARGEST_CERTIFICATE * 4 // 3


def test_the_python(stage, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder in ("issuers", "crls"):
        (tmp_path / folder).mkdir()
    (tmp_path / "root.pem").write_bytes(stage.root.certificate.public_bytes(Encoding.PEM))
    for i, issuer in enumerate(stage.issuers):
        (tmp_path / "issuers" / f"{i}.cer").write_bytes(issuer.public_bytes(Encoding.DER))
    for name, der in stage.lists.items():
        (tmp_path / "crls" / f"{name}.crl").write_bytes(der)
    (tmp_path / "iak.der").write_bytes(stage.iak)
    (code,) = re.findall(r"```python\n(.+?)```", TEXT, re.DOTALL)
    with time_machine.travel(AT, tick=False):
        exec(code, {})  # noqa: S102 - the document's own
    assert capsys.readouterr().out.startswith("True [{'rule': 'relying.readable'")
