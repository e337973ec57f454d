"""`vtpm-ca kbs`: the key brokers of the allow-list, each change a new version of the policy."""

import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ca_service.cli.access import run
from ca_service.cli.files import read_text
from ca_service.cli.options import Moment, PathName, with_directory
from ca_service.cli.output import echo, show_json, show_rows, with_json
from ca_service.cli.policy import with_base
from ca_service.cli.policy_edit import WAITING, apply_edit, edit_in_force, show_applied, with_dry_run
from ca_service.cli.revocation import revoke_all, show_revocation, whole_seconds
from ca_service.cli.revoking import with_limit, with_reason
from ca_service.judgment import Conflict, VtpmCaError
from ca_service.operations.bounds import MAX_CAUSE

if TYPE_CHECKING:
    from ca_service.policy.editing.brokers import Terms
    from vtpm.wire.jwk import EcJwk

_COLUMNS = ("id", "status", "tenant", "label", "keys", "resources", "valid", "tpms", "certificates")
_KEY_COMPROMISE = "keyCompromise"


@click.group(short_help="Key brokers of the allow-list.")
def kbs() -> None:
    """Look after the key brokers of the allow-list: whose word is taken for where a TPM's state comes from.

    Each change is a new version of the policy document, whose comments and layout stay as they are, and goes the way of
    `vtpm-ca policy apply`.
    """


@kbs.command("list")
@with_directory
@with_json
def list_(directory: Path, *, as_json: bool) -> None:
    """List the key brokers: what the policy says of each, and what rests on it.

    Counted are live TPMs, and certificates that are neither revoked nor expired. A key broker that the policy no longer
    lists is shown as long as something rests on it.
    """
    rows = run(directory, "kbs-list")
    if as_json:
        show_json(rows)
        return
    shown = [
        row | {"resources": _patterns(row), "valid": _valid(row), "status": _status(row)} for row in rows
    ]
    show_rows(shown, _COLUMNS, as_json=False, empty="the policy lists no key broker")


@kbs.command()
@click.argument("kbs_id", metavar="ID")
@with_directory
@with_json
def show(kbs_id: str, directory: Path, *, as_json: bool) -> None:
    """Show all that the policy says of the key broker ID, and what rests on it."""
    row = run(directory, "kbs-show", id=kbs_id)
    if as_json:
        show_json(row)
        return
    release = row["release_policies"]
    lines = [
        ("id", [row["id"]]),
        ("status", [_status(row)]),
        ("tenant", [row["tenant"]]),
        ("label", [row["label"]]),
        ("pair", [row["pair"] or "default"]),
        ("keys", row["keys"]),
        ("resources", _patterns(row)),
        ("origins", row["origins"]),
        ("release policies", ["any"] if release is None else release),
        ("valid", [_valid(row)]),
        ("live TPMs", [str(row["tpms"])]),
        ("certificates", [str(row["certificates"])]),
    ]
    width = max(len(name) for name, _ in lines)
    for name, values in lines:
        for number, value in enumerate(values or ["-"]):
            echo(f"{(name if not number else '').ljust(width)}  {value or '-'}")


