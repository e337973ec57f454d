"""Certificates and revocation lists."""

from collections.abc import Iterable

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca_service.enrollment import publish_all
from ca_service.enrollment import revoke as revoke_certificate
from ca_service.judgment import BadRequest, NotFound
from ca_service.operations.bounds import MAX_CAUSE, MAX_LISTED, REASONS
from ca_service.operations.context import (
    Json,
    Operation,
    OperationContext,
    instant,
    optional_flag,
    optional_text,
    recorded_cause,
)
from ca_service.profiles import serial_hex
from ca_service.store import CertificateRow, CertificateState, RestingRow
from vtpm.wire.encoding import Members


def certificate_row(row: CertificateRow | RestingRow) -> dict[str, Json]:
    """What a listing says about a certificate."""
    return {
        "serial": row.serial,
        "profile": row.profile,
        "template": row.template,
        "key_name": row.key_name,
        "issuer": row.issuer,
        "state": row.state.value,
        "issued_at": instant(row.issued_at),
    }


def list_(context: OperationContext, arguments: Members) -> Json:
    """The newest issued certificates first; with `all` the revoked and abandoned ones too."""
    everything = optional_flag(arguments, "all")
    limit = arguments.integer("limit", 1, MAX_LISTED) if arguments.has("limit") else 200
    arguments.end()
    state = None if everything else CertificateState.ISSUED
    with context.store.read() as tx:
        return [certificate_row(row) for row in tx.certificates.latest(limit, state=state)]


def read_serial(arguments: Members) -> str:
    """The serial number that is meant; OpenSSL's spellings (upper case, colons) do as well."""
    serial = arguments.text("serial", most=128).lower().replace(":", "").removeprefix("0x")
    try:
        return serial_hex(int(serial, 16))
    except (ValueError, OverflowError):
        raise BadRequest("serial", "must be a serial number in hex") from None


def _find(context: OperationContext, arguments: Members) -> CertificateRow:
    """The certificate that is meant."""
    serial = read_serial(arguments)
    with context.store.read() as tx:
        row = tx.certificates.get(serial)
    if row is None or row.der is None:
        raise NotFound("there is no issued certificate with this serial number")
    return row


def rows_now(context: OperationContext, rows: Iterable[CertificateRow]) -> list[dict[str, Json]]:
    """What a listing says about these certificates after they were changed."""
    with context.store.read() as tx:
        return [certificate_row(tx.certificates.get(row.serial) or row) for row in rows]


def show(context: OperationContext, arguments: Members) -> Json:
    """One certificate with its PEM, and its revocation if there is one."""
    row = _find(context, arguments)
    arguments.end()
    with context.store.read() as tx:
        revocation = tx.revocations.get(row.issuer, row.serial)
    certificate = x509.load_der_x509_certificate(row.der or b"")
    return {
        **certificate_row(row),
        "revoked_at": None if revocation is None else instant(revocation.at),
        "reason": None if revocation is None else revocation.reason,
        "pem": certificate.public_bytes(Encoding.PEM).decode("ascii"),
    }


def revoke(context: OperationContext, arguments: Members) -> Json:
    """Revoke one certificate and publish its issuer's CRL; a dry run unless `yes` is true.

    The result lists what is (or would be) revoked: nothing, if the certificate is revoked already.
    """
    reason = arguments.one_of("reason", REASONS) if arguments.has("reason") else REASONS[0]
    cause = optional_text(arguments, "cause", most=MAX_CAUSE)
    confirmed = optional_flag(arguments, "yes")
    row = _find(context, arguments)
    arguments.end()
    rows = [row] if row.state in (CertificateState.ISSUED, CertificateState.SUPERSEDED) else []
    if confirmed and rows:
        revoke_certificate(
            context.store,
            context.unlock(),
            row.serial,
            at=context.clock(),
            reason=reason,
            cause=recorded_cause(context, "revoked", cause),
            limits=context.limits,
        )
    return {"done": confirmed, "revoked": rows_now(context, rows)}


def publish_crls(context: OperationContext, arguments: Members) -> Json:
    """Make the next of all CRLs of every issuing CA."""
    arguments.end()
    rows = publish_all(context.store, context.unlock(), context.clock(), context.limits)
    return [
        {
            "issuer": row.issuer,
            "shard": row.shard,
            "number": row.number,
            "this_update": instant(row.this_update),
            "next_update": instant(row.next_update),
        }
        for row in rows
    ]


OPERATIONS = (
    Operation("cert-list", list_),
    Operation("cert-show", show),
    Operation("cert-revoke", revoke, publishes=True),
    Operation("crl-publish", publish_crls, publishes=True),
)
