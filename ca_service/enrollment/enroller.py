"""The state machine of an enrolment, as the rest of the CA sees it."""

from datetime import datetime

from ca_service.enrollment.activation import Activation
from ca_service.enrollment.admission import Admission, Reply
from ca_service.enrollment.desk import Desk
from ca_service.enrollment.nonces import make_nonce
from ca_service.enrollment.publishing import publish_due
from ca_service.enrollment.responders import ensure_responders
from ca_service.judgment import NotFound
from ca_service.store import EnrollmentRow, EnrollmentState
from vtpm.wire.enrollment import EnrollmentState as StateReply
from vtpm.wire.enrollment import NonceReply, time_text

_NONCE_RANDOM = 16


class Enroller:
    """Nonce, evidence, challenge, certificates. Safe for threads; every process has its own."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._admission = Admission(desk)
        self._activation = Activation(desk)

    def new_nonce(self) -> NonceReply:
        """A fresh nonce; nothing is stored. Raises Unavailable."""
        desk = self.desk
        expires = desk.now() + desk.limits.nonce_lifetime
        ca_id = desk.authority.ca_id
        nonce = make_nonce(self._admission.nonce_key(), ca_id, expires, desk.entropy(_NONCE_RANDOM))
        return NonceReply(nonce, ca_id, time_text(expires))

    def enroll(self, body: bytes) -> Reply:
        """See `Admission.enroll`."""
        return self._admission.enroll(body)

    def activate(self, enrollment_id: str, body: bytes) -> bytes:
        """See `Activation.activate`."""
        return self._activation.activate(enrollment_id, body)

    def state(self, enrollment_id: str) -> StateReply:
        """Where an enrolment stands; raises NotFound."""
        with self.desk.store.read() as tx:
            row = tx.enrollments.get(enrollment_id)
        if row is None:
            raise NotFound("there is no such enrolment")
        return StateReply(
            row.id, _state_text(row, self.desk.now()), row.decision_id, time_text(row.expires_at)
        )

    def recover(self) -> int:
        """Abandon what dead processes left open, publish the CRLs that are due, see to OCSP; call it at every start.

        Nothing is ever signed again: the clients' next try makes new intents.

        Returns:
            How many intents were abandoned.

        Raises:
            Unavailable: the database cannot be reached, or the log contradicts itself (code ``log``).
        """
        desk = self.desk
        self._open_log()
        with desk.store.read() as tx:
            intents = tx.intents.open()
        count = self._activation.abandon_dead(intents)
        self._activation.forget_closed()
        publish_due(desk.store, desk.authority, desk.now(), desk.limits)
        if desk.authority.publication.ocsp:
            ensure_responders(desk)
        return count

    def _open_log(self) -> None:
        """See that the log can be gone on with; what the database knows and the log does not is logged first."""
        desk = self.desk
        before = desk.log.seen
        with desk.store.read() as tx:
            behind = tx.log.head() is None
            if not behind:
                desk.log.check_head(tx, before)
                behind = tx.log.lacks_an_end()
        if behind:
            with desk.store.write() as tx:
                desk.log.catch_up(tx, desk.now())


def _state_text(row: EnrollmentRow, at: datetime) -> str:
    if row.state is EnrollmentState.ISSUED:
        return "issued"
    if row.state is EnrollmentState.FAILED:
        return "refused"
    if row.state is EnrollmentState.PENDING and at > row.expires_at:
        return "expired"
    return "challenged"
