"""The contracts of five consumers, each demand a rule.

Sources, all read in the consumers' code: keylime 7.14 ``cert_utils.py``, ``tpm_ek_ca.py`` and
``registrar_agent.py``, rust-keylime ``crypto.rs``; SPIRE ``tpmdevid/devid.go`` and ``challenge.go``; step-ca
``acme/challenge.go``; go-attestation ``x509/ekcert.go`` (TCG EK Credential Profile 2.6, section 3.2); HIRS
``IDevIDCertificate``.
"""

from typing import Final

from ca_service.profiles import structures
from ca_service.profiles.contract import ConsumerReport, ContractBook, ContractRule, report
from ca_service.profiles.contract_subject import ContractSubject
from ca_service.profiles.model import DEVICE_LIFETIME, Draft, Profile
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
    HardwareModuleView,
    NameView,
    OtherNameView,
    PermanentIdentifierView,
    PoliciesView,
    SpecificationView,
)

_IAKS: Final[tuple[Profile, ...]] = ("iak", "iak-webauthn")
_NAMED: Final[tuple[Profile, ...]] = ("iak", "idevid")
_IDENTITIES: Final[tuple[Profile, ...]] = (*_IAKS, "idevid")
_DEVICES: Final[tuple[Profile, ...]] = ("ek", *_IDENTITIES)

_GO_CRITICAL = frozenset({KU, BC, EKU, CP, CDP})
"""Critical extensions that Go's verification understands. A subjectAltName without a DNS name, an address or a URI is
not among them."""
_TPM_NAME = ("2.23.133.2.1", "2.23.133.2.2", "2.23.133.2.3")
_TPM_20 = "2.23.133.1.2"
_RESIDENT, _FIXED, _RESTRICTED = "2.23.133.11.1.1", "2.23.133.11.1.2", "2.23.133.11.1.3"
_HARDWARE_SERIAL_PARTS = 3
_X509_V3 = 3
_KEYLIME_COLUMN = 1536
_NV_INDEX = 2048


def _unhandled(s: Outline, *tolerated: str) -> str | None:
    unknown = sorted(s.critical - _GO_CRITICAL - set(tolerated))
    return f"does not know the critical {' '.join(unknown)}" if unknown else None


def _attributes(name: NameView) -> dict[str, str]:
    return {kind: text for rdn in name.rdns for kind, text in rdn}


KEYLIME = ContractBook("keylime")


@KEYLIME.steady_rule("signature", *_DEVICES, required=_DEVICES)
def _keylime_signature(s: Outline) -> str | None:
    """Issuers sign by RSA PKCS#1 v1.5 or ECDSA; the latter is what this CA does."""
    return differs("the signature algorithm", structures.ECDSA_WITH_SHA384, s.signature_algorithm)


@KEYLIME.steady_rule("key", *_DEVICES, required=_DEVICES)
def _keylime_key(s: Outline) -> str | None:
    """A key labelled for OAEP or PSS breaks the registrar, or is taken for another."""
    return None if s.key_kind else "cannot read a key of this kind"


@KEYLIME.rule("size", *_DEVICES, required=("ek",))
def _keylime_size(s: ContractSubject) -> str | None:
    """Columns of 2,048 characters in Base64; EK certificates are read from NV."""
    limit = _NV_INDEX if s.profile == "ek" else _KEYLIME_COLUMN
    return None if s.size <= limit else f"has room for {limit} octets, not for {s.size}"


@KEYLIME.rule("hardware-module-name", *_IDENTITIES, required=_NAMED)
def _keylime_hardware_module_name(s: ContractSubject) -> str | None:
    """Up to 7.9 the first otherName must be one, of a TPM 2.0."""
    others = [
        name
        for name in s.names
        if isinstance(name, HardwareModuleView | PermanentIdentifierView | OtherNameView)
    ]
    if not others or not isinstance(others[0], HardwareModuleView):
        return "wants a HardwareModuleName as the first otherName (up to 7.9)"
    return differs("hwType", _TPM_20, others[0].hw_type)


@KEYLIME.rule("agent-template", *_IDENTITIES)
def _keylime_agent_template(s: ContractSubject) -> str | None:
    """What the agent makes of the key if `iak_idevid_template` is left at ``detect``."""
    if s.key == "P-256":
        return 'takes a P-256 key for SM2, unless the agent is set to iak_idevid_template = "H-2"'
    if s.key == "RSA-3072":
        return "does not find the template of an RSA-3072 key, unless the agent is set to it"
    return None


