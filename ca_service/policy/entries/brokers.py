"""Key broker services of a policy as immutable values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from ca_service.policy.entries.resources import Pattern, lookup
from vtpm.wire.jwk import EcJwk


@dataclass(frozen=True)
class EarDemand:
    """An attestation token (EAR) that must come with the grants of a KBS.

    Attributes:
        keys: any of them may have signed it; on P-256.
        max_age_s: how old it may be, in seconds.
    """

    keys: tuple[EcJwk, ...]
    max_age_s: int


@dataclass(frozen=True)
class KbsEntry:
    """A key broker service on the allow-list.

    Attributes:
        id: stays when the keys change; part of what an instance is called.
        status: "trusted", "suspended" or "compromised".
        compromised_since: from when on its key was not its own.
        origins: where secrets may come from: "kbs-generated", "provisioned".
        release_policies: digests of the release policies that a grant may name; None: any.
        valid_from: first moment at which the entry counts; None: always has.
        valid_to: first moment at which it no longer counts; None: for good.
        thumbprints: RFC 7638 thumbprints of its keys.
        resources: what it may release, and whether that is shared; patterns do not overlap.
        ear: the attestation token that is asked for besides; None: none is.
        label: for people.
        pair: name of the pair of issuing CAs that signs for its TPMs; empty for the default one.
        tenant: whose keys it holds, for listings; empty if the document does not say.
        grant_max_age: greatest age of its grants in seconds, instead of the document's general one; None: that one.
        unconstrained: names of the constraints that the document gives up in so many words.
    """

    id: str
    status: str
    compromised_since: datetime | None
    origins: frozenset[str]
    release_policies: frozenset[str] | None
    valid_from: datetime | None
    valid_to: datetime | None
    thumbprints: tuple[str, ...]
    resources: Mapping[Pattern, bool] = field(repr=False)
    ear: EarDemand | None = None
    label: str = ""
    pair: str = ""
    tenant: str = ""
    grant_max_age: int | None = None
    unconstrained: frozenset[str] = frozenset()

    def allows(self, resource: str) -> bool:
        """Whether `resource` falls under one of the patterns."""
        return lookup(self.resources, resource) is not None

    def shares(self, resource: str) -> bool:
        """Whether several instances may live under `resource`, told apart by their volumes' salts."""
        return lookup(self.resources, resource) is True
