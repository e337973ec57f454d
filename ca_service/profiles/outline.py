"""What many drafts have in common: all that a steady rule can see of one.

Issuer and profile fix most of what a certificate says. Rules about that are *steady*: they get an outline and nothing
else, so what they find is a function of it, and may be remembered by it.
"""

from typing import Final, NamedTuple

from ca_service.profiles.model import CaRole, Content, IssuerInfo, Profile
from ca_service.profiles.view import (
    AIA,
    AKI,
    BC,
    CP,
    EKU,
    KU,
    SDA,
    CertificateView,
    ExtensionValue,
    ExtensionView,
)
from vtpm.wire.templates import Role

STEADY: Final = frozenset({AKI, KU, BC, EKU, SDA, CP, AIA})
"""Extensions that are the same in many certificates; the others are new in nearly every one."""


class Outline(NamedTuple):
    """The part of a draft, or of a certificate, that is seldom new.

    Attributes:
        profile: of the certificate.
        issuer: who signs; None for a root, and where it does not matter.
        content: which kind of content the draft has, and of which role; None where it does not matter.
        version: of the certificate, from 1.
        signature_algorithm: DER of the AlgorithmIdentifier.
        key_kind: `key_kind` of the certified key.
        present: id and criticality of all extensions, in their order.
        extensions: those that are `STEADY`.
    """

    profile: Profile
    issuer: IssuerInfo | None
    content: tuple[type[Content], Role | CaRole | None] | None
    version: int
    signature_algorithm: bytes
    key_kind: str
    present: tuple[tuple[str, bool], ...]
    extensions: tuple[ExtensionView, ...]

    def __hash__(self) -> int:
        """By what is hashed fast and tells most outlines apart; equality is about all of it."""
        return hash((self.profile, self.key_kind))

    @property
    def critical(self) -> frozenset[str]:
        """Ids of the critical extensions."""
        return frozenset(dotted for dotted, critical in self.present if critical)

    def value(self, dotted: str) -> ExtensionValue | None:
        """The value of a steady extension, None if it is not there; of several of one id it is the first one's.

        Raises:
            LookupError: an outline does not show this extension.
        """
        if dotted not in STEADY:
            raise LookupError(f"{dotted} stands in no outline")
        return next((extension.value for extension in self.extensions if extension.id == dotted), None)


def outline(
    profile: Profile,
    view: CertificateView,
    key_kind: str,
    issuer: IssuerInfo | None = None,
    content: tuple[type[Content], Role | CaRole | None] | None = None,
) -> Outline:
    """The outline of a view; arguments as the attributes of `Outline`."""
    return Outline(
        profile=profile,
        issuer=issuer,
        content=content,
        version=view.version,
        signature_algorithm=view.signature_algorithm,
        key_kind=key_kind,
        present=tuple([extension[:2] for extension in view.extensions]),
        extensions=tuple([extension for extension in view.extensions if extension.id in STEADY]),
    )
