"""`vtpm-ca quote`: judge a TPM's quote, from files or of a TPM that can be reached. Needs no CA and no database."""

import secrets
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from ca_service.cli.options import Moment, OrAbsent, PathName, given
from ca_service.cli.output import echo, show_json, show_paragraph, show_trace, with_json
from ca_service.cli.quoting import Basis, Certificates, QuoteFiles, answer_files, answer_tpm
from ca_service.export.ek_check.supply import fetched

_FILE = OrAbsent(PathName(directory=False))
_FOLDER = OrAbsent(PathName(directory=True))
_TEXT = OrAbsent(click.STRING)
_LONGEST_NONCE = 64
_INVALID = 1


class Nonce(click.ParamType[bytes]):
    """Octets in hex, 1 to 64."""

    name = "hex"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        """Read the octets."""
        if isinstance(value, bytes):
            return value
        text = str(value).removeprefix("0x")
        digits = set(text) <= set("0123456789abcdefABCDEF")
        if not digits or len(text) % 2 or not 0 < len(text) <= 2 * _LONGEST_NONCE:
            self.fail(f"the nonce must be 1 to {_LONGEST_NONCE} octets in hex", param, ctx)
        return bytes.fromhex(text)


@click.group(short_help="Judge the quotes of certified TPMs.")
def quote() -> None:
    """Judge the quotes of certified TPMs, by certificates and lists alone: no CA, no database, no network."""


@quote.command()
@click.option(
    "--attest", type=_FILE, metavar="FILE", help="the quote: TPMS_ATTEST, as tpm2_quote -m writes it"
)
@click.option(
    "--signature", type=_FILE, metavar="FILE", help="its signature, TPMT_SIGNATURE or plain, as tpm2_quote -s"
)
@click.option(
    "--pcrs", type=_FILE, metavar="FILE", help="the quoted PCR values, as tpm2_quote -o or tpm2_pcrread -o"
)
@click.option(
    "--nonce", type=OrAbsent(Nonce()), metavar="HEX", help="what was sent for the quote, as tpm2_quote -q"
)
@click.option("--iak", type=_FILE, metavar="FILE", help="the IAK certificate, PEM or DER")
@click.option("--ek", type=_FILE, metavar="FILE", help="the EK certificate of the same TPM")
@click.option("--idevid", type=_FILE, metavar="FILE", help="the IDevID certificate of the same TPM")
@click.option(
    "--ak",
    type=_FILE,
    metavar="FILE",
    help="the key that has signed in the IAK's place: TPM2B_PUBLIC or TPMT_PUBLIC",
)
@click.option(
    "--ak-attest", type=_FILE, metavar="FILE", help="TPM2_Certify of that key by the IAK: TPMS_ATTEST"
)
@click.option("--ak-signature", type=_FILE, metavar="FILE", help="the signature of that by the IAK")
@click.option(
    "--tcti",
    type=_TEXT,
    metavar="T",
    help="a TPM to ask now, such as device:/dev/tpmrm0, in the place of files and nonce",
)
@click.option(
    "--pcr-list",
    type=_TEXT,
    metavar="LIST",
    help="with --tcti: the PCRs to quote, such as sha256:0,1,7; else those that are expected, else sha256:all",
)
@click.option(
    "--root",
    type=_FILE,
    callback=given,
    metavar="FILE",
    help="the root's certificate, alone trusted  [required]",
)
@click.option(
    "--issuers",
    type=_FOLDER,
    callback=given,
    metavar="DIR",
    help="folder of issuing CAs' certificates  [required]",
)
@click.option(
    "--crls", type=_FOLDER, metavar="DIR", help="folder of revocation lists; without lists nothing counts"
)
@click.option("--fetch", is_flag=True, help="fetch revocation lists from where the certificates say")
@click.option(
    "--expect-pcrs", type=_FILE, metavar="FILE", help="good PCR values, JSON or TOML: bank, number, hex"
)
@click.option(
    "--rule", type=_FILE, metavar="FILE", help="TOML with [provenance]: what may have vouched for the TPM"
)
@click.option("--ephemeral", is_flag=True, help="certificates of the Ephemeral CA count, too")
@click.option(
    "--at", type=OrAbsent(Moment()), metavar="TIME", help="verify as at this time, ISO 8601; else now"
)
@with_json
def verify(
    attest: Path | None,
    signature: Path | None,
    pcrs: Path | None,
    nonce: bytes | None,
    iak: Path | None,
    ek: Path | None,
    idevid: Path | None,
    ak: Path | None,
    ak_attest: Path | None,
    ak_signature: Path | None,
    tcti: str | None,
    pcr_list: str | None,
    root: Path,
    issuers: Path,
    crls: Path | None,
    expect_pcrs: Path | None,
    rule: Path | None,
    at: datetime | None,
    *,
    fetch: bool,
    ephemeral: bool,
    as_json: bool,
) -> int:
    """Judge whether a quote is of a TPM that the CA of this root has certified, fresh, and as it should be.

    With --tcti, certificates that are not given are read from the TPM, and the IAK makes a quote for a fresh nonce. All
    certificates that are given or found must count.

    Exit codes: 0 VALID, 1 INVALID, 2 usage or a file that cannot be opened, 3 the TPM cannot be asked.
    """
    basis = Basis(
        root, issuers, crls, rule, expect_pcrs, at or datetime.now(UTC), ephemeral, fetched if fetch else None
    )
    certificates = Certificates(iak, ek, idevid)
    needed = {"--attest": attest, "--signature": signature, "--pcrs": pcrs, "--nonce": nonce}
    if tcti is not None:
        of_ak = {"--ak": ak, "--ak-attest": ak_attest, "--ak-signature": ak_signature}
        _refuse_beside("--tcti", {**needed, **of_ak})
        result = answer_tpm(basis, certificates, tcti, pcr_list, secrets.token_bytes)
    else:
        _refuse_beside("files of a quote", {"--pcr-list": pcr_list})
        if attest is None or signature is None or pcrs is None or nonce is None or iak is None:
            missing = [name for name, value in {**needed, "--iak": iak}.items() if value is None]
            raise click.UsageError(f"{', '.join(missing)}: needed, or --tcti in the place of all")
        files = QuoteFiles(attest, signature, pcrs, _together(ak, ak_attest, ak_signature), nonce)
        result = answer_files(basis, certificates, files)
    if as_json:
        show_json(result)
    else:
        _show(result)
    return 0 if result["verdict"] == "VALID" else _INVALID


