"""What the tables hold, as frozen values."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from vtpm.wire.frozen import frozen


class EnrollmentState(StrEnum):
    """Where an enrolment stands. `PENDING` waits for the activation secrets, `ISSUING` has an open intent."""

    PENDING = "pending"
    ISSUING = "issuing"
    ISSUED = "issued"
    FAILED = "failed"


class IntentState(StrEnum):
    """`OPEN` until every certificate is stored (`ISSUED`) or none will ever be (`ABANDONED`)."""

    OPEN = "open"
    ISSUED = "issued"
    ABANDONED = "abandoned"


class CertificateState(StrEnum):
    """`INTENDED` has to-be-signed bytes and a reserved serial, nothing else; `SUPERSEDED` was renewed, not revoked."""

    INTENDED = "intended"
    ISSUED = "issued"
    SUPERSEDED = "superseded"
    REVOKED = "revoked"
    ABANDONED = "abandoned"


@frozen
class DecisionRow:
    """A recorded verdict: `trace` is JSON text, `stage` ``enroll`` or ``activate``, `rule` the first no."""

    id: str
    at: datetime
    stage: str
    admitted: int
    rule: str
    trace: str = field(repr=False)
    policy_version: int
    policy_digest: str
    evidence_digest: str
    kbs_id: str
    resource: str
    salt: str = ""


@frozen
class EvidenceFacts:
    """What certificates are revoked by; None where the evidence does not say.

    Attributes:
        measurement: launch measurement, 48 bytes in hex.
        chip_id: CHIP_ID of the processor, 64 bytes in hex; None if the platform masks it.
        kbs_key: RFC 7638 thumbprint of the key that verified the grant.
        product: processor generation, as `vtpm.wire.report.Product` names it.
        reported_tcb: REPORTED_TCB, 8 bytes in hex.
        ek_set: what identifies the TPM, as in `TpmRow`.
    """

    measurement: str | None = None
    chip_id: str | None = None
    kbs_key: str | None = None
    product: str | None = None
    reported_tcb: str | None = None
    ek_set: str | None = None


@frozen
class SubmissionRow:
    """A consumed nonce with the answer that its one body got."""

    nonce: str
    body_digest: str
    consumed_at: datetime
    decision_id: str
    status: int
    reply: bytes = field(repr=False)


@frozen
class EnrollmentRow:
    """An admitted enrolment; `reply` is the body with the certificates once they are issued."""

    id: str
    nonce: str
    state: EnrollmentState
    expires_at: datetime
    decision_id: str
    policy_version: int
    evidence_digest: str
    reply: bytes | None = field(repr=False)


@dataclass(frozen=True)
class InstanceRow:
    """Who a vTPM is: a resource of a KBS; `salt` is empty unless the policy marks the resource as shared."""

    id: int
    kbs_id: str
    resource: str
    salt: str
    created_at: datetime


@frozen
class TpmRow:
    """A TPM that lives or lived in an instance. `ek_set` is SHA-256 over its sorted EK Names, in hex."""

    id: int
    instance_id: int
    occupies: int | None
    ek_set: str
    counter: int
    root: str
    salt: str
    report_id: str
    first_at: datetime
    last_at: datetime
    freed_at: datetime | None


@frozen
class TpmState:
    """What a TPM's store looked like when it was seen: `counter`, `root` and `salt` of the store, `report_id`."""

    counter: int
    root: str
    salt: str
    report_id: str
    at: datetime


@frozen
class IntentRow:
    """The durable promise to sign exactly certain bytes; `owner` is the process that made it."""

    id: str
    enrollment_id: str
    tpm_id: int
    decision_id: str
    policy_version: int
    evidence_digest: str
    owner: str
    state: IntentState
    created_at: datetime
    closed_at: datetime | None


@frozen
class CertificateRow:
    """A certificate, intended or issued. `issuer` is the issuing CA's subject key id, hex like `serial`.

    `tbs` is what is to be signed, with ASCII zeros in the `slot`, and `tbs_digest` its SHA-256 in hex. Once there is a
    `der`, `tbs` is empty. What releases up to 0.6 issued has its `tbs` still, and no digest.
    """

    serial: str
    issuer: str
    profile: str
    template: str
    key_name: str
    live: str | None
    intent_id: str
    tpm_id: int
    state: CertificateState
    tbs: bytes = field(repr=False)
    slot: int | None
    der: bytes | None = field(repr=False)
    issued_at: datetime | None
    not_after: datetime | None = None
    replaces: str | None = None
    shard: int = 0
    tbs_digest: str | None = None


