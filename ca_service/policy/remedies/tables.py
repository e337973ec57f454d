"""Ways to admit what the tables of a document refuse: the age of a grant, stores, templates, profiles, its mode."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, get_args

from ca_service.policy.document.tables import EphemeralProfile
from ca_service.policy.judging.checks import PROFILE_ADMITTED, VOLATILE
from ca_service.policy.remedies.case import Case, Listed
from ca_service.policy.remedies.edits import Edit, Step, add, drop, found, put
from ca_service.policy.remedies.options import Option
from vtpm.wire.amd_evidence import VTPM_PROFILE
from vtpm.wire.templates import Role

_STORE_RULES: Final = ("store.persistent", "store.format")
_LEAST_DAYS: Final = 1

_VOLATILE: Final = (
    "this admits TPMs whose state the host can reset: who takes the disk away gets a new TPM certified. They get "
    "ephemeral certificates only"
)
_AMD: Final = "evidence of AMD's profiles says nothing of a store: it earns ephemeral certificates only"
_NO_KBS: Final = "this profile states no key broker: the launch alone vouches for the TPM"
_OLD_GRANT: Final = "a grant that was recorded can be shown again for as long"
_UNSAFE_GONE: Final = "what these entries gave up counts again"


def table_options(listed: Listed, case: Case, failing: frozenset[str]) -> Iterator[list[Option]]:
    """The ways for each of these that refuses."""
    for rules, edits in (
        (("policy.mode",), [_without_unsafe(listed)]),
        (("grant.age",), [*_grant_age(listed, case)]),
        (_STORE_RULES, [_store(listed, case, failing)]),
        (("tpm.template-allowed",), [_templates(listed, case)]),
        ((PROFILE_ADMITTED,), [_profile(listed, case)]),
    ):
        if failing.intersection(rules):
            yield [Option(edit.entries[0], (edit,)) for edit in edits]


def _without_unsafe(listed: Listed) -> Edit:
    names = ", ".join(sorted(listed.policy.unsafe))
    said = f"leaves out the entries {names}, with which a production CA admits nothing"
    return Edit(("policy.mode",), ("unsafe",), (drop("unsafe"),), said, (_UNSAFE_GONE,))


def _grant_age(listed: Listed, case: Case) -> Iterator[Edit]:
    """The key broker's own number, which counts for nobody else, and the general one."""
    age = int(case.at.timestamp()) - case.facts.grant_iat
    known, broker = listed.policy.grant_max_age, listed.policy.kbs.get(case.facts.kbs_thumbprint)
    if broker is not None:
        step = put("kbs", broker.id, "grant_max_age_s", value=age)
        said = f"kbs {broker.id} may have grants of {age} s"
        yield Edit(("grant.age",), (f"kbs {broker.id}",), (step,), said, (_OLD_GRANT,))
    said = f"grant.max_age_s: {'not stated' if known is None else known} -> {age}"
    width = 1 + len(listed.whole.get("kbs", ()))
    yield Edit(
        ("grant.age",), ("grant",), (put("grant", "max_age_s", value=age),), said, (_OLD_GRANT,), width
    )


def _store(listed: Listed, case: Case, failing: frozenset[str]) -> Edit:
    rules = tuple(rule for rule in _STORE_RULES if rule in failing)
    if case.facts.store_mode == VOLATILE:
        said = "admits volatile stores, for ephemeral certificates"
        return Edit(rules, ("ephemeral",), _ephemeral(listed, "volatile_stores", True), said, (_VOLATILE,))
    kind = case.facts.store_format
    step = add("store", "formats", value=kind)
    return Edit(rules, ("store",), (step,), f"admits stores of the format {kind}")


def _ephemeral(listed: Listed, member: str, value: Any) -> tuple[Step, ...]:
    """Set a member of `[ephemeral]`, which is made with the shortest life if it is not there."""
    step = put("ephemeral", member, value=value)
    if found(listed.content, ("ephemeral",)) is None:
        return put("ephemeral", "days", value=_LEAST_DAYS), step
    return (step,)


def _templates(listed: Listed, case: Case) -> Edit:
    facts = case.facts
    stated: Mapping[Role, tuple[str, ...]] = {
        Role.EK: tuple(dict.fromkeys(facts.ek_templates)),
        Role.IAK: (facts.iak_template,),
        Role.IDEVID: (facts.idevid_template,),
    }
    steps, more = [], []
    for role, ids in stated.items():
        allowed = found(listed.content, ("tpm", role.value)) or []
        missing = [template for template in ids if template not in allowed]
        if missing:
            steps.append(put("tpm", role.value, value=[*allowed, *missing]))
            more.append(f"{role.value} {', '.join(missing)}")
    said = f"admits the templates {'; '.join(more)}"
    return Edit(("tpm.template-allowed",), ("tpm",), tuple(steps), said)


def _profile(listed: Listed, case: Case) -> Edit:
    profile = case.facts.profile
    # The search throws away what no document can name.
    steps: tuple[Step, ...] = ()
    if profile in get_args(EphemeralProfile):
        known = found(listed.content, ("ephemeral", "profiles")) or []
        steps = _ephemeral(listed, "profiles", [*known, profile])
    lost = (_AMD, _NO_KBS) if profile == VTPM_PROFILE else (_AMD,)
    return Edit((PROFILE_ADMITTED,), ("ephemeral",), steps, f"admits evidence of the profile {profile}", lost)