def _refuse_beside(what: str, options: Mapping[str, object]) -> None:
    first = next((name for name, value in options.items() if value is not None), None)
    if first is not None:
        raise click.UsageError(f"{first} does not go with {what}")


def _together(
    public: Path | None, attest: Path | None, signature: Path | None
) -> tuple[Path, Path, Path] | None:
    if public is None and attest is None and signature is None:
        return None
    if public is None or attest is None or signature is None:
        raise click.UsageError("--ak, --ak-attest and --ak-signature go together")
    return public, attest, signature


def _show(result: dict[str, Any]) -> None:
    valid = result["verdict"] == "VALID"
    head = f"{result['verdict']}  {result['reason']}: {result['detail']}"
    echo(head, bold=True, fg=None if valid else "red")
    if result["mode"] == "simulation":
        echo("SIMULATION: the root is a simulation CA's, which proves no processor", fg="yellow", bold=True)
    for text in _lines(result):
        show_paragraph(text)
    if valid and not result["asked"]["pcrs"]:
        echo("No PCR values were demanded (--expect-pcrs): the TPM may have started anything.", fg="yellow")
    failures = [_named(check) for check in result["checks"] if check["verdict"] != "passed"]
    if failures:
        echo("")
        show_trace(failures)
    for problem in result["unfetched"]:
        show_paragraph(problem, fg="yellow")


def _named(check: Mapping[str, str]) -> dict[str, str]:
    """The rules of certificates are the same for all of them."""
    about = "" if check["about"] == "quote" else f"{check['about']} "
    return {**check, "rule": about + check["rule"]}


def _lines(result: dict[str, Any]) -> Iterator[str]:
    """Who vouched for the TPM, by what certificates, and what it has quoted; of an invalid quote what it states."""
    provenance, certificates, stated = result["provenance"], result["certificates"], result["quote"]
    if provenance is not None:
        by = certificates.get("ek") or certificates["iak"]
        yield f"certified    {by['not_before'][:16].replace('T', ' ')} UTC by {by['issuer']}"
        kbs, resource = provenance["kbs_key"] or "none", provenance["resource"] or "not stated"
        yield f"vouched      KBS key {kbs}, resource {resource}"
        yield f"measurement  {provenance['measurement']}"
        yield f"policy       {provenance['policy']}, decision {provenance['decision'] or 'not stated'}"
        yield f"profile      {provenance['profile']}"
    for kind, one in certificates.items():
        if one["issuer"] is not None:
            counts = "" if one["counts"] else ", does not count"
            until = f"{one['not_before'][:10]} to {one['not_after'][:10]}"
            yield f"{kind:<11}  {one['sha256']}, {until}, by {one['issuer']}{counts}"
    if stated is not None:
        since = f"{stated['reset_count']} resets, {stated['restart_count']} restarts"
        word = "TPM" if result["verdict"] == "VALID" else "states"
        yield f"{word:<11}  firmware {stated['firmware']}, clock {stated['clock_ms']} ms, {since}"
    for bank, values in (result["pcrs"] or {}).items():
        for number, value in values.items():
            yield f"{f'{bank}:{number}':<11}  {value}"
