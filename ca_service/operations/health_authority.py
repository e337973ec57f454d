"""Checks of the CA's own certificates, keys, revocation lists and files."""

import os
import stat
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from ca_service.judgment import BadRequest, NotFound, Unavailable, VtpmCaError
from ca_service.keys import sign_and_check
from ca_service.keys.layout import OFFLINE, PRIVATE, ROOT_KEY_FILE, RUN
from ca_service.keys.opening import read_facts
from ca_service.keys.uri import is_token_uri
from ca_service.operations.context import instant
from ca_service.operations.health_model import (
    HealthCheck,
    HealthContext,
    Seen,
    Status,
    Threshold,
    Unit,
    graded,
    shown,
)
from ca_service.operations.issuers import TRUSTED
from ca_service.operations.kept import FOLDER as STATE
from ca_service.operations.root_list import ROOT_LIST_NOTICE, read_root_list, root_list_warning
from ca_service.profiles.model import DEVICE_LIFETIME
from ca_service.store import CertificateState, IssuerStanding, IssuerState

_DAY: Final = 86_400
_AHEAD_S: Final = 60
_SHOWN: Final = 8
_OTHERS: Final = 0o077
_ANSWERED: Final = TRUSTED - {IssuerState.PREPARED}
"""States of the issuing CAs about whose certificates somebody may ask: who prepares has issued none."""


def _left(end: datetime, at: datetime) -> float:
    return (end - at).total_seconds()


def _ends(what: str, end: datetime, at: datetime) -> str:
    left = _left(end, at)
    if end >= DEVICE_LIFETIME:
        return f"{what} has no well-defined end"
    return f"{what} {f'ends in {shown(left, Unit.SECONDS)}' if left > 0 else 'has ended'}, {instant(end)}"


def _named(issuer: IssuerStanding) -> str:
    return f"the {issuer.role} CA of the pair {issuer.pair} ({issuer.skid[:8]}, {issuer.state})"


def _lists(context: HealthContext, threshold: Threshold | None) -> Iterator[Seen]:
    lists = {row.skid: row for row in context.gauges.lists}
    said = {ca.skid: ca.info.shards for ca in context.public.issuers}
    for issuer in context.gauges.issuers:
        if issuer.state not in TRUSTED:
            continue
        row = lists.get(issuer.skid)
        if row is None:
            yield Seen(Status.CRITICAL, f"{_named(issuer)} has published no list")
            continue
        missing = sorted({*range(max(said.get(issuer.skid, 1), 1 + max(row.shards)))} - row.shards)
        if missing:
            numbers = ", ".join(map(str, missing[:_SHOWN])) + (", ..." if missing[_SHOWN:] else "")
            text = f"{_named(issuer)} has not published {len(missing)} of its lists: {numbers}"
            yield Seen(Status.CRITICAL, text)
        ahead = _left(row.made_last, context.at)
        if ahead > _AHEAD_S:
            text = f"a list of {_named(issuer)} is of {instant(row.made_last)}, which is yet to come"
            yield Seen(Status.CRITICAL, text)
        text = _ends(f"the list of {_named(issuer)}", row.next_update, context.at)
        yield graded(threshold, _left(row.next_update, context.at), text)


def _responders(context: HealthContext, threshold: Threshold | None) -> Iterator[Seen]:
    if not context.public.publication.ocsp:
        yield Seen(Status.OK, "this CA does not answer OCSP requests")
        return
    with context.store.read() as tx:
        issued = {
            row.skid: (row.certificate, tx.responders.of_issuer(row.skid, CertificateState.ISSUED))
            for row in tx.issuers.all()
            if row.state in _ANSWERED
        }
    for issuer in context.gauges.issuers:
        certificate, rows = issued.get(issuer.skid, (b"", []))
        if not certificate or x509.load_der_x509_certificate(certificate).not_valid_after_utc <= context.at:
            continue
        ends = [row.not_after for row in rows if row.created_at <= context.at]
        what = f"the certificate of the OCSP responder of {_named(issuer)}"
        if not ends:
            yield Seen(Status.CRITICAL, f"{what} is missing, so nobody gets an answer")
        else:
            yield graded(threshold, _left(max(ends), context.at), _ends(what, max(ends), context.at))


