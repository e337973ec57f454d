"""`vtpm-ca ca`: the CA's own certificates, the rollover of its issuing CAs, and its keys' passphrase."""

import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ca_service.cli.access import run
from ca_service.cli.options import PathName, with_directory
from ca_service.cli.output import echo, show_json, show_rows, with_json
from ca_service.cli.place import now, open_public

F = TypeVar("F", bound=Callable[..., Any])

_COLUMNS = ("role", "pair", "generation", "state", "live", "subject", "skid", "not_after")
_ROLES = ["ek", "devid", "ephemeral"]


@click.group(short_help="The CA's own certificates and keys, and rollover.")
def ca() -> None:
    """The CA's own certificates, the rollover of its issuing CAs, and the passphrase of its keys.

    Rollover: prepare the next generation, let all consumers import it, activate it. The former one stays trusted. Taint
    it to have its certificates replaced, retire it when none rests on it any more.
    """


def _with_pair(command: F) -> F:
    from ca_service.keys import DEFAULT_PAIR

    pair = click.option(
        "--pair", default=DEFAULT_PAIR, show_default=True, metavar="NAME", help="which pair of CAs"
    )
    role = click.option(
        "--role",
        "roles",
        type=click.Choice(_ROLES),
        multiple=True,
        help="instead of EK and DevID CA; may be repeated",
    )
    return pair(role(command))


def _with_generation(command: F) -> F:
    return click.option("--generation", type=click.IntRange(1, 999), help="of just this generation")(command)


@ca.command("list")
@click.option("--root-pem", is_flag=True, help="print just the root certificate, as PEM")
@with_directory
@with_json
def list_cas(directory: Path, *, root_pem: bool, as_json: bool) -> None:
    """List root and issuing CAs: state, and how many live certificates rest on each.

    Warns, on standard error, 60 days before the root's revocation list ends, or if it is missing.
    """
    from cryptography.hazmat.primitives.serialization import Encoding

    from ca_service.operations import root_list_warning

    public, at = open_public(directory), now()
    if root_pem:
        echo(public.root.public_bytes(Encoding.PEM).decode("ascii"), nl=False)
        return
    root = {
        "role": "root",
        "pair": "",
        "generation": None,
        "state": None,
        "live": None,
        "subject": public.root.subject.rfc4514_string(),
        "skid": public.root_info.skid,
        "sha256": hashlib.sha256(public.root.public_bytes(Encoding.DER)).hexdigest(),
        "not_after": public.root.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "changed_at": None,
    }
    show_rows([root, *run(directory, "issuer-list")], _COLUMNS, as_json=as_json, empty="")
    if warning := root_list_warning(public, at):
        echo(f"WARNING {warning}", err=True)


@ca.command()
@_with_pair
@click.option(
    "--root-key",
    type=PathName(directory=False),
    metavar="FILE",
    help="the root's sealed key, if it was taken away",
)
@with_directory
@with_json
def prepare(
    pair: str, roles: tuple[str, ...], root_key: Path | None, directory: Path, *, as_json: bool
) -> None:
    """Make the next generation of issuing CAs, and publish it; it signs nothing yet.

    A pair that is not known yet begins. This needs the
    root's key, and is done on the CA's machine; a running server takes the new issuing CAs up by itself.
    """
    from ca_service.keys import (
        find_passphrase,
        find_pin,
        find_root_passphrase,
        find_root_pin,
        load_root,
        prepare_issuing,
    )

    allowed = run(directory, "issuer-preparable", pair=pair, roles=list(roles))
    root = load_root(directory, find_root_passphrase(os.environ), root_key, find_root_pin(os.environ))
    made = prepare_issuing(
        directory,
        root,
        allowed["roles"],
        pair,
        passphrase=find_passphrase(os.environ),
        clock=now,
        entropy=secrets.token_bytes,
        pin=find_pin(os.environ),
        generations=allowed["generations"],
        known=allowed["known"],
    )
    changed = run(directory, "issuer-announce", skids=[ca.skid for ca in made])
    _changed({"changed": changed}, as_json=as_json)
    if not as_json:
        echo("Prepared. Next: export them to all consumers, then `vtpm-ca ca activate`.")