@dataclass(frozen=True)
class ResponderRow:
    """A certificate of an OCSP responder, intended or issued; `issuer` as in `CertificateRow`."""

    serial: str
    issuer: str
    state: CertificateState
    tbs: bytes = field(repr=False)
    der: bytes | None = field(repr=False)
    created_at: datetime
    issued_at: datetime | None
    not_after: datetime
    shard: int = 0


@dataclass(frozen=True)
class RevocationRow:
    """A serial on its issuer's CRL: `reason` as in RFC 5280 section 5.3.1, `cause` in words.

    `shard` is that of the certificate. Where the database knows the certificate, its row has the last word.
    """

    issuer: str
    serial: str
    at: datetime
    reason: str
    cause: str
    shard: int = 0


ListedRow = tuple[str, datetime, str]
"""What a list says: serial number (hex), time and reason; a plain tuple, since there may be a hundred thousand."""


@dataclass(frozen=True)
class ListTimes:
    """A published CRL without its bytes: its number, when it was made, and when the next one is there at the latest."""

    number: int
    this_update: datetime
    next_update: datetime


@dataclass(frozen=True)
class CrlRow:
    """A published CRL; the highest `number` of an issuer's shard is the one in force."""

    issuer: str
    number: int
    this_update: datetime
    next_update: datetime
    der: bytes = field(repr=False)
    shard: int = 0

    @property
    def key(self) -> "ListKey":
        """Which list it is."""
        return self.issuer, self.shard


ListKey = tuple[str, int]
"""A revocation list by its issuer (subject key id, hex) and shard."""


@dataclass(frozen=True)
class AlarmRow:
    """Something that an operator must look at: `kind` for scripts, `detail` JSON text."""

    id: int
    at: datetime
    kind: str
    decision_id: str
    detail: str


class IssuerState(StrEnum):
    """Where an issuing CA stands in its life.

    `PREPARED` is published but signs nothing yet. `OLD` signs no more and is trusted as before. `TAINTED` is too, but
    its certificates are to be replaced. `RETIRED` is trusted no more. `OLD` is there because a new certificate costs
    the consumers something (keylime refuses a registered agent that comes with another EK certificate), so an ordinary
    rollover must not hand out new ones before an operator wants it.
    """

    PREPARED = "prepared"
    ACTIVE = "active"
    OLD = "old"
    TAINTED = "tainted"
    RETIRED = "retired"


@dataclass(frozen=True)
class IssuerRow:
    """An issuing CA as the database knows it. `skid` is hex; `active` is "role:pair" while it is the one that signs."""

    skid: str
    role: str
    pair: str
    state: IssuerState
    active: str | None
    certificate: bytes = field(repr=False)
    added_at: datetime
    changed_at: datetime


@dataclass(frozen=True)
class RestingRow:
    """A certificate that rests on an issuing CA: `CertificateRow` without its bytes."""

    serial: str
    issuer: str
    profile: str
    template: str
    key_name: str
    state: CertificateState
    issued_at: datetime | None
    not_after: datetime | None


@dataclass(frozen=True)
class EpochRow:
    """An age of the database between two restores; the highest `number` is the present one. `salt`: 32 bytes, hex."""

    number: int
    salt: str
    begun_at: datetime
    cause: str


@dataclass(frozen=True)
class BlockedKeyRow:
    """A key that gets no certificate: `spki` is the SHA-256 of its SubjectPublicKeyInfo, in hex."""

    spki: str
    at: datetime
    by: str
    cause: str


@frozen
class LeafRow:
    """A leaf of the log: `kind` "decision", "certificate" or "restore", `subject` the decision's id or the serial.

    `hashes` are those of the subtrees that it completes, 32 bytes each: its own first, the largest one last.
    """

    position: int
    kind: str
    subject: str
    data: bytes = field(repr=False)
    hashes: bytes = field(default=b"", repr=False)


@frozen
class HeadRow:
    """The log's present state; `frontier` is the roots of its complete subtrees, 32 bytes each, largest first.

    `epoch` is the number of the database's present epoch, 0 if it has none; it comes with what is read.
    """

    size: int
    frontier: bytes = field(repr=False)
    checkpoint: str
    at: datetime
    epoch: int = 0
