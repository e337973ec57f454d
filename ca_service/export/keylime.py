"""Filling keylime's ``tpm_cert_store``.

keylime builds no chains and looks at nothing but the issuer's name and one signature. So the store gets the
*issuing* CAs and never the root, one certificate in each file; a file goes there whole or not at all, because
one unreadable ``*.pem`` makes keylime refuse every TPM; and taking a file away is the only revocation of an
issuer that keylime knows. Whatever instant an export is killed at, each ``*.pem`` is one that was there before or one
that should be there, whole; the next export clears away the rest.
"""

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca_service.export.replacing import replace_file
from ca_service.judgment import BadRequest, Unavailable
from ca_service.keys import PublicIssuer

ExportRole = Literal["ek", "devid"]
EXPORT_ROLES: tuple[ExportRole, ...] = ("ek", "devid")
"""What keylime's hosts need; certificates of the Ephemeral CA must not count as a TPM's for good."""

AGENT_NOTE = (
    'Agents with IAK and IDevID on P-256 (template H-2) need iak_idevid_template = "H-2" in their [agent] section: '
    "by themselves they take such keys for SM2. All others are found by the default, detect."
)
"""What a store cannot give: an agent's own setting, without which keylime does not use certificates that are good."""

_OURS = re.compile(r"vtpm-ca-(?:ek|devid|ephemeral)-[a-z0-9-]{1,24}-[0-9a-f]{16}\.pem\Z")
_LEFT_OVER = re.compile(r"\.vtpm-ca-(?:ek|devid|ephemeral)-[a-z0-9-]{1,24}-[0-9a-f]{16}\.pem\.[0-9]+\.tmp\Z")
_LOCK_S = 10.0
_LOCK_STEP_S = 0.05
_FILE_MODE, _FOLDER_MODE = 0o644, 0o755
_PEM_BEGIN = b"-----BEGIN CERTIFICATE-----"


@dataclass(frozen=True)
class ExportReport:
    """What an export did, or with `check` what it would do; all are file names in the store.

    Attributes:
        directory: the store.
        written: files that were missing or had another content.
        removed: own files of issuers that should not be there.
        unchanged: own files that are right.
        foreign: files of the same pattern that belong to another CA; left alone.
        hazards: other ``*.pem`` that keylime cannot read, each of which disables the whole store; left alone.
        checked_only: whether nothing was changed.
    """

    directory: Path
    written: tuple[str, ...]
    removed: tuple[str, ...]
    unchanged: tuple[str, ...]
    foreign: tuple[str, ...]
    hazards: tuple[str, ...]
    checked_only: bool

    @property
    def in_order(self) -> bool:
        """Whether the store is now as it should be."""
        changes = self.written or self.removed
        return not self.hazards and not (self.checked_only and changes)

    def to_json(self) -> dict[str, object]:
        """The report as plain values."""
        return {
            "directory": str(self.directory),
            "written": list(self.written),
            "removed": list(self.removed),
            "unchanged": list(self.unchanged),
            "foreign": list(self.foreign),
            "hazards": list(self.hazards),
            "checked_only": self.checked_only,
            "in_order": self.in_order,
            "agent_settings": [
                {"template": "H-2", "option": "iak_idevid_template", "value": "H-2", "note": AGENT_NOTE}
            ],
        }


def export_keylime(
    dest: Path,
    certificates: Sequence[PublicIssuer],
    role: ExportRole | None,
    *,
    check: bool = False,
    wait: Callable[[float], None] = time.sleep,
) -> ExportReport:
    """Make the store hold the given issuing CAs, and none of ours besides.

    One export at a time works on a folder: it holds a lock on the folder itself, so no file stays behind for that.

    Args:
        dest: the store's directory; made if it is missing.
        certificates: the CA's issuing CAs that are to be trusted, of all generations; own files of others are
            removed. Those of the Ephemeral CA are left out.
        role: ``ek`` for a host that checks EK certificates only (keylime's tenant), ``devid`` for one that
            checks IAK and IDevID only (its registrar), None for both. A file of the other role is then
            removed.
        check: change nothing, just say what would be done; it needs no right to write and takes no lock.
        wait: lets seconds pass until the lock is asked for again.

    Raises:
        BadRequest: nothing would be exported, or a certificate is no issuing CA.
        Unavailable: the directory cannot be read or written, or another export holds it for 10 s (code ``storage``).
    """
    wanted = _wanted(certificates, role)
    roots = {_issuer_key_id(issuer.certificate) for issuer in certificates}
    try:
        if check:
            return _compare(dest, wanted, _present(dest) if dest.exists() else {}, roots, check=True)
        with _locked(dest, wait) as descriptor:
            present = _present(dest)
            report = _compare(dest, wanted, present, roots, check=False)
            _apply(dest, wanted, report, filter(_LEFT_OVER.match, present))
            os.fsync(descriptor)
    except OSError as error:
        raise Unavailable(f"{dest}: {error.strerror}", code="storage") from error
    return report


