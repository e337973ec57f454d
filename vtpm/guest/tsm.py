"""Attestation by the SVSM, as Linux offers it to a guest: an entry of configfs-tsm, written, read and removed.

An entry is a directory; the kernel fills it with one file for each attribute. Options and nonce are written, then a
read of ``outblob`` makes the kernel ask the SVSM. Each write counts up ``generation``: if it counts more than our own
writes, another writer was at work, and the blobs may answer him. Then the exchange is done again, a few times and
with a pause, because a host limits how often a VM may ask.

Source: Linux, Documentation/ABI/testing/configfs-tsm, and AMD 58019, chapter 7, for what the SVSM answers.
"""

import errno
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Final, NamedTuple, Protocol

from vtpm.guest.errors import GuestError, TsmDisturbed, TsmMissing, TsmUnavailable
from vtpm.signals import signals_deferred
from vtpm.wire.amd_evidence import MAX_EVIDENCE_MANIFEST
from vtpm.wire.certtable import MAX_TABLE, parse_table
from vtpm.wire.enrollment import REPORT_SIZE
from vtpm.wire.errors import WireError
from vtpm.wire.services import NONCE_SIZE

ALL_SERVICES: Final = uuid.UUID(int=0)
"""In the place of a service's GUID: all services, with the services manifest."""

ATTEMPTS: Final = 3
"""How often the SVSM is asked if another writer interferes."""

PAUSE_S: Final = 2.0
"""Between two attempts: hosts allow two guest requests in two seconds."""

_PROVIDER = "sev_guest"
_MAX_TEXT = 64
_GENERATIONS = 1 << 64
"""The kernel counts in an unsigned long."""


class Tsm(Protocol):
    """The file operations on a directory of configfs-tsm; each raises `OSError` as the system call does."""

    def make(self, entry: str) -> None:
        """Make an entry."""

    def write(self, entry: str, attribute: str, data: bytes) -> None:
        """Write an attribute in one go."""

    def read(self, entry: str, attribute: str, most: int) -> bytes:
        """The first `most` bytes of an attribute."""

    def remove(self, entry: str) -> None:
        """Remove an entry; its attributes go with it."""


@dataclass(frozen=True)
class Attestation:
    """What the SVSM answered.

    Attributes:
        report: the SNP attestation report, 1,184 bytes; nothing in it was looked at.
        manifest: the manifest, 1 to 16,384 bytes.
        certificates: the host's certificate table; None if there is none, or none that can be read.
        certificates_problem: why the host's table was left out; empty if it was not.
    """

    report: bytes
    manifest: bytes
    certificates: bytes | None
    certificates_problem: str = ""

    @classmethod
    def of(cls, report: bytes, manifest: bytes, table: bytes) -> "Attestation":
        """Judge the sizes of what was read; a malformed table is left out, for it is the host's and nobody trusts it.

        Raises:
            GuestError: the report has another size, or the manifest is empty or too large (rule ``guest.blob-size``).
        """
        if len(report) != REPORT_SIZE:
            raise GuestError(
                f"the attestation report has {_size(report, REPORT_SIZE)} bytes, not {REPORT_SIZE}",
                rule="guest.blob-size",
            )
        if not 1 <= len(manifest) <= MAX_EVIDENCE_MANIFEST:
            raise GuestError(
                f"the manifest has {_size(manifest, MAX_EVIDENCE_MANIFEST)} bytes, not 1 to {MAX_EVIDENCE_MANIFEST}",
                rule="guest.blob-size",
            )
        try:
            certificates = table if table and parse_table(table) else None
        except WireError as error:
            return cls(report, manifest, None, str(error))
        return cls(report, manifest, certificates)


def _size(blob: bytes, most: int) -> str:
    """The size of something that was read no further than one byte beyond `most`."""
    return str(len(blob)) if len(blob) <= most else f"more than {most}"


def attest(
    tsm: Tsm,
    nonce: bytes,
    service: uuid.UUID,
    *,
    entry: str,
    pause: Callable[[float], None] = time.sleep,
) -> Attestation:
    """Let the SVSM attest to one of its services, or to all of them.

    The entry is removed on every way out, by a signal as well if it raises in this thread (`vtpm.signals`).

    Args:
        tsm: the file operations.
        nonce: 64 bytes.
        service: its GUID, for the manifest of version 0; or `ALL_SERVICES`.
        entry: a name that nobody else uses.
        pause: waits so many seconds between attempts.

    Raises:
        TsmMissing: no configfs-tsm here, or no permission.
        TsmUnavailable: no SEV-SNP guest, no SVSM, or an error of the kernel.
        TsmDisturbed: another writer interfered at each attempt.
        GuestError: the SVSM refused (rule ``guest.attest``), or its answer has an impossible size.
    """
    if len(nonce) != NONCE_SIZE:
        raise GuestError(f"the SVSM takes a nonce of {NONCE_SIZE} bytes, not {len(nonce)}")
    options = (
        ("service_provider", b"svsm"),
        ("service_guid", str(service).encode("ascii")),
        ("service_manifest_version", b"0"),
        ("inblob", nonce),
    )
    with _made(tsm, entry):
        _expect_provider(tsm, entry)
        for attempt in range(ATTEMPTS):
            if attempt:
                pause(PAUSE_S)
            answer = _exchange(tsm, entry, options)
            if answer is not None:
                return Attestation.of(*answer)
    raise TsmDisturbed(
        f"another program wrote into our entry {entry} of configfs-tsm at each of {ATTEMPTS} attempts",
        remedy="Find the program that writes into entries which it has not made, and enrol again.",
    )