def _root_list(context: HealthContext, threshold: Threshold | None) -> Iterator[Seen]:
    public = context.public
    try:
        listed = read_root_list(public)
    except Unavailable as error:
        yield Seen(Status.CRITICAL, error.detail)
        return
    # What else is wrong with it shows at a time when its end is far.
    early = context.at if listed is None else listed.next_update - 2 * ROOT_LIST_NOTICE
    complaint = root_list_warning(public, early)
    if complaint is not None:
        yield Seen(Status.WARNING, complaint)
    if listed is not None:
        text = _ends("the root's list", listed.next_update, context.at)
        yield graded(threshold, _left(listed.next_update, context.at), text)


def _issuers(context: HealthContext, threshold: Threshold | None) -> Iterator[Seen]:
    with context.store.read() as tx:
        rows = tx.issuers.all()
    active = [row for row in rows if row.state is IssuerState.ACTIVE]
    if not active:
        yield Seen(Status.CRITICAL, "no issuing CA signs")
    for row in active:
        certificate = x509.load_der_x509_certificate(row.certificate)
        what = f"the {row.role} CA of the pair {row.pair} ({row.skid[:8]})"
        if certificate.not_valid_before_utc > context.at:
            since = instant(certificate.not_valid_before_utc)
            yield Seen(Status.CRITICAL, f"{what} is not valid before {since}: the clock went back")
        end = certificate.not_valid_after_utc
        yield graded(threshold, _left(end, context.at), _ends(what, end, context.at))


def _root(context: HealthContext, threshold: Threshold | None) -> Iterator[Seen]:
    end = context.public.root.not_valid_after_utc
    yield graded(threshold, _left(end, context.at), _ends("the root", end, context.at))


def _root_key(context: HealthContext, _threshold: Threshold | None) -> Iterator[Seen]:
    if not (context.public.directory / OFFLINE / ROOT_KEY_FILE).exists():
        yield Seen(Status.OK, f"no root's key lies in {OFFLINE}/")
    elif context.public.mode == "simulation":
        yield Seen(Status.OK, f"the root's key lies in {OFFLINE}/, as it may in a simulation")
    else:
        yield Seen(Status.NOTICE, f"the root's key lies in {OFFLINE}/, on the machine that serves")


def _keys(context: HealthContext, _threshold: Threshold | None) -> Iterator[Seen]:
    active = [issuer for issuer in context.gauges.issuers if issuer.state is IssuerState.ACTIVE]
    try:
        authority = context.unlock()
    except (BadRequest, NotFound) as error:
        if error.code != "passphrase-missing":
            raise
        yield from _key_files(context, active)
        return
    signers = {ca.skid: ca.signer for ca in authority.issuers}
    for issuer in active:
        if issuer.skid not in signers:
            yield Seen(Status.CRITICAL, f"the key of {_named(issuer)} is not on this machine")
            continue
        try:
            sign_and_check(signers[issuer.skid], b"health?")
        except VtpmCaError as error:
            yield Seen(Status.CRITICAL, f"the key of {_named(issuer)} does not sign: {error.detail}")
        else:
            yield Seen(Status.OK, f"{_named(issuer)} signs")


def _key_files(context: HealthContext, active: Iterable[IssuerStanding]) -> Iterator[Seen]:
    """As much as can be seen of the keys without a passphrase: that they are there."""
    directory = context.public.directory
    facts, known = read_facts(directory), {ca.skid: ca for ca in context.public.issuers}
    keys = {(entry.role, entry.pair, entry.generation): entry.key for entry in facts.issuer}
    for issuer in active:
        ca = known.get(issuer.skid)
        key = "" if ca is None else keys.get((ca.role, ca.pair, ca.generation), "")
        if is_token_uri(key):
            yield Seen(Status.OK, f"the key of {_named(issuer)} is on a token, which was not asked")
        elif key and (directory / PRIVATE / key).is_file():
            yield Seen(Status.OK, f"the key of {_named(issuer)} is there, not tried for want of a passphrase")
        else:
            yield Seen(Status.CRITICAL, f"the key of {_named(issuer)} is not on this machine")


