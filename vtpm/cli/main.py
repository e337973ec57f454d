"""Entry point and command tree of `vtpm`."""

import sys

import click

from vtpm.cli.attack import attack
from vtpm.cli.boot import boot, measure
from vtpm.cli.kbs import kbs
from vtpm.cli.volume import volume
from vtpm.errors import VtpmError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="vtpm-ca", prog_name="vtpm")
def commands() -> None:
    """Run the simulated confidential platform around a real TPM: key broker, SVSM, host.

    Exit codes: 0 done, 1 refused or invalid, 2 usage or unreadable input, 3 unavailable.
    """


commands.add_command(kbs)
commands.add_command(measure)
commands.add_command(boot)
commands.add_command(volume)
commands.add_command(attack)


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
