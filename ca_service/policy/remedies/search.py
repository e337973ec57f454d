"""The search for the smallest change of a document that admits what it refused.

Each part of the policy (the launch, the key broker, each table) has its own ways to say yes, which do not depend on the
others'. They are tried from the smallest on, every one by reading the changed document and judging the decision anew;
what is not needed is taken out again. Nothing is believed of an edit but what the judge says of it.
"""

import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from ca_service.judgment import BadRequest, Finding, Trace, Verdict
from ca_service.policy.allowlist import Policy, load
from ca_service.policy.judging.checks import PROFILE_ADMITTED, rules_out
from ca_service.policy.judging.launch_rules import LAUNCH_DEMANDS
from ca_service.policy.judging.platform_rules import PLATFORM_DEMANDS
from ca_service.policy.judging.unsafe import CAPABILITIES
from ca_service.policy.remedies import writing
from ca_service.policy.remedies.brokers import broker_options, owners
from ca_service.policy.remedies.case import Case, Listed
from ca_service.policy.remedies.edits import Content, Edit, edited
from ca_service.policy.remedies.launches import launch_options, models
from ca_service.policy.remedies.options import Option, smallest_first
from ca_service.policy.remedies.tables import table_options

MOST_JUDGED: Final = 200
"""How often a decision is judged in one search."""

MOST_WHOLE: Final = 1024 * 1024
"""Longest document, in characters, on all of which a remedy is tried: reading a longer one takes seconds."""

_MOST_ALTERNATIVES: Final = 4
_OF_LAUNCH: Final = frozenset(
    {CAPABILITIES, *(demand.id for demand in LAUNCH_DEMANDS), *(demand.id for demand in PLATFORM_DEMANDS)}
)
_OF_TABLES: Final = frozenset(
    {"policy.mode", "grant.age", "store.persistent", "store.format", "tpm.template-allowed", PROFILE_ADMITTED}
)

_UNREADABLE: Final = "document"
"""Stands among the rules that refuse where there is no document to judge by; no rule is called so."""

Judged = Callable[[Policy], Trace]
"""Judges the decision anew under a policy."""


@dataclass(frozen=True)
class Remedy:
    """What a document would have had to say so that a decision had been another.

    Attributes:
        edits: the smallest set; none if no change of the document helps at all.
        alternatives: other sets with the same effect, for those who know more than the evidence tells.
        left: findings that refuse still, whatever the document says.
        whole: the document's content, without the edits.
        part: the same, as far as it matters to this decision.
        warnings: what the policy's own reading says about the later document and not about the earlier.
        judged: how often the decision was judged.
    """

    edits: tuple[Edit, ...]
    alternatives: tuple[tuple[Edit, ...], ...]
    left: tuple[Finding, ...]
    whole: Content = field(repr=False)
    part: Content = field(repr=False)
    warnings: tuple[str, ...] = ()
    judged: int = 0

    @property
    def admits(self) -> bool:
        """Whether the edits admit the decision."""
        return not self.left


def remedy(policy: Policy, case: Case, judged: Judged) -> Remedy:
    """The smallest change of a policy's document that admits a decision which that policy refused.

    Smallest: it makes the fewest rules ask for less, then it touches the fewest entries, then it is the narrowest.
    Where rules outside the policy refuse as well, it is the change after which only they do.

    Args:
        policy: that refused.
        case: the facts of the decision.
        judged: judges that decision under another policy, as it was judged then.

    Returns:
        Edits of which each is needed: without any one of them more rules refuse, or the document cannot be read. They
        have been tried on the document, up to `MOST_WHOLE` on all of it, and never add an ``Unsafe...`` entry.
    """
    whole = tomllib.loads(policy.text)
    return _Search(_relevant(policy, whole, case), case, judged).run(policy, whole)


def _relevant(policy: Policy, content: Content, case: Case) -> Content:
    """The document without the launches and key brokers that have no say in this decision, however many there are."""
    report = case.launch.report
    launches = {entry.name for entry in (*policy.launches.candidates(report), *models(policy, content))}
    known = policy.kbs.get(case.facts.kbs_thumbprint)
    named = [] if known is None else [known]
    if known is None:
        named = owners(policy.kbs.values(), case.facts.resource)
    brokers = {entry.id for entry in named}
    return {
        **content,
        "launch": [table for table in content.get("launch", ()) if table["name"] in launches],
        "kbs": [table for table in content.get("kbs", ()) if table["id"] in brokers],
    }


