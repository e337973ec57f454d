"""What a host can do to an enrolment that passes it: read it, change it, and answer in the SVSM's place."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from vtpm.host import Behaviour, HostConfig
from vtpm.tpm import Swtpm, TpmKeys, activate, certify_idevid, properties
from vtpm.wire.aproxy import RelayRequest, RelayResponse
from vtpm.wire.encoding import canonical
from vtpm.wire.enrollment import ActivationRequest, Certify, ChallengeReply, EnrollmentRequest
from vtpm.wire.runtime_data import RuntimeData, TpmStatement, certify_qualifier

NONCES: Final = "/v1/nonces"
ENROLMENTS: Final = "/v1/enrollments"
CREATED: Final = 201
HUNG_UP: Final = RelayResponse(404)
"""What the SVSM gets when the host keeps its request: an answer that it does not try again for."""


def tpm_statement(tpm: Swtpm, keys: TpmKeys) -> TpmStatement:
    """What an SVSM would state about this TPM."""
    known = properties(tpm)
    return TpmStatement(
        eks=keys.eks,
        iak=keys.iak,
        idevid=keys.idevid,
        manufacturer=known.manufacturer,
        vendor=known.vendor,
        firmware=known.firmware,
        spec=known.spec,
        origin="manufactured",
    )


def answers(tpm: Swtpm, keys: TpmKeys, reply: bytes) -> tuple[str, bytes]:
    """Path and body by which this TPM answers the CA's challenges."""
    challenge = ChallengeReply.parse(reply)
    secrets = (
        activate(tpm, keys, index, one.credential_blob, one.secret)
        for index, one in enumerate(challenge.challenges)
    )
    return activation(challenge.id, tuple(secrets))


def guesses(reply: bytes) -> tuple[str, bytes]:
    """Path and body that answer the CA's challenges with whatever comes to mind."""
    challenge = ChallengeReply.parse(reply)
    return activation(challenge.id, tuple(os.urandom(32) for _ in challenge.challenges))


def activation(enrolment: str, secrets: tuple[bytes, ...]) -> tuple[str, bytes]:
    """Path and body of the second half of an enrolment."""
    return f"{ENROLMENTS}/{enrolment}/activation", canonical(ActivationRequest(secrets).to_json())


Answer = Callable[[bytes], tuple[str, bytes]]
"""From the CA's 201 to path and body of the next request."""


class EditingHost(Behaviour):
    """Changes what the SVSM states about its TPM, and adds the TPM2_Certify of a TPM of the attacker's own.

    Args:
        config: as for every host.
        edit: makes the statement that is sent of the one that was made.
        tpm: the attacker's TPM.
        keys: its keys.
        answer: answers the CA's challenge in the SVSM's place; None leaves that to the SVSM.
    """

    def __init__(
        self,
        config: HostConfig,
        edit: Callable[[TpmStatement], TpmStatement],
        tpm: Swtpm,
        keys: TpmKeys,
        answer: Answer | None,
    ) -> None:
        super().__init__(config)
        self._edit = edit
        self._tpm = tpm
        self._keys = keys
        self._answer = answer

    def relay(self, request: RelayRequest) -> RelayResponse:
        """Edit the evidence on its way; then finish the enrolment, if that is not left to the SVSM."""
        if request.path != ENROLMENTS:
            return super().relay(request)
        reply = super().relay(replace(request, body=self._edited(request.body)))
        if self._answer is None or reply.status != CREATED:
            return reply
        path, body = self._answer(reply.body)
        return super().relay(replace(request, path=path, body=body))

    def _edited(self, body: bytes) -> bytes:
        request = EnrollmentRequest.parse(body)
        data = RuntimeData.parse(request.evidence.runtime_data)
        edited = replace(data, tpm=self._edit(data.tpm)).canonical()
        proof = Certify(*certify_idevid(self._tpm, self._keys, certify_qualifier(edited)))
        evidence = replace(request.evidence, runtime_data=edited)
        return canonical(EnrollmentRequest(evidence, proof).to_json())