@KEYLIME.rule("public-area", *_IDENTITIES)
def _keylime_public_area(s: ContractSubject) -> str | None:
    """The registrar's columns `iak_tpm` and `idevid_tpm` hold 375 octets."""
    return "has no room for the public area of an RSA-3072 key" if s.key == "RSA-3072" else None


@KEYLIME.rule("tenant-algorithms", "ek")
def _keylime_tenant_algorithms(s: ContractSubject) -> str | None:
    """The tenant's default lists mean RSA-2048 and P-256 by ``rsa`` and ``ecc``."""
    if s.key in ("RSA-2048", "P-256"):
        return None
    return "takes such an EK only if the tenant's accept_tpm_encryption_algs lists it"


SPIRE = ContractBook("spire")


@SPIRE.rule("ek-rsa", "ek")
def _spire_ek_rsa(s: ContractSubject) -> str | None:
    return None if s.key.startswith("RSA") else "takes RSA endorsement keys only"


@SPIRE.steady_rule("ek-critical", "ek", required=("ek",))
def _spire_ek_critical(s: Outline) -> str | None:
    return _unhandled(s, SAN)


@SPIRE.steady_rule("devid-critical", "idevid", required=("idevid",))
def _spire_devid_critical(s: Outline) -> str | None:
    return _unhandled(s)


@SPIRE.rule("devid-subject", "idevid", required=("idevid",))
def _spire_devid_subject(s: ContractSubject) -> str | None:
    """Its selectors are made of the subject's common name."""
    return None if _attributes(s.view.subject).get("2.5.4.3") else "makes its selectors of the common name"


@SPIRE.rule("devid-challenge", "idevid")
def _spire_devid_challenge(s: ContractSubject) -> str | None:
    """The challenge is signed with SHA-256; the TCG's templates fix another hash for the larger curves."""
    if s.key in ("P-384", "P-521"):
        return f"wants a signature with SHA-256, which no {s.key} key of a TCG template makes"
    return None


STEP_CA = ContractBook("step-ca")
_WEBAUTHN: Final[tuple[Profile, ...]] = ("iak-webauthn",)


@STEP_CA.steady_rule("version", *_IAKS, required=_WEBAUTHN)
def _step_version(s: Outline) -> str | None:
    return differs("the version", _X509_V3, s.version)


@STEP_CA.rule("empty-subject", *_IAKS, required=_WEBAUTHN)
def _step_empty_subject(s: ContractSubject) -> str | None:
    return "wants an empty subject" if s.view.subject.rdns else None


@STEP_CA.steady_rule("not-a-ca", *_IAKS, required=_WEBAUTHN)
def _step_not_a_ca(s: Outline) -> str | None:
    constraints = s.value(BC)
    return "takes no CA" if isinstance(constraints, BasicConstraintsView) and constraints.ca else None


@STEP_CA.steady_rule("aik-purpose-first", *_IAKS, required=_WEBAUTHN)
def _step_aik_purpose_first(s: Outline) -> str | None:
    purposes = s.value(EKU)
    first = purposes[0] if isinstance(purposes, tuple) and purposes else None
    return differs("the first key purpose", "2.23.133.8.3", first)


@STEP_CA.rule("tpm-name", *_IAKS, required=_WEBAUTHN)
def _step_tpm_name(s: ContractSubject) -> str | None:
    stated: dict[str, str] = {}
    for name in s.names:
        if isinstance(name, NameView):
            stated |= _attributes(name)
    missing = [kind for kind in _TPM_NAME if not stated.get(kind)]
    return f"wants {' '.join(missing)} in the subjectAltName" if missing else None


@STEP_CA.steady_rule("critical", *_IAKS, required=_WEBAUTHN)
def _step_critical(s: Outline) -> str | None:
    return _unhandled(s, SAN)


@STEP_CA.rule("algorithm", *_IAKS)
def _step_algorithm(s: ContractSubject) -> str | None:
    """ES256 and RS256 alone are known; an RSA IAK of the TCG's template signs by RSASSA-PSS."""
    return (
        None if s.key == "P-256" else "takes quotes of P-256 keys only: it knows neither ES384, ES512 nor PSS"
    )


GO_ATTESTATION = ContractBook("go-attestation")
_EK: Final[tuple[Profile, ...]] = ("ek",)


@GO_ATTESTATION.steady_rule("version", *_EK, required=_EK)
def _go_version(s: Outline) -> str | None:
    return differs("the version", _X509_V3, s.version)


@GO_ATTESTATION.rule("serial", *_EK, required=_EK)
def _go_serial(s: ContractSubject) -> str | None:
    return None if s.view.serial > 0 else "wants a positive serial number"