@ca.command()
@click.option(
    "--root-key",
    type=PathName(directory=False),
    metavar="FILE",
    help="the root's sealed key too, if it was taken away",
)
@with_directory
@with_json
def passphrase(root_key: Path | None, directory: Path, *, as_json: bool) -> None:
    """Seal the CA's keys under a new passphrase, all of them at once.

    The present one comes from where it always does, the new one from VTPM_CA_NEW_PASSPHRASE_FILE,
    VTPM_CA_NEW_PASSPHRASE or the systemd credential vtpm-ca-new-passphrase. A root's key that lies here, or in FILE,
    gets it too. One with a passphrase of its own keeps it, unless VTPM_CA_NEW_ROOT_PASSPHRASE or its _FILE has another.

    If it is interrupted, the CA opens with the old or with the new passphrase; the same command again brings it to its
    end. A running server goes on: give it the new one and restart it before the next rollover. Backups and other
    copies keep the old passphrase.
    """
    from ca_service.keys import change_passphrase, find_new_passphrase, find_new_root_passphrase

    done = change_passphrase(
        directory,
        find_new_passphrase(os.environ),
        secrets.token_bytes,
        root=find_new_root_passphrase(os.environ, needed=root_key is not None),
        root_key=root_key,
    )
    if as_json:
        show_json(
            {
                "changed": [str(path) for path in done.changed],
                "kept": [str(path) for path in done.kept],
                "root_kept": None if done.root_kept is None else str(done.root_kept),
            }
        )
        return
    for path in done.changed:
        echo(f"{path} has the new passphrase")
    for path in done.kept:
        echo(f"{path} had it already")
    if done.root_kept is not None:
        echo(f"{done.root_kept} keeps a passphrase of its own")
    echo("Next: give the new passphrase to the server and restart it; on each other node do the same.")


@ca.command()
@_with_pair
@_with_generation
@with_directory
@with_json
def activate(
    pair: str, roles: tuple[str, ...], generation: int | None, directory: Path, *, as_json: bool
) -> None:
    """Let the prepared issuing CAs of the pair sign from now on.

    Those that signed become old: still trusted and exported. --generation with the number of an old one lets that one
    sign again.
    """
    result = run(directory, "issuer-activate", pair=pair, roles=list(roles), generation=generation)
    _changed(result, as_json=as_json)


@ca.command()
@_with_pair
@_with_generation
@click.option(
    "--active",
    is_flag=True,
    help="the one that signs, after a compromise: the prepared one takes over at once",
)
@with_directory
@with_json
def taint(
    pair: str, roles: tuple[str, ...], generation: int | None, directory: Path, *, active: bool, as_json: bool
) -> None:
    """Mark old issuing CAs: TPMs that enrol again get new certificates. There is no way back.

    Tainted ones stay trusted and exported until they are retired.
    """
    result = run(
        directory, "issuer-taint", pair=pair, roles=list(roles), generation=generation, active=active
    )
    _changed(result, as_json=as_json)


@ca.command()
@_with_pair
@_with_generation
@click.option(
    "--abandon",
    type=click.IntRange(0),
    metavar="N",
    help="in spite of exactly N live certificates, which are listed",
)
@click.option("--yes", is_flag=True, help="do it; without this it is a dry run")
@with_directory
@with_json
def retire(
    pair: str,
    roles: tuple[str, ...],
    generation: int | None,
    abandon: int | None,
    directory: Path,
    *,
    yes: bool,
    as_json: bool,
) -> None:
    """End the trust in old and tainted issuing CAs: the next export removes them. There is no way back.

    Refused while live certificates rest on them. One that is prepared and never signed is retired by its --generation.
    A dry run unless --yes is given.
    """
    result = run(
        directory,
        "issuer-retire",
        pair=pair,
        roles=list(roles),
        generation=generation,
        abandon=abandon,
        yes=yes,
    )
    if as_json:
        show_json(result)
        return
    show_rows(result["retired"], _COLUMNS, as_json=False, empty="retired already")
    if result["abandoned"]:
        echo("")
        columns = ("serial", "profile", "template", "key_name", "issuer", "state", "issued_at")
        show_rows(result["abandoned"], columns, as_json=False, empty="")
    given_up = f" and give up {len(result['abandoned'])} live certificates" if result["abandoned"] else ""
    if not result["done"]:
        echo(f"Dry run: --yes would retire {len(result['retired'])} issuing CAs{given_up}.")
    elif result["retired"]:
        echo("Retired. Next: export again to all consumers.")


def _changed(result: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(result)
    else:
        show_rows(result["changed"], _COLUMNS, as_json=False, empty="nothing to change")
