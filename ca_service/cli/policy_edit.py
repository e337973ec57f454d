"""Editing the policy in force: what commands that change one entry have in common.

The edited document goes the way of every other one, by the operation ``policy-apply``, and only in the place of the
version that was edited.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ca_service.cli.access import run
from ca_service.cli.output import echo
from ca_service.judgment import Conflict

WAITING = "waiting"
"""State of a policy version that a second operator has to approve."""

with_dry_run = click.option("--dry-run", is_flag=True, help="say what it would change, and change nothing")


@dataclass(frozen=True)
class Edit:
    """A document to be applied: `base` is the version that was edited, `changed` whether it says anything new."""

    base: int
    text: str
    changed: bool


def edit_in_force(directory: Path, base: int | None, edit: Callable[[str], str]) -> Edit:
    """Edit the document in force.

    Raises:
        Conflict: another version than `base` is in force.
    """
    shown = run(directory, "policy-show")
    if base is not None and base != shown["version"]:
        raise Conflict(
            f"policy version {shown['version']} is in force, not {base}",
            code="policy-base",
            remedy="Look at what has changed meanwhile with `vtpm-ca policy diff`.",
        )
    text = edit(shown["text"])
    return Edit(shown["version"], text, text != shown["text"])


def apply_edit(directory: Path, edit: Edit, *, dry_run: bool, narrowing: bool = False) -> dict[str, Any]:
    """Put the edited document in force, or say what that would change.

    With `narrowing` open questions and failing tests of the document do not stand in the way, and it must not widen.

    Returns:
        What ``policy-apply`` answers: `version`, whether it is `changed`, its `effect` and `changes`; in a dry run or
        without anything to do, of the version that was edited.
    """
    if not edit.changed:
        return {"version": edit.base, "changed": False, "effect": "neutral", "changes": []}
    if dry_run:
        told: dict[str, Any] = run(directory, "policy-diff", old=edit.base, text=edit.text)
        return {
            "version": edit.base,
            "changed": False,
            "effect": told["effect"],
            "changes": told["changes"],
        }
    applied: dict[str, Any] = run(
        directory, "policy-apply", text=edit.text, base=edit.base, narrowing=narrowing
    )
    return applied


def show_applied(applied: Mapping[str, Any], *, dry_run: bool) -> None:
    """Print what `apply_edit` has returned, for people."""
    version = applied["version"]
    if dry_run and applied["changes"]:
        echo(f"Dry run: a version after {version} would change this. Nothing was changed.")
    elif applied.get("state") == WAITING:
        echo(f"policy version {version} waits for the approval of another operator")
    elif not applied["changed"]:
        echo(f"policy version {version} says so already; nothing changed")
    else:
        echo(f"policy version {version} is in force (digest {applied['digest'][:16]}...)")
    for change in applied.get("changes", ()):
        echo(f"  {change['effect']:<7}  {change['subject']}: {change['text']}")
    for note in applied.get("notes", ()):
        echo(f"- {note}")