@GO_ATTESTATION.rule("issuer", *_EK, required=_EK)
def _go_issuer(s: ContractSubject) -> str | None:
    return None if s.view.issuer.rdns else "wants an issuer"


@GO_ATTESTATION.steady_rule("basic-constraints", *_EK, required=_EK)
def _go_basic_constraints(s: Outline) -> str | None:
    constraints = s.value(BC)
    if not isinstance(constraints, BasicConstraintsView) or constraints.ca or BC not in s.critical:
        return "wants critical basicConstraints of no CA"
    return None


@GO_ATTESTATION.rule("tpm-name", *_EK, required=_EK)
def _go_tpm_name(s: ContractSubject) -> str | None:
    names = [name for name in s.names if isinstance(name, NameView)]
    if len(names) != 1:
        return "wants exactly one directoryName in the subjectAltName"
    stated = _attributes(names[0])
    if set(stated) != set(_TPM_NAME) or not all(stated.values()):
        return "wants manufacturer, model and version of the TPM in that name, and nothing else"
    if not s.view.subject.rdns and SAN not in s.outline.critical:
        return "wants the subjectAltName critical if the subject is empty"
    return None


@GO_ATTESTATION.steady_rule("key-usage", *_EK, required=_EK)
def _go_key_usage(s: Outline) -> str | None:
    usage = s.value(KU)
    wanted = "key_encipherment" if s.key_kind.startswith("RSA") else "key_agreement"
    if not isinstance(usage, frozenset) or wanted not in usage or KU not in s.critical:
        return f"wants a critical keyUsage with {wanted}"
    return None


@GO_ATTESTATION.steady_rule("authority-key-id", *_EK, required=_EK)
def _go_authority_key_id(s: Outline) -> str | None:
    value = s.value(AKI)
    if not isinstance(value, AuthorityKeyView) or not value.key_id:
        return "wants an authorityKeyIdentifier"
    return None


@GO_ATTESTATION.steady_rule("not-critical", *_EK, required=_EK)
def _go_not_critical(s: Outline) -> str | None:
    wrong = sorted(s.critical & {AKI, AIA, CDP, EKU, SKI})
    return f"takes no critical {' '.join(wrong)}" if wrong else None


@GO_ATTESTATION.steady_rule("specification", *_EK, required=_EK)
def _go_specification(s: Outline) -> str | None:
    """Subject directory attributes, if there are any, hold the TPM specification."""
    value = s.value(SDA)
    if value is None or (isinstance(value, SpecificationView) and value.attribute == "2.23.133.2.16"):
        return None
    return "wants TPMSpecification among the subject directory attributes"


HIRS = ContractBook("hirs")


@HIRS.rule("hardware-module-name", *_IDENTITIES, required=_NAMED)
def _hirs_hardware_module_name(s: ContractSubject) -> str | None:
    modules = [name for name in s.names if isinstance(name, HardwareModuleView)]
    if not modules:
        return "wants a HardwareModuleName"
    if len(modules[0].hw_serial_num.split(b":")) < _HARDWARE_SERIAL_PARTS:
        return "wants hwSerialNum in three parts"
    return differs("hwType", _TPM_20, modules[0].hw_type)


@HIRS.steady_rule("policies", *_IDENTITIES, required=_IDENTITIES)
def _hirs_policies(s: Outline) -> str | None:
    value = s.value(CP)
    stated = value.policies if isinstance(value, PoliciesView) else ()
    if _RESIDENT not in stated or not {_FIXED, _RESTRICTED} & set(stated):
        return "wants the policies of residency and of a fixed or restricted key"
    return None


@HIRS.rule("not-after", *_IDENTITIES)
def _hirs_not_after(s: ContractSubject) -> str | None:
    """It warns of every other end; a bounded or ephemeral certificate has one."""
    return None if s.view.not_after == DEVICE_LIFETIME else "warns of a certificate with a defined end"


CONTRACTS: Final[tuple[ContractRule, ...]] = (*KEYLIME, *SPIRE, *STEP_CA, *GO_ATTESTATION, *HIRS)
"""All demands of all consumers."""


def contract_report(
    certificate: Draft | bytes, *, profile: Profile | None = None
) -> tuple[ConsumerReport, ...]:
    """Who can use a certificate.

    Args:
        certificate: a draft, or the DER of an EK, IAK or IDevID certificate of this CA.
        profile: the profile of a DER; found out if None.

    Returns:
        One report for each consumer that takes certificates of the profile, in the order of `CONTRACTS`.

    Raises:
        BadRequest: the certificate cannot be read, or is of no device profile.
    """
    return report(certificate, CONTRACTS, profile=profile)
