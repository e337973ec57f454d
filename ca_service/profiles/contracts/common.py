"""What the contracts of several consumers share: profiles, TCG ids, and the X.509 library of the Go language.

SPIRE, step-ca and go-attestation are Go programs. They read certificates by `x509.ParseCertificate` and build chains
by `Certificate.Verify`, so that what these refuse all three refuse (golang/go, src/crypto/x509: `parser.go` with
`processExtensions`, `verify.go` with `isValid`, `x509.go` with `checkSignature`).
"""

from typing import Final

from ca_service.profiles import structures
from ca_service.profiles.model import Profile
from ca_service.profiles.outline import Outline
from ca_service.profiles.rule import differs
from ca_service.profiles.view import AIA, AKI, BC, CDP, CP, EKU, KU, SKI, NameView, PoliciesView

EKS: Final[tuple[Profile, ...]] = ("ek",)
IAKS: Final[tuple[Profile, ...]] = ("iak", "iak-webauthn")
WEBAUTHN: Final[tuple[Profile, ...]] = ("iak-webauthn",)
IDEVIDS: Final[tuple[Profile, ...]] = ("idevid",)
NAMED: Final[tuple[Profile, ...]] = ("iak", "idevid")
IDENTITIES: Final[tuple[Profile, ...]] = (*IAKS, "idevid")
DEVICES: Final[tuple[Profile, ...]] = ("ek", *IDENTITIES)

TPM_NAME: Final = ("2.23.133.2.1", "2.23.133.2.2", "2.23.133.2.3")
"""Attributes of a TPM's name: manufacturer, model, version."""
TPM_20: Final = "2.23.133.1.2"
"""hwType of a TPM 2.0."""
X509_V3: Final = 3

_GO_VERIFIES = frozenset({KU, BC, EKU, CP, CDP})
"""Extensions that `processExtensions` handles, if they are critical. A subjectAltName is among them only if it has a
DNS name, an address or a URI: certificates of TPMs have none."""
_GO_LARGEST_ARC = 2**31 - 1
_GO_NEVER_CRITICAL = frozenset({AKI, SKI, AIA})


def unread_by_go(s: Outline) -> str | None:
    """What `parseCertificate` refuses in a certificate of the forms that can be seen here.

    An extension or a policy that is there twice; an extension's id with an arc of more than 31 bits (`parseExtension`);
    a critical authorityKeyIdentifier, subjectKeyIdentifier or authorityInfoAccess; a key on a curve that it does not
    know. Keys of other algorithms it reads as none, for the
    programs to refuse; of kinds that this CA does not certify none is let through here.
    """
    wrong = sorted(s.critical & _GO_NEVER_CRITICAL)
    if wrong:
        return f"cannot read a critical {' '.join(wrong)}"
    if len(dict(s.present)) != len(s.present):
        return "cannot read an extension that is there twice"
    large = [name for name, _ in s.present if any(int(arc) > _GO_LARGEST_ARC for arc in name.split("."))]
    if large:
        return f"cannot read an extension's id with so large an arc: {' '.join(large)}"
    value = s.value(CP)
    policies = value.policies if isinstance(value, PoliciesView) else ()
    if len(set(policies)) != len(policies):
        return "cannot read a policy that is there twice"
    return None if s.key_kind else "cannot read a key of this kind"


def unverified_by_go(s: Outline, *tolerated: str) -> str | None:
    """What `isValid` refuses: a critical extension that was not handled. Callers may strike some off that list."""
    unknown = sorted(s.critical - _GO_VERIFIES - set(tolerated))
    return f"does not know the critical {' '.join(unknown)}" if unknown else None


def signature_unknown_to_go(s: Outline) -> str | None:
    """What `checkSignature` refuses: anything but RSA, ECDSA and Ed25519 with SHA-2.

    This CA signs by ECDSA with SHA-384 alone, so no other algorithm is let through here.
    """
    return differs("the signature algorithm", structures.ECDSA_WITH_SHA384, s.signature_algorithm)


def attributes(name: NameView) -> dict[str, str]:
    """The text of each attribute of a name; of several of one type the last."""
    return {kind: text for rdn in name.rdns for kind, text in rdn}