def _present(dest: Path) -> dict[str, "os.DirEntry[str]"]:
    with os.scandir(dest) as entries:
        return {entry.name: entry for entry in entries}


@contextlib.contextmanager
def _locked(dest: Path, wait: Callable[[float], None]) -> Iterator[int]:
    """The folder, made if it is missing, with its lock held; a descriptor of it."""
    made = not dest.exists()
    dest.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(dest, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if made:
            # keylime's user reads it, whatever the umask of ours; there is nothing secret in it.
            os.fchmod(descriptor, _FOLDER_MODE)
        for _ in range(round(_LOCK_S / _LOCK_STEP_S)):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            wait(_LOCK_STEP_S)
        else:
            raise Unavailable(
                f"another export has been working on {dest} for {_LOCK_S:.0f} seconds",
                code="storage",
                remedy="See which process holds a lock on the folder (`lsof`), and whether it hangs.",
            )
        yield descriptor
    finally:
        os.close(descriptor)


def file_name(issuer: PublicIssuer) -> str:
    """Name of an issuing CA's file in the store."""
    return f"vtpm-ca-{issuer.role}-{issuer.pair}-{issuer.skid[:16]}.pem"


def _wanted(certificates: Sequence[PublicIssuer], role: ExportRole | None) -> dict[str, bytes]:
    roles = EXPORT_ROLES if role is None else (role,)
    chosen = [issuer for issuer in certificates if issuer.role in roles]
    if not chosen:
        raise BadRequest("role", "there is no issuing CA to export")
    for issuer in chosen:
        if issuer.certificate.subject == issuer.certificate.issuer:
            # With a root in the store, everything that it has signed would count as a TPM's certificate.
            raise BadRequest(file_name(issuer), "is a root; only issuing CAs are exported")
    return {file_name(issuer): issuer.certificate.public_bytes(Encoding.PEM) for issuer in chosen}


def _compare(
    dest: Path,
    wanted: dict[str, bytes],
    present: dict[str, "os.DirEntry[str]"],
    roots: set[bytes | None],
    *,
    check: bool,
) -> ExportReport:
    written = [name for name, pem in wanted.items() if _content(present.get(name)) != pem]
    removed: list[str] = []
    foreign: list[str] = []
    hazards: list[str] = []
    for name, entry in present.items():
        if name in wanted or not name.endswith(".pem") or name.startswith("."):
            continue
        content = _content(entry)
        ours = _OURS.match(name) is not None
        if ours and content is not None:
            owner = _first_certificate(content)
            # An unreadable file under our name is cleared away: left there it disables the store.
            (removed if owner is None or _issuer_key_id(owner) in roots else foreign).append(name)
        elif content is None or not _readable(content):
            hazards.append(name)
    return ExportReport(
        directory=dest,
        written=tuple(sorted(written)),
        removed=tuple(sorted(removed)),
        unchanged=tuple(sorted(set(wanted) - set(written))),
        foreign=tuple(sorted(foreign)),
        hazards=tuple(sorted(hazards)),
        checked_only=check,
    )


def _apply(dest: Path, wanted: dict[str, bytes], report: ExportReport, left_over: Iterator[str]) -> None:
    """Add first, remove then: at no moment is a store without an issuer that it should have."""
    for name in left_over:
        # What cannot be cleared away is in nobody's way.
        with contextlib.suppress(OSError):
            (dest / name).unlink()
    for name in report.written:
        replace_file(dest / name, wanted[name], _FILE_MODE)
    for name in report.removed:
        (dest / name).unlink()


def _content(entry: "os.DirEntry[str] | None") -> bytes | None:
    """A file's bytes; None if it is missing, no regular file, or cannot be read."""
    if entry is None or not entry.is_file():
        return None
    try:
        return Path(entry.path).read_bytes()
    except OSError:
        return None


def _readable(content: bytes) -> bool:
    """Whether keylime can load the file: it reads UTF-8 text first, and then looks for a certificate."""
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return _PEM_BEGIN not in content or _first_certificate(content) is not None


def _first_certificate(content: bytes) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificate(content)
    except ValueError:
        return None


def _issuer_key_id(certificate: x509.Certificate) -> bytes | None:
    """The key id of the certificate's issuer: tells our files from those of another CA."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    except (x509.ExtensionNotFound, ValueError):
        return None
    return extension.value.key_identifier
