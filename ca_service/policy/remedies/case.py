"""What a remedy is looked for: the facts of one decision, and the policy that refused it."""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from ca_service.policy.allowlist import Policy
from ca_service.policy.judging.facts import LaunchFacts, PolicyFacts
from ca_service.policy.remedies.edits import Content


@dataclass(frozen=True)
class TokenFacts:
    """What is known of an attestation token (EAR).

    Attributes:
        key: the key that the token names as its signer's, JWK; nobody has compared it. None if it names none.
        age_s: time since it was issued, in seconds.
    """

    key: Mapping[str, str] | None
    age_s: int


@dataclass(frozen=True)
class Case:
    """The facts of a decision.

    Attributes:
        facts: what the allow-list was asked about.
        mode: of the CA.
        kbs_key: JWK of the key that verified the grant; None if the evidence has no grant.
        token: the attestation token; None if there is none that can be read.
    """

    facts: PolicyFacts
    mode: str
    kbs_key: Mapping[str, str] | None = field(default=None, repr=False)
    token: TokenFacts | None = None

    @property
    def launch(self) -> LaunchFacts:
        """What the report says."""
        return self.facts.launch

    @property
    def at(self) -> datetime:
        """The time of the decision."""
        return self.facts.at


@dataclass(frozen=True)
class Listed:
    """A policy and the content of its document, with what does not count because it was given up.

    Attributes:
        policy: the part of the policy that matters, read.
        content: the same as TOML gives it.
        whole: the content of the whole document.
        out: ids of rules that permissive entries give up.
    """

    policy: Policy
    content: Content
    whole: Content
    out: Container[str]