def _failing(trace: Trace) -> frozenset[str]:
    return frozenset(finding.rule for finding in trace.findings if finding.verdict is Verdict.FAILED)


class _Search:
    """One search, with what it has found out so far."""

    def __init__(self, content: Content, case: Case, judged: Judged) -> None:
        self._content = content
        self._case = case
        self._judge = judged
        self._judged = 0
        self._known: dict[tuple[Edit, ...], frozenset[str] | None] = {}
        self._all: frozenset[str] = frozenset()

    def run(self, policy: Policy, whole: Content) -> Remedy:
        self._all = _failing(self._trace(policy))
        part = load(writing.document(self._content))
        listed = Listed(part, self._content, whole, rules_out(policy, self._case.mode))
        chosen: list[tuple[Option, list[Option]]] = []
        if self._all & _OF_LAUNCH:
            chosen.append(self._best(launch_options(listed, self._case)))
        of_broker = frozenset(rule for rule in self._all if rule.startswith(("kbs.", "ear.")))
        if of_broker:
            chosen.append(self._best(broker_options(listed, self._case, of_broker, self._after)))
        of_tables = table_options(listed, self._case, self._all & _OF_TABLES)
        chosen.extend(self._best(options) for options in of_tables)
        edits = self._needed([edit for best, _ in chosen for edit in best.edits])
        return self._told(policy, whole, edits, self._others(edits, chosen))

    def _trace(self, policy: Policy) -> Trace:
        self._judged += 1
        return self._judge(policy)

    def _after(self, edits: Sequence[Edit]) -> frozenset[str]:
        """The rules that refuse after some edits; everything, if the document can then not be read."""
        key = tuple(edits)
        if key not in self._known:
            self._known[key] = self._try(key)
        found = self._known[key]
        return self._all | {_UNREADABLE} if found is None else found

    def _try(self, edits: tuple[Edit, ...]) -> frozenset[str] | None:
        if not edits:
            return self._all
        if self._judged >= MOST_JUDGED - 1:  # the last one is for the whole document
            return None
        try:
            policy = load(writing.document(edited(self._content, edits)))
        except (BadRequest, LookupError):
            return None
        return _failing(self._trace(policy))

    def _best(self, options: Iterable[Option]) -> tuple[Option, list[Option]]:
        """The smallest option of those after which the fewest rules refuse, and the others of them."""
        ranked = smallest_first(options)
        left = [len(self._after(option.edits)) for option in ranked]
        least = min(left, default=len(self._all))
        if least >= len(self._all):
            return Option("", ()), []
        good = [option for option, count in zip(ranked, left, strict=True) if count == least]
        return good[0], good[1:]

    def _needed(self, edits: list[Edit]) -> tuple[Edit, ...]:
        """The edits without those that can be left out; none if together they make no document."""
        refusing = self._after(edits)
        if _UNREADABLE in refusing:
            return ()
        for edit in list(edits):
            fewer = [other for other in edits if other is not edit]
            if self._after(fewer) <= refusing:
                edits = fewer
        return tuple(edits)

    def _others(
        self, edits: tuple[Edit, ...], chosen: list[tuple[Option, list[Option]]]
    ) -> tuple[tuple[Edit, ...], ...]:
        """The same set with another way in one part of the policy, as far as it comes to the same."""
        refusing = self._after(edits)
        others: list[tuple[Edit, ...]] = []
        for best, more in chosen:
            kept = [edit for edit in edits if edit not in best.edits]
            ways = {best.way}
            for option in more:
                if option.way in ways:
                    continue
                ways.add(option.way)
                other = self._needed([*kept, *option.edits])
                if self._after(other) == refusing and other not in (edits, *others):
                    others.append(other)
        return tuple(others[:_MOST_ALTERNATIVES])

    def _told(
        self,
        policy: Policy,
        whole: Content,
        edits: tuple[Edit, ...],
        others: tuple[tuple[Edit, ...], ...],
    ) -> Remedy:
        """The remedy, tried on the whole document, of which the search has seen a part only.

        A very long one is taken at its part: what is left out has no say in the decision.
        """
        content = whole if len(policy.text) <= MOST_WHOLE else self._content
        later = load(writing.document(edited(content, edits)))
        trace = self._trace(later)
        known = frozenset(policy.warnings())
        new = [warning for warning in later.warnings() if warning not in known]
        left = tuple(finding for finding in trace.findings if finding.verdict is Verdict.FAILED)
        return Remedy(edits, others, left, whole, self._content, tuple(new), self._judged)
