"""Certificates and revocation lists in files and folders. What cannot be read is an error and never left out."""

import base64
import binascii
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from ca_service.judgment import BadRequest

MOST_FILES: Final = 256
"""How many files a folder may hold; a CA has few issuing CAs, and at most 64 lists for each."""
LARGEST_FILE: Final = 16 * 1024 * 1024
"""Octets: a revocation list of some 300,000 entries."""

CERTIFICATE_ENDINGS: Final = (".pem", ".cer", ".crt", ".der")
LIST_ENDINGS: Final = (".crl", ".pem", ".der")

UNREADABLE: Final = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What `cryptography` raises for hostile bytes."""

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\s+([A-Za-z0-9+/=\s]+)-----END \1-----")
_BEGIN = b"-----BEGIN "


def read_certificates(places: Path | Sequence[Path]) -> list[x509.Certificate]:
    """The certificates in files, or in a folder; in PEM all of a file.

    Raises:
        BadRequest: one cannot be read, or there is none; the path names the file or folder.
    """
    found = []
    for path in _paths(places, CERTIFICATE_ENDINGS):
        for der in blocks(_content(path), "CERTIFICATE", str(path)):
            try:
                found.append(x509.load_der_x509_certificate(der))
            except UNREADABLE as error:
                raise BadRequest(str(path), f"is no certificate: {error}") from None
    if not found:
        named = places if isinstance(places, Path) else "issuers"
        raise BadRequest(
            str(named), "holds no certificate", remedy=f"Their names end in {_or(CERTIFICATE_ENDINGS)}."
        )
    return found


def read_lists(places: Path | Sequence[Path]) -> list[bytes]:
    """DER of the revocation lists in files, or in a folder; there may be none.

    Raises:
        BadRequest: a file cannot be read, or is no list; its path names it.
    """
    found = []
    for path in _paths(places, LIST_ENDINGS):
        for der in blocks(_content(path), "X509 CRL", str(path)):
            try:
                x509.load_der_x509_crl(der)
            except UNREADABLE as error:
                raise BadRequest(str(path), f"is no revocation list: {error}") from None
            found.append(der)
    return found


def blocks(content: bytes, label: str, path: str) -> Iterator[bytes]:
    """The DER values in a file: all blocks of PEM, or the file as it stands.

    Raises:
        BadRequest: there is PEM of another kind, or none that can be read.
    """
    if _BEGIN not in content:
        yield content
        return
    found = _BLOCK.findall(content)
    if len(found) != content.count(_BEGIN):
        raise BadRequest(path, "has PEM that cannot be read")
    for kind, text in found:
        if kind.decode("ascii") != label:
            raise BadRequest(path, f"holds a {kind.decode('ascii')}, and only {label} belongs there")
        try:
            yield base64.b64decode(b"".join(text.split()), validate=True)
        except binascii.Error:
            raise BadRequest(path, "has PEM that cannot be read") from None


def _paths(places: Path | Sequence[Path], endings: tuple[str, ...]) -> list[Path]:
    if not isinstance(places, Path):
        return list(places)
    try:
        if not places.is_dir():
            return [places]
        # Hidden files are those of whoever writes a new one and then renames it.
        names = [
            e.name for e in os.scandir(places) if e.name.endswith(endings) and not e.name.startswith(".")
        ]
    except OSError as error:
        raise BadRequest(str(places), f"cannot be read: {error.strerror}") from None
    if len(names) > MOST_FILES:
        raise BadRequest(str(places), f"holds more than {MOST_FILES} files")
    return [places / name for name in sorted(names)]


def _content(path: Path) -> bytes:
    try:
        # Not blocking: somebody may have put a pipe there.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BadRequest(str(path), "is no file")
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise BadRequest(str(path), f"cannot be read: {error.strerror}") from None
    if len(content) > LARGEST_FILE:
        raise BadRequest(str(path), f"has more than {LARGEST_FILE} octets")
    return content


def _or(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"
