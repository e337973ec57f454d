"""Every command explains itself, and the list of commands is the one that scripts rely on."""

from pathlib import Path

import click
import pytest

from ca_service.cli.main import _SHORT_HELPS, commands
from vtpm.cli.main import _SHORT_HELPS as _VTPM_HELPS
from vtpm.cli.main import commands as vtpm_tree

LISTED = Path(__file__).with_name("commands.txt").read_text().splitlines()


def walk(command: click.Command, *path: str):
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from walk(command.get_command(context, name), *path, name)
    else:
        yield path, command


def test_the_commands_are_those_in_the_list():
    assert sorted(" ".join(("vtpm-ca", *path)) for path, _ in walk(commands)) == LISTED


@pytest.mark.parametrize("line", [*LISTED, "vtpm-ca", *sorted({" ".join(x.split()[:2]) for x in LISTED})])
def test_each_explains_itself(here, line):
    done = here(*line.split()[1:], "--help", env={"COLUMNS": "80"})
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"Usage: {line}")
    assert max(map(len, done.out.splitlines())) <= 110


def test_the_short_helps_are_whole(here):
    assert "..." not in here("--help").out.split("Commands:")[1]


def test_lists_and_shows_have_json():
    for path, command in walk(commands):
        if path[-1] in ("list", "show", "log"):
            assert any("--json" in parameter.opts for parameter in command.params), path


def test_options_and_arguments_are_explained():
    for path, command in walk(commands):
        for parameter in command.params:
            assert not isinstance(parameter, click.Option) or parameter.help, (path, parameter.name)


def test_the_version(here):
    done = here("--version")
    assert (done.code, done.out.split(",")[0]) == (0, "vtpm-ca")


@pytest.mark.parametrize(("tree", "short_helps"), [(commands, _SHORT_HELPS), (vtpm_tree, _VTPM_HELPS)])
def test_the_list_of_commands_says_what_they_say_themselves(tree, short_helps):
    context = click.Context(tree)
    said = {
        name: tree.get_command(context, name).get_short_help_str(110) for name in tree.list_commands(context)
    }
    assert short_helps == said
