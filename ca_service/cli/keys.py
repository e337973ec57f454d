"""`vtpm-ca key`: keys that get no certificate."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ca_service.cli.access import run
from ca_service.cli.files import read_bytes
from ca_service.cli.options import with_directory
from ca_service.cli.output import echo, show_fields, show_json, show_rows, with_json
from ca_service.judgment import BadRequest

F = TypeVar("F", bound=Callable[..., Any])

_MOST = 64 * 1024
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_FILE = click.Path(path_type=Path)
_COLUMNS = ("spki", "at", "by", "cause")
_CERT_COLUMNS = ("serial", "profile", "template", "state", "issued_at")


def _with_key(command: F) -> F:
    """Give a command the three ways to name a key; it gets the digest as `digest`."""
    command = click.option("--pub", type=_FILE, help="a file with the public key, PEM or DER")(command)
    command = click.option("--cert", type=_FILE, help="a file with a certificate of the key, PEM or DER")(
        command
    )
    return click.argument("digest", required=False)(command)


def _digest(digest: str | None, cert: Path | None, pub: Path | None) -> str:
    """The SHA-256 over the key's SubjectPublicKeyInfo, however the key was named."""
    from ca_service.store import spki_digest

    if sum(way is not None for way in (digest, cert, pub)) != 1:
        raise click.UsageError("name the key by one of DIGEST, --cert and --pub")
    if digest is not None:
        # OpenSSL prints digests in upper case and with colons.
        plain = digest.lower().replace(":", "")
        if not _DIGEST.match(plain):
            raise click.UsageError("DIGEST must be a SHA-256 over a SubjectPublicKeyInfo, 64 hex digits")
        return plain
    path = cert if cert is not None else pub
    if path is None:
        raise TypeError("one of the three was given")
    return spki_digest(_spki(path, path_is_certificate=cert is not None))


def _spki(path: Path, *, path_is_certificate: bool) -> bytes:
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_der_public_key,
        load_pem_public_key,
    )

    content = read_bytes(path, _MOST)
    is_pem = content.lstrip().startswith(b"-----BEGIN")
    if is_pem and content.count(b"-----BEGIN") > 1:
        # All but the first would stay as they are, unnoticed.
        raise BadRequest(str(path), "holds more than one", remedy="Name each key by a file of its own.")
    try:
        if path_is_certificate:
            load = x509.load_pem_x509_certificate if is_pem else x509.load_der_x509_certificate
            key: Any = load(content).public_key()
        else:
            key = (load_pem_public_key if is_pem else load_der_public_key)(content)
        encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        what = "certificate" if path_is_certificate else "public key"
        raise BadRequest(str(path), f"is no {what} in PEM or DER") from None
    return encoded


@click.group()
def key() -> None:
    """Keys that get no certificate.

    A key is named by DIGEST, the SHA-256 over its DER SubjectPublicKeyInfo in hex, or by a file.
    """


@key.command("list")
@with_directory
@with_json
def list_keys(directory: Path, *, as_json: bool) -> None:
    """List the blocked keys."""
    show_rows(run(directory, "key-list"), _COLUMNS, as_json=as_json, empty="no key is blocked")


@key.command("block")
@_with_key
@click.option("--cause", required=True, help="why, for the record")
@click.option("--revoke", is_flag=True, help="revoke the certificates that the key has, too")
@click.option("--yes", is_flag=True, help="with --revoke: do it; without this it is a dry run")
@with_directory
@with_json
def block_key(
    digest: str | None,
    cert: Path | None,
    pub: Path | None,
    cause: str,
    directory: Path,
    *,
    revoke: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Issue nothing for a key any more, and list the live certificates that it has.

    Name the key by DIGEST (SHA-256 over its SubjectPublicKeyInfo, hex), --cert or --pub. With --revoke it is a dry run,
    which blocks nothing, unless --yes is given.
    """
    if yes and not revoke:
        raise click.UsageError("--yes goes with --revoke; without it nothing is revoked")
    arguments = {"digest": _digest(digest, cert, pub), "cause": cause, "revoke": revoke, "yes": yes}
    result = run(directory, "key-block", **arguments)
    if as_json:
        show_json(result)
        return
    show_rows(result["certificates"], _CERT_COLUMNS, as_json=False, empty="the key has no live certificate")
    if not result["done"]:
        echo("dry run: nothing was changed; add --yes to block the key and revoke these")
        return
    echo(f"{result['key']['spki']} is blocked: nothing is issued for it any more")
    if result["being_issued"]:
        echo("a certificate for it is just being issued; run this once more")
    elif result["certificates"] and not revoke:
        echo("its certificates are still good; add --revoke to revoke them")


@key.command("unblock")
@_with_key
@click.option("--yes", is_flag=True, help="do it; without this it is a dry run")
@with_directory
@with_json
def unblock_key(
    digest: str | None, cert: Path | None, pub: Path | None, directory: Path, *, yes: bool, as_json: bool
) -> None:
    """Let a key have certificates again. What was revoked stays revoked.

    Name the key as for `block`. A dry run unless --yes is given.
    """
    result = run(directory, "key-unblock", digest=_digest(digest, cert, pub), yes=yes)
    show_fields(result["key"] if not as_json else result, as_json=as_json)
    if not as_json:
        echo("unblocked" if result["done"] else "dry run: nothing was changed; add --yes to do it")
