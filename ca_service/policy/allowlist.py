"""A policy ready to judge by: the document's entries as immutable values, behind indexes."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeVar, cast

from ca_service.judgment import BadRequest
from ca_service.policy.document import tables
from ca_service.policy.document.approval import Operators
from ca_service.policy.document.tables import IakProfile
from ca_service.policy.entries.brokers import KbsEntry
from ca_service.policy.entries.ephemeral import EphemeralReader, EphemeralTerms
from ca_service.policy.entries.expectations import Expectation, ExpectationReader
from ca_service.policy.entries.launches import LaunchIndex, PlatformEntry
from ca_service.policy.entries.terms import LimitTerms, certificate_days
from ca_service.policy.judging.unsafe import given_up
from ca_service.policy.reading.brokers import BrokerReader
from ca_service.policy.reading.garbage import uncollected
from ca_service.policy.reading.launches import LaunchReader, PlatformReader
from ca_service.policy.reading.questions import Contradiction, Unstated
from ca_service.policy.reading.reader import Reader, TemplateReader
from ca_service.policy.reading.warnings import (
    broker_warnings,
    ephemeral_warnings,
    launch_warnings,
    platform_warnings,
    tpm_warnings,
)
from vtpm.wire.encoding import canonical
from vtpm.wire.templates import Role

T = TypeVar("T")

ANY_KBS: Final = "UnsafeAllowAnyKbs"
_MOST_NAMED = 20
"""Open questions that an error names; who has more than a screen of them does not read the rest."""


@dataclass(frozen=True)
class Policy:
    """A policy document, read and indexed.

    Attributes:
        text: the document as it was given.
        digest: SHA-256 over the canonical JSON (RFC 8785) of its content, in hex; comments and layout do not count.
        grant_max_age: in seconds; None if the document does not say, which denies.
        kbs: the KBS entries by thumbprint of each of their keys.
        launches: the launch entries, by what a report says of itself.
        platforms: what is demanded of processor and firmware, by name.
        templates: allowed template ids by role.
        store_formats: allowed store formats.
        iak_profile: certificate profile of IAKs: "iak", or "iak-webauthn" for WebAuthn verifiers such as step-ca.
        ephemeral: what is admitted for an ephemeral certificate, and how long that holds.
        unsafe: names of the permissive entries, and in the operator's words what each gives up.
        approval: how many operators it takes to widen the policy; None if the document does not say.
        tests: what the document must say of recorded evidence; they have no part in judging anything else.
        certificate_days: for how many days certificates hold at most, by role; a role that is missing has no limit but
            the CA's own.
        limits: how often enrolment may be asked for.
        unstated: constraints that the document neither states nor gives up.
        contradictions: what it says and cannot mean.
    """

    text: str = field(repr=False)
    digest: str
    grant_max_age: int | None
    kbs: Mapping[str, KbsEntry] = field(repr=False)
    launches: LaunchIndex = field(repr=False)
    platforms: Mapping[str, PlatformEntry] = field(repr=False)
    templates: Mapping[Role, frozenset[str]]
    store_formats: frozenset[str]
    unsafe: Mapping[str, str]
    unstated: tuple[Unstated, ...] = field(default=(), repr=False)
    iak_profile: IakProfile = "iak"
    ephemeral: EphemeralTerms = field(default_factory=EphemeralTerms)
    tests: tuple[Expectation, ...] = field(default=(), repr=False)
    approval: Operators | None = None
    certificate_days: Mapping[Role, int] = field(default_factory=dict)
    limits: LimitTerms = field(default_factory=LimitTerms)
    contradictions: tuple[Contradiction, ...] = field(default=(), repr=False)
    _made: dict[tuple[str, str], object] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, kind: str, mode: str, make: Callable[[], T]) -> T:
        """What is made of this policy for a mode of the CA: made once, and given to whoever asks again."""
        made = self._made.get((kind, mode))
        if made is None:
            made = self._made[kind, mode] = make()
        return cast("T", made)

    def brokers(self) -> list[KbsEntry]:
        """All key brokers, in the document's order."""
        return list({entry.id: entry for entry in self.kbs.values()}.values())

    def warnings(self, at: datetime | None = None) -> list[str]:
        """What is legal here and still wants a second look, one sentence each.

        Args:
            at: now, aware; None leaves out what depends on it.
        """
        return [
            *broker_warnings(self.brokers(), at),
            *launch_warnings(self.launches.entries()),
            *platform_warnings(self.platforms.values()),
            *ephemeral_warnings(self.ephemeral),
            *tpm_warnings(self.iak_profile, self.templates),
        ]


