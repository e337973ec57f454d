"""The enrolment exchange of ``docs/protocol.md``: nonce, evidence, credential activation, certificates."""

import time
from collections.abc import Callable
from typing import NoReturn, Protocol, TypeVar

from vtpm.client.log import check_logged
from vtpm.errors import UnavailableError, VtpmError
from vtpm.wire.encoding import canonical
from vtpm.wire.enrollment import (
    ActivationRequest,
    CertificatesReply,
    Certify,
    Challenge,
    ChallengeReply,
    EnrollmentRequest,
    Evidence,
    NonceReply,
    Problem,
)
from vtpm.wire.errors import WireError
from vtpm.wire.note import VerifierKey

T = TypeVar("T")

_CREATED, _OK = 201, 200
_RETRYABLE = frozenset({0, 429, 500, 502, 503, 504})
_PAUSES_S = (0.2, 0.5, 1.0)
CERTIFY_REQUIRED = "certify-required"


class CaTransport(Protocol):
    """Carries one request to the CA and its answer back."""

    def call(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and body; status 0 or `UnavailableError` means that nothing came back."""


class Device(Protocol):
    """The keeper of the vTPM: makes evidence of itself and lets the TPM prove things."""

    def evidence(self, aud: str, nonce: str) -> Evidence:
        """Fresh evidence for the CA `aud` and its `nonce`."""

    def certify(self, evidence: Evidence) -> Certify:
        """TPM2_Certify of the IDevID by the IAK, qualified by that evidence."""

    def activate(self, index: int, challenge: Challenge) -> bytes:
        """The secret that TPM2_ActivateCredential recovers with EK number `index`."""


class EnrollmentRefused(VtpmError):
    """The CA said no. `problem` is its problem document; `rule` names the first check that failed."""

    def __init__(self, problem: Problem) -> None:
        where = f" (decision {problem.decision_id})" if problem.decision_id else ""
        super().__init__(f"the CA refused: {problem.detail or problem.title}{where}", rule=problem.rule)
        self.problem = problem


def enroll(
    transport: CaTransport,
    device: Device,
    *,
    known: bool,
    log: VerifierKey | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> CertificatesReply:
    """Obtain the certificates of a vTPM.

    Args:
        transport: the way to the CA.
        device: the vTPM's keeper.
        known: the CA has certified this TPM before, so try without new TPM proofs first: a guest may by now
            hold the authorisations that they need. The CA asks for them if it wants them.
        log: verifier key of the CA's log, if it was given to whoever calls; then what does not stand in it is refused.
        pause: waits so many seconds between attempts.

    Raises:
        EnrollmentRefused: a rule of the CA said no.
        UnavailableError: the CA could not be reached, or cannot answer now.
        VtpmError: the certificates do not stand in the log; see `check_logged`.
    """
    reply = _attempt(transport, device, known=known, pause=pause)
    if log is not None:
        check_logged(reply, log)
    return reply


def _attempt(
    transport: CaTransport, device: Device, *, known: bool, pause: Callable[[float], None]
) -> CertificatesReply:
    try:
        return _exchange(transport, device, with_certify=not known, pause=pause)
    except EnrollmentRefused as refusal:
        if not known or refusal.problem.code != CERTIFY_REQUIRED:
            raise
    return _exchange(transport, device, with_certify=True, pause=pause)


def _exchange(
    transport: CaTransport, device: Device, *, with_certify: bool, pause: Callable[[float], None]
) -> CertificatesReply:
    status, answer = _call(transport, "POST", "/v1/nonces", b"", pause)
    if status != _CREATED:
        _refuse(status, answer)
    nonce = _read(NonceReply.parse, answer)
    evidence = device.evidence(nonce.aud, nonce.nonce)
    request = EnrollmentRequest(evidence, device.certify(evidence) if with_certify else None)
    # The same bytes at every attempt: the CA answers a repeated request, it does not enrol twice.
    status, answer = _call(transport, "POST", "/v1/enrollments", canonical(request.to_json()), pause)
    if status == _OK:
        return _read(CertificatesReply.parse, answer)
    if status != _CREATED:
        _refuse(status, answer)
    enrolment = _read(ChallengeReply.parse, answer)
    secrets = tuple(device.activate(i, challenge) for i, challenge in enumerate(enrolment.challenges))
    body = canonical(ActivationRequest(secrets).to_json())
    status, answer = _call(transport, "POST", f"/v1/enrollments/{enrolment.id}/activation", body, pause)
    if status != _OK:
        _refuse(status, answer)
    return _read(CertificatesReply.parse, answer)


def _call(
    transport: CaTransport, method: str, path: str, body: bytes, pause: Callable[[float], None]
) -> tuple[int, bytes]:
    """One request, repeated while the CA is away or overloaded; the last answer is the caller's."""
    for wait in _PAUSES_S:
        try:
            status, answer = transport.call(method, path, body)
        except UnavailableError:
            status, answer = 0, b""
        if status not in _RETRYABLE:
            return status, answer
        pause(wait)
    return transport.call(method, path, body)


def _read(parse: Callable[[bytes], T], answer: bytes) -> T:
    try:
        return parse(answer)
    except WireError as error:
        raise UnavailableError(f"the CA's answer cannot be read: {error}") from error


def _refuse(status: int, answer: bytes) -> NoReturn:
    if status == 0:
        raise UnavailableError("the CA cannot be reached through the host")
    try:
        problem = Problem.parse(answer)
    except WireError as error:
        raise UnavailableError(f"the CA answered status {status} without a readable reason") from error
    if status in _RETRYABLE:
        raise UnavailableError(f"the CA cannot answer now: {problem.detail or problem.title}")
    raise EnrollmentRefused(problem)
