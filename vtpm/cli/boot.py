"""`vtpm boot` and `vtpm measure`: the simulated machine and what its SVSM measures to."""

import json
import re
from pathlib import Path

import click

from vtpm.lab.allowlist import PLATFORM, launch_entry
from vtpm.lab.machine import Machine, MachineConfig
from vtpm.signals import interrupt_on_signals
from vtpm.svsm.build import Build, measurement

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def _platform_name(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if _NAME.fullmatch(value) is None:
        raise click.BadParameter("must be a name of the policy: lower case, digits, '.', '_' and '-'")
    return value


@click.command()
@click.option(
    "--policy", is_flag=True, help="print the [[launch]] entry for the CA's policy instead of the digest"
)
@click.option(
    "--platform",
    default=PLATFORM,
    show_default=True,
    callback=_platform_name,
    metavar="NAME",
    help="name of the [[platform]] in that policy to which the entry refers",
)
@click.option("--build", type=click.Choice([build.value for build in Build]), default=Build.STANDARD.value)
def measure(*, policy: bool, platform: str, build: str) -> None:
    """Print the launch measurement of this checkout's simulated SVSM (SHA-384, hex)."""
    if not policy:
        click.echo(measurement(Build(build)).hex())
        return
    capabilities = ("verifies-grants", "reports-state") if build == Build.STANDARD.value else ()
    click.echo(
        launch_entry(f"simulated-svsm-{build}", measurement(Build(build)), capabilities, platform=platform)
    )


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--ca", default="http://127.0.0.1:8443", show_default=True, help="URL of the CA")
@click.option(
    "--kbs", "kbs_url", default="http://127.0.0.1:8480", show_default=True, help="URL of the key broker"
)
@click.option(
    "--resource", default="default/vtpm/demo", show_default=True, help="key that the host asks the KBS for"
)
@click.option(
    "--ek", "ek", multiple=True, default=("L-1",), show_default=True, help="EK template; may be repeated"
)
@click.option("--iak", default="H-3", show_default=True, help="template of IAK and IDevID")
@click.option("--no-ca", is_flag=True, help="start the guest without certificates")
@click.option(
    "--hold", is_flag=True, help="keep the TPM up for tpm2-tools until interrupted, and print its TCTI"
)
@click.option("--port", default=0, help="first of the two TCP ports of the held TPM (0: any)")
@click.option(
    "--build", type=click.Choice([build.value for build in Build]), default=Build.STANDARD.value, hidden=True
)
@click.option("--host", "behaviour", default="honest", hidden=True, help="the host's behaviour")
@click.option("--json", "as_json", is_flag=True, help="print the story as JSON lines")
def boot(
    directory: Path,
    ca: str,
    kbs_url: str,
    resource: str,
    ek: tuple[str, ...],
    iak: str,
    *,
    no_ca: bool,
    hold: bool,
    port: int,
    build: str,
    behaviour: str,
    as_json: bool,
) -> None:
    """Boot the machine in DIRECTORY (made on first use): attest, open the volume, make or load the TPM, enrol.

    The first boot manufactures the TPM and obtains its certificates; later boots find both in the volume.
    """
    interrupt_on_signals()
    config = MachineConfig(directory, kbs_url, ca, resource, ek, iak, not no_ca, hold, behaviour, build, port)
    with Machine(config) as machine:
        try:
            _tell(machine, as_json=as_json)
        except KeyboardInterrupt:
            machine.switch_off()
            _tell(machine, as_json=as_json)
        code = machine.exit_code
    raise SystemExit(code)


def _tell(machine: Machine, *, as_json: bool) -> None:
    """Print the story as it goes on, to its end."""
    for event in machine.events():
        shown = json.dumps({"step": event.step, "ms": event.ms, "detail": event.detail})
        click.echo(shown if as_json else "  " + event.render())
