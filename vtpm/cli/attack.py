"""`vtpm attack`: each attack without the checks that stop it, with all of them, and with each of them alone."""

import json
import logging

import click
import structlog

from vtpm.errors import UsageError
from vtpm.lab import attacks
from vtpm.lab.attacks import Attack, Case, Result, Verdict

_COLOURS = {Verdict.SUCCEEDED: "yellow", Verdict.REFUSED: "green", Verdict.NOT_YET: "yellow"}


@click.group()
def attack() -> None:
    """The attacks that must fail, each an executable scenario on throwaway parties."""


@attack.command("list")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def list_(*, as_json: bool) -> None:
    """List the attacks: who does what, and which checks stop it."""
    known = tuple(attacks.ATTACKS.values())
    if as_json:
        click.echo(json.dumps([_described(one) for one in known], indent=1))
        return
    for one in known:
        click.echo(f"{one.id:<12} The {one.who} {one.summary}.")
        click.echo(f"{'':<12} stopped by {', '.join(one.rules) or f'nothing yet: {one.awaits}'}")


def _described(one: Attack) -> dict[str, object]:
    return {
        "id": one.id,
        "who": one.who,
        "summary": one.summary,
        "rules": list(one.rules),
        "awaits": one.awaits,
    }


@attack.command("run")
@click.argument("names", nargs=-1, metavar="NAME...")
@click.option("--all", "everything", is_flag=True, help="run every attack")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def run(names: tuple[str, ...], *, everything: bool, as_json: bool) -> None:
    """Run attacks; exit code 1 if one does not end as it should.

    `unchecked` is the outcome without the checks that the attack names: it must succeed, and the report says what was
    gained. `checked` is the outcome with every check on, and each named check is also tried alone.
    """
    if bool(names) == everything:
        raise UsageError("name some attacks, or say --all", remedy="`vtpm attack list` shows them.")
    found = attacks.ATTACKS.values() if everything else (one for name in names for one in attacks.find(name))
    chosen = dict.fromkeys(found)
    # What the throwaway parties log is no output of this command.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.getLogger("vtpm").setLevel(logging.CRITICAL)
    results = []
    with attacks.furnished() as lab:
        for one in chosen:
            results.append(attacks.run(one, lab))
            if not as_json:
                _show(results[-1])
    if as_json:
        click.echo(json.dumps([result.to_json() for result in results], indent=1))
    if not all(result.as_promised for result in results):
        raise SystemExit(1)


def _show(result: Result) -> None:
    one = result.attack
    click.secho(f"{one.id.upper()}  The {one.who} {one.summary}.", bold=True)
    _show_case("none of its checks", result.unchecked)
    for name, words in (one.decision.unsafe if one.decision else {}).items():
        click.echo(f"        by a policy with {name}, which gives up {words}")
    _show_case("every check", result.checked)
    for rule, case in result.alone.items():
        _show_case(f"{rule} alone", case)
    if one.awaits:
        click.echo(f"    still wanting: {one.awaits}")


def _show_case(which: str, case: Case) -> None:
    verdict = click.style(f"{case.verdict.value:<10}", fg=_COLOURS.get(case.verdict, "red"))
    rule = f"by {case.rule}" if case.rule else ""
    # Of a refusal the rule says enough; of a success one wants to know what was gained.
    detail = "" if case.verdict is Verdict.REFUSED else case.detail
    click.echo(f"    {which:<32} {verdict} {' '.join(part for part in (rule, detail) if part)}".rstrip())
