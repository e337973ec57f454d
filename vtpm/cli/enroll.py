"""`vtpm enroll`: the vTPM of this VM gets certificates, from inside the VM."""

import json
from pathlib import Path

import click

from vtpm.client import HttpTransport
from vtpm.client import enroll as enroll_with
from vtpm.errors import UsageError
from vtpm.guest import (
    DEFAULT_TCTI,
    FILES,
    REPORTS,
    ConfigfsTsm,
    GuestDevice,
    GuestTpm,
    Outcome,
    check_folder,
    write_folder,
)
from vtpm.signals import interrupt_on_signals
from vtpm.wire.amd_evidence import AMD_PROFILES, SERVICES_PROFILE, VTPM_PROFILE
from vtpm.wire.enrollment import time_text
from vtpm.wire.errors import WireError
from vtpm.wire.note import VerifierKey
from vtpm.wire.templates import Role, templates

_VOUCHED = {
    VTPM_PROFILE: "for the EK of its vTPM and for nothing else",
    SERVICES_PROFILE: "for the EK of its vTPM, and for a key broker if its manifest names one",
}
_BEFORE = """The SVSM of this VM vouches {vouched}: not for where the TPM keeps its state.
So the certificates are EPHEMERAL at most: good for days, and for this launch of the VM only."""
_AFTER = """These certificates are EPHEMERAL: the first ends at {ends}, and none holds beyond this launch of the VM.
They name no persistent TPM. Do not take them for lasting device identities."""


@click.command()
@click.option("--ca", required=True, metavar="URL", help="URL of the CA")
@click.option("--tcti", default=DEFAULT_TCTI, show_default=True, help="the VM's TPM, as for tpm2-tools")
@click.option(
    "--tsm",
    default=REPORTS,
    show_default=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="where the kernel offers attestation (configfs-tsm)",
)
@click.option(
    "--profile",
    default=VTPM_PROFILE,
    show_default=True,
    type=click.Choice(AMD_PROFILES),
    help="which evidence the SVSM shall give",
)
@click.option(
    "--iak",
    default="H-3",
    show_default=True,
    type=click.Choice([known.id for known in templates(Role.IAK)]),
    help="template of IAK and IDevID",
)
@click.option(
    "--log",
    metavar="KEY",
    help="verifier key of the CA's log; then certificates that do not stand in it are refused",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="write ek.pem, iak.pem, idevid.pem, chain.pem and enrollment.json there",
)
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def enroll(
    ca: str, tcti: str, tsm: Path, profile: str, iak: str, log: str | None, out: Path | None, *, as_json: bool
) -> None:
    """Obtain certificates for the vTPM of the VM in which this runs: ephemeral ones.

    The SVSM attests through the kernel (Linux 6.11 or later, as root), the TPM proves that the keys are its own.
    Without --out the certificates are printed as PEM. Nothing is written to the TPM.
    """
    interrupt_on_signals()
    key = None if log is None else _log_key(log)
    if not ca.startswith(("http://", "https://")):
        raise UsageError(f"--ca {ca}: must be a URL that begins with https:// or http://")
    if out is not None:
        check_folder(out, FILES)
    click.echo(_BEFORE.format(vouched=_VOUCHED[profile]), err=True)
    tpm = GuestTpm(tcti)
    tpm.check_usable()
    device = GuestDevice(tpm, ConfigfsTsm(tsm), profile, identity=iak)
    # Of these profiles the CA asks for TPM2_Certify always: no report covers IAK and IDevID.
    try:
        reply = enroll_with(HttpTransport(ca), device, known=False, log=key)
    finally:
        if device.certificates_problem:
            click.echo(f"The host's certificate table was left out: {device.certificates_problem}.", err=True)
    outcome = Outcome.judge(ca, profile, reply, device.keys)
    if out is not None:
        write_folder(out, outcome.files(), outcome.to_json())
    _show(outcome, out, as_json=as_json)


def _log_key(text: str) -> VerifierKey:
    try:
        return VerifierKey.parse(text, "--log")
    except WireError as error:
        raise UsageError(str(error)) from error


def _show(outcome: Outcome, out: Path | None, *, as_json: bool) -> None:
    files = {name: data.decode("ascii") for name, data in outcome.files().items()}
    if as_json:
        click.echo(json.dumps({**outcome.to_json(), "ephemeral": True, "pem": files}, indent=1))
    elif out is None:
        click.echo("".join(files.values()), nl=False)
    else:
        click.echo(f"{outcome.ca} has certified this TPM, decision {outcome.reply.decision_id}: {out}")
    click.echo(_AFTER.format(ends=time_text(outcome.not_after)), err=True)