@kbs.command()
@click.argument("kbs_id", metavar="ID")
@click.option(
    "--key",
    "keys",
    multiple=True,
    required=True,
    type=PathName(directory=False),
    metavar="FILE",
    help="public key that signs its grants, as JWK or PEM; may be repeated",
)
@click.option(
    "--resource", "patterns", multiple=True, metavar="PATTERN", help="what it may release, as default/vtpm/*"
)
@click.option(
    "--shared", multiple=True, metavar="PATTERN", help="likewise; several volumes live under one such name"
)
@click.option(
    "--origin",
    "origins",
    multiple=True,
    type=click.Choice(["kbs-generated", "provisioned"]),
    help="where its secrets may come from; may be repeated",
)
@click.option(
    "--release-policy",
    "release_policies",
    multiple=True,
    metavar="HEX",
    help="digest of a release policy that its grants may name; may be repeated",
)
@click.option("--any-release-policy", is_flag=True, help="whatever release policy its grants name")
@click.option("--label", default="", help="for people")
@click.option("--tenant", default="", help="whose keys it holds")
@click.option("--pair", default="", metavar="NAME", help="pair of issuing CAs that signs for its TPMs")
@click.option("--valid-from", type=Moment(), metavar="TIME", help="the entry counts from then on (ISO 8601)")
@click.option("--valid-to", type=Moment(), metavar="TIME", help="the entry counts until then (ISO 8601)")
@with_base
@with_dry_run
@with_directory
@with_json
def allow(
    kbs_id: str,
    keys: tuple[Path, ...],
    base: int | None,
    directory: Path,
    *,
    dry_run: bool,
    as_json: bool,
    **terms: Any,
) -> None:
    """Put the key broker ID on the allow-list; or add keys to one that is there, with nothing but --key.

    A new one needs --resource or --shared, --origin, and --release-policy or --any-release-policy.
    """
    from ca_service.policy.editing.brokers import with_broker

    stated = _terms(terms)
    found = _keys(keys)
    edit = edit_in_force(directory, base, lambda text: with_broker(text, kbs_id, found, stated))
    _done(kbs_id, apply_edit(directory, edit, dry_run=dry_run), dry_run=dry_run, as_json=as_json)


def _keys(paths: tuple[Path, ...]) -> "list[EcJwk]":
    from ca_service.policy.editing.key_file import MAX_KEY_FILE, read_key

    return [read_key(read_text(path, MAX_KEY_FILE), str(path)) for path in paths]


def _terms(given: Mapping[str, Any]) -> "Terms | None":
    """The terms of a new entry; None if none is given."""
    from ca_service.policy.editing.brokers import Terms

    if not any(given.values()):
        return None
    if not (given["patterns"] or given["shared"]) or not given["origins"]:
        raise click.UsageError("a new key broker needs --resource or --shared, and --origin")
    if bool(given["release_policies"]) == given["any_release_policy"]:
        raise click.UsageError("a new key broker needs either --release-policy or --any-release-policy")
    return Terms(**given)


@kbs.command()
@click.argument("kbs_id", metavar="ID")
@with_base
@with_dry_run
@with_directory
@with_json
def suspend(kbs_id: str, base: int | None, directory: Path, *, dry_run: bool, as_json: bool) -> None:
    """Take no grant of the key broker ID until it is trusted again.

    Certificates that were issued stay good; `vtpm-ca revoke --kbs` ends them.
    """
    from ca_service.policy.editing.brokers import suspended

    edit = edit_in_force(directory, base, lambda text: suspended(text, kbs_id))
    applied = apply_edit(directory, edit, dry_run=dry_run, narrowing=True)
    _done(kbs_id, applied, dry_run=dry_run, as_json=as_json)


@kbs.command()
@click.argument("kbs_id", metavar="ID")
@click.option(
    "--key",
    "keys",
    multiple=True,
    type=PathName(directory=False),
    metavar="FILE",
    help="new public key, in the place of all that it has; may be repeated",
)
@with_base
@with_dry_run
@with_directory
@with_json
def trust(
    kbs_id: str, keys: tuple[Path, ...], base: int | None, directory: Path, *, dry_run: bool, as_json: bool
) -> None:
    """Take grants of the suspended key broker ID again; of a compromised one with new keys only, given by --key.

    TPMs whose certificates were revoked stay refused until `vtpm-ca instance reset`.
    """
    from ca_service.policy.editing.brokers import trusted

    found = _keys(keys)
    edit = edit_in_force(directory, base, lambda text: trusted(text, kbs_id, found))
    _done(kbs_id, apply_edit(directory, edit, dry_run=dry_run), dry_run=dry_run, as_json=as_json)


