"""What go-attestation demands of an EK certificate.

Read in google/go-attestation: `ToEKCertificate` of ``x509/ekcert.go``, which follows TCG EK Credential Profile 2.6,
section 3.2, and `ParseSubjectAltName` of ``x509/x509ext.go``. It builds no chain: it prepares the certificate for a
caller who does, by striking subjectAltName off the critical extensions left unhandled.
"""

from typing import Final

from ca_service.profiles.contract import ContractBook
from ca_service.profiles.contract_subject import ContractSubject
from ca_service.profiles.contracts.common import (
    EKS,
    TPM_NAME,
    X509_V3,
    attributes,
    unread_by_go,
    unverified_by_go,
)
from ca_service.profiles.outline import Outline
from ca_service.profiles.rule import differs
from ca_service.profiles.view import (
    AIA,
    AKI,
    BC,
    CDP,
    CP,
    EKU,
    KU,
    SAN,
    SDA,
    SKI,
    AuthorityKeyView,
    BasicConstraintsView,
    NameView,
    PermanentIdentifierView,
    PoliciesView,
    SpecificationView,
)

GO_ATTESTATION: Final = ContractBook("go-attestation")

_TPM_SPECIFICATION = "2.23.133.2.16"


@GO_ATTESTATION.steady_rule("readable", *EKS, required=EKS)
def _readable(s: Outline) -> str | None:
    """`ParseEKCertificate`, and the start of `ToEKCertificate`: Go must read it, and its key."""
    return unread_by_go(s)


@GO_ATTESTATION.steady_rule("critical", *EKS, required=EKS)
def _critical(s: Outline) -> str | None:
    """The end of `ToEKCertificate`: critical extensions other than subjectAltName stay unhandled for the caller."""
    return unverified_by_go(s, SAN)


@GO_ATTESTATION.steady_rule("version", *EKS, required=EKS)
def _version(s: Outline) -> str | None:
    """`ToEKCertificate`."""
    return differs("the version", X509_V3, s.version)


@GO_ATTESTATION.rule("serial", *EKS, required=EKS)
def _serial(s: ContractSubject) -> str | None:
    """`validateSerialNumber`."""
    return None if s.view.serial > 0 else "wants a positive serial number"


@GO_ATTESTATION.rule("issuer", *EKS, required=EKS)
def _issuer(s: ContractSubject) -> str | None:
    """`ToEKCertificate`: the issuer is not the empty name."""
    return None if s.view.issuer.rdns else "wants an issuer"


@GO_ATTESTATION.steady_rule("basic-constraints", *EKS, required=EKS)
def _basic_constraints(s: Outline) -> str | None:
    """`ToEKCertificate`: there, critical, and of no CA."""
    constraints = s.value(BC)
    if not isinstance(constraints, BasicConstraintsView) or constraints.ca or BC not in s.critical:
        return "wants critical basicConstraints of no CA"
    return None


@GO_ATTESTATION.rule("tpm-name", *EKS, required=EKS)
def _tpm_name(s: ContractSubject) -> str | None:
    """`ParseSubjectAltName` and `parseName`: one directoryName; besides it nothing but permanentIdentifiers."""
    names = [name for name in s.names if isinstance(name, NameView)]
    if len(names) != 1:
        return "wants exactly one directoryName in the subjectAltName"
    if not all(isinstance(name, NameView | PermanentIdentifierView) for name in s.names):
        return "reads no other names in the subjectAltName than directoryName and permanentIdentifier"
    stated = attributes(names[0])
    if set(stated) != set(TPM_NAME) or not all(stated.values()):
        return "wants manufacturer, model and version of the TPM in that name, and nothing else"
    if not s.view.subject.rdns and SAN not in s.outline.critical:
        return "wants the subjectAltName critical if the subject is empty"
    return None


@GO_ATTESTATION.steady_rule("key-usage", *EKS, required=EKS)
def _key_usage(s: Outline) -> str | None:
    """`validateKeyUsage`: the bit that the kind of key needs; further ones do no harm."""
    usage = s.value(KU)
    wanted = "key_encipherment" if s.key_kind.startswith("RSA") else "key_agreement"
    if not isinstance(usage, frozenset) or wanted not in usage or KU not in s.critical:
        return f"wants a critical keyUsage with {wanted}"
    return None


@GO_ATTESTATION.steady_rule("authority-key-id", *EKS, required=EKS)
def _authority_key_id(s: Outline) -> str | None:
    """`ToEKCertificate`: there, with a key id."""
    value = s.value(AKI)
    if not isinstance(value, AuthorityKeyView) or not value.key_id:
        return "wants an authorityKeyIdentifier"
    return None


@GO_ATTESTATION.steady_rule("policies", *EKS, required=EKS)
def _policies(s: Outline) -> str | None:
    """`ToEKCertificate`: certificatePolicies may be absent, but not empty."""
    value = s.value(CP)
    return (
        "takes no empty certificatePolicies"
        if isinstance(value, PoliciesView) and not value.policies
        else None
    )


@GO_ATTESTATION.steady_rule("not-critical", *EKS, required=EKS)
def _not_critical(s: Outline) -> str | None:
    """`ToEKCertificate`, extension by extension."""
    wrong = sorted(s.critical & {AKI, AIA, CDP, EKU, SKI})
    return f"takes no critical {' '.join(wrong)}" if wrong else None


@GO_ATTESTATION.steady_rule("specification", *EKS, required=EKS)
def _specification(s: Outline) -> str | None:
    """`parseTPMSpecification`: subject directory attributes, if there are any, hold one TPM specification."""
    value = s.value(SDA)
    if value is None or (isinstance(value, SpecificationView) and value.attribute == _TPM_SPECIFICATION):
        return None
    return "wants TPMSpecification among the subject directory attributes"
