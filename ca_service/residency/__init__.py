"""Is this key in that TPM? Template equality, key sanity, TPM2_Certify, and the challenge for TPM2_ActivateCredential.

Together they show: EK, IAK and IDevID are instances of TCG templates, primary keys of the endorsement hierarchy, and
live in one TPM. The checks are total: whatever bytes the evidence holds, they find something and never raise.
"""

from ca_service.residency.certify import CERTIFY_CHECKS
from ca_service.residency.challenge import SECRET_SIZE, make_challenge
from ca_service.residency.evidence import Names, TpmEvidence, names
from ca_service.residency.keys import KEY_CHECKS

__all__ = [
    "CERTIFY_CHECKS",
    "KEY_CHECKS",
    "SECRET_SIZE",
    "Names",
    "TpmEvidence",
    "make_challenge",
    "names",
]
