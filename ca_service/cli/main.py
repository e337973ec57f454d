"""Entry point and command tree of `vtpm-ca`."""

import sys
from pathlib import Path

import click

from ca_service.cli.authority import ca, crl, export, init
from ca_service.cli.policy import policy
from ca_service.cli.records import alarm, cert, decision, instance
from ca_service.cli.serve import serve
from ca_service.judgment import Refused, Unavailable, VtpmCaError

_UNAVAILABLE, _USAGE, _REFUSED = 3, 2, 1
_USAGE_CODES = frozenset({"malformed", "operation", "passphrase-missing", "permissions"})


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="vtpm-ca", prog_name="vtpm-ca")
@click.option(
    "--dir", "directory", type=click.Path(path_type=Path, file_okay=False), help="directory of the CA"
)
@click.pass_context
def commands(context: click.Context, directory: Path | None) -> None:
    """Run and steer a certificate authority for virtual TPMs.

    Commands find the CA through --dir or VTPM_CA_DIR. They talk to the running server's operator socket, or work on
    the directory themselves when no server runs. The passphrase of the CA's keys comes from VTPM_CA_PASSPHRASE_FILE,
    VTPM_CA_PASSPHRASE or the systemd credential vtpm-ca-passphrase.

    Exit codes: 0 done, 1 refused or invalid, 2 usage or unreadable input, 3 unavailable.
    """
    context.obj = directory


for command in (init, serve, ca, policy, instance, cert, decision, alarm, crl, export):
    commands.add_command(command)


def exit_code(error: VtpmCaError) -> int:
    """What a script learns from an error: 1 refused or invalid, 2 usage or unreadable input, 3 unavailable."""
    if isinstance(error, Unavailable):
        return _UNAVAILABLE
    if isinstance(error, Refused):
        return _REFUSED
    return _USAGE if error.code in _USAGE_CODES else _REFUSED


def main() -> None:
    """Run the command line; errors of ours become one readable message and an exit code, never a traceback."""
    try:
        commands.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(_USAGE)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except VtpmCaError as error:
        click.echo(f"vtpm-ca: {error.diagnostics()}", err=True)
        sys.exit(exit_code(error))
    except BrokenPipeError:
        sys.exit(_REFUSED)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"vtpm-ca: {where}{error.strerror or error}", err=True)
        sys.exit(_USAGE)
