"""Runs attacks: without the checks that they name, with all of them, and with each of them alone."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vtpm.errors import VtpmError
from vtpm.lab.attacks.model import Attack, Case, Result, Verdict
from vtpm.lab.attacks.scene import Lab, staged


@contextmanager
def furnished() -> Iterator[Lab]:
    """A lab in a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="vtpm-lab-") as directory:
        yield Lab.furnish(Path(directory))


def attempt(attack: Attack, lab: Lab, on: Iterable[str] | None = None) -> Case:
    """Try an attack once, in a world of its own.

    Args:
        attack: what is tried.
        lab: where.
        on: those of the named rules that are checked; None checks everything, as every real party does.
    """
    left = frozenset(attack.rules) if on is None else frozenset(on)
    off = frozenset[str]() if on is None else frozenset((*attack.rules, *attack.besides)) - left
    with (
        tempfile.TemporaryDirectory(dir=lab.directory) as directory,
        staged(lab, Path(directory), off, origins=attack.origins, decision=attack.decision) as scene,
    ):
        try:
            gained = attack.attempt(scene)
        except VtpmError as error:
            rule = scene.rule_of(error)
            verdict = Verdict.REFUSED if rule in left else Verdict.OTHERWISE
            return Case(verdict, rule, error.detail, scene.ca.skipped())
        skipped = scene.ca.skipped()
    succeeded = Verdict.NOT_YET if attack.awaits and on is None else Verdict.SUCCEEDED
    return Case(succeeded, "", gained, skipped)


def run(attack: Attack, lab: Lab) -> Result:
    """All that is to be known about an attack."""
    return Result(
        attack,
        unchecked=attempt(attack, lab, on=()),
        checked=attempt(attack, lab),
        alone={rule: attempt(attack, lab, on=(rule,)) for rule in attack.rules},
    )
