"""The transcript of a ceremony: what was done, for the record. Nothing in it is secret."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca_service.keys.authority import LogIdentity
from ca_service.keys.layout import TRANSCRIPT_FILE
from ca_service.profiles import serial_hex


@dataclass(frozen=True)
class Occasion:
    """Who held the ceremony, with what; empty where nobody said so.

    Attributes:
        by: the operator.
        tool: program and version.
        config_sha256: SHA-256 of the configuration as it was read, hex.
    """

    by: str = ""
    tool: str = ""
    config_sha256: str = ""


NOBODY = Occasion()
"""A ceremony that nobody signs for, as tests hold it."""


@dataclass(frozen=True)
class TranscriptEntry:
    """One certificate that the ceremony made: key id, serial and SHA-256 of the DER in hex; where its key is."""

    role: str
    subject: str
    serial: str
    skid: str
    sha256: str
    not_before: datetime
    not_after: datetime
    key: str

    @classmethod
    def of(cls, role: str, certificate: x509.Certificate, skid: str, key: str) -> "TranscriptEntry":
        """The entry of a certificate whose key is where `key` says."""
        return cls(
            role=role,
            subject=certificate.subject.rfc4514_string(),
            serial=serial_hex(certificate.serial_number),
            skid=skid,
            sha256=sha256(certificate.public_bytes(Encoding.DER)).hexdigest(),
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            key=key,
        )

    def to_json(self) -> dict[str, object]:
        """The entry as plain values."""
        return {
            "role": self.role,
            "subject": self.subject,
            "serial": self.serial,
            "skid": self.skid,
            "sha256": self.sha256,
            "not_before": instant(self.not_before),
            "not_after": instant(self.not_after),
            "key": self.key,
        }


@dataclass(frozen=True)
class TranscriptList:
    """One revocation list that the ceremony made: whose, its number, its times, SHA-256 of the DER in hex.

    `shard` counts the lists of one issuing CA from 0.
    """

    role: str
    skid: str
    number: int
    this_update: datetime
    next_update: datetime
    sha256: str
    shard: int = 0

    def to_json(self) -> dict[str, object]:
        """The entry as plain values."""
        return {
            "role": self.role,
            "skid": self.skid,
            "shard": self.shard,
            "number": self.number,
            "this_update": instant(self.this_update),
            "next_update": instant(self.next_update),
            "sha256": self.sha256,
        }


@dataclass(frozen=True)
class Transcript:
    """What a ceremony did.

    Attributes:
        directory: where the CA lies.
        ca_id: its name in the protocol.
        mode: production or simulation.
        publication_url: base URL of what it publishes.
        at: when it was made.
        occasion: who held the ceremony.
        certificates: the root's, then the issuing CAs'.
        lists: the first revocation lists.
        log: the log's name and public key.
        next_steps: what is left to people, one sentence each.
    """

    directory: Path
    ca_id: str
    mode: str
    publication_url: str
    at: datetime
    occasion: Occasion
    certificates: tuple[TranscriptEntry, ...]
    lists: tuple[TranscriptList, ...]
    log: LogIdentity
    next_steps: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """The transcript as plain values."""
        return {
            "ca_id": self.ca_id,
            "mode": self.mode,
            "publication_url": self.publication_url,
            "at": instant(self.at),
            "by": self.occasion.by,
            "tool": self.occasion.tool,
            "config_sha256": self.occasion.config_sha256,
            "certificates": [entry.to_json() for entry in self.certificates],
            "crls": [entry.to_json() for entry in self.lists],
            "log": {"origin": self.log.origin, "verifier": self.log.verifier},
            "next_steps": list(self.next_steps),
        }

    def to_text(self) -> str:
        """The transcript for people, lines ended by a line feed."""
        lines = [f"Key ceremony of the {self.mode} CA {self.ca_id}", ""]
        lines += _aligned(
            [
                ("directory", str(self.directory)),
                ("publishes at", self.publication_url),
                ("at", instant(self.at)),
                ("by", self.occasion.by),
                ("with", self.occasion.tool),
                (
                    "configuration",
                    f"SHA-256 {self.occasion.config_sha256}" if self.occasion.config_sha256 else "",
                ),
            ]
        )
        for entry in self.certificates:
            lines += ["", f"{_TITLES[entry.role]}: {entry.subject}"]
            lines += _aligned(
                [
                    ("serial", entry.serial),
                    ("key id", entry.skid),
                    ("SHA-256", entry.sha256),
                    ("valid", f"{instant(entry.not_before)} to {instant(entry.not_after)}"),
                    ("private key", entry.key),
                ]
            )
        for item in self.lists:
            if item.shard:
                continue
            others = sum(other.skid == item.skid for other in self.lists) - 1
            more = f", and {others} more in {TRANSCRIPT_FILE}" if others else ""
            lines += ["", f"Revocation list {item.number} of the {_TITLES[item.role]}{more}"]
            times = f"{instant(item.this_update)}, the next one by {instant(item.next_update)}"
            lines += _aligned([("made", times), ("SHA-256", item.sha256)])
        lines += ["", "Log"]
        lines += _aligned([("origin", self.log.origin), ("verifier key", self.log.verifier)])
        lines += ["", "What to do next"]
        lines += [f"  {number}. {step}" for number, step in enumerate(self.next_steps, 1)]
        return "\n".join(lines) + "\n"


_TITLES = {"root": "root", "ek": "EK CA", "devid": "DevID CA", "ephemeral": "Ephemeral CA"}


def instant(at: datetime) -> str:
    """A time as RFC 3339 in UTC, whole seconds."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _aligned(rows: Sequence[tuple[str, str]]) -> list[str]:
    return [f"  {name:<14} {value}" for name, value in rows if value]