@kbs.command()
@click.argument("kbs_id", metavar="ID")
@click.option(
    "--since",
    type=Moment(),
    required=True,
    metavar="TIME",
    help="from when on its key was not its owner's alone (ISO 8601; UTC if it names no zone)",
)
@click.option("--all", "every", is_flag=True, help="revoke whenever it was decided; for leaked secrets")
@with_reason(_KEY_COMPROMISE)
@with_limit
@click.option("--yes", is_flag=True, help="do it; without this it is a dry run")
@with_base
@with_directory
@with_json
def compromise(
    kbs_id: str,
    since: datetime,
    reason: str,
    cause: str | None,
    limit: int,
    base: int | None,
    directory: Path,
    *,
    every: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """The key of the key broker ID is somebody else's too: take no grant of it, and revoke what rests on it.

    First a new version of the policy says so, from when on nothing is issued any more; this narrows the policy, and
    needs nobody's approval. Then all certificates that rest on a grant of it since then are revoked, and the CRLs
    published. The command can be repeated at any time and goes on with what is left.

    A dry run, which shows what would be written and revoked, unless --yes is given.
    """
    from ca_service.operations.revocation import POLICY_FIRST
    from ca_service.policy.editing.brokers import compromised

    if cause is not None and len(cause) > MAX_CAUSE:
        raise click.UsageError(f"--cause takes at most {MAX_CAUSE} characters")
    edit = edit_in_force(directory, base, lambda text: compromised(text, kbs_id, since, datetime.now(UTC)))
    about = {"all": True} if every else {"compromised_since": whole_seconds(since)}
    arguments: dict[str, object] = {"kbs": kbs_id, **about, "reason": reason, "cause": cause, "limit": limit}
    if not yes:
        applied = apply_edit(directory, edit, dry_run=True)
        revocation = run(directory, "revoke", **arguments)
    else:
        applied = _narrowed(apply_edit(directory, edit, dry_run=False, narrowing=True))
        again = ["vtpm-ca", "kbs", "compromise", kbs_id, "--since", whole_seconds(since)]
        again += [*(["--all"] if every else []), "--yes"]
        revocation = _revoked(directory, arguments, limit, again)
    # That is what the first half of this command is for.
    revocation["advice"] = [line for line in revocation["advice"] if line != POLICY_FIRST]
    if as_json:
        show_json({"id": kbs_id, "done": yes, "policy": applied, "revocation": revocation})
        return
    show_applied(applied, dry_run=not yes)
    echo("")
    show_revocation(revocation)


def _narrowed(applied: dict[str, Any]) -> dict[str, Any]:
    """What `apply` has answered, if that is in force; raises `Conflict`: others have to approve it first."""
    if applied.get("state") == WAITING:
        raise Conflict(
            f"policy version {applied['version']} waits for approval, so nothing was revoked yet",
            code="policy-waits",
            remedy=f"See `vtpm-ca policy diff --to {applied['version']}`: it must change nothing but this.",
        )
    return applied


def _revoked(directory: Path, arguments: dict[str, object], limit: int, again: list[str]) -> dict[str, Any]:
    given = {name: value for name, value in arguments.items() if value is not None}
    try:
        return revoke_all(directory, given, limit)
    except VtpmCaError as error:
        left = f"The policy refuses the key broker already. To revoke what is left: {shlex.join(again)}"
        error.remedy = "\n".join(part for part in (error.remedy, left) if part)
        raise


def _done(kbs_id: str, applied: dict[str, Any], *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        show_json({"id": kbs_id, "done": not dry_run, "policy": applied})
    else:
        show_applied(applied, dry_run=dry_run)


def _patterns(row: Mapping[str, Any]) -> list[str]:
    return [one["pattern"] + (" (shared)" if one["shared"] else "") for one in row["resources"]]


def _status(row: Mapping[str, Any]) -> str:
    since = row["compromised_since"]
    return f"{row['status']} since {since}" if since else str(row["status"])


def _valid(row: Mapping[str, Any]) -> str:
    since, until = row["valid_from"], row["valid_to"]
    parts = ([f"from {since}"] if since else []) + ([f"to {until}"] if until else [])
    return " ".join(parts) or "always"
