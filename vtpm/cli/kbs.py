"""`vtpm kbs`: the simulated key broker."""

import json
import sys
from pathlib import Path

import click

from vtpm.errors import UsageError
from vtpm.kbs import Kbs
from vtpm.kbs import serve as serve_kbs
from vtpm.svsm.build import measurement
from vtpm.wire.jwk import EcJwk


def _open(directory: Path) -> Kbs:
    """The key broker in `directory`, made on first use; it releases keys to this checkout's SVSM."""
    return Kbs.create_or_open(directory, measurements=(measurement(),))


@click.group()
def kbs() -> None:
    """The organisation's key broker, wire-compatible with Trustee's KBS 0.4.0, plus the grant."""


@kbs.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--bind", default="127.0.0.1:8480", show_default=True, help="address and port")
def serve(directory: Path, bind: str) -> None:
    """Serve the key broker in DIRECTORY (made on first use) until interrupted."""
    host, _, port = bind.rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"--bind {bind}: must be ADDRESS:PORT, for example 127.0.0.1:8480")
    serve_kbs(_open(directory), host, int(port))


@kbs.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--policy", is_flag=True, help="print the [[kbs]] entry for the CA's policy instead of the JWK")
@click.option("--id", "kbs_id", default="demo-kbs", show_default=True, help="stable id of the [[kbs]] entry")
@click.option(
    "--ear",
    is_flag=True,
    help="the key that signs attestation tokens (EAR); with --policy, let the entry ask for such a token too",
)
def key(directory: Path, *, policy: bool, kbs_id: str, ear: bool) -> None:
    """Print the public key with which the KBS in DIRECTORY signs its grants, or its attestation tokens."""
    broker = _open(directory)
    if not policy:
        click.echo(json.dumps((broker.token_jwk() if ear else broker.public_jwk()).members()))
        return
    click.echo(
        f"""
[[kbs]]
id = "{kbs_id}"
label = "key broker of {directory.name}"
status = "trusted"
origins = ["kbs-generated"]
# The release policy that this KBS follows now; with another one its grants are refused.
release_policies = ["{broker.policy().digest}"]

[[kbs.key]]
jwk = {_inline_table(broker.public_jwk())}

[[kbs.resource]]
pattern = "default/*/*"
{_ear_table(broker.token_jwk()) if ear else _EAR_HINT}"""
    )


_EAR_HINT = (
    "# `vtpm kbs key --policy --ear` lets this entry ask for the KBS's attestation token (EAR) as well.\n"
)


def _ear_table(jwk: EcJwk) -> str:
    return f"""
[kbs.ear]
# Longest time since the token was issued, in seconds.
max_age_s = 3600

[[kbs.ear.key]]
jwk = {_inline_table(jwk)}
"""


def _inline_table(jwk: EcJwk) -> str:
    """A JWK as a TOML value."""
    members = ", ".join(f'{name} = "{value}"' for name, value in sorted(jwk.members().items()))
    return f"{{ {members} }}"


@kbs.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.argument("resource")
@click.option(
    "--key-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="take the key from this file (raw bytes) instead of generating it; its origin is then `provisioned`",
)
def declare(directory: Path, resource: str, key_file: Path | None) -> None:
    """Declare RESOURCE (repo/type/tag): the KBS keeps one key for it, generated unless --key-file is given."""
    secret = None
    if key_file is not None:
        try:
            secret = key_file.read_bytes()
        except OSError as error:
            raise UsageError(f"--key-file {key_file}: {error.strerror}") from error
    _open(directory).declare(resource, secret)
    click.echo(f"declared {resource}", file=sys.stderr)


@kbs.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.argument("launch", metavar="[MEASUREMENT]", default="")
def allow(directory: Path, launch: str) -> None:
    """Let the KBS in DIRECTORY release keys to a launch MEASUREMENT (hex), by default that of this checkout's SVSM."""
    try:
        digest = bytes.fromhex(launch) if launch else measurement()
    except ValueError as error:
        raise UsageError(f"MEASUREMENT {launch}: must be hexadecimal") from error
    _open(directory).allow_measurement(digest)
    click.echo(f"allowed {digest.hex()}", file=sys.stderr)
