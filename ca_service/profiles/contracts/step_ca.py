"""What step-ca demands of an attestation key's certificate: ACME `device-attest-01`, format `tpm`.

Read in smallstep/certificates (``acme/challenge.go``), smallstep/crypto (``x509util/extensions.go``) and
smallstep/go-attestation (``attest/certification.go``). What `validateAKCertificate` demands it takes from W3C WebAuthn
Level 2, section 8.3.1.
"""

from typing import Final

from ca_service.profiles.contract import ContractBook
from ca_service.profiles.contract_subject import ContractSubject
from ca_service.profiles.contracts.common import (
    IAKS,
    TPM_NAME,
    WEBAUTHN,
    X509_V3,
    attributes,
    signature_unknown_to_go,
    unread_by_go,
    unverified_by_go,
)
from ca_service.profiles.outline import Outline
from ca_service.profiles.rule import differs
from ca_service.profiles.view import (
    BC,
    EKU,
    SAN,
    BasicConstraintsView,
    HardwareModuleView,
    NameView,
    PermanentIdentifierView,
)

STEP_CA: Final = ContractBook("step-ca")

_AIK_PURPOSE = "2.23.133.8.3"


@STEP_CA.steady_rule("readable", *IAKS, required=WEBAUTHN)
def _readable(s: Outline) -> str | None:
    """`doTPMAttestationFormat`: Go must read the first certificate of `x5c`."""
    return unread_by_go(s)


@STEP_CA.steady_rule("signature", *IAKS, required=WEBAUTHN)
def _signature(s: Outline) -> str | None:
    """`doTPMAttestationFormat`: Go must verify it up to an attestation root, the issuing CA coming along in `x5c`."""
    return signature_unknown_to_go(s)


@STEP_CA.steady_rule("critical", *IAKS, required=WEBAUTHN)
def _critical(s: Outline) -> str | None:
    """`doTPMAttestationFormat` strikes subjectAltName, and nothing else, off the critical extensions left unhandled."""
    return unverified_by_go(s, SAN)


@STEP_CA.steady_rule("version", *IAKS, required=WEBAUTHN)
def _version(s: Outline) -> str | None:
    """`validateAKCertificate`."""
    return differs("the version", X509_V3, s.version)


@STEP_CA.rule("empty-subject", *IAKS, required=WEBAUTHN)
def _empty_subject(s: ContractSubject) -> str | None:
    """`validateAKCertificate`."""
    return "wants an empty subject" if s.view.subject.rdns else None


@STEP_CA.steady_rule("not-a-ca", *IAKS, required=WEBAUTHN)
def _not_a_ca(s: Outline) -> str | None:
    """`validateAKCertificate`: basicConstraints may be absent."""
    constraints = s.value(BC)
    return "takes no CA" if isinstance(constraints, BasicConstraintsView) and constraints.ca else None


@STEP_CA.steady_rule("aik-purpose-first", *IAKS, required=WEBAUTHN)
def _aik_purpose_first(s: Outline) -> str | None:
    """`validateAKCertificateExtendedKeyUsage`: it looks at the first purpose alone."""
    purposes = s.value(EKU)
    first = purposes[0] if isinstance(purposes, tuple) and purposes else None
    return differs("the first key purpose", _AIK_PURPOSE, first)


@STEP_CA.rule("tpm-name", *IAKS, required=WEBAUTHN)
def _tpm_name(s: ContractSubject) -> str | None:
    """`validateAKCertificateSubjectAlternativeNames`: all directoryNames together state the three attributes."""
    stated: dict[str, str] = {}
    for name in s.names:
        if isinstance(name, NameView):
            stated |= attributes(name)
    missing = [kind for kind in TPM_NAME if not stated.get(kind)]
    return f"wants {' '.join(missing)} in the subjectAltName" if missing else None


@STEP_CA.rule("hardware-module-name", *IAKS, required=WEBAUTHN)
def _hardware_module_name(s: ContractSubject) -> str | None:
    """`x509util.parseHardwareModuleName` wants hwSerialNum tagged [4]; RFC 4108, section 5, has a plain OCTET STRING.

    A HardwareModuleName as the RFC and the TCG have it makes the whole subjectAltName unreadable.
    """
    if any(isinstance(name, HardwareModuleView) for name in s.names):
        return "cannot read a HardwareModuleName as RFC 4108 has it"
    return None


@STEP_CA.rule("permanent-identifier", *IAKS, required=WEBAUTHN)
def _permanent_identifier(s: ContractSubject) -> str | None:
    """`deviceAttest01Validate` compares the order's identifier with the permanentIdentifiers, if there are any.

    It goes on without one, and a TPM could then order what is another's; so one is demanded here.
    """
    if any(isinstance(name, PermanentIdentifierView) and name.identifier_value for name in s.names):
        return None
    return "compares the identifier of an order with nothing if there is no permanentIdentifier"


@STEP_CA.rule("algorithm", *IAKS)
def _algorithm(s: ContractSubject) -> str | None:
    """`doTPMAttestationFormat` knows ES256, RS256 and RS1, `CertificationParameters.Verify` RSA by PKCS#1 v1.5 only.

    An RSA IAK of the TCG's templates signs by RSASSA-PSS.
    """
    return (
        None if s.key == "P-256" else "takes quotes of P-256 keys only: it knows neither ES384, ES512 nor PSS"
    )
