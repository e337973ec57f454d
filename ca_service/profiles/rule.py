"""What a rule of the lint is, and what it looks at."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from ca_service.judgment import Finding, failed, passed
from ca_service.profiles import structures
from ca_service.profiles.contract_subject import ContractSubject
from ca_service.profiles.model import (
    Content,
    DevidContent,
    Draft,
    EkContent,
    IssuerInfo,
    OcspContent,
    Profile,
    Provenance,
)
from ca_service.profiles.outline import Outline, outline
from ca_service.profiles.reader_cryptography import read_key
from ca_service.profiles.sizes import signed_size
from ca_service.profiles.view import CertificateView
from vtpm.wire.frozen import frozen
from vtpm.wire.lazy import cached_property

ALL: tuple[Profile, ...] = ("ek", "iak", "iak-webauthn", "idevid", "ocsp", "root-ca", "issuing-ca")
DEVICES: tuple[Profile, ...] = ("ek", "iak", "iak-webauthn", "idevid")
IDENTITIES: tuple[Profile, ...] = ("iak", "iak-webauthn", "idevid")
NAMED: tuple[Profile, ...] = ("iak", "idevid")
"""Identities that have a subject."""
CAS: tuple[Profile, ...] = ("root-ca", "issuing-ca")
REVOCABLE: tuple[Profile, ...] = ("ek", "iak", "iak-webauthn", "idevid", "issuing-ca")
"""What names its issuer's certificate and revocation list."""
ISSUED: tuple[Profile, ...] = (*REVOCABLE, "ocsp")

PRINTABLE = re.compile(r"[\x20-\x7e]+\Z")
"""Printable ASCII, at least one character."""


@frozen
class LintSubject(ContractSubject):
    """What a rule looks at: what consumers get to see, the draft itself, and its issuer (None for the root)."""

    draft: Draft
    issuer: IssuerInfo | None

    @classmethod
    def of(cls, draft: Draft, view: CertificateView, issuer: IssuerInfo | None) -> Self:
        """The subject of a draft, and of the view of its bytes."""
        return cls(draft.profile, view, signed_size(draft.tbs), draft, issuer)

    @cached_property
    def content(self) -> Content:
        """What the certificate shall say."""
        return self.draft.content

    @cached_property
    def origin(self) -> Provenance | None:
        """What vouched for the certified key; None if it is no device's."""
        content = self.content
        return content.provenance if isinstance(content, EkContent | DevidContent) else None

    @cached_property
    def certified(self) -> PublicKeyTypes:
        """The certified key, as it stands in the bytes."""
        return read_key(self.view.spki)[0]

    @cached_property
    def key_bits(self) -> bytes:
        """That key's bits: the point of an elliptic curve, the RSAPublicKey of RSA (RFC 5480, RFC 8017)."""
        return structures.decode(structures.PublicKeyInfo, self.view.spki).key.as_bytes()

    @cached_property
    def outline(self) -> Outline:
        """What steady rules get to see of it."""
        content = self.content
        kind = type(content), None if isinstance(content, EkContent | OcspContent) else content.role
        return outline(self.profile, self.view, self.key, self.issuer, kind)


@dataclass(frozen=True)
class Rule:
    """One rule. `problem` says what is wrong, or nothing (None)."""

    id: str
    profiles: frozenset[Profile]
    problem: "Problem"

    def judge(self, subject: LintSubject) -> Finding:
        """Look at the subject."""
        wrong = self.problem(subject)
        return passed(self) if wrong is None else failed(self, wrong)


@dataclass(frozen=True)
class SteadyRule:
    """A rule that an outline is enough for."""

    id: str
    profiles: frozenset[Profile]
    problem: "SteadyProblem"

    def judge(self, subject: LintSubject) -> Finding:
        """Look at the subject's outline."""
        wrong = self.problem(subject.outline)
        return passed(self) if wrong is None else failed(self, wrong)


Problem = Callable[[LintSubject], str | None]
SteadyProblem = Callable[[Outline], str | None]
AnyRule = Rule | SteadyRule


class RuleBook:
    """The rules of one module, in the order in which they stand there."""

    def __init__(self) -> None:
        self._rules: list[AnyRule] = []

    def __iter__(self) -> Iterator[AnyRule]:
        return iter(self._rules)

    def rule(self, name: str, *profiles: Profile) -> Callable[[Problem], Problem]:
        """Make a function the rule ``lint.<name>`` of these profiles, of all if none is named."""

        def register(problem: Problem) -> Problem:
            self._rules.append(Rule(f"lint.{name}", frozenset(profiles or ALL), problem))
            return problem

        return register

    def steady_rule(self, name: str, *profiles: Profile) -> Callable[["SteadyProblem"], "SteadyProblem"]:
        """As `rule`, for a function that an outline is enough for."""

        def register(problem: SteadyProblem) -> SteadyProblem:
            self._rules.append(SteadyRule(f"lint.{name}", frozenset(profiles or ALL), problem))
            return problem

        return register


def differs(what: str, wanted: object, found: object) -> str | None:
    """What is wrong if two values are not equal; bytes are shown in hex."""
    return None if wanted == found else f"{what} is {_shown(found)}, must be {_shown(wanted)}"


def _shown(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, frozenset):
        return " ".join(sorted(value)) or "empty"
    return "absent" if value is None else str(value)
