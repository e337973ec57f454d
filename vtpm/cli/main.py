"""Entry point and command tree of `vtpm`."""

import sys
import traceback
from importlib import import_module
from pathlib import Path

import click

from vtpm.errors import UnavailableError, VtpmError

_COMMANDS = {
    "kbs": "vtpm.cli.kbs",
    "measure": "vtpm.cli.boot",
    "boot": "vtpm.cli.boot",
    "enroll": "vtpm.cli.enroll",
    "volume": "vtpm.cli.volume",
    "attack": "vtpm.cli.attack",
}
"""Where each command is, under its own name. A command loads what it needs itself, not what the others do."""

_SHORT_HELPS = {
    "kbs": "The organisation's key broker, wire-compatible with Trustee's KBS 0.4.0, plus the grant.",
    "measure": "Print the launch measurement of this checkout's simulated SVSM (SHA-384, hex).",
    "boot": (
        "Boot the machine in DIRECTORY (made on first use): attest, open the volume, make or load the TPM, enrol."
    ),
    "enroll": "Obtain certificates for the vTPM of the VM in which this runs: ephemeral ones.",
    "volume": "CocoonFs volumes: encrypted and authenticated stores, as COCONUT's SVSM has them.",
    "attack": "The attacks that must fail, each an executable scenario on throwaway parties.",
}
"""What each says of itself in a line or two: to list them, none of them is loaded."""


class _Commands(click.Group):
    """The commands, each loaded when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(_COMMANDS[cmd_name]), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _SHORT_HELPS[name]) for name in self.list_commands(ctx)])


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(package_name="vtpm-ca", prog_name="vtpm")
def commands() -> None:
    """Run the simulated confidential platform around a real TPM: key broker, SVSM, host; and its volumes.

    Exit codes: 0 done, 1 refused or invalid, 2 usage or unreadable input, 3 unavailable.
    """


def main() -> None:
    """Run the command line; errors of ours become one readable message and an exit code, never a traceback."""
    try:
        commands.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except VtpmError as error:
        click.echo(f"vtpm: {error.diagnostics()}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        click.echo(f"vtpm: {error.strerror or error}: {error.filename or ''}".rstrip(": "), err=True)
        sys.exit(2)
    except Exception as error:  # noqa: BLE001 - the last net: a traceback helps nobody and may show a secret
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}, line {last.lineno}"
        click.echo(f"vtpm: internal error: {type(error).__name__} in {place}", err=True)
        sys.exit(UnavailableError.exit_code)
