"""The root's revocation list: which issuing CAs are revoked. It takes the root's key, so no server makes it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ca_service.judgment import BadRequest, Unavailable
from ca_service.keys import (
    PublicAuthority,
    RootCa,
    TranscriptList,
    held_root_lists,
    load_public,
    replace_root_list,
)
from ca_service.keys.layout import LISTS, ROOT_LIST_FILE
from ca_service.operations.context import instant
from ca_service.status import RevokedEntry, build_crl

ROOT_LIST_LIFETIME = timedelta(days=365)
"""How long a list of the root holds: its key lies in a safe, from which once a year is often enough."""


ROOT_LIST_NOTICE = timedelta(days=60)
"""How long before its end a list of the root is to be replaced: somebody has to go to a safe."""


@dataclass(frozen=True)
class RootList:
    """A list of the root's, its signature checked.

    Attributes:
        number: counts the lists, from 1.
        entries: whom it revokes.
        next_update: when it ends.
    """

    number: int
    entries: tuple[RevokedEntry, ...]
    next_update: datetime


def read_root_list(public: PublicAuthority) -> RootList | None:
    """The root's newest list, with whatever an older one revokes besides; None if none was ever made.

    Raises:
        Unavailable: a list is damaged, or the newest is missing (code ``crl``).
    """
    return _joined(public, held_root_lists(public.directory, lambda der: _read(public, der).number))


def revoked_issuers(public: PublicAuthority) -> frozenset[int]:
    """Serial numbers of the issuing CAs that the root has revoked; raises as `read_root_list`."""
    listed = read_root_list(public)
    return frozenset() if listed is None else frozenset(entry.serial for entry in listed.entries)


def root_list_warning(public: PublicAuthority, at: datetime) -> str | None:
    """What is wrong with the root's list, or soon will be, one sentence; None if all is well. Never raises for a list.

    Args:
        public: the CA.
        at: now, aware.
    """
    path = public.directory / LISTS / ROOT_LIST_FILE
    try:
        newest = read_root_list(public)
        published = _read(public, path.read_bytes()) if path.exists() else None
    except (Unavailable, OSError) as error:
        return error.detail if isinstance(error, Unavailable) else f"{path} cannot be read: {error.strerror}"
    if newest is None:
        return "the root has made no revocation list; `vtpm-ca crl publish --root` makes it"
    if published is None or published.number < newest.number:
        return f"{LISTS}/{ROOT_LIST_FILE} is not the root's newest revocation list, number {newest.number}"
    if newest.next_update - at > ROOT_LIST_NOTICE:
        return None
    word = "ends" if newest.next_update > at else "has ended"
    return f"the root's revocation list {word} at {instant(newest.next_update)}; run `vtpm-ca crl publish --root`"


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
        Unavailable: the newest list is damaged or missing (``crl``); the directory cannot be written (``storage``).
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

    def make(held: Sequence[bytes]) -> bytes:
        nonlocal number
        last = _joined(public, held)
        entries = [] if last is None else list(last.entries)
        named = {entry.serial for entry in entries}
        number = 1 if last is None else last.number + 1
        entries += [entry for entry in fresh if entry.serial not in named]
        return build_crl(root, entries, number, moment, moment + life)

    der = replace_root_list(directory, lambda der: _read(public, der).number, make)
    digest = sha256(der).hexdigest()
    return TranscriptList("root", root.skid, number, moment, moment + life, digest)


def _serial(public: PublicAuthority, skid: str) -> int:
    return public.issuer_of(skid).certificate.serial_number


def _joined(public: PublicAuthority, held: Sequence[bytes]) -> RootList | None:
    """The first with what the others have besides."""
    if not held:
        return None
    first, *others = (_read(public, der) for der in held)
    entries = {entry.serial: entry for entry in first.entries}
    for other in others:
        entries = {entry.serial: entry for entry in other.entries} | entries
    return replace(first, entries=tuple(entries.values()))


def _read(public: PublicAuthority, der: bytes) -> RootList:
    key = public.root.public_key()
    try:
        crl = x509.load_der_x509_crl(der)
        end = crl.next_update_utc
        if not isinstance(key, ec.EllipticCurvePublicKey) or not crl.is_signature_valid(key) or end is None:
            raise _damaged()
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        entries = tuple(RevokedEntry(r.serial_number, r.revocation_date_utc, _reason(r)) for r in crl)
    except (ValueError, x509.ExtensionNotFound):
        raise _damaged() from None
    return RootList(number, entries, end)


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
        remedy="Take crl/root.crl from a backup, or from where it was published, and put it to certs/root.crl too.",
    )
