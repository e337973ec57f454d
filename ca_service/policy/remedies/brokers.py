"""Ways to admit a key broker: its entry allows more, a new one is made for it, or a listed one gets its key."""

import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any, Final

from ca_service.policy.entries.brokers import KbsEntry
from ca_service.policy.remedies.case import Case, Listed
from ca_service.policy.remedies.easing import GIVEN_UP_WIDTH
from ca_service.policy.remedies.edits import Edit, Step, add, drop, found, put
from ca_service.policy.remedies.options import Option, free_name

Failing = Callable[[tuple[Edit, ...]], frozenset[str]]
"""The rules that refuse the decision after some edits."""

_MOST_OWNERS: Final = 4
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_MAX_AGE: Final = 7 * 24 * 3600
_CURVES: Final = ("P-256", "P-384")
_EAR_RULES: Final = (
    "ear.present",
    "ear.signature",
    "ear.profile",
    "ear.time",
    "ear.tee-key",
    "ear.nonce",
    "ear.status",
)

_WHOSE_KEY: Final = (
    "whoever holds this key decides which TPMs get its secrets: find out whose it is before you list it"
)
_NEW_INSTANCE: Final = (
    "a new KBS id makes a new instance: to this CA its TPMs are strangers, whoever they were before"
)
_PROVISIONED: Final = (
    "this admits TPMs whose secret came from outside: whoever stored it can read and replace the TPM's state"
)
_COMPROMISED: Final = (
    "THIS KBS IS MARKED AS COMPROMISED: whoever has its key makes grants for TPMs of his own, whose state he can read "
    "and reset. It would admit those too"
)
_SUSPENDED: Final = "an operator has suspended this KBS; ask why first"
_EAR_GONE: Final = "nobody but the KBS itself would vouch for the boot then"
_EAR_KEY: Final = (
    "the token names this key itself, and anybody can write one there: compare it with the verifier's own"
)


def broker_options(listed: Listed, case: Case, failing: frozenset[str], after: Failing) -> Iterator[Option]:
    """Ways to admit the key broker of a decision.

    Args:
        listed: the policy.
        case: the decision's facts.
        failing: the rules that refused it.
        after: what would refuse it after some edits.
    """
    entry = listed.policy.kbs.get(case.facts.kbs_thumbprint)
    if entry is not None:
        yield from _allowed_more(listed, case, entry, failing)
    elif case.kbs_key is not None and case.kbs_key.get("crv") in _CURVES:
        yield _new(listed, case)
        for owner in owners(listed.policy.kbs.values(), case.facts.resource):
            key = _with_key(case, owner)
            rules = after((key,))
            for more in _allowed_more(listed, case, owner, rules) if _about(rules) else (Option("", ()),):
                yield Option(f"kbs {owner.id}", (key, *more.edits))


def owners(entries: Any, resource: str) -> list[KbsEntry]:
    """The first few of the entries that may release a resource."""
    named = {entry.id: entry for entry in entries if entry.allows(resource)}
    return list(named.values())[:_MOST_OWNERS]


def _about(rules: frozenset[str]) -> bool:
    return any(rule.startswith(("kbs.", "ear.")) for rule in rules)


def _new(listed: Listed, case: Case) -> Option:
    facts = case.facts
    name = free_name(listed.whole, "kbs", "new-kbs")
    table: dict[str, Any] = {"id": name, "status": "trusted", "origins": [facts.origin]}
    if _DIGEST.fullmatch(facts.release_policy):
        table["release_policies"] = [facts.release_policy]
    table |= {"key": [{"jwk": dict(case.kbs_key or {})}], "resource": [{"pattern": facts.resource}]}
    warnings = [_WHOSE_KEY, _NEW_INSTANCE]
    if facts.origin == "provisioned":
        warnings.append(_PROVISIONED)
    said = f"a new KBS {name} with this key, for {facts.resource} alone"
    edit = Edit(("kbs.listed",), (f"kbs {name}",), (add("kbs", value=table),), said, tuple(warnings))
    return Option("a new kbs", (edit,))


