"""Revocation lists and OCSP answers from the network, which is hostile, and a folder in which lists are kept.

Nobody is asked before the chain of the certificate holds: the places come out of certificates of the trusted root. A
list is kept only if its issuer has signed it and it is not older than the one that is kept already.
"""

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from ca_service.export.relying.answers import issuer_hashes
from ca_service.export.relying.files import LARGEST_FILE, read_lists
from ca_service.export.relying.lists import RevocationList
from ca_service.export.replacing import replace_file
from ca_service.judgment import BadRequest, Unavailable

Fetch = Callable[[str], bytes]
"""Gets what is at a URL; raises `Unavailable`."""

_OK: Final = 200
_FILE_MODE: Final = 0o644
_SCHEMES: Final = ("http://", "https://")


def fetched(url: str) -> bytes:
    """What is at a URL, with bounds on time and size, and without following anybody elsewhere.

    Raises:
        Unavailable: there is no answer, or it cannot be taken whole.
    """
    if not url.startswith(_SCHEMES):
        raise Unavailable(f"{url} is no place in the web", code="fetch")
    # An HTTP client takes longer to load than all the rest, and is not needed where lists are kept.
    from ca_service.collateral.kds.http import HttpFetcher  # noqa: PLC0415

    answer = HttpFetcher(most=LARGEST_FILE)(url)
    if answer.status != _OK:
        raise Unavailable(f"{url} answers {answer.status}", code="fetch")
    return answer.body


@dataclass(frozen=True)
class Supplied:
    """A list that was looked for.

    Attributes:
        der: the list, perhaps an old one; None if there is none.
        problem: why there is no newer one, if it was asked for in vain.
    """

    der: bytes | None = field(repr=False)
    problem: str = ""


@dataclass(frozen=True)
class ListCache:
    """A folder of fetched lists, by their place. Several processes may use it at once.

    Attributes:
        folder: where they lie; made if it is missing.
        refresh: how long a list is used before it is asked for anew.
        fetch: gets what is at a URL.
    """

    folder: Path
    refresh: timedelta
    fetch: Fetch

    def list_at(
        self, url: str, issuer: x509.Certificate, at: datetime, max_age: timedelta | None = None
    ) -> Supplied:
        """The newest list that can be had. Whether it is still of use, the checks say.

        Args:
            url: where the list is published.
            issuer: who must have signed it.
            at: now, aware.
            max_age: how old it may be to be of use; an older one is asked for anew at once.

        Raises:
            BadRequest: the folder cannot be used; the path names it.
        """
        path = self.folder / f"{hashlib.sha256(url.encode()).hexdigest()}.crl"
        kept = _kept(path, issuer)
        if kept is not None and kept.stale(at, max_age) is None and self._is_recent(path, at):
            return Supplied(kept.der)
        old = None if kept is None else kept.der
        try:
            found = _read(self.fetch(url), issuer)
        except Unavailable as error:
            return Supplied(old, error.detail)
        if found is None:
            return Supplied(old, f"what is at {url} is no revocation list of its issuer")
        if kept is not None and found.this_update < kept.this_update:
            return Supplied(old, f"the list at {url} is older than the one that was there before")
        _write(path, found.der)
        return Supplied(found.der)

    def _is_recent(self, path: Path, at: datetime) -> bool:
        try:
            written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        except OSError:
            return False
        return timedelta(0) <= at - written <= self.refresh


def asked(url: str, serial: int, issuer: x509.Certificate, fetch: Fetch) -> bytes:
    """The OCSP response about a certificate, by GET (RFC 6960, appendix A.1); nothing of it is judged here.

    Raises:
        Unavailable: there is no answer.
    """
    request = (
        ocsp.OCSPRequestBuilder()
        .add_certificate_by_hash(*issuer_hashes(issuer, "sha256"), serial, hashes.SHA256())
        .build()
    )
    encoded = base64.b64encode(request.public_bytes(Encoding.DER)).decode("ascii")
    return fetch(f"{url}/{quote(encoded, safe='')}")


def _kept(path: Path, issuer: x509.Certificate) -> RevocationList | None:
    """What lies in the cache, if it is a list of this issuer; anything else there is replaced."""
    if not path.exists():
        return None
    try:
        (der,) = read_lists([path])
    except (BadRequest, ValueError):
        return None
    return _read(der, issuer)


def _read(der: bytes, issuer: x509.Certificate) -> RevocationList | None:
    try:
        found = RevocationList.read(der, "list")
    except BadRequest:
        return None
    return found if found.signed_by(issuer) and found.issuer == issuer.subject.public_bytes() else None


def _write(path: Path, der: bytes) -> None:
    """Old or new at every moment, also for those who read meanwhile."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, der, _FILE_MODE)
    except OSError as error:
        raise BadRequest(str(path.parent), f"cannot keep revocation lists: {error.strerror}") from None
