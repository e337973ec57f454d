"""A decision for people: what was decided and why, what it rests on, and what would have changed it."""

from collections.abc import Mapping, Sequence
from typing import Any

from ca_service.cli.output import echo, show_fields, show_paragraph, show_trace

_HEAD = (
    "id",
    "at",
    "stage",
    "mode",
    "verdict",
    "rule",
    "reason",
    "kbs",
    "resource",
    "policy_version",
    "policy_digest",
    "evidence_digest",
)
_PASSED = "passed"
_NOT_LISTED = "not listed"
"""What a check of the policy saw that had no entry to look into."""


def show_decision(decision: Mapping[str, Any], *, everything: bool) -> None:
    """Print a decision.

    Args:
        decision: what the operation `decision-show` gave.
        everything: whether checks that passed are listed too.
    """
    trace = decision["trace"]
    reason = next((f["reason"] for f in trace if f["verdict"] == "failed"), "")
    head = {**decision, "reason": reason}
    show_fields({name: head[name] for name in _HEAD if head[name] != ""}, as_json=False)
    echo("")
    passed = [f for f in trace if f["verdict"] == _PASSED and not everything]
    blind = [f for f in trace if _is_blind(f, decision) and not everything]
    shown = [f for f in trace if f not in passed and f not in blind]
    if shown or not trace:
        show_trace(shown)
    if blind:
        echo(f"{_checks(blind)} had no entry of the policy to look at; --all shows them")
    if passed:
        echo(f"{_checks(passed)} passed; --all shows them")
    if decision["unexplained"]:
        echo("")
        show_paragraph(f"not explained: {decision['unexplained']}")
    if decision["rests_on"] is not None:
        _basis(decision["rests_on"])
    if decision["remedy"] is not None:
        _remedy(decision["remedy"])


def _is_blind(finding: Mapping[str, str], decision: Mapping[str, Any]) -> bool:
    """Whether a check says no more than that another one found nothing."""
    return finding["actual"] == _NOT_LISTED and finding["rule"] != decision["rule"]


def _checks(findings: Sequence[object]) -> str:
    return "1 check" if len(findings) == 1 else f"{len(findings)} checks"


def _basis(found: Mapping[str, Any]) -> None:
    echo("\nwhat it rests on", bold=True)
    fields = {name: found[name] for name in ("kbs", "kbs_label", "launch", "platform") if found[name]}
    if found["grant_age_s"] is not None:
        fields["grant"] = f"{found['grant_age_s']} s old" + (
            f"; {found['grant_age_demanded']}" if found["grant_age_demanded"] else ""
        )
    if found["floor"] is not None:
        fields["floor"] = _floor(found["floor"])
    if found["given_up"]:
        fields["given up by Unsafe... entries"] = found["given_up"]
    show_fields(
        {name: ", ".join(v) if isinstance(v, list) else v for name, v in fields.items()}, as_json=False
    )


def _floor(floor: Mapping[str, Any]) -> str:
    since = f"in force since {floor['since']}" if floor["since"] else "in force from the beginning"
    above = ", ".join(f"{name} +{levels}" for name, levels in floor["reported_above"].items())
    said = f"{floor['product']}, {since}; reported TCB above it by {above or 'no level that is stated'}"
    if floor["misses_from"]:
        said += f"; falls below the floor of {floor['misses_from']}"
    return said


def _remedy(remedy: Mapping[str, Any]) -> None:
    _in_force(remedy["in_force"])
    if remedy["admits"] and not remedy["edits"]:
        echo("")
        show_paragraph("judged anew it is admitted as the policy stands; `vtpm-ca decision replay` compares")
    elif remedy["admits"]:
        _head("smallest change of policy version", remedy, "that would have admitted it")
    else:
        echo("\nno change of the policy admits it", bold=True)
        _outside(remedy["left"])
        if remedy["edits"]:
            _head("besides, policy version", remedy, "would have had to say")
    for number, edit in enumerate(remedy["edits"], 1):
        _edit(f"{number}.", edit)
    if remedy["warnings"]:
        echo("\nthe policy would then warn", bold=True)
        _warnings(remedy["warnings"])
    for other in remedy["alternatives"]:
        _alternative(remedy["edits"], other)
    if remedy["without_change"]:
        echo("\nwithout a change of the policy", bold=True)
        for text in remedy["without_change"]:
            show_paragraph(text, indent="  ")


def _outside(left: Sequence[Mapping[str, str]]) -> None:
    """The rules that are no matter of the policy, and what to do about each; the same advice once."""
    said = set[str]()
    for finding in left:
        advice = "" if finding["advice"] in said else f". {finding['advice']}"
        said.add(finding["advice"])
        show_paragraph(f"{finding['rule']}: {finding['reason']}{advice}", indent="  ")


def _alternative(edits: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> None:
    here, there = ([edit["words"] for edit in each] for each in (edits, other))
    replaced = [str(n) for n, words in enumerate(here, 1) if words not in there]
    echo(f"\nor, in place of {' and '.join(replaced)}", bold=True)
    for edit in other:
        if edit["words"] not in here:
            _edit("-", edit)


def _in_force(present: Mapping[str, Any] | None) -> None:
    if present is not None:
        by = f" by {present['rule']}" if present["rule"] else ""
        echo("")
        show_paragraph(f"policy version {present['version']}, in force now, has it {present['verdict']}{by}")


def _head(before: str, remedy: Mapping[str, Any], after: str) -> None:
    echo(f"\n{before} {remedy['policy_version']} {after}", bold=True)


def _edit(mark: str, edit: Mapping[str, Any]) -> None:
    show_paragraph(f"{mark} {edit['words']}")
    _warnings(edit["warnings"])
    _lines(edit["toml"].splitlines())


def _warnings(texts: Sequence[str]) -> None:
    for text in texts:
        show_paragraph(f"! {text}", indent="  ", fg="yellow")


def _lines(lines: Sequence[str]) -> None:
    """TOML as it is to be written: never wrapped."""
    for line in lines:
        echo(f"    {line}".rstrip())
