"""Publishing what was revoked, within the transaction that revokes.

A serial that is revoked is on a published CRL when the transaction is durable: both are rows of the same commit. An
issuing CA has one list or several. Then each is about the certificates whose distribution point it is (a shard), has
numbers of its own, and says which one it is, so that none can be put in the place of another.
"""

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from ca_service.enrollment.limits import Limits
from ca_service.judgment import Unavailable, VtpmCaError
from ca_service.keys import Authority, IssuingCa
from ca_service.profiles import serial_hex
from ca_service.profiles.scope import scope_of
from ca_service.profiles.signed import is_signed_by
from ca_service.status import Entry, build_crl
from ca_service.store import CrlRow, ListKey, ListTimes, Store, Transaction

_SPREAD = 4
"""The lists that are made at one time are due again within a quarter of their life before its half."""


def publish(
    tx: Transaction, authority: Authority, skids: Iterable[str], at: datetime, limits: Limits
) -> list[CrlRow]:
    """Make the next CRLs of the issuing CAs with these subject key ids (hex).

    Of an issuing CA that has revoked something in this transaction only the lists that change are made; of one that
    has not, all of them.

    Raises:
        Unavailable: a list would drop what the one before names, or that one is forged (code ``log``); or this node
            lacks the key of one (code ``issuer``). What would have to stand on its list must then
            not be recorded either, so the caller's transaction ends here.
    """
    wanted, touched = set(skids), tx.revocations.touched
    changed = {skid for skid, _ in touched}
    keys = {key for key in touched if key[0] in wanted}
    return _publish(tx, authority, keys, wanted - changed, at, limits)


def publish_every(
    tx: Transaction, authority: Authority, skids: Iterable[str], at: datetime, limits: Limits
) -> list[CrlRow]:
    """Make the next of all CRLs of the issuing CAs with these subject key ids (hex); raises as `publish`."""
    return _publish(tx, authority, set(), set(skids), at, limits)


def _publish(
    tx: Transaction,
    authority: Authority,
    keys: Collection[ListKey],
    whole: Collection[str],
    at: datetime,
    limits: Limits,
) -> list[CrlRow]:
    """The lists `keys`, and all lists of the issuing CAs `whole`."""
    skids = {skid for skid, _ in keys} | set(whole)
    if not skids <= {ca.skid for ca in authority.issuers}:
        raise Unavailable(
            "this node lacks the key of an issuing CA whose revocation list would change",
            code="issuer",
            remedy="Do it on a node that has the key, or copy what is new in certs/ and private/, and then ca.toml.",
        )
    known = tx.crls.times(skids)
    made = []
    for ca in authority.issuers:
        if ca.skid in skids:
            count = shard_count(ca, known, tx.revocations.shards(ca.skid))
            shards = (
                range(count) if ca.skid in whole else sorted(shard for skid, shard in keys if skid == ca.skid)
            )
            made += [_publish_one(tx, ca, shard, count, at, limits.crl_lifetime) for shard in shards]
    return made


def shard_count(ca: IssuingCa, lists: Iterable[ListKey], revoked: Iterable[int] = ()) -> int:
    """How many lists an issuing CA has.

    A list goes on for good, since certificates name it. So a smaller number in ``ca.toml`` has no effect on the lists,
    and a node whose ``ca.toml`` is older than another's publishes them as well.

    Args:
        ca: the issuing CA.
        lists: those that were published, of any issuing CA.
        revoked: shards in which the CA has revoked anything.
    """
    known = [shard for skid, shard in lists if skid == ca.skid]
    return max(ca.info.shards, 1 + max((*known, *revoked), default=0))


def _publish_one(
    tx: Transaction, ca: IssuingCa, shard: int, count: int, at: datetime, lifetime: timedelta
) -> CrlRow:
    latest = tx.crls.latest(ca.skid, shard)
    number = 1 if latest is None else latest.number + 1
    rows = tx.revocations.of_shard(ca.skid, shard)
    entries = [(int(serial, 16), moment, reason) for serial, moment, reason in rows]
    if latest is not None:
        listed = _listed(ca, latest)
        if not listed <= {entry[0] for entry in entries}:
            # Somebody has taken a revocation out of the database. To sign the list would make that come true.
            raise Unavailable(
                "the next revocation list would drop what the last one names",
                code="log",
                remedy="Run `vtpm-ca audit verify`. Bring back what is gone with `vtpm-ca db restore`.",
            )
        before = min(latest.this_update, at)
        expired = {int(serial, 16) for serial in tx.revocations.expired(ca.skid, shard, before)}
        if expired:
            entries = [
                entry
                for entry in entries
                if entry[0] not in expired
                or not _may_leave(tx, ca, entry, latest, at, listed=entry[0] in listed)
            ]
    scope = ca.info.list_url(shard) if count > 1 else None
    der = build_crl(ca, entries, number, at, at + lifetime, scope=scope)
    made = CrlRow(ca.skid, number, at, at + lifetime, der, shard)
    tx.crls.add(made)
    tx.revocations.published(made.key)
    return made


