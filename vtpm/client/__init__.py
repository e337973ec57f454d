"""The enrolment client: what a vTPM's keeper says to the CA, over whatever transport reaches it.

`enroll` runs the exchange; it asks a `Device` for evidence and TPM proofs, and a `CaTransport` to carry
bytes. `check_certificates` judges what came back, because whoever relayed it is not trusted, and
`check_logged` whether the CA's log holds it. A guest that has no more
than AMD's attestation protocol builds its evidence with `amd_evidence`.
"""

from vtpm.client.amd import amd_evidence, nonce64
from vtpm.client.certificates import check_certificates
from vtpm.client.enroll import CaTransport, Device, EnrollmentRefused, enroll
from vtpm.client.http import HttpTransport
from vtpm.client.log import check_logged

__all__ = [
    "CaTransport",
    "Device",
    "EnrollmentRefused",
    "HttpTransport",
    "amd_evidence",
    "check_certificates",
    "check_logged",
    "enroll",
    "nonce64",
]
