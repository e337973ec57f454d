"""Asking less of a launch or a platform: for each constraint the narrowest change by which a given report meets it.

A constraint whose value cannot be named (a digest that is all zero says that there is none) can only be given up.
Nothing here says that a change is wise; what is lost by it stands beside it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final

from ca_service.policy.document.bits import GUEST_POLICY, OTHER, PLATFORM_INFO
from ca_service.policy.judging.facts import LaunchFacts
from ca_service.policy.reading.launches import LAUNCH_MEMBERS, PLATFORM_MEMBERS
from ca_service.policy.remedies.edits import Step, add, drop, found, put
from vtpm.wire.report import Report
from vtpm.wire.report_bits import guest_policy_abi

Table = Mapping[str, Any]
"""An entry of the document, or a part of one."""

GIVEN_UP_WIDTH: Final = 100
"""A constraint that is given up admits anything, a changed one a little more."""

_KEYS: Final = {0: "VCEK", 1: "VLEK"}
_VERSIONS: Final = range(2, 6)
_MAX_NUMBER: Final = (1 << 53) - 1
_MAX_CRL_AGE_DAYS: Final = 3660

_REVOKED: Final = "a revocation by AMD may go unnoticed"
_LOSSES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "id-key": "launches are admitted whose ID block another key has signed",
        "author-key": "launches are admitted whose ID key another author has signed",
        "guest-svn": "older builds, with the holes that were closed since, are admitted again",
        "abi": "launches are admitted that run on older firmware",
        "signing-key": "a VLEK is one key for all processors of a provider's region",
        "launch-mitigations": "hosts without this mitigation are admitted",
        "current-mitigations": "hosts without this mitigation are admitted",
        "provisional-firmware": "firmware is admitted that its host can still roll back",
        "crl-age": _REVOKED,
    }
)
_LOST_IF_GIVEN_UP: Final[Mapping[str, str]] = MappingProxyType(
    {
        "id-key": "any ID block is admitted with it, the host's own too",
        "author-key": "the ID key counts whoever vouches for it",
        "chip": "any processor is admitted, those that were ruled out too",
        "crl-age": _REVOKED,
    }
)


@dataclass(frozen=True)
class Ease:
    """How an entry asks for less.

    Attributes:
        rules: the rules that do.
        steps: what is done, in the entry.
        words: the end of a sentence whose subject is the entry.
        warnings: what is lost by it.
        width: as `Edit.width`.
    """

    rules: tuple[str, ...]
    steps: tuple[Step, ...]
    words: str
    warnings: tuple[str, ...] = ()
    width: int = 1


@dataclass(frozen=True)
class _Constraint:
    """How a constraint is stated for a report, and how a statement is changed; either is None where it cannot be.

    Attributes:
        exact: the narrowest statement that the report meets.
        wider: the statement that is nearest to an earlier one which the report does not meet.
        words: says what the change is, given the earlier statement and the later one.
    """

    exact: Callable[[LaunchFacts], Any]
    wider: Callable[[Any, LaunchFacts], Any]
    words: Callable[[Any, Any], str]


def _added(old: Any, new: Any) -> str:
    return "admits " + ", ".join(str(each) for each in new if each not in old) + " as well"


def _moved(old: Any, new: Any) -> str:
    return f"{old} -> {new}"


def _opened(old: Any, new: Any) -> str:
    said = []
    for word, member in (("asks for", "require"), ("forbids", "forbid")):
        names = [name for name in old[member] if name not in new[member]]
        if names:
            said.append(f"no longer {word} {', '.join(names)}")
    return " and ".join(said)


def _hex_list(raw: Callable[[Report], bytes], *, zero: bool = True) -> _Constraint:
    """A list of values in hex; `zero` says whether a value that is all zero can be named."""

    def one(facts: LaunchFacts) -> str | None:
        value = raw(facts.report)
        return value.hex() if zero or any(value) else None

    def exact(facts: LaunchFacts) -> list[str] | None:
        value = one(facts)
        return None if value is None else [value]

    def wider(old: list[str], facts: LaunchFacts) -> list[str] | None:
        value = one(facts)
        return None if value is None or value in old else [*old, value]

    return _Constraint(exact, wider, _added)


def _author_key(report: Report) -> bytes:
    # Without AUTHOR_KEY_EN nobody has checked a signature of that key: then there is none to name.
    return report.author_key_digest if report.author_key_en else b""


def _abi(facts: LaunchFacts) -> str:
    major, minor = guest_policy_abi(facts.report.policy)
    return f"{major}.{minor}"


def _bits(names: Mapping[str, int], raw: Callable[[Report], int]) -> _Constraint:
    def exact(facts: LaunchFacts) -> dict[str, list[str]]:
        word = raw(facts.report)
        require = [name for name, mask in names.items() if word & mask and name != OTHER]
        forbid = [name for name, mask in names.items() if not word & mask]
        either = [name for name in names if name not in require and name not in forbid]
        return {"require": require, "forbid": forbid, "either": either}

    def wider(old: Mapping[str, list[str]], facts: LaunchFacts) -> dict[str, list[str]]:
        word = raw(facts.report)
        require = [name for name in old["require"] if word & names[name]]
        forbid = [name for name in old["forbid"] if not word & names[name]]
        either = [name for name in names if name not in require and name not in forbid]
        return {"require": require, "forbid": forbid, "either": either}

    return _Constraint(exact, wider, _opened)


def _mitigations(raw: Callable[[Report], int]) -> _Constraint:
    def exact(facts: LaunchFacts) -> int | None:
        return raw(facts.report) if raw(facts.report) <= _MAX_NUMBER else None

    return _Constraint(
        exact,
        lambda old, facts: old & raw(facts.report),
        lambda old, new: f"no longer asks for the bits {old & ~new:#x}",
    )


def _chip() -> _Constraint:
    def exact(facts: LaunchFacts) -> dict[str, list[str]] | None:
        chip = facts.report.chip_id
        return {"allow": [chip.hex()]} if any(chip) else None

    def wider(old: Mapping[str, list[str]], facts: LaunchFacts) -> dict[str, list[str]] | None:
        chip = facts.report.chip_id
        if not any(chip):
            return None
        if "allow" in old:
            return {"allow": [*old["allow"], chip.hex()]}
        left = [each for each in old["deny"] if bytes.fromhex(each).ljust(len(chip), b"\0") != chip]
        return {"deny": left} if left else None

    def words(old: Any, new: Any) -> str:
        return _added(old["allow"], new["allow"]) if "allow" in old else "no longer refuses this chip"

    return _Constraint(exact, wider, words)


def _crl_days(facts: LaunchFacts) -> int | None:
    if facts.crl_issued_at is None:
        return None
    days = max(1, math.ceil((facts.at - facts.crl_issued_at) / timedelta(days=1)))
    return days if days <= _MAX_CRL_AGE_DAYS else None


def _committed(facts: LaunchFacts) -> bool:
    report = facts.report
    return report.committed_tcb == report.current_tcb and report.committed_firmware == report.current_firmware


def _signing_key(facts: LaunchFacts) -> list[str] | None:
    key = _KEYS.get(facts.report.signing_key)
    return None if key is None else [key]


def _version(facts: LaunchFacts) -> list[int] | None:
    return [facts.report.version] if facts.report.version in _VERSIONS else None


def _joined(one: Callable[[LaunchFacts], list[Any] | None]) -> _Constraint:
    def wider(old: list[Any], facts: LaunchFacts) -> list[Any] | None:
        more = one(facts)
        return None if more is None else [*old, *more]

    return _Constraint(one, wider, _added)


_LAUNCH: Final[Mapping[str, _Constraint]] = {
    "measurement": _Constraint(
        lambda facts: facts.report.measurement.hex(), lambda _old, _facts: None, _moved
    ),
    "id-key": _hex_list(lambda report: report.id_key_digest, zero=False),
    "author-key": _hex_list(_author_key, zero=False),
    "host-data": _hex_list(lambda report: report.host_data),
    "family-id": _hex_list(lambda report: report.family_id),
    "image-id": _hex_list(lambda report: report.image_id),
    "guest-svn": _Constraint(
        lambda facts: facts.report.guest_svn, lambda _old, facts: facts.report.guest_svn, _moved
    ),
    "abi": _Constraint(_abi, lambda _old, facts: _abi(facts), _moved),
    "guest-policy": _bits(GUEST_POLICY, lambda report: report.policy),
}

_PLATFORM: Final[Mapping[str, _Constraint]] = {
    "signing-key": _joined(_signing_key),
    "report-version": _joined(_version),
    "info": _bits(PLATFORM_INFO, lambda report: report.platform_info),
    "launch-mitigations": _mitigations(lambda report: report.launch_mit_vector),
    "current-mitigations": _mitigations(lambda report: report.current_mit_vector),
    "chip": _chip(),
    "provisional-firmware": _Constraint(
        lambda facts: not _committed(facts),
        lambda _old, _facts: True,
        lambda _old, _new: "admits any firmware",
    ),
    "crl-age": _Constraint(_crl_days, lambda _old, facts: _crl_days(facts), _moved),
}


def eased(kind: str, constraint: str, table: Table, facts: LaunchFacts) -> Ease:
    """The narrowest change by which an entry of `kind` takes a report that fails one of its constraints.

    Args:
        kind: "launch" or "platform"; floors are for `floors`.
        constraint: the word that gives it up.
        table: the entry as it stands.
        facts: what the report says.
    """
    known, members = (_LAUNCH, LAUNCH_MEMBERS) if kind == "launch" else (_PLATFORM, PLATFORM_MEMBERS)
    rule, member = f"{kind}.{constraint}", members[constraint]
    where = tuple(member.split("."))
    old, how = found(table, where), known[constraint]
    new = how.exact(facts) if old is None else how.wider(old, facts)
    if new is None:
        return given_up(rule, member, table)
    said = f"states {member}, which was open" if old is None else f"{member}: {how.words(old, new)}"
    lost = _LOSSES.get(constraint) if old is not None else None
    if constraint == "chip" and isinstance(old, Mapping) and "deny" in old:
        lost = "this chip was put on the list of those refused on purpose"
    return Ease((rule,), (put(*where, value=new),), said, () if lost is None else (lost,))


def given_up(rule: str, member: str, table: Table) -> Ease:
    """The change by which an entry asks for nothing where it asked for something that cannot be named."""
    constraint = rule.partition(".")[2]
    where = tuple(member.split("."))
    steps = [add("unconstrained", value=constraint)]
    if found(table, where) is not None:
        steps.append(drop(*where))
    lost = _LOST_IF_GIVEN_UP.get(constraint, f"any {member} is admitted")
    return Ease((rule,), tuple(steps), f"gives {member} up", (lost,), GIVEN_UP_WIDTH)


def stated(kind: str, facts: LaunchFacts) -> dict[str, Any]:
    """What an entry of `kind` says that takes this report and asks for as much as can be named.

    Of a platform all but its floors, which `floors.stated` has.
    """
    known, members = (_LAUNCH, LAUNCH_MEMBERS) if kind == "launch" else (_PLATFORM, PLATFORM_MEMBERS)
    table: dict[str, Any] = {}
    open_: list[str] = []
    for constraint, how in known.items():
        value = how.exact(facts)
        if value is None:
            open_.append(constraint)
            continue
        *way, last = members[constraint].split(".")
        inner = table
        for step in way:
            inner = inner.setdefault(step, {})
        inner[last] = value
    return table | {"unconstrained": open_}
