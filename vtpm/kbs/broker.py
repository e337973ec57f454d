"""What the KBS answers to each step of the protocol, without HTTP."""

import logging
from dataclasses import dataclass

from vtpm.kbs.directory import Kbs, Secret
from vtpm.kbs.errors import KbsError, RcarError
from vtpm.kbs.policy import ReleasePolicy
from vtpm.kbs.release import seal_plain, seal_with_grant
from vtpm.kbs.sessions import Clock, Entropy, Session, Sessions
from vtpm.kbs.token import TokenSigner
from vtpm.kbs.verifier import verify
from vtpm.wire.errors import WireError
from vtpm.wire.jwe import SealedResource
from vtpm.wire.rcar import Attestation, parse_auth_request

_log = logging.getLogger("vtpm.kbs")


@dataclass(frozen=True)
class Credentials:
    """What a request for a resource shows: the session cookie, a bearer token, both or neither."""

    session_id: str | None
    token: str | None


class Broker:
    """The protocol's state: sessions in memory, everything else in the KBS's directory.

    Raises:
        KbsError: the directory's token key is damaged.
    """

    def __init__(self, kbs: Kbs, clock: Clock, entropy: Entropy) -> None:
        self._kbs = kbs
        self._clock = clock
        self._entropy = entropy
        self._tokens = TokenSigner(kbs.token_key())
        self.sessions = Sessions(clock, entropy)

    def auth(self, body: bytes) -> Session:
        """Begin a session."""
        try:
            parse_auth_request(body)
        except WireError as error:
            detail = f"Attestation error: RCAR handshake Auth failed: {error}"
            raise RcarError("AttestationError", detail, rule="kbs.request") from None
        return self.sessions.open()

    def attest(self, session_id: str | None, body: bytes) -> Session:
        """Verify an attestation; a session that is attested already is returned as it is, as Trustee does.

        Raises:
            RcarError: an AttestationError.
        """
        try:
            attestation = Attestation.parse(body)
        except WireError as error:
            raise _not_attested(str(error), "kbs.request") from None
        session = self.sessions.get(session_id) if session_id else None
        if session is None:
            raise _not_attested("no session", "kbs.session")
        if session.attestation is not None:
            return session
        now = self._clock()
        policy = self._policy()
        verified = verify(attestation, session.nonce, policy, now)
        token = self._tokens.issue(
            verified.report,
            attestation.tee,
            session.nonce,
            allowed=verified.report.measurement in policy.measurements,
            simulated=verified.simulated,
            at=now,
        )
        recorded = self.sessions.attested(session.id, attestation, token)
        if recorded is None:
            raise _not_attested("no session", "kbs.session")
        return recorded

    def resource(self, name: str, shown: Credentials) -> SealedResource:
        """Release a resource: with a grant to an attested session, without one to the bearer of a token.

        The policy is the one of now, not of the attestation: a measurement that was struck off gets nothing more.

        Raises:
            RcarError: not attested, not allowed, or no such resource.
        """
        session = self.sessions.get(shown.session_id) if shown.session_id else None
        now = self._clock()
        if session is not None and session.attestation is not None:
            attestation = session.attestation
            policy = self._policy()
            report = verify(attestation, session.nonce, policy, now).report
            _check_measurement(report.measurement, policy)
            secret = self._secret(name)
            sealed = seal_with_grant(
                self._kbs,
                secret,
                session,
                attestation.tee,
                report.report_id,
                policy.digest,
                now,
                self._entropy,
            )
        elif shown.token is not None:
            claims = self._tokens.verify(shown.token, now)
            policy = self._policy()
            _check_measurement(claims.measurement, policy)
            if claims.simulated and not policy.simulated:
                raise RcarError("PolicyDeny", "Access denied by policy", rule="kbs.simulated")
            secret = self._secret(name)
            sealed = seal_plain(secret, claims.tee, self._entropy)
        else:
            raise RcarError("TokenNotFound", "Attestation Token not found", rule="kbs.session")
        _log.info("released %s (%s)", secret.resource, secret.origin)
        return sealed

    def _policy(self) -> ReleasePolicy:
        try:
            return self._kbs.policy()
        except KbsError as error:
            _log.error("%s", error)
            raise RcarError("PolicyEngineError", "Policy engine error", rule="kbs.policy") from None

    def _secret(self, name: str) -> Secret:
        try:
            secret = self._kbs.secret(name)
        except WireError:
            secret = None
        except (KbsError, OSError) as error:
            _log.error("%s", error)
            raise RcarError("PluginInternalError", "Plugin internal error", rule="kbs.store") from None
        if secret is None:
            raise RcarError("PluginInternalError", "Plugin internal error", rule="kbs.declared")
        return secret


def _check_measurement(measurement: bytes, policy: ReleasePolicy) -> None:
    if measurement not in policy.measurements:
        raise RcarError("PolicyDeny", "Access denied by policy", rule="kbs.measurement")


def _not_attested(why: str, rule: str) -> RcarError:
    return RcarError("AttestationError", f"Attestation error: RCAR handshake Attest failed: {why}", rule=rule)
