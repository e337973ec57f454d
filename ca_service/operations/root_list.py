"""The root's revocation list: which issuing CAs are revoked. It takes the root's key, so no server makes it."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

from cryptography import x509

from ca_service.judgment import BadRequest, Unavailable
from ca_service.keys import PublicAuthority, RootCa, TranscriptList, load_public, replace_root_list
from ca_service.status import RevokedEntry, build_crl

ROOT_LIST_LIFETIME = timedelta(days=365)
"""How long a list of the root holds: its key lies in a safe, from which once a year is often enough."""


def publish_root_list(
    directory: Path, root: RootCa, at: datetime, *, revoke: Sequence[str] = (), reason: str = "unspecified"
) -> TranscriptList:
    """Make and publish the next list of the root. Whatever the present one names stays on it.

    Args:
        directory: the CA's directory.
        root: the root with its key.
        at: now, aware.
        revoke: subject key ids (hex) of issuing CAs that are revoked from now on.
        reason: why, one of `ca_service.status.REASONS`.

    Raises:
        NotFound: there is no such issuing CA.
        BadRequest: `root` is of another CA, or has expired (code ``authority``); the reason is none.
        Unavailable: the present list is damaged (``crl``); the directory cannot be written (``storage``).
    """
    public = load_public(directory)
    if root.certificate != public.root:
        raise BadRequest("root", "is not the root of this CA", code="authority")
    moment = at.astimezone(UTC).replace(microsecond=0)
    life = min(root.certificate.not_valid_after_utc - moment, ROOT_LIST_LIFETIME)
    if life <= timedelta(0):
        raise BadRequest("root", "has expired", code="authority")
    fresh = [RevokedEntry(_serial(public, skid), moment, reason) for skid in revoke]
    number = 0

    def make(present: bytes | None) -> bytes:
        nonlocal number
        number, entries = (0, []) if present is None else _read(present, root)
        named = {entry.serial for entry in entries}
        number += 1
        entries += [entry for entry in fresh if entry.serial not in named]
        return build_crl(root, entries, number, moment, moment + life)

    der = replace_root_list(directory, make)
    digest = sha256(der).hexdigest()
    return TranscriptList("root", root.skid, number, moment, moment + life, digest)


def _serial(public: PublicAuthority, skid: str) -> int:
    return public.issuer_of(skid).certificate.serial_number


def _read(der: bytes, root: RootCa) -> tuple[int, list[RevokedEntry]]:
    """Number and entries of the present list."""
    key = root.signer.public_key()
    try:
        crl = x509.load_der_x509_crl(der)
        if not crl.is_signature_valid(key):
            raise _damaged()
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        entries = [RevokedEntry(r.serial_number, r.revocation_date_utc, _reason(r)) for r in crl]
    except (ValueError, x509.ExtensionNotFound):
        raise _damaged() from None
    return number, entries


def _reason(revoked: x509.RevokedCertificate) -> str:
    try:
        value = revoked.extensions.get_extension_for_class(x509.CRLReason).value
    except x509.ExtensionNotFound:
        return "unspecified"
    return value.reason.value


def _damaged() -> Unavailable:
    return Unavailable(
        "the root's present revocation list is damaged, so nobody can say what it names",
        code="crl",
        remedy="Take crl/root.crl from a backup, or from where it was published.",
    )
