"""The attacks on the project, each an executable scenario in a throwaway world.

An attack names the checks that stop it. `run` tries it without them (it must succeed, and show what was gained), with
everything on (it must be refused), and with each of them alone (refused again): only so is it known that the checks
are what stops it. `docs/threats.md` tells the same as a table.
"""

from vtpm.errors import UsageError
from vtpm.lab.attacks import builds, guest, mitm, mixing, replay, state, substitution
from vtpm.lab.attacks.model import Attack, Case, Result, Verdict
from vtpm.lab.attacks.running import attempt, furnished, run
from vtpm.lab.attacks.scene import Lab

ATTACKS = {
    attack.id: attack
    for family in (mitm, substitution, builds, replay, mixing, state, guest)
    for attack in family.ATTACKS
}
"""Every attack by its name."""


def find(name: str) -> tuple[Attack, ...]:
    """The attack of that name, in any case; or those of a family, such as ``x1`` for ``x1-ek`` and its siblings.

    Raises:
        UsageError: there is none.
    """
    wanted = name.lower()
    if wanted in ATTACKS:
        return (ATTACKS[wanted],)
    family = tuple(attack for known, attack in ATTACKS.items() if known.startswith(f"{wanted}-"))
    if not family:
        raise UsageError(f"there is no attack {name}; known are {', '.join(ATTACKS)}")
    return family


__all__ = ["ATTACKS", "Attack", "Case", "Lab", "Result", "Verdict", "attempt", "find", "furnished", "run"]
