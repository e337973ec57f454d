"""docs/quotes.md: its tables are those of the program, and its commands and its Python run."""

import re
import shlex
import tomllib
from pathlib import Path

import time_machine
from click.testing import CliRunner
from cryptography.hazmat.primitives.serialization import Encoding
from quoting_tpm import NONCE, Tools
from relying_stage import AT

from ca_service.cli.quote import quote, verify
from ca_service.export.quote import CHECKS, ExpectedPcrs
from ca_service.export.relying import CHECKS as OF_CERTIFICATES
from ca_service.export.relying import ProvenanceRule

TEXT = (Path(__file__).parents[3] / "docs" / "quotes.md").read_text()


def blocks(language):
    """The fenced blocks of a language; of none, what is typed into a shell."""
    return [
        body
        for kind, body in re.findall(r"^```(\w*)\n(.+?)^```$", TEXT, re.DOTALL | re.MULTILINE)
        if kind == language
    ]


def test_the_checks():
    section = TEXT.split("## What is checked\n")[1].split("\n## ")[0]
    firsts = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    named = [name for first in firsts for name in re.findall("`([^`]+)`", first)]
    assert sorted(named) == sorted(CHECKS)
    assert f"`{OF_CERTIFICATES[0]}` to `{OF_CERTIFICATES[-1]}`" in TEXT


def test_the_options():
    options = {option for parameter in verify.params for option in parameter.opts}
    assert {option for option in options if f"`{option}" not in TEXT} == set()
    assert set(re.findall(r"`(--[a-z-]+)", TEXT)) <= options


def test_the_files():
    expected, rule = blocks("toml")
    assert set(ExpectedPcrs.read(expected.encode()).banks["sha256"]) == {0, 7}
    assert ProvenanceRule.from_table(tomllib.loads(rule)["provenance"]).resources == {"default/vtpm/*"}


def test_the_commands_and_the_python(scene, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _party(scene.stage, tmp_path)
    tools = Tools(scene.tools.tcti, tmp_path)
    ended = []
    for line in "".join(blocks("")).splitlines():
        program, *words = shlex.split(
            line.replace("NONCE", NONCE.hex()).replace("device:/dev/tpmrm0", tools.tcti)
        )
        if program.startswith("tpm2_"):
            tools.run("tpm2_flushcontext", "-t")
            tools.run(program, *words)
            continue
        assert words[0] == "quote"
        done = CliRunner().invoke(quote, [*words[1:], "--at", AT.isoformat()], standalone_mode=False)
        ended.append((done.return_value, done.output[:5]))
        if "--attest" in words:
            _python(capsys)
    assert ended == [(0, "VALID")] * 2
    keys = [f"--{name}={tmp_path}/{file}" for name, file in re.findall(r"--(ak[a-z-]*) (ak\.\w+)", TEXT)]
    words = next(line for line in "".join(blocks("")).splitlines() if "--attest" in line)
    words = shlex.split(words.replace("NONCE", NONCE.hex()))[2:]
    done = CliRunner().invoke(quote, [*words, *keys, "--at", AT.isoformat()], standalone_mode=False)
    assert (len(keys), done.return_value) == (3, 0), done.output


def _party(stage, place):
    for folder in ("issuers", "crls"):
        (place / folder).mkdir()
    (place / "root.pem").write_bytes(stage.root.certificate.public_bytes(Encoding.PEM))
    for i, issuer in enumerate(stage.issuers):
        (place / "issuers" / f"{i}.cer").write_bytes(issuer.public_bytes(Encoding.DER))
    for name, der in stage.lists.items():
        (place / "crls" / f"{name}.crl").write_bytes(der)
    (place / "nonce").write_text(NONCE.hex())
    (place / "expected.toml").write_text(blocks("toml")[0])


def _python(capsys):
    (code,) = blocks("python")
    capsys.readouterr()
    with time_machine.travel(AT, tick=False):
        exec(code, {})  # noqa: S102 - the document's own
    assert capsys.readouterr().out.startswith("True None ProvenanceView(")