def _may_leave(
    tx: Transaction, ca: IssuingCa, entry: Entry, latest: CrlRow, at: datetime, *, listed: bool
) -> bool:
    """Whether the next list need not name a serial any more (RFC 5280, section 3.3).

    The certificate has expired, and a list that was made afterwards has named it. The signed certificate says so, not
    a column of the database, by which it was found. What was never signed has none, and stays. What left while the
    clock ran ahead is back as soon as the clock is.
    """
    serial, revoked_at, _ = entry
    if not listed:
        # It has left already, unless it was revoked since.
        return revoked_at < latest.this_update
    stored = tx.certificates.get(serial_hex(serial))
    try:
        certificate = x509.load_der_x509_certificate((stored.der if stored else None) or b"")
        certificate.verify_directly_issued_by(ca.certificate)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return certificate.serial_number == serial and certificate.not_valid_after_utc < min(
        latest.this_update, at
    )


def _listed(ca: IssuingCa, row: CrlRow) -> set[int]:
    """Serials on the CRL of this issuer and shard; raises `Unavailable` if it is none.

    Another list of the issuer, of another shard or an older one, names other serials.
    """
    key, places = ca.certificate.public_key(), {ca.info.list_url(row.shard)}
    try:
        crl = x509.load_der_x509_crl(row.der)
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        in_place = scope_of(crl) in (places if row.shard else {*places, None})
        if is_signed_by(row.der, key) and number == row.number and in_place:
            return {entry.serial_number for entry in crl}
    except (ValueError, x509.ExtensionNotFound):
        pass
    raise Unavailable(
        "the last revocation list in the database is not the one that its issuing CA has signed",
        code="log",
        remedy="Run `vtpm-ca audit verify`. Bring back what is gone with `vtpm-ca db restore`.",
    )


def publish_all(store: Store, authority: Authority, at: datetime, limits: Limits) -> list[CrlRow]:
    """Make the next of all CRLs of every issuing CA."""
    with store.write() as tx:
        return publish_every(tx, authority, [ca.skid for ca in authority.issuers], at, limits)


def _due(tx: Transaction, authority: Authority, at: datetime) -> dict[str, list[int]]:
    """The shards, by issuing CA, whose last list is past half of its life; all of them if one has no list yet.

    The further ones of several are due a little earlier, so that they are not all due at once.
    """
    latest = tx.crls.times([ca.skid for ca in authority.issuers])
    due = {}
    for ca in authority.issuers:
        count = shard_count(ca, latest)
        rows = [latest.get((ca.skid, shard)) for shard in range(count)]
        # A list that was the only one says so as long as it lives, and could stand in for a new one.
        new = None in rows
        shards = [
            shard
            for shard, row in enumerate(rows)
            if new or row is None or _is_due(row, at, shard / count / _SPREAD)
        ]
        if shards:
            due[ca.skid] = shards
    return due


def _is_due(row: ListTimes, at: datetime, earlier: float) -> bool:
    life = row.next_update - row.this_update
    return at < row.this_update or at - row.this_update > life * (0.5 - earlier)


def publish_due(store: Store, authority: Authority, at: datetime, limits: Limits) -> list[CrlRow]:
    """Make the next of those CRLs that are not there, or whose last one is past half of its life.

    An issuing CA whose key cannot be used does not keep the others from theirs.

    Raises:
        Unavailable: the key of one cannot be used, and all others have their lists; or the database cannot be used.
    """
    with store.read() as tx:
        due = _due(tx, authority, at)
    if not due:
        return []
    with store.write() as tx:
        made, failures = list[CrlRow](), list[VtpmCaError]()
        # Another process may have been faster.
        for skid, shards in _due(tx, authority, at).items():
            try:
                made += _publish(tx, authority, {(skid, shard) for shard in shards}, (), at, limits)
            except VtpmCaError as error:
                # Nothing of the list is written then, and the lists before it are good. What the database refuses ends
                # the whole transaction.
                failures.append(error)
    if failures:
        raise failures[0]
    return made
