"""What HIRS, the NSA's attestation CA, demands of EK certificates and of those of device identities.

Read in nsacyber/HIRS, in HIRS_AttestationCA under ``hirs/attestationca/persist``: ``EndorsementCredential`` and
``IDevIDCertificate`` of ``entity/userdefined/certificate``, ``validation/CredentialValidator`` and
``provision/helper/ProvisionUtils``; and the portal's ``CertificateStringMapBuilder``. HIRS wants the whole chain with a
self-signed root in its store, compares names and signatures, and looks at no extension of a chain.
"""

from typing import Final

from ca_service.profiles.contract import ContractBook
from ca_service.profiles.contract_subject import ContractSubject
from ca_service.profiles.contracts.common import EKS, IDENTITIES, NAMED, TPM_20
from ca_service.profiles.model import DEVICE_LIFETIME
from ca_service.profiles.outline import Outline
from ca_service.profiles.rule import differs
from ca_service.profiles.view import CP, SDA, HardwareModuleView, PoliciesView, SpecificationView

HIRS: Final = ContractBook("hirs")

_RESIDENT, _FIXED, _RESTRICTED = "2.23.133.11.1.1", "2.23.133.11.1.2", "2.23.133.11.1.3"
_SERIAL_PARTS = 3


@HIRS.rule("ek-rsa", *EKS)
def _ek_rsa(s: ContractSubject) -> str | None:
    """`ProvisionUtils.tpm20MakeCredential`: RSA only, with OAEP and KDFa by SHA-256 and AES-128.

    That is the EK of RSA-2048 templates; the one of RSA-3072 (H-6) goes with SHA-384 and AES-256.
    """
    return None if s.key == "RSA-2048" else "makes its challenge for EKs of RSA-2048 only"


@HIRS.steady_rule("ek-specification", *EKS, required=EKS)
def _ek_specification(s: Outline) -> str | None:
    """`EndorsementCredential.parseSequence` casts family, level and revision to UTF8String and INTEGER unseen."""
    value = s.value(SDA)
    return (
        None if value is None or isinstance(value, SpecificationView) else "cannot read the TPM specification"
    )


@HIRS.rule("hardware-module-name", *IDENTITIES, required=NAMED)
def _hardware_module_name(s: ContractSubject) -> str | None:
    """`IDevIDCertificate.parseIDevIDCertificate`: without one of a TPM 2.0 it counts as no TPM's.

    The portal shows manufacturer, and key id and serial of the EK certificate, if hwSerialNum has the three parts.
    """
    modules = [name for name in s.names if isinstance(name, HardwareModuleView)]
    if not modules:
        return "wants a HardwareModuleName"
    if len(modules[0].hw_serial_num.split(b":")) < _SERIAL_PARTS:
        return "wants hwSerialNum in three parts"
    return differs("hwType", TPM_20, modules[0].hw_type)


@HIRS.steady_rule("policies", *IDENTITIES, required=IDENTITIES)
def _policies(s: Outline) -> str | None:
    """`IDevIDCertificate.getTPMPolicyQualifiers`: it warns of a TPM's certificate without these policies."""
    value = s.value(CP)
    stated = value.policies if isinstance(value, PoliciesView) else ()
    if _RESIDENT not in stated or not {_FIXED, _RESTRICTED} & set(stated):
        return "wants the policies of residency and of a fixed or restricted key"
    return None


@HIRS.rule("not-after", *IDENTITIES)
def _not_after(s: ContractSubject) -> str | None:
    """`IDevIDCertificate.parseIDevIDCertificate`: it warns of every other end; bounded and ephemeral ones have one."""
    return None if s.view.not_after == DEVICE_LIFETIME else "warns of a certificate with a defined end"
