"""What SPIRE's node attestor `tpm_devid` demands of EK and IDevID certificates.

Read in spiffe/spire: the server's ``pkg/server/plugin/nodeattestor/tpmdevid/devid.go``, ``challenge.go`` and
``selectors.go``, the agent's ``pkg/agent/plugin/nodeattestor/tpmdevid/tpmutil/session.go``. The residency challenge
rests on an RSA attestation key that the agent makes itself and the server ties to the EK; no IAK is looked at.
"""

from typing import Final

from ca_service.profiles.contract import ContractBook
from ca_service.profiles.contract_subject import ContractSubject
from ca_service.profiles.contracts.common import (
    EKS,
    IDEVIDS,
    attributes,
    signature_unknown_to_go,
    unread_by_go,
    unverified_by_go,
)
from ca_service.profiles.outline import Outline
from ca_service.profiles.view import SAN

SPIRE: Final = ContractBook("spire")

_COMMON_NAME = "2.5.4.3"


@SPIRE.steady_rule("readable", *EKS, *IDEVIDS, required=(*EKS, *IDEVIDS))
def _readable(s: Outline) -> str | None:
    """`Plugin.Attest` and `verifyDevIDResidency`: Go must read both certificates."""
    return unread_by_go(s)


@SPIRE.steady_rule("signature", *EKS, *IDEVIDS, required=(*EKS, *IDEVIDS))
def _signature(s: Outline) -> str | None:
    """`verifyEKSignature` and `verifyDevIDSignature`: Go must verify the issuer's signature."""
    return signature_unknown_to_go(s)


@SPIRE.rule("ek-rsa", *EKS)
def _ek_rsa(s: ContractSubject) -> str | None:
    """`verifyEKsMatch` and `NewCredActivationChallenge`: an EK that is no RSA key is refused."""
    return None if s.key.startswith("RSA") else "takes RSA endorsement keys only"


@SPIRE.rule("ek-template", *EKS)
def _ek_template(s: ContractSubject) -> str | None:
    """The agent's `NewSession` and `GetEKCert`: it makes the EK of template L-1, and reads NV index 0x01C00002."""
    return None if s.key == "RSA-2048" else "has an agent that knows the EK of template L-1 only, of RSA-2048"


@SPIRE.steady_rule("ek-critical", *EKS, required=EKS)
def _ek_critical(s: Outline) -> str | None:
    """`verifyEKSignature` strikes subjectAltName, and nothing else, off the critical extensions left unhandled."""
    return unverified_by_go(s, SAN)


@SPIRE.steady_rule("devid-critical", *IDEVIDS, required=IDEVIDS)
def _devid_critical(s: Outline) -> str | None:
    """`verifyDevIDSignature` strikes nothing off."""
    return unverified_by_go(s)


@SPIRE.rule("devid-subject", *IDEVIDS, required=IDEVIDS)
def _devid_subject(s: ContractSubject) -> str | None:
    """`buildSelectorValues`: without a common name there is no selector for the subject."""
    return None if attributes(s.view.subject).get(_COMMON_NAME) else "makes its selectors of the common name"


@SPIRE.rule("devid-challenge", *IDEVIDS)
def _devid_challenge(s: ContractSubject) -> str | None:
    """`VerifyDevIDChallenge`: SHA-256, by RSA PKCS#1 v1.5 or ECDSA; templates fix another hash for larger curves."""
    if s.key in ("P-384", "P-521"):
        return f"wants a signature with SHA-256, which no {s.key} key of a TCG template makes"
    return None


@SPIRE.rule("devid-agent", *IDEVIDS)
def _devid_agent(_: ContractSubject) -> str | None:
    """The agent's `loadKey`: TPM2_Load of a key from files, below the storage root key.

    An IDevID of the TCG's templates is a primary key of the endorsement hierarchy, and in no file. The server takes
    its certificate; who answers for it must be another agent than SPIRE's own.
    """
    return "has an agent that loads the key from files, and no primary key such as an IDevID"
