"""A certificate as plain values: what both readers of the lint must agree on.

Nothing here knows a parsing library; `reader_cryptography` and `reader_asn1crypto` fill these in, sharing no
code.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple

from ca_service.profiles import oids
from vtpm.wire.frozen import frozen
from vtpm.wire.lazy import cached_property

AKI, SKI, KU, BC = "2.5.29.35", "2.5.29.14", "2.5.29.15", "2.5.29.19"
SAN, EKU, SDA, CP = "2.5.29.17", "2.5.29.37", "2.5.29.9", "2.5.29.32"
CDP, AIA, PROVENANCE = "2.5.29.31", "1.3.6.1.5.5.7.1.1", oids.PROVENANCE.dotted_string
NO_CHECK = "1.3.6.1.5.5.7.48.1.5"
"""Ids of the extensions that the profiles have."""
_FORMER_PROVENANCE = oids.FORMER_PROVENANCE.dotted_string

Attribute = tuple[str, str]
"""Dotted attribute type and its text."""


@frozen
class NameView:
    """A distinguished name: its DER, and per RDN the attributes."""

    der: bytes
    rdns: tuple[tuple[Attribute, ...], ...]


@frozen
class HardwareModuleView:
    """otherName HardwareModuleName."""

    hw_type: str
    hw_serial_num: bytes


@frozen
class PermanentIdentifierView:
    """otherName PermanentIdentifier."""

    identifier_value: str
    assigner: str


@dataclass(frozen=True)
class OtherNameView:
    """Any other otherName, or another kind of general name, under its type."""

    kind: str
    der: bytes


GeneralNameView = NameView | HardwareModuleView | PermanentIdentifierView | OtherNameView


@frozen
class SpecificationView:
    """The one attribute of subjectDirectoryAttributes."""

    attribute: str
    family: str
    level: int
    revision: int


@frozen
class ProvenanceView:
    """The provenance extension; version 2 has neither thumbprint nor resource, version 3 no resource and decision."""

    version: int
    evidence_profile: str
    kbs_thumbprint: bytes | None
    resource: str | None
    measurement: bytes
    policy_digest: bytes
    decision_id: str | None


@dataclass(frozen=True)
class BasicConstraintsView:
    """basicConstraints."""

    ca: bool
    path_length: int | None


@dataclass(frozen=True)
class AuthorityKeyView:
    """authorityKeyIdentifier."""

    key_id: bytes | None
    names_issuer: bool


@dataclass(frozen=True)
class AccessView:
    """authorityInfoAccess: pairs of dotted method and URI."""

    entries: tuple[tuple[str, str], ...]


@frozen
class DistributionView:
    """cRLDistributionPoints: URIs, and whether there is anything but full names."""

    urls: tuple[str, ...]
    plain: bool


@dataclass(frozen=True)
class PoliciesView:
    """certificatePolicies: dotted ids, and whether one has qualifiers."""

    policies: tuple[str, ...]
    qualified: bool


ExtensionValue = (
    BasicConstraintsView
    | AuthorityKeyView
    | AccessView
    | DistributionView
    | PoliciesView
    | SpecificationView
    | ProvenanceView
    | frozenset[str]
    | tuple[str, ...]
    | tuple[GeneralNameView, ...]
    | bytes
)
"""keyUsage is a frozenset of bit names, extendedKeyUsage a tuple of ids, subjectAltName a tuple of names, and
subjectKeyIdentifier and what is unknown are bytes."""


class ExtensionView(NamedTuple):
    """One extension: its dotted id, criticality, the DER inside the OCTET STRING, and what that means."""

    id: str
    critical: bool
    der: bytes
    value: ExtensionValue


@frozen
class CertificateView:
    """All that is in a certificate but its signature; `version` counts from 1."""

    version: int
    serial: int
    signature_algorithm: bytes
    issuer: NameView
    not_before: datetime
    not_after: datetime
    subject: NameView
    spki: bytes
    extensions: tuple[ExtensionView, ...]

    def extension(self, dotted: str) -> ExtensionView | None:
        """The extension of that id, if it is there."""
        return self.by_id.get(dotted)

    def of_today(self) -> "CertificateView":
        """The view of a certificate of an earlier release as today's would be: the provenance under its present id.

        For those who judge what was issued. What is about to be issued must have the present one itself.
        """
        if self.extension(_FORMER_PROVENANCE) is None or self.extension(PROVENANCE) is not None:
            return self
        renamed = [e._replace(id=PROVENANCE) if e.id == _FORMER_PROVENANCE else e for e in self.extensions]
        return replace(self, extensions=tuple(renamed))

    @cached_property
    def by_id(self) -> Mapping[str, ExtensionView]:
        """The extensions by their id; of several of one id the first."""
        return {e.id: e for e in reversed(self.extensions)}
