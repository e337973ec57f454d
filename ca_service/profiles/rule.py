"""What a rule of the lint is, and what it looks at."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from ca_service.judgment import Finding, failed, passed
from ca_service.profiles import oids
from ca_service.profiles.contract_subject import ContractSubject
from ca_service.profiles.model import Content, Draft, IssuerInfo, Profile
from ca_service.profiles.sizes import signed_size
from ca_service.profiles.view import CertificateView, ExtensionValue

AKI, SKI, KU, BC = "2.5.29.35", "2.5.29.14", "2.5.29.15", "2.5.29.19"
SAN, EKU, SDA, CP = "2.5.29.17", "2.5.29.37", "2.5.29.9", "2.5.29.32"
CDP, AIA, PROVENANCE = "2.5.29.31", "1.3.6.1.5.5.7.1.1", oids.PROVENANCE.dotted_string
CA_ISSUERS, OCSP = "1.3.6.1.5.5.7.48.2", "1.3.6.1.5.5.7.48.1"
NO_CHECK = "1.3.6.1.5.5.7.48.1.5"


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


@dataclass(frozen=True)
class LintSubject:
    """What a rule looks at: the draft, the view of its bytes, and its issuer (None for the root)."""

    draft: Draft
    view: CertificateView
    issuer: IssuerInfo | None

    @property
    def content(self) -> Content:
        """What the certificate shall say."""
        return self.draft.content

    @cached_property
    def key(self) -> PublicKeyTypes:
        """The certified key, as it stands in the bytes."""
        return serialization.load_der_public_key(self.view.spki)

    @cached_property
    def consumers(self) -> ContractSubject:
        """What consumers get to see of it."""
        return ContractSubject(self.draft.profile, self.view, signed_size(self.draft.tbs))

    def value(self, dotted: str) -> ExtensionValue | None:
        """The value of an extension, None if it is not there."""
        extension = self.view.extension(dotted)
        return None if extension is None else extension.value


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


Problem = Callable[[LintSubject], str | None]


class RuleBook:
    """The rules of one module, in the order in which they stand there."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []

    def __iter__(self) -> Iterator[Rule]:
        return iter(self._rules)

    def rule(self, name: str, *profiles: Profile) -> Callable[[Problem], Problem]:
        """Make a function the rule ``lint.<name>`` of these profiles, of all if none is named."""

        def register(problem: Problem) -> Problem:
            self._rules.append(Rule(f"lint.{name}", frozenset(profiles or ALL), problem))
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
