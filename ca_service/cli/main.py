"""Entry point and command tree of `vtpm-ca`."""

import contextlib
import errno
import io
import os
import resource
import sys
import traceback
from pathlib import Path

import click

from ca_service.cli.loading import collect_as_usual, collect_rarely, load
from ca_service.cli.options import directory_option
from ca_service.cli.output import OutputLost, printable
from ca_service.judgment import Unavailable, VtpmCaError

_UNAVAILABLE, _USAGE, _REFUSED = 3, 2, 1
_INTERRUPTED = 130
_USAGE_CODES = frozenset(
    {
        "malformed",
        "no-ca",
        "operation",
        "passphrase-missing",
        "permissions",
        "pin-missing",
        "policy-evidence",
        "unreadable",
    }
)
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
_STANDARD_STREAMS = (0, 1, 2)

_COMMANDS = {
    "init": "authority",
    "serve": "serve",
    "ca": "rollover",
    "policy": "policy",
    "kbs": "kbs",
    "tcb": "forecast",
    "instance": "records",
    "cert": "records",
    "revoke": "revocation",
    "key": "keys",
    "decision": "decisions",
    "alarm": "records",
    "crl": "authority",
    "export": "authority",
    "audit": "audit",
    "evidence": "evidence",
    "quote": "quote",
    "collateral": "collateral",
    "db": "database",
    "health-check": "health",
}
"""In which module of this package each command is, under its own name. A command loads only what it needs."""

_SHORT_HELPS = {
    "init": "Make a CA: keys, certificates, first CRLs, database.",
    "serve": "Serve enrolment, publication and operators.",
    "ca": "The CA's own certificates and keys, and rollover.",
    "policy": "The allow-list: whom and what this CA certifies.",
    "kbs": "Key brokers of the allow-list.",
    "tcb": "Processors' firmware, and who will be below a floor.",
    "instance": "Which TPM lives under which (KBS, resource).",
    "cert": "Certificates that this CA issued.",
    "revoke": "Revoke all certificates that rest on a cause.",
    "key": "Keys that get no certificate.",
    "decision": "Decisions about evidence, with the trace of every check.",
    "alarm": "Alarms: what an operator must look at.",
    "crl": "Certificate revocation lists.",
    "export": "What consumers of the certificates need.",
    "audit": "The log of decisions and certificates.",
    "evidence": "Judge and show attestation reports.",
    "quote": "Judge the quotes of certified TPMs.",
    "collateral": "Certificates and revocation lists for judging reports.",
    "db": "The CA's database.",
    "health-check": "Is all well with the CA?",
}
"""What each says of itself in one line: to list them, none of them is loaded."""


class _Commands(click.Group):
    """The commands, each loaded when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(load(_COMMANDS[cmd_name]), cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _SHORT_HELPS[name]) for name in self.list_commands(ctx)])


def _outer_directory(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    context.obj = Path(value) if value else None


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(package_name="vtpm-ca", prog_name="vtpm-ca")
@directory_option(_outer_directory)
def commands(directory: None) -> None:
    """Run and steer a certificate authority for virtual TPMs.

    Commands find the CA through --dir or VTPM_CA_DIR. They talk to the running server's operator socket, or work on
    the directory themselves when no server runs. The passphrase of the CA's keys comes from VTPM_CA_PASSPHRASE_FILE,
    VTPM_CA_PASSPHRASE or the systemd credential vtpm-ca-passphrase.

    Exit codes: 0 done, 1 refused or invalid, 2 usage or unreadable input, 3 unavailable.
    """


def exit_code(error: VtpmCaError) -> int:
    """What a script learns from an error: 1 refused or invalid, 2 usage or unreadable input, 3 unavailable."""
    if isinstance(error, Unavailable) or type(error) is VtpmCaError:
        # One without a kind is nobody's fault but ours (a signer that fails, a damaged record).
        return _UNAVAILABLE
    return _USAGE if error.code in _USAGE_CODES else _REFUSED


def main() -> None:
    """Run the command line; whatever goes wrong becomes one readable message and an exit code."""
    # A dump of memory would hold every key that was unsealed; what runs below inherits this.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _hold_standard_streams()
    collect_rarely()
    try:
        code = _run()
    finally:
        collect_as_usual()
        _settle_output()
    sys.exit(code)


def _run() -> int:
    try:
        result = commands.main(standalone_mode=False)
    except click.ClickException as error:
        with contextlib.suppress(OSError):
            error.show()
        return _USAGE
    except (click.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except VtpmCaError as error:
        if not (isinstance(error, OutputLost) and error.silent):
            _complain(error.diagnostics())
        return exit_code(error)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _complain(f"{where}{error.strerror or type(error).__name__}")
        return _UNAVAILABLE if error.errno in _NO_SPACE else _USAGE
    except Exception as error:  # noqa: BLE001 - the last net: a traceback helps no operator and may show a secret
        last = traceback.extract_tb(error.__traceback__)[-1]
        _complain(f"internal error: {type(error).__name__} in {Path(last.filename).name}, line {last.lineno}")
        return _UNAVAILABLE
    # `--help` and `--version` come back as the exit code that they ask for.
    return result if isinstance(result, int) else 0


def _complain(text: str) -> None:
    with contextlib.suppress(OSError):
        click.echo(f"vtpm-ca: {printable(text, keep=chr(10))}", err=True)


def _hold_standard_streams() -> None:
    """Let them take any text, and no file that is opened later the number of one that was closed."""
    for number in _STANDARD_STREAMS:
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        # Names of files may be no text at all, and a locale may not know all characters.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _settle_output() -> None:
    """Write what is left; if that fails, let go of it, or the interpreter would complain at its end."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except AttributeError:
        pass
