"""docs/operations.md and what it names; its commands run in the end-to-end tests, which take longer."""

import re
import shlex
from pathlib import Path

import click
import pytest
from operations_document import BLOCKS, TEXT, Block

from ca_service.cli.main import commands

ROOT = Path(__file__).parents[3]
_PROGRAM = re.compile(r"^vtpm-ca(?:-admin)? [^|<>;\n]*", re.MULTILINE)


def lines():
    """Every call of the program in the document, with its place."""
    for block in BLOCKS.values():
        for call in _PROGRAM.findall(block.commands):
            yield block.name, call
    for call in re.findall(r"`(vtpm-ca(?:-admin)? [^`]*--[^`]*)`", TEXT):
        yield "text", call


def words_of(call: str) -> list[str]:
    return shlex.split(call.replace("$(printf -- '--crl %s ' /srv/lists/*.crl)", "--crl x"))[1:]


@pytest.mark.parametrize(("place", "call"), sorted(set(lines())))
def test_the_program_has_what_is_called(place, call):
    command, words = commands, words_of(call)
    context = click.Context(commands)
    while isinstance(command, click.Group):
        command = command.get_command(context, words.pop(0))
        assert command is not None, call
    command.make_parser(click.Context(command)).parse_args(words)


def test_every_block_is_tested():
    assert len(BLOCKS) == len(re.findall(r"^```sh$", TEXT, re.MULTILINE))
    assert len(BLOCKS) > 20


def test_every_link_leads_somewhere():
    links = [link for link in re.findall(r"\]\(([^)#]+)", TEXT) if "://" not in link]
    assert len(links) > 5
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


def test_every_file_and_unit_that_it_names_is_there():
    for path in re.findall(r"(?:deploy|policies|requirements)/[\w./-]*\w", TEXT):
        assert (ROOT / path).exists(), path
    units = {path.name for path in (ROOT / "deploy" / "systemd").iterdir()}
    for unit in re.findall(r"\bvtpm-ca(?:-[a-z]+)?\.(?:service|timer)\b(?!\.d)", TEXT):
        assert unit in units, unit


def test_as_many_backups_as_the_unit_keeps():
    unit = (ROOT / "deploy" / "systemd" / "vtpm-ca-backup.service").read_text()
    (kept,) = re.findall(r"^Environment=VTPM_CA_BACKUPS_KEPT=(\d+)$", unit, re.MULTILINE)
    assert f"the last {kept} backups" in TEXT
    assert f"keeps {kept} of the database" in TEXT


@pytest.mark.parametrize(
    ("shows", "shown", "missing"),
    [
        (("a ... c",), "x\na b c\n", ""),
        (("a", "b"), "b\na\n", "b"),
        (("done",), "not done\n", "done"),
        (("... done",), "not done\n", ""),
        (("VALID ...",), "VALID  x: 3 leaves\n", ""),
    ],
)
def test_what_is_shown_is_compared(shows, shown, missing):
    assert Block("x", "", shows).missing_in(shown) == missing