def _with_key(case: Case, owner: KbsEntry) -> Edit:
    step = add("kbs", owner.id, "key", value={"jwk": dict(case.kbs_key or {})})
    said = f"kbs {owner.id} gets this key beside its {len(owner.thumbprints)}, if it is its new one"
    return Edit(("kbs.listed",), (f"kbs {owner.id}",), (step,), said, (_WHOSE_KEY,), 1 + len(owner.resources))


def _allowed_more(listed: Listed, case: Case, entry: KbsEntry, failing: frozenset[str]) -> Iterator[Option]:
    edits = tuple(_edits(listed, case, entry, failing))
    of_token = [rule for rule in failing if rule.startswith("ear.")]
    if of_token:
        token = tuple(_token_edits(case, entry))
        if token:
            yield Option(f"kbs {entry.id}", (*edits, *token))
        step = drop("kbs", entry.id, "ear")
        said = f"kbs {entry.id} asks for no attestation token"
        gone = Edit(_EAR_RULES, (f"kbs {entry.id}",), (step,), said, (_EAR_GONE,), GIVEN_UP_WIDTH)
        yield Option(f"kbs {entry.id} without token", (*edits, gone))
    elif edits:
        yield Option(f"kbs {entry.id}", edits)


def _edits(listed: Listed, case: Case, entry: KbsEntry, failing: frozenset[str]) -> Iterator[Edit]:
    facts, name = case.facts, entry.id
    table = found(listed.content, ("kbs", name))

    def edit(rule: str, words: str, *steps: Step, warning: str = "") -> Edit:
        under = tuple(step.under("kbs", name) for step in steps)
        return Edit((rule,), (f"kbs {name}",), under, f"kbs {name} {words}", (warning,) if warning else ())

    if "kbs.status" in failing:
        steps = [put("status", value="trusted")]
        if "compromised_since" in table:
            steps.append(drop("compromised_since"))
        lost = _COMPROMISED if entry.status == "compromised" else _SUSPENDED
        yield edit("kbs.status", f"is trusted; it is {entry.status}", *steps, warning=lost)
    if "kbs.valid" in failing:
        yield edit("kbs.valid", *_validity(entry, case.at))
    if "kbs.resource" in failing:
        step = add("resource", value={"pattern": facts.resource})
        yield edit("kbs.resource", f"may release {facts.resource}", step)
    if "kbs.origin" in failing:
        lost = _PROVISIONED if facts.origin == "provisioned" else ""
        step = put("origins", value=[*table["origins"], facts.origin])
        yield edit("kbs.origin", f"may release {facts.origin} secrets", step, warning=lost)
    if "kbs.release-policy" in failing:
        step = add("release_policies", value=facts.release_policy)
        yield edit("kbs.release-policy", f"may release under {facts.release_policy}", step)


def _validity(entry: KbsEntry, at: datetime) -> tuple[str, Step]:
    at = at.replace(microsecond=0)
    if entry.valid_from is not None and entry.valid_from > at:
        return f"is valid from {at.isoformat()} on", put("valid_from", value=at)
    end = at + timedelta(seconds=1)
    return f"is valid at least until {end.isoformat()}: that only just admits it", put("valid_to", value=end)


def _token_edits(case: Case, entry: KbsEntry) -> Iterator[Edit]:
    """What makes an entry take a token whose key it does not know, or that is too old for it."""
    token, name = case.token, entry.id
    if token is None or entry.ear is None:
        return
    if token.key is not None and token.key not in [key.members() for key in entry.ear.keys]:
        step = add("kbs", name, "ear", "key", value={"jwk": dict(token.key)})
        said = f"kbs {name} takes attestation tokens that this key has signed"
        yield Edit(("ear.signature",), (f"kbs {name}",), (step,), said, (_EAR_KEY,))
    if entry.ear.max_age_s < token.age_s <= _MAX_AGE:
        step = put("kbs", name, "ear", "max_age_s", value=token.age_s)
        said = f"kbs {name} takes attestation tokens of {token.age_s} s"
        yield Edit(("ear.time",), (f"kbs {name}",), (step,), said)
