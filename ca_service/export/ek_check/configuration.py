"""The configuration of the EK check: a TOML file, checked whole before a certificate is looked at."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, Self

from ca_service.export.relying.rule import ProvenanceRule
from ca_service.judgment import BadRequest

DEFAULT_PLACE: Final = Path("/etc/keylime/vtpm-ca-ek-check.toml")
PLACE_VARIABLE: Final = "VTPM_CA_EK_CHECK_CONFIG"
"""Names another file."""

LARGEST_CONFIGURATION: Final = 1024 * 1024
_HOUR_S: Final = 3600
_YEAR_S: Final = 366 * 24 * 3600
_MEMBERS: Final = (
    "root",
    "root_sha256",
    "issuers",
    "crls",
    "fetch",
    "cache",
    "refresh_s",
    "max_age_s",
    "ocsp",
    "ephemeral",
    "provenance",
)


@dataclass(frozen=True)
class Configuration:
    """What the operator of the tenant has decided. Paths are absolute.

    Attributes:
        root: file with the root's certificate.
        root_sha256: SHA-256 of its DER, in lower-case hex; None if any root in that file is trusted.
        issuers: folder with the issuing CAs' certificates, such as keylime's ``tpm_cert_store``.
        crls: folder with revocation lists; None if they are fetched only.
        cache: folder in which fetched lists are kept; None if nothing is fetched.
        refresh: how long a fetched list is used before it is asked for anew.
        max_age: how old the issuing CA's list may be; None if its nextUpdate alone says so.
        ocsp: whether the issuing CA's OCSP responder is asked in the place of its list.
        ephemeral: whether certificates of the Ephemeral CA count.
        rule: which provenance is accepted; None for any.
    """

    root: Path
    root_sha256: str | None
    issuers: Path
    crls: Path | None
    cache: Path | None
    refresh: timedelta
    max_age: timedelta | None
    ocsp: bool
    ephemeral: bool
    rule: ProvenanceRule | None

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the file.

        Raises:
            BadRequest: it cannot be read, or a member is missing, unknown or of another form; the message names file
                and member.
        """
        try:
            with path.open("rb") as file:
                content = file.read(LARGEST_CONFIGURATION + 1)
        except OSError as error:
            raise BadRequest(
                str(path),
                f"the configuration cannot be read: {error.strerror}",
                remedy=f"Write it, or name another file in {PLACE_VARIABLE}.",
            ) from None
        if len(content) > LARGEST_CONFIGURATION:
            raise BadRequest(str(path), f"has more than {LARGEST_CONFIGURATION} octets")
        try:
            return cls.parse(content, path.absolute().parent)
        except BadRequest as error:
            raise BadRequest(f"{path}", error.detail, remedy=error.remedy) from None

    @classmethod
    def parse(cls, content: bytes, base: Path) -> Self:
        """Read the text of the file.

        Args:
            content: TOML in UTF-8.
            base: the folder to which relative paths in it are relative.

        Raises:
            BadRequest: a member is missing, unknown or of another form; the path names it.
        """
        try:
            table = tomllib.loads(content.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise BadRequest("", f"is no TOML: {error}") from None
        unknown = sorted(set(table) - set(_MEMBERS))
        if unknown:
            raise BadRequest(unknown[0], "is no member", remedy=f"There are {', '.join(_MEMBERS)}.")
        members = _Members(table, base)
        fetch, ocsp = members.flag("fetch"), members.flag("ocsp")
        crls, cache = members.place("crls"), members.place("cache")
        if fetch != (cache is not None):
            raise BadRequest("cache", "goes together with fetch = true", remedy="Set both, or neither.")
        if not fetch and crls is None:
            raise BadRequest(
                "crls",
                "is missing, and without lists nothing counts",
                remedy="Name a folder with revocation lists, or set fetch = true and cache.",
            )
        if not fetch and "refresh_s" in table:
            raise BadRequest("refresh_s", "goes together with fetch = true")
        if ocsp and "max_age_s" in table:
            raise BadRequest("max_age_s", "is about the issuing CA's list, which ocsp = true does not use")
        provenance = table.get("provenance")
        if provenance is not None and not isinstance(provenance, dict):
            raise BadRequest("provenance", "must be a table")
        return cls(
            root=members.needed("root"),
            root_sha256=members.digest("root_sha256"),
            issuers=members.needed("issuers"),
            crls=crls,
            cache=cache,
            refresh=members.seconds("refresh_s") or timedelta(seconds=_HOUR_S),
            max_age=members.seconds("max_age_s"),
            ocsp=ocsp,
            ephemeral=members.flag("ephemeral"),
            rule=None if provenance is None else ProvenanceRule.from_table(provenance),
        )


@dataclass(frozen=True)
class _Members:
    table: Mapping[str, object]
    base: Path

    def needed(self, name: str) -> Path:
        found = self.place(name)
        if found is None:
            raise BadRequest(name, "is missing", remedy=f'Add {name} = "PATH".')
        return found

    def place(self, name: str) -> Path | None:
        value = self.table.get(name)
        if value is None:
            return None
        if not isinstance(value, str) or not value or "\0" in value:
            raise BadRequest(name, "must be a path")
        return self.base / value

    def digest(self, name: str) -> str | None:
        value = self.table.get(name)
        if value is None:
            return None
        if not isinstance(value, str) or len(value) != 64 or value.strip("0123456789abcdef"):  # noqa: PLR2004 - SHA-256 in hex
            raise BadRequest(name, "must be 64 lower-case hex digits")
        return value

    def flag(self, name: str) -> bool:
        value = self.table.get(name, False)
        if not isinstance(value, bool):
            raise BadRequest(name, "must be true or false")
        return value

    def seconds(self, name: str) -> timedelta | None:
        value = self.table.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _YEAR_S:
            raise BadRequest(name, f"must be a whole number of seconds from 1 to {_YEAR_S}")
        return timedelta(seconds=value)
