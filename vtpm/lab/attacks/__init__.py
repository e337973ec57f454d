"""The attacks on the project, each an executable scenario in a throwaway world.

An attack names the checks that stop it. `run` tries it without them (it must succeed, and show what was gained), with
everything on (it must be refused), and with each of them alone (refused again): only so is it known that the checks
are what stops it. `docs/threats.md` tells the same as a table.
"""

from vtpm.errors import UsageError
from vtpm.lab.attacks import mitm, mixing, replay, substitution
from vtpm.lab.attacks.model import Attack, Case, Result, Verdict
from vtpm.lab.attacks.running import attempt, furnished, run
from vtpm.lab.attacks.scene import Lab

ATTACKS = {attack.id: attack for family in (mitm, substitution, replay, mixing) for attack in family.ATTACKS}
"""Every attack by its name."""


def find(name: str) -> Attack:
    """The attack of that name, in any case.

    Raises:
        UsageError: there is none.
    """
    try:
        return ATTACKS[name.lower()]
    except KeyError:
        raise UsageError(f"there is no attack {name}; known are {', '.join(ATTACKS)}") from None


__all__ = ["ATTACKS", "Attack", "Case", "Lab", "Result", "Verdict", "attempt", "find", "furnished", "run"]