def _permissions(context: HealthContext, _threshold: Threshold | None) -> Iterator[Seen]:
    directory = context.public.directory
    owner = directory.stat().st_uid
    count = 0
    for name in (PRIVATE, OFFLINE, STATE, RUN):
        for path in _below(directory / name):
            count += 1
            status = path.lstat()
            shown_path = path.relative_to(directory)
            if stat.S_ISLNK(status.st_mode):
                yield Seen(Status.CRITICAL, f"{shown_path} is a link")
            elif status.st_mode & _OTHERS and not stat.S_ISSOCK(status.st_mode) and name != RUN:
                yield Seen(Status.CRITICAL, f"{shown_path} may be accessed by others than its owner")
            elif status.st_uid not in (owner, 0):
                yield Seen(Status.WARNING, f"{shown_path} belongs to another user than the CA's directory")
    run = directory / RUN
    if run.is_dir() and run.lstat().st_mode & _OTHERS:
        yield Seen(Status.CRITICAL, f"{RUN} may be accessed by others than its owner")
    yield Seen(Status.OK, f"{count} private files and folders are their owner's alone")


def _raise(error: OSError) -> None:
    raise error


def _below(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        return
    yield folder
    for found, folders, names in os.walk(folder, onerror=_raise):
        for name in (*folders, *names):
            yield Path(found) / name


CHECKS: Final = (
    HealthCheck(
        "crl",
        "the revocation lists of the issuing CAs: all there, their end, and whether they are of the future",
        "Start the server, which renews them, or run `vtpm-ca crl publish`; and see that the clock is right.",
        _lists,
        Threshold(Unit.SECONDS, 3 * _DAY, 1 * _DAY, falling=True),
    ),
    HealthCheck(
        "ocsp",
        "the certificates of the CA's OCSP responders",
        "Start the server, which renews them at half of their 14 days; its log says what keeps it from that.",
        _responders,
        Threshold(Unit.SECONDS, 5 * _DAY, 1 * _DAY, falling=True),
    ),
    HealthCheck(
        "root-crl",
        "the root's revocation list",
        "Bring the root's key and run `vtpm-ca crl publish --root`.",
        _root_list,
        Threshold(Unit.SECONDS, 60 * _DAY, 7 * _DAY, falling=True),
    ),
    HealthCheck(
        "issuers",
        "the certificates of the issuing CAs that sign",
        "`vtpm-ca ca prepare`, let every consumer have the new ones, then `vtpm-ca ca activate`.",
        _issuers,
        Threshold(Unit.SECONDS, 90 * _DAY, 30 * _DAY, falling=True),
    ),
    HealthCheck(
        "root",
        "the root's certificate",
        "Make a new CA in time: all that it has issued ends with its root.",
        _root,
        Threshold(Unit.SECONDS, 365 * _DAY, 90 * _DAY, falling=True),
    ),
    HealthCheck(
        "root-key",
        "whether the root's key has left offline/ of the CA's directory",
        "Move it to a medium in a safe: the running CA does not need it, and who steals it takes the whole CA.",
        _root_key,
    ),
    HealthCheck(
        "keys",
        "the keys of the issuing CAs that sign: there, and they sign",
        "Copy what is new in certs/ and private/, and then ca.toml, from the node on which it was prepared.",
        _keys,
    ),
    HealthCheck(
        "permissions",
        "owner and permissions of private/, offline/, state/ and run/ in the CA's directory",
        "`chmod -R go= private offline state run` in the CA's directory; find out who could read them, and since when.",
        _permissions,
    ),
)
"""In the order in which they are shown."""
