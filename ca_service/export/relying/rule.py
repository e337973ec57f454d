"""Which provenance a relying party accepts: what vouched for a TPM stands in its certificates."""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from ca_service.judgment import BadRequest
from ca_service.profiles.view import ProvenanceView

_ANY: Final = "*"
_PART: Final = r"(?:[A-Za-z0-9_-][A-Za-z0-9_.-]*|\*)"
"""Of a resource, as `vtpm.wire.grant.check_resource` has it, or of a pattern."""
_FORMS: Final = {
    "kbs_keys": (
        r"[A-Za-z0-9_-]{43}",
        "RFC 7638 thumbprints of key brokers' keys: 43 characters of base64url",
    ),
    "measurements": (r"[0-9a-f]{96}", "launch measurements: 96 lower-case hex digits"),
    "resources": (
        rf"{_PART}(?:/{_PART}){{2}}",
        "resources of key brokers in three parts, each a name or * for any",
    ),
    "policies": (r"[0-9a-f]{64}", "digests of the CA's policy versions: 64 lower-case hex digits"),
    "profiles": (r"[a-z0-9][a-z0-9.:-]{0,63}", "evidence profiles such as svsm-vtpm-ca:1"),
}
MEMBERS: Final = tuple(_FORMS)
"""Members of the rule, here and in TOML."""


@dataclass(frozen=True)
class ProvenanceRule:
    """What the provenance extension must say. None lets anything pass, an empty set nothing.

    Attributes:
        kbs_keys: RFC 7638 SHA-256 thumbprints, base64url, of the key brokers' keys that sign grants.
        measurements: launch measurements of SVSMs, 96 lower-case hex digits.
        resources: resources of the key broker, three parts, each a name or ``*`` for any one name.
        policies: digests of the CA's policy versions, 64 lower-case hex digits.
        profiles: evidence profiles.
    """

    kbs_keys: frozenset[str] | None = None
    measurements: frozenset[str] | None = None
    resources: frozenset[str] | None = None
    policies: frozenset[str] | None = None
    profiles: frozenset[str] | None = None

    @classmethod
    def from_table(cls, table: Mapping[str, object], path: str = "provenance") -> Self:
        """The rule as it stands in a TOML table.

        Raises:
            BadRequest: a member is unknown, no list of strings, empty, or has an entry of another form; the path names
                it.
        """
        members: dict[str, frozenset[str]] = {}
        for name, value in table.items():
            if name not in _FORMS:
                raise BadRequest(f"{path}.{name}", "is no member", remedy=f"There are {', '.join(MEMBERS)}.")
            members[name] = _entries(f"{path}.{name}", value, *_FORMS[name])
        return cls(**members)

    def problem(self, found: ProvenanceView) -> str | None:
        """Why a provenance is not accepted, in one sentence; None if it is."""
        thumbprint = None
        if found.kbs_thumbprint is not None:
            thumbprint = base64.urlsafe_b64encode(found.kbs_thumbprint).rstrip(b"=").decode("ascii")
        stated = (
            ("key broker's key", thumbprint, self.kbs_keys),
            ("launch measurement", found.measurement.hex(), self.measurements),
            ("policy version", found.policy_digest.hex(), self.policies),
            ("evidence profile", found.evidence_profile, self.profiles),
        )
        for what, value, allowed in stated:
            if allowed is None:
                continue
            if value is None:
                return f"the provenance states no {what}, and the rule demands one"
            if value not in allowed:
                return f"the {what} {value} is not allowed by the rule"
        if self.resources is None:
            return None
        if found.resource is None:
            return "the provenance states no resource, and the rule demands one"
        if not any(_falls_under(found.resource, pattern) for pattern in self.resources):
            return f"the resource {found.resource} is not allowed by the rule"
        return None


def _falls_under(resource: str, pattern: str) -> bool:
    """As patterns of the CA's policy mean it."""
    parts, wanted = resource.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(w in (_ANY, p) for p, w in zip(parts, wanted, strict=True))


def _entries(path: str, value: object, form: str, meaning: str) -> frozenset[str]:
    if not isinstance(value, list) or not value:
        raise BadRequest(
            path, "must be a list that is not empty", remedy=f"It holds {meaning}. Leave it out for any."
        )
    for i, entry in enumerate(value):
        if not isinstance(entry, str) or re.fullmatch(form, entry) is None:
            raise BadRequest(f"{path}[{i}]", f"is not of the right form; the list holds {meaning}")
    return frozenset(value)
