"""The checks that a policy stands for. Each looks things up; none of them scans a list of entries.

The sentence for the requester never tells what is on the allow-list; what was expected is for the operator.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from ca_service.judgment import Check, Checks, Finding, failed, passed
from ca_service.policy.allowlist import ANY_KBS, Policy
from ca_service.policy.entries.brokers import KbsEntry
from ca_service.policy.entries.ephemeral import PERSISTENT_PROFILE
from ca_service.policy.entries.launches import LaunchEntry, PlatformEntry
from ca_service.policy.judging.facts import LaunchFacts, PolicyFacts
from ca_service.policy.judging.launch_rules import LAUNCH_DEMANDS
from ca_service.policy.judging.platform_rules import PLATFORM_DEMANDS
from ca_service.policy.judging.rules import Demand, Outcome, listing
from ca_service.policy.judging.selection import PROFILE_CAPABILITIES, capable, judged
from ca_service.policy.judging.unsafe import CAPABILITIES, UnsafeAllowed, given_up
from vtpm.wire.statements import NO_STORE_FORMAT, STORE_MODES
from vtpm.wire.templates import Role

SIMULATION = "simulation"

PROFILE_ADMITTED: Final = "profile.admitted"
"""The rule that refuses evidence of a profile that the policy does not admit."""
PERSISTENT, VOLATILE = STORE_MODES

F = TypeVar("F")


@dataclass(frozen=True)
class _Rule(Generic[F]):
    """One rule of a policy as a check."""

    id: str
    policy: Policy | None = field(repr=False)
    look: Callable[[Policy, F], Outcome] = field(repr=False)
    timeless: bool = True

    def judge(self, subject: F) -> Finding:
        """Look the facts up in the policy; no policy denies."""
        if self.policy is None:
            return failed(self, "no policy is in force", expected="a policy", actual="none")
        outcome = self.look(self.policy, subject)
        if outcome.holds:
            return passed(self, expected=outcome.expected, actual=outcome.actual)
        return failed(self, outcome.reason, expected=outcome.expected, actual=outcome.actual)


def _kbs(policy: Policy, facts: PolicyFacts) -> KbsEntry | None:
    return policy.kbs.get(facts.kbs_thumbprint)


def _in_force(policy: Policy, _facts: object) -> Outcome:
    return Outcome(holds=True, reason="", actual=policy.digest)


def _no_unsafe(policy: Policy, _facts: LaunchFacts) -> Outcome:
    return Outcome(
        not policy.unsafe,
        "this CA's policy cannot be used",
        "no Unsafe... entry on a production CA",
        listing(frozenset(policy.unsafe)),
    )


def _any_mode(policy: Policy, _facts: LaunchFacts) -> Outcome:
    return Outcome(holds=True, reason="", actual=listing(frozenset(policy.unsafe)))


def _not_simulated(_policy: Policy, facts: LaunchFacts) -> Outcome:
    return Outcome(
        not facts.simulated,
        "this CA serves no simulated platform",
        "AMD's root",
        "a simulated root" if facts.simulated else "AMD's root",
    )


def _any_root(_policy: Policy, facts: LaunchFacts) -> Outcome:
    return Outcome(holds=True, reason="", actual="a simulated root" if facts.simulated else "AMD's root")


Choice = Callable[[LaunchFacts], LaunchEntry | None]
"""Says which entry a report is judged by; None if it falls under none."""


def _once_for_each(choose: Choice) -> Choice:
    """Every rule is about the same entry, so the choice is made once for each report and not once for each rule."""
    last: tuple[LaunchFacts, LaunchEntry | None] | None = None

    def chosen(facts: LaunchFacts) -> LaunchEntry | None:
        nonlocal last
        made = last  # one look, because other threads ask about other reports
        if made is None or made[0] is not facts:
            made = last = (facts, choose(facts))
        return made[1]

    return chosen


def _of_launch(demand: Demand[LaunchEntry], chosen: Choice) -> Callable[[Policy, LaunchFacts], Outcome]:
    return lambda _policy, facts: demand.outcome(chosen(facts), facts)


def _of_platform(demand: Demand[PlatformEntry], chosen: Choice) -> Callable[[Policy, LaunchFacts], Outcome]:
    def look(_policy: Policy, facts: LaunchFacts) -> Outcome:
        launch = chosen(facts)
        return demand.outcome(None if launch is None else launch.platform, facts)

    return look


def _capabilities(out: Container[str]) -> Callable[[Policy, PolicyFacts], Outcome]:
    def look(policy: Policy, facts: PolicyFacts) -> Outcome:
        launch = capable(policy, facts.launch, facts.profile, out)
        needed = PROFILE_CAPABILITIES.get(facts.profile)
        has = frozenset[str]() if launch is None else launch.capabilities
        return Outcome(
            launch is not None and needed is not None and needed <= has,
            "this launch lacks a capability that the evidence profile needs",
            "a known profile" if needed is None else listing(needed),
            f"an unknown profile with {listing(has)}" if needed is None else listing(has),
        )

    return look


def _listed(policy: Policy, facts: PolicyFacts) -> Outcome:
    kbs = _kbs(policy, facts)
    return Outcome(
        kbs is not None,
        "the key broker's key is not trusted here",
        f"one of {len(policy.kbs)} listed keys",
        f"{facts.kbs_thumbprint} ({kbs.id if kbs else 'not listed'})",
    )


def _status(policy: Policy, facts: PolicyFacts) -> Outcome:
    kbs = _kbs(policy, facts)
    status = "not listed" if kbs is None else kbs.status
    if kbs is not None and kbs.compromised_since is not None:
        status += f" since {kbs.compromised_since.isoformat()}"
    return Outcome(status == "trusted", "the key broker is not trusted now", "trusted", status)


def _valid(policy: Policy, facts: PolicyFacts) -> Outcome:
    kbs = _kbs(policy, facts)
    reason = "the key broker is not trusted at this time"
    if kbs is None:
        return Outcome(False, reason, "a listed key", "not listed")
    holds = (kbs.valid_from is None or kbs.valid_from <= facts.at) and (
        kbs.valid_to is None or facts.at < kbs.valid_to
    )
    first = "ever" if kbs.valid_from is None else kbs.valid_from.isoformat()
    last = "ever" if kbs.valid_to is None else kbs.valid_to.isoformat()
    return Outcome(holds, reason, f"from {first}, before {last}", facts.at.isoformat())


def _resource(policy: Policy, facts: PolicyFacts) -> Outcome:
    kbs = _kbs(policy, facts)
    return Outcome(
        kbs is not None and kbs.allows(facts.resource),
        "the key broker may not vouch for this resource",
        f"one of {len(kbs.resources) if kbs else 0} patterns of the key broker",
        facts.resource,
    )


def _origin(policy: Policy, facts: PolicyFacts) -> Outcome:
    kbs = _kbs(policy, facts)
    origins = frozenset[str]() if kbs is None else kbs.origins
    return Outcome(
        facts.origin in origins,
        "secrets of this origin are not admitted",
        listing(origins),
        facts.origin,
    )


def _release_policy(policy: Policy, facts: PolicyFacts) -> Outcome:
    kbs = _kbs(policy, facts)
    reason = "the key broker released the secret under a policy that is not admitted"
    if kbs is None:
        return Outcome(False, reason, "a listed key", facts.release_policy)
    if kbs.release_policies is None:
        said = "unconstrained" if "release-policy" in kbs.unconstrained else "any"
        return Outcome(True, reason, said, facts.release_policy)
    return Outcome(
        facts.release_policy in kbs.release_policies,
        reason,
        f"one of {len(kbs.release_policies)} digests",
        facts.release_policy,
    )


def _grant_age(policy: Policy, facts: PolicyFacts) -> Outcome:
    """The key broker's own number counts in the place of the general one; without either every grant is too old.

    Where any key broker is admitted, the larger one counts: else to strike one off the list, or to take back that any
    is admitted, would let more in.
    """
    age, kbs = int(facts.at.timestamp()) - facts.grant_iat, _kbs(policy, facts)
    most, said_by = policy.grant_max_age, ""
    if kbs is not None and (own := kbs.grant_max_age) is not None:
        replaces = ANY_KBS not in policy.unsafe or most is None or own > most
        most, said_by = (own, f", by the entry {kbs.id}") if replaces else (most, "")
    return Outcome(
        most is not None and age <= most,
        "the grant is too old",
        "nothing" if most is None else f"at most {most} s{said_by}",
        f"{age} s",
    )


def _profile(policy: Policy, facts: PolicyFacts) -> Outcome:
    """Evidence of another profile than the persistent one is admitted only if the policy names it."""
    admitted = policy.ephemeral.profiles | {PERSISTENT_PROFILE}
    return Outcome(
        facts.profile in admitted,
        "evidence of this profile is not admitted",
        listing(admitted),
        facts.profile,
    )


def _volatile_admitted(policy: Policy, facts: PolicyFacts) -> bool:
    return facts.store_mode == VOLATILE and policy.ephemeral.volatile_stores


def _persistent(policy: Policy, facts: PolicyFacts) -> Outcome:
    return Outcome(
        facts.store_mode == PERSISTENT or _volatile_admitted(policy, facts),
        "a TPM whose state does not persist gets no certificate",
        "persistent, or volatile for an ephemeral certificate"
        if policy.ephemeral.volatile_stores
        else PERSISTENT,
        facts.store_mode,
    )


def _format(policy: Policy, facts: PolicyFacts) -> Outcome:
    formats = frozenset({NO_STORE_FORMAT}) if _volatile_admitted(policy, facts) else policy.store_formats
    return Outcome(
        facts.store_format in formats,
        "stores of this format are not admitted",
        listing(formats),
        facts.store_format,
    )


def _template_allowed(policy: Policy, facts: PolicyFacts) -> Outcome:
    stated = [(Role.EK, i, f"ek[{n}]") for n, i in enumerate(facts.ek_templates)]
    stated += [(Role.IAK, facts.iak_template, "iak"), (Role.IDEVID, facts.idevid_template, "idevid")]
    wrong = [at for role, i, at in stated if i not in policy.templates.get(role, frozenset())]
    return Outcome(
        bool(facts.ek_templates) and not wrong,
        f"keys of this template are not admitted: {', '.join(wrong) or 'no ek'}",
        "; ".join([f"{role}: {listing(ids)}" for role, ids in policy.templates.items()]) or "nothing",
        ", ".join([f"{at}: {i}" for _role, i, at in stated]),
    )


_RULES: Final[Mapping[str, Callable[[Policy, PolicyFacts], Outcome]]] = {
    "kbs.listed": _listed,
    "kbs.status": _status,
    "kbs.valid": _valid,
    "kbs.resource": _resource,
    "kbs.origin": _origin,
    "kbs.release-policy": _release_policy,
    "grant.age": _grant_age,
    "store.persistent": _persistent,
    "store.format": _format,
    "tpm.template-allowed": _template_allowed,
}

_TIMED: Final = frozenset({"kbs.valid", "grant.age"})
"""Those that look at the time of the decision."""


def rules_out(policy: Policy, mode: str) -> Mapping[str, str]:
    """The rules that count for nothing here, each with the permissive entry that gives it up."""
    return given_up(policy.unsafe) if mode == SIMULATION else {}


def with_given_up(policy: Policy, mode: str, checks_: Sequence[Check[F]]) -> tuple[Check[F], ...]:
    """The checks, those that a permissive entry gives up replaced; only in mode "simulation" is any.

    For checks from other rooms that a policy asks for, such as those on an attestation token.
    """
    out = rules_out(policy, mode)
    return tuple(UnsafeAllowed(found, out[found.id]) if found.id in out else found for found in checks_)


def launch_checks(policy: Policy | None, mode: str) -> tuple[Check[LaunchFacts], ...]:
    """The checks of a policy on a report alone: which software was launched, on what processor and firmware.

    Args:
        policy: the policy in force; None denies everything under the rule ``policy.in-force``.
        mode: the CA's mode. Only in mode "simulation" do `Policy.unsafe` entries take effect and simulated roots
            count; in any other mode such an entry makes the whole policy deny.
    """
    if policy is None:
        return (_Rule("policy.in-force", None, _in_force),)
    return policy.once("launch", mode, lambda: _launch_checks(policy, mode))


def _launch_checks(policy: Policy, mode: str) -> tuple[Check[LaunchFacts], ...]:
    out = rules_out(policy, mode)
    return checks_of_launch(policy, mode, _once_for_each(lambda facts: judged(policy, facts, out)))


def checks_of_launch(policy: Policy, mode: str, chosen: Choice) -> tuple[Check[LaunchFacts], ...]:
    """The checks of `launch_checks` where `chosen` says which entry a report is judged by."""
    simulation = mode == SIMULATION
    rules: tuple[Check[LaunchFacts], ...] = (
        _Rule("policy.mode", policy, _any_mode if simulation else _no_unsafe),
        _Rule("launch.simulated", policy, _any_root if simulation else _not_simulated),
        *(
            _Rule(demand.id, policy, _of_launch(demand, chosen), not demand.timed)
            for demand in LAUNCH_DEMANDS
        ),
        *(
            _Rule(demand.id, policy, _of_platform(demand, chosen), not demand.timed)
            for demand in PLATFORM_DEMANDS
        ),
    )
    return with_given_up(policy, mode, rules)


def checks(policy: Policy | None, mode: str) -> Checks[PolicyFacts]:
    """The checks of a policy on everything else: what the launch must be able to do, key broker, store and keys.

    They do not stand alone: without `launch_checks` nobody has asked whether the launch is listed.

    Args:
        policy: the policy in force; None denies everything under the rule ``policy.in-force``.
        mode: as for `launch_checks`.
    """
    if policy is None:
        return Checks((_Rule("policy.in-force", None, _in_force),))
    return policy.once("all", mode, lambda: _checks(policy, mode))


def _checks(policy: Policy, mode: str) -> Checks[PolicyFacts]:
    out = rules_out(policy, mode)
    rules: tuple[Check[PolicyFacts], ...] = (
        _Rule(PROFILE_ADMITTED, policy, _profile),
        # Which of several entries is fit may be a matter of time.
        _Rule(CAPABILITIES, policy, _capabilities(out), timeless=False),
        *(_Rule(rule, policy, look, timeless=rule not in _TIMED) for rule, look in _RULES.items()),
    )
    return Checks(with_given_up(policy, mode, rules))
