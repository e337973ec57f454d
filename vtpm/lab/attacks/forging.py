"""What a host can do to an enrolment that passes it: read it, change it, and answer in the SVSM's place."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from vtpm.host import Behaviour, HostConfig
from vtpm.tpm import Swtpm, TpmKeys, activate, certify_idevid, properties
from vtpm.wire.amd_evidence import VTPM_PROFILE, AmdBody, nonce64
from vtpm.wire.aproxy import RelayRequest, RelayResponse
from vtpm.wire.encoding import canonical
from vtpm.wire.enrollment import (
    ActivationRequest,
    Certify,
    Challenge,
    ChallengeReply,
    EnrollmentRequest,
    Evidence,
)
from vtpm.wire.jwk import EcJwk
from vtpm.wire.runtime_data import (
    PROFILE,
    KbsStatement,
    RuntimeData,
    StoreStatement,
    TpmStatement,
    certify_qualifier,
)

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


class Forger:
    """The attacker in the place of an SVSM, with a TPM of its own and evidence that it has written itself.

    Args:
        tpm: the attacker's TPM.
        keys: its keys.
        kbs: a key broker's key and grant, from wherever.
        key_id: id of the secret that the grant is about.
        report: gets a report for canonical runtime data.
        table: the certificates that verify it.
    """

    def __init__(
        self,
        tpm: Swtpm,
        keys: TpmKeys,
        kbs: KbsStatement,
        key_id: str,
        *,
        report: Callable[[bytes], bytes],
        table: bytes,
    ) -> None:
        self._tpm = tpm
        self._keys = keys
        self._kbs = kbs
        self._key_id = key_id
        self._report = report
        self._table = table

    def evidence(self, aud: str, nonce: str) -> Evidence:
        """All of it made up but the key broker's part, and the report if that is genuine."""
        data = RuntimeData(
            aud=aud,
            nonce=nonce,
            session=EcJwk.from_key(ec.generate_private_key(ec.SECP256R1()).public_key()),
            tpm=tpm_statement(self._tpm, self._keys),
            kbs=self._kbs,
            store=StoreStatement(
                "persistent", "cocoonfs/1", os.urandom(32), "this-boot", self._key_id, 1, os.urandom(32)
            ),
        ).canonical()
        return Evidence(PROFILE, data, self._report(data), self._table)

    def certify(self, evidence: Evidence) -> Certify:
        """By the attacker's TPM, which is an honest TPM."""
        return Certify(*certify_idevid(self._tpm, self._keys, certify_qualifier(evidence.runtime_data)))

    def activate(self, index: int, challenge: Challenge) -> bytes:
        """Likewise."""
        return activate(self._tpm, self._keys, index, challenge.credential_blob, challenge.secret)


class AmdForger:
    """The attacker in the place of a guest whose SVSM speaks AMD's protocol, with a TPM of its own.

    Args:
        tpm: the attacker's TPM.
        keys: its keys.
        report: gets a report over SHA-512 of bytes of the attacker's choice.
        table: the certificates that verify it.
    """

    def __init__(self, tpm: Swtpm, keys: TpmKeys, *, report: Callable[[bytes], bytes], table: bytes) -> None:
        self._tpm = tpm
        self._keys = keys
        self._report = report
        self._table = table

    def evidence(self, aud: str, nonce: str) -> Evidence:
        """As the SVSM would give it, had the TPM been its own."""
        body = AmdBody(aud, nonce, self._keys.eks[0].public, tpm_statement(self._tpm, self._keys))
        report = self._report(nonce64(aud, nonce) + body.manifest)
        return Evidence(VTPM_PROFILE, b"", report, self._table, amd=body)

    def certify(self, evidence: Evidence) -> Certify:
        """By the attacker's TPM, which is an honest TPM."""
        qualifier = b"" if evidence.amd is None else evidence.amd.certify_qualifier()
        return Certify(*certify_idevid(self._tpm, self._keys, qualifier))

    def activate(self, index: int, challenge: Challenge) -> bytes:
        """Likewise."""
        return activate(self._tpm, self._keys, index, challenge.credential_blob, challenge.secret)
