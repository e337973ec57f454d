"""The checks that a policy stands for. Each looks things up; none of them scans a list of entries.

The sentence for the requester never tells what is on the allow-list; what was expected is for the operator.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from ca_service.judgment import Check, Finding, failed, passed
from ca_service.policy.allowlist import KbsEntry, LaunchEntry, Policy
from ca_service.policy.facts import PolicyFacts
from ca_service.policy.unsafe import UNSAFE_RULES, UnsafeAllowed
from vtpm.wire.amd_evidence import SERVICES_PROFILE, VTPM_PROFILE
from vtpm.wire.runtime_data import PROFILE
from vtpm.wire.templates import Role

SIMULATION = "simulation"

PROFILE_CAPABILITIES = {
    PROFILE: frozenset({"verifies-grants", "reports-state"}),
    SERVICES_PROFILE: frozenset({"oracle-free"}),
    VTPM_PROFILE: frozenset({"oracle-free"}),
}
"""What a launch must be able to do so that evidence of a profile means what it says."""


@dataclass(frozen=True)
class _Outcome:
    """What a rule saw: `holds`, what the operator is told, what the requester is told."""

    holds: bool
    reason: str
    expected: object = ""
    actual: object = ""


@dataclass(frozen=True)
class _Rule:
    """One rule of a policy as a check."""

    id: str
    policy: Policy | None = field(repr=False)
    look: Callable[[Policy, PolicyFacts], _Outcome] = field(repr=False)

    def judge(self, subject: PolicyFacts) -> Finding:
        """Look the facts up in the policy; no policy denies."""
        if self.policy is None:
            return failed(self, "no policy is in force")
        outcome = self.look(self.policy, subject)
        if outcome.holds:
            return passed(self, expected=outcome.expected, actual=outcome.actual)
        return failed(self, outcome.reason, expected=outcome.expected, actual=outcome.actual)


def _launch(policy: Policy, facts: PolicyFacts) -> LaunchEntry | None:
    return policy.launches.get(facts.measurement)


def _kbs(policy: Policy, facts: PolicyFacts) -> KbsEntry | None:
    return policy.kbs.get(facts.kbs_thumbprint)


def _listing(values: frozenset[str]) -> str:
    return ", ".join(sorted(values)) or "nothing"


def _in_force(policy: Policy, _facts: PolicyFacts) -> _Outcome:
    return _Outcome(holds=True, reason="", actual=policy.digest)


def _no_unsafe(policy: Policy, _facts: PolicyFacts) -> _Outcome:
    return _Outcome(
        not policy.unsafe,
        "this CA's policy cannot be used",
        "no Unsafe... entry on a production CA",
        _listing(frozenset(policy.unsafe)),
    )


def _any_mode(policy: Policy, _facts: PolicyFacts) -> _Outcome:
    return _Outcome(holds=True, reason="", actual=_listing(frozenset(policy.unsafe)))


def _not_simulated(_policy: Policy, facts: PolicyFacts) -> _Outcome:
    return _Outcome(
        not facts.simulated,
        "this CA serves no simulated platform",
        "AMD's root",
        "a simulated root" if facts.simulated else "AMD's root",
    )


def _any_platform(_policy: Policy, facts: PolicyFacts) -> _Outcome:
    return _Outcome(holds=True, reason="", actual="a simulated root" if facts.simulated else "AMD's root")


def _measurement(policy: Policy, facts: PolicyFacts) -> _Outcome:
    launch = _launch(policy, facts)
    return _Outcome(
        launch is not None and facts.vmpl == 0,
        "this launch may not enrol here",
        f"one of {len(policy.launches)} listed measurements, at VMPL 0",
        f"{facts.measurement.hex()} ({launch.name if launch else 'not listed'}), at VMPL {facts.vmpl}",
    )


def _capabilities(policy: Policy, facts: PolicyFacts) -> _Outcome:
    launch = _launch(policy, facts)
    needed = PROFILE_CAPABILITIES.get(facts.profile)
    has = frozenset[str]() if launch is None else launch.capabilities
    return _Outcome(
        launch is not None and needed is not None and needed <= has,
        "this launch lacks a capability that the evidence profile needs",
        "a known profile" if needed is None else _listing(needed),
        f"an unknown profile with {_listing(has)}" if needed is None else _listing(has),
    )


def _product(policy: Policy, facts: PolicyFacts) -> _Outcome:
    launch = _launch(policy, facts)
    allowed = frozenset[str]() if launch is None else launch.products
    return _Outcome(
        facts.product in allowed,
        "this launch may not enrol from this kind of processor",
        _listing(allowed),
        facts.product or "unknown",
    )


def _listed(policy: Policy, facts: PolicyFacts) -> _Outcome:
    kbs = _kbs(policy, facts)
    return _Outcome(
        kbs is not None,
        "the key broker's key is not trusted here",
        f"one of {len(policy.kbs)} listed keys",
        f"{facts.kbs_thumbprint} ({kbs.id if kbs else 'not listed'})",
    )


def _status(policy: Policy, facts: PolicyFacts) -> _Outcome:
    kbs = _kbs(policy, facts)
    status = "not listed" if kbs is None else kbs.status
    if kbs is not None and kbs.compromised_since is not None:
        status += f" since {kbs.compromised_since.isoformat()}"
    return _Outcome(status == "trusted", "the key broker is not trusted now", "trusted", status)


def _valid(policy: Policy, facts: PolicyFacts) -> _Outcome:
    kbs = _kbs(policy, facts)
    reason = "the key broker is not trusted at this time"
    if kbs is None:
        return _Outcome(False, reason, "a listed key", "not listed")
    holds = (kbs.valid_from is None or kbs.valid_from <= facts.at) and (
        kbs.valid_to is None or facts.at < kbs.valid_to
    )
    first = "ever" if kbs.valid_from is None else kbs.valid_from.isoformat()
    last = "ever" if kbs.valid_to is None else kbs.valid_to.isoformat()
    return _Outcome(holds, reason, f"from {first}, before {last}", facts.at.isoformat())


def _resource(policy: Policy, facts: PolicyFacts) -> _Outcome:
    kbs = _kbs(policy, facts)
    return _Outcome(
        kbs is not None and kbs.allows(facts.resource),
        "the key broker may not vouch for this resource",
        f"one of {len(kbs.resources) if kbs else 0} patterns of the key broker",
        facts.resource,
    )


def _origin(policy: Policy, facts: PolicyFacts) -> _Outcome:
    kbs = _kbs(policy, facts)
    origins = frozenset[str]() if kbs is None else kbs.origins
    return _Outcome(
        facts.origin in origins,
        "secrets of this origin are not admitted",
        _listing(origins),
        facts.origin,
    )


def _release_policy(policy: Policy, facts: PolicyFacts) -> _Outcome:
    kbs = _kbs(policy, facts)
    reason = "the key broker released the secret under a policy that is not admitted"
    if kbs is None:
        return _Outcome(False, reason, "a listed key", facts.release_policy)
    if kbs.release_policies is None:
        return _Outcome(True, reason, "any", facts.release_policy)
    return _Outcome(
        facts.release_policy in kbs.release_policies,
        reason,
        f"one of {len(kbs.release_policies)} digests",
        facts.release_policy,
    )


def _grant_age(policy: Policy, facts: PolicyFacts) -> _Outcome:
    age = int(facts.at.timestamp()) - facts.grant_iat
    most = policy.grant_max_age
    return _Outcome(
        most is not None and age <= most,
        "the grant is too old",
        "nothing" if most is None else f"at most {most} s",
        f"{age} s",
    )


def _persistent(_policy: Policy, facts: PolicyFacts) -> _Outcome:
    return _Outcome(
        facts.store_mode == "persistent",
        "a TPM whose state does not persist gets no certificate",
        "persistent",
        facts.store_mode,
    )


def _format(policy: Policy, facts: PolicyFacts) -> _Outcome:
    return _Outcome(
        facts.store_format in policy.store_formats,
        "stores of this format are not admitted",
        _listing(policy.store_formats),
        facts.store_format,
    )


def _template_allowed(policy: Policy, facts: PolicyFacts) -> _Outcome:
    stated = [(Role.EK, i, f"ek[{n}]") for n, i in enumerate(facts.ek_templates)]
    stated += [(Role.IAK, facts.iak_template, "iak"), (Role.IDEVID, facts.idevid_template, "idevid")]
    wrong = [at for role, i, at in stated if i not in policy.templates.get(role, frozenset())]
    return _Outcome(
        bool(facts.ek_templates) and not wrong,
        f"keys of this template are not admitted: {', '.join(wrong) or 'no ek'}",
        "; ".join(f"{role.value}: {_listing(ids)}" for role, ids in policy.templates.items()) or "nothing",
        ", ".join(f"{at}: {i}" for _role, i, at in stated),
    )


_RULES: dict[str, Callable[[Policy, PolicyFacts], _Outcome]] = {
    "launch.measurement": _measurement,
    "launch.capabilities": _capabilities,
    "launch.product": _product,
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


def checks(policy: Policy | None, mode: str) -> tuple[Check[PolicyFacts], ...]:
    """The checks of a policy.

    Args:
        policy: the policy in force; None denies everything under the rule ``policy.in-force``.
        mode: the CA's mode. Only in mode "simulation" do `Policy.unsafe` entries take effect and simulated roots
            count; in any other mode such an entry makes the whole policy deny.
    """
    if policy is None:
        return (_Rule("policy.in-force", None, _in_force),)
    simulation = mode == SIMULATION
    given_up = {rule: entry for entry in policy.unsafe for rule in UNSAFE_RULES[entry]} if simulation else {}
    found: list[Check[PolicyFacts]] = [
        _Rule("policy.mode", policy, _any_mode if simulation else _no_unsafe),
        _Rule("launch.simulated", policy, _any_platform if simulation else _not_simulated),
    ]
    for rule_id, look in _RULES.items():
        rule = _Rule(rule_id, policy, look)
        found.append(UnsafeAllowed(rule, given_up[rule_id]) if rule_id in given_up else rule)
    return tuple(found)