@uncollected()
def load(text: str) -> Policy:
    """Read and index a policy document.

    Whether a CA may put it in force is another question: a production CA takes none with `Policy.unsafe` entries, and
    none takes one with something `Policy.unstated` or with `Policy.contradictions` (see `load_complete`). A document
    that an earlier release took still loads, and judges as it did.

    Raises:
        BadRequest: the document is no TOML (line and column, see `syntax.parse`), or says what cannot be meant: unknown
            members, empty lists, keys, measurements or names listed twice, overlapping patterns, a constraint that is
            both stated and given up, floors that contradict each other (path and entry).
    """
    table, content = tables.read(text)
    platforms, launches, brokers = PlatformReader(content), LaunchReader(content), BrokerReader(content)
    by_name = platforms.read(table.platform)
    index = launches.read(table.launch, by_name)
    reader = Reader(content)
    reader.unique((entry.name for entry in table.unsafe), "unsafe", member="name")
    unsafe: dict[str, str] = {entry.name: entry.gives_up for entry in table.unsafe}
    by_key = brokers.read(table.kbs)
    out = given_up(unsafe)
    return Policy(
        text=text,
        digest=hashlib.sha256(canonical(tables.plain(content))).hexdigest(),
        grant_max_age=None if table.grant is None else table.grant.max_age_s,
        kbs=by_key,
        launches=index,
        platforms=by_name,
        templates=TemplateReader(content).read(table.tpm),
        store_formats=frozenset()
        if table.store is None
        else reader.unique(table.store.formats, "store", "formats"),
        unsafe=unsafe,
        iak_profile="iak" if table.tpm is None else table.tpm.iak_profile,
        ephemeral=EphemeralReader(content).read(table.ephemeral),
        tests=ExpectationReader(content).read(table.test),
        approval=None if table.approval is None else table.approval.widening,
        certificate_days=certificate_days(table.certificates),
        limits=LimitTerms.of(table.limits),
        unstated=tuple(
            question
            for question in (*launches.unstated, *platforms.unstated, *brokers.unstated)
            if question.rule not in out
        ),
        contradictions=(*launches.contradictions, *platforms.contradictions, *brokers.contradictions),
    )


def load_complete(text: str) -> Policy:
    """Read a policy document that is to be put in force; raises BadRequest as `load` and `require_complete` do."""
    policy = load(text)
    require_complete(policy)
    return policy


def require_complete(policy: Policy) -> None:
    """See that a policy may be put in force: it leaves no constraint open, and can be meant.

    Raises:
        BadRequest: the document has `Policy.contradictions` (path and entry). Code ``policy-unstated``:
            a constraint is neither stated nor named in `unconstrained`. `detail` has the first and how many more there
            are, `remedy` these (one a line, up to 20 with the first): each with its path, what is missing and its
            entry.
    """
    if policy.contradictions:
        wrong, *further = policy.contradictions
        raise BadRequest(wrong.path, wrong.detail + _and_more(further, "problem"), code="policy-invalid")
    if policy.unstated:
        first, *more = policy.unstated
        detail = f"{first.missing}{first.entry}{_and_more(more, 'open question')}"
        raise BadRequest(first.path, detail, code="policy-unstated", remedy=_remedy(more))


def require_safe(policy: Policy, mode: str) -> None:
    """See that a CA of this mode may put a policy in force.

    Raises:
        BadRequest: it gives up rules, which a production CA never does (code ``policy-unsafe``).
    """
    if mode == "production" and policy.unsafe:
        raise BadRequest(
            "unsafe",
            "a production CA takes no policy with Unsafe... entries",
            code="policy-unsafe",
            remedy="Remove the entries, or try them on a simulation CA.",
        )


def _and_more(left: Sequence[object], what: str) -> str:
    if not left:
        return ""
    return f", and {len(left)} more {what}" + ("s" if len(left) > 1 else "")


def _remedy(questions: Sequence[Unstated]) -> str:
    """The further open questions, one a line, and where to read about them."""
    lines = [f"{open_.path}: {open_.missing}{open_.entry}" for open_ in questions[: _MOST_NAMED - 1]]
    if left := len(questions) - len(lines):
        lines.append(f"and {left} more")
    return "\n".join(
        [*lines, "Whether a constraint does not matter is for the policy to say; see policies/README.md."]
    )


def kbs_for(policy: Policy, thumbprint: str) -> KbsEntry | None:
    """The KBS that a key belongs to; None if the policy lists no such key.

    Under a policy that admits any KBS on purpose, a key that nobody listed is a KBS of its own: instances need a
    name, and this one can never be that of a listed KBS.
    """
    listed = policy.kbs.get(thumbprint)
    if listed is None and ANY_KBS in policy.unsafe:
        return KbsEntry(
            id=f"unlisted:{thumbprint}",
            status="unlisted",
            compromised_since=None,
            origins=frozenset(),
            release_policies=None,
            valid_from=None,
            valid_to=None,
            thumbprints=(thumbprint,),
            resources={},
        )
    return listed