@contextmanager
def _made(tsm: Tsm, entry: str) -> Iterator[None]:
    """The entry, for the time of the block. A signal waits while it is made, or nobody would know of it."""
    with ExitStack() as stack:
        with signals_deferred():
            with _explained("making", entry, {**_ANYWHERE, **_MAKING}):
                tsm.make(entry)
            stack.push(partial(_remove, tsm, entry))
        yield


def _remove(
    tsm: Tsm,
    entry: str,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
) -> None:
    """Remove the entry, as the exit of a context manager: an error of the block says more than one of this."""
    del error, trace
    expected = OSError if kind else FileNotFoundError
    with _explained("removing", entry), suppress(expected), signals_deferred():
        tsm.remove(entry)


def _expect_provider(tsm: Tsm, entry: str) -> None:
    with _explained("reading provider of", entry):
        provider = _text(tsm.read(entry, "provider", _MAX_TEXT), "provider")
    if provider != _PROVIDER:
        raise TsmUnavailable(
            f"this VM attests through {provider!r}, and an SVSM answers through {_PROVIDER!r}",
            remedy="Only SEV-SNP guests have an SVSM.",
        )


def _exchange(
    tsm: Tsm, entry: str, options: tuple[tuple[str, bytes], ...]
) -> tuple[bytes, bytes, bytes] | None:
    """Report, manifest and table; None if they need not belong to what we wrote."""
    before = _generation(tsm, entry)
    try:
        for attribute, value in options:
            with _explained(f"writing {attribute} of", entry):
                tsm.write(entry, attribute, value)
    except TsmDisturbed:
        return None
    blobs = []
    try:
        for attribute, most in (
            ("outblob", REPORT_SIZE),
            ("manifestblob", MAX_EVIDENCE_MANIFEST),
            ("auxblob", MAX_TABLE),
        ):
            with _explained(f"reading {attribute} of", entry):
                blobs.append(tsm.read(entry, attribute, most + 1))
    except GuestError:
        # What was asked may have been another writer's question.
        if _ours(tsm, entry, before, len(options)):
            raise
        return None
    report, manifest, table = blobs
    return (report, manifest, table) if _ours(tsm, entry, before, len(options)) else None


def _ours(tsm: Tsm, entry: str, before: int, writes: int) -> bool:
    return _generation(tsm, entry) == (before + writes) % _GENERATIONS


def _generation(tsm: Tsm, entry: str) -> int:
    with _explained("reading generation of", entry):
        text = _text(tsm.read(entry, "generation", _MAX_TEXT), "generation")
    if not (text.isdecimal() and int(text) < _GENERATIONS):
        raise TsmUnavailable(f"the generation of an entry of configfs-tsm is {text!r}, which is no number")
    return int(text)


def _text(data: bytes, attribute: str) -> str:
    """A text attribute without its line end."""
    text = data.removesuffix(b"\n").decode("ascii", "replace")
    if not (text.isascii() and text.isprintable()):
        raise TsmUnavailable(f"the attribute {attribute} of configfs-tsm is no printable text")
    return text


class _Meaning(NamedTuple):
    """What an error number of the kernel means here."""

    kind: type[GuestError]
    remedy: str = ""
    rule: str = ""


_NO_PERMISSION = _Meaning(TsmMissing, "Run as root, with configfs mounted for writing.")
_NO_CONFIGFS = _Meaning(
    TsmMissing,
    "Load the driver (`modprobe sev-guest`), mount configfs (`mount -t configfs none /sys/kernel/config`), and let "
    "--tsm name its directory tsm/report.",
)
_NO_DRIVER = _Meaning(TsmUnavailable, "No attestation driver has registered: `modprobe sev-guest`.")
_MAKING = {
    errno.ENOENT: _NO_CONFIGFS,
    errno.ENOTDIR: _NO_CONFIGFS,
    errno.EEXIST: _Meaning(TsmUnavailable, "Remove that entry if no program uses it."),
}
"""When an entry is made: there is more that can be missing."""

_ANYWHERE = {
    errno.EACCES: _NO_PERMISSION,
    errno.EPERM: _NO_PERMISSION,
    errno.EROFS: _NO_PERMISSION,
    # So many writes without a read that the kernel takes no more of them.
    errno.EBUSY: _Meaning(TsmDisturbed),
    errno.ENXIO: _NO_DRIVER,
    errno.ENOENT: _Meaning(
        TsmUnavailable,
        "The guest's kernel must be Linux 6.11 or later and run below an SVSM. A VM whose kernel runs at VMPL 0 has "
        "none, and cannot enrol so.",
    ),
    errno.EINVAL: _Meaning(
        GuestError,
        "So refuses an SVSM that has no vTPM or no such manifest; the kernel's log has the SVSM's own code.",
        "guest.attest",
    ),
}


@contextmanager
def _explained(doing: str, entry: str, meanings: Mapping[int, _Meaning] = _ANYWHERE) -> Iterator[None]:
    """Say what an error of the kernel means here, and what to do about it."""
    try:
        yield
    except OSError as error:
        meaning = meanings.get(error.errno or 0, _Meaning(TsmUnavailable))
        raise meaning.kind(
            f"{doing} the entry {entry} of configfs-tsm failed: {error.strerror or error}",
            rule=meaning.rule,
            remedy=meaning.remedy,
        ) from error
