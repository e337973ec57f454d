"""What a host with keylime's tenant needs for the EK check: root, issuing CAs and a configuration, in one folder."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca_service.export.keylime import export_keylime
from ca_service.judgment import Conflict, Unavailable
from ca_service.keys import PublicIssuer, files

CONFIGURATION_FILE: Final = "vtpm-ca-ek-check.toml"
ROOT_FILE: Final = "root.pem"
ISSUERS: Final = "issuers"
CACHE: Final = "cache"


@dataclass(frozen=True)
class EkCheckReport:
    """What was done; file names are relative to the folder.

    Attributes:
        directory: the folder.
        written: files that are new or have another content.
        removed: issuing CAs that do not count any more.
        kept: whether a configuration was there already, and stays as it is.
        root_sha256: digest of the root's DER, lower-case hex.
    """

    directory: Path
    written: tuple[str, ...]
    removed: tuple[str, ...]
    kept: bool
    root_sha256: str

    def to_json(self) -> dict[str, object]:
        """The report as plain values."""
        return {
            "directory": str(self.directory),
            "written": list(self.written),
            "removed": list(self.removed),
            "configuration_kept": self.kept,
            "root_sha256": self.root_sha256,
        }


def export_ek_check(dest: Path, root: x509.Certificate, issuers: Sequence[PublicIssuer]) -> EkCheckReport:
    """Make the folder, or bring it up to date: issuing CAs come and go, the operator's configuration stays.

    Args:
        dest: the folder; made if it is missing.
        root: the CA's root.
        issuers: the issuing CAs that count, of all generations; EK CAs are taken.

    Raises:
        Conflict: another root lies there.
        BadRequest: there is no EK CA.
        Unavailable: the folder cannot be written.
    """
    pem = root.public_bytes(Encoding.PEM)
    digest = hashlib.sha256(root.public_bytes(Encoding.DER)).hexdigest()
    place, configuration = dest / ROOT_FILE, dest / CONFIGURATION_FILE
    try:
        known = place.read_bytes() if place.exists() else None
        if known is not None and known != pem:
            raise Conflict(
                f"{place} is another root",
                code="export",
                remedy="Name another folder. Take the file away only if that other CA shall not count any more.",
            )
        dest.mkdir(parents=True, exist_ok=True)
        report = export_keylime(dest / ISSUERS, issuers, "ek")
        written = [f"{ISSUERS}/{name}" for name in report.written]
        if known is None:
            files.replace_file(place, pem, files.PUBLIC_FILE)
            written.append(ROOT_FILE)
        kept = configuration.exists()
        if not kept:
            # Last: where a configuration lies, all that it names lies too.
            files.replace_file(configuration, _text(digest).encode(), files.PUBLIC_FILE)
            written.append(CONFIGURATION_FILE)
    except OSError as error:
        raise Unavailable(f"{dest} cannot be written: {error.strerror}", code="storage") from error
    removed = tuple(f"{ISSUERS}/{name}" for name in report.removed)
    return EkCheckReport(dest, tuple(written), removed, kept, digest)


def _text(digest: str) -> str:
    return f"""# What vtpm-ca-ek-check trusts. Paths are relative to this file. See docs/ek-check.md.
root = "{ROOT_FILE}"
root_sha256 = "{digest}"
issuers = "{ISSUERS}"

# Revocation lists are fetched from where the certificates say, and kept here: keylime's user must be able to write.
fetch = true
cache = "{CACHE}"
refresh_s = 3600

# Without a network: leave the three out, and put the root's list and those of the EK CA into a folder.
# crls = "crls"

# Which provenance counts; without the table any does.
# [provenance]
# kbs_keys = ["RFC 7638 thumbprint, base64url"]
# measurements = ["launch measurement, 96 hex digits"]
# resources = ["default/vtpm/*"]
"""
