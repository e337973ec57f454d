"""The key ceremony: from a configuration to a CA, whole or not at all.

Everything is built in a folder beside the final one and appears under its name by one rename. A ceremony that
dies leaves nothing under that name. What it may leave beside it, named ``.<name>.ceremony-...``, and in the place
that the operator named for the root's key, holds sealed keys only and may be deleted.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from ca_service.judgment import Conflict, Unavailable
from ca_service.keys import files
from ca_service.keys.authority import Authority, RootCa
from ca_service.keys.configuration import CeremonyConfig, PublicationEntry
from ca_service.keys.custody import Custody, KeyRing
from ca_service.keys.facts import CaFacts, LogEntry, RootEntry
from ca_service.keys.generations import make_issuer
from ca_service.keys.hierarchy import Hierarchy
from ca_service.keys.layout import (
    ACTIVATION_KEY_FILE,
    ACTIVATION_PURPOSE,
    CERTIFICATES,
    FACTS_FILE,
    LISTS,
    LOG_KEY_FILE,
    LOG_PURPOSE,
    NONCE_KEY_FILE,
    NONCE_PURPOSE,
    OFFLINE,
    PRIVATE,
    ROOT_CERTIFICATE_FILE,
    ROOT_PURPOSE,
    RUN,
    SECRET_SIZE,
    TRANSCRIPT_FILE,
    TRANSCRIPT_TEXT_FILE,
)
from ca_service.keys.log import log_entry
from ca_service.keys.opening import open_authority
from ca_service.keys.passphrase import PinSource, no_pin
from ca_service.keys.root_place import root_place
from ca_service.keys.sealed import Sealer
from ca_service.keys.transcript import NOBODY, Occasion, Transcript, TranscriptEntry, TranscriptList, instant
from ca_service.keys.uri import is_token_uri
from ca_service.profiles import Entropy, IssuerRole

_ROLES: tuple[IssuerRole, ...] = ("ek", "devid", "ephemeral")
_PREFIXES = 127

Finish = Callable[[Authority, RootCa], Sequence[TranscriptList]]
"""Adds what belongs to a whole CA but not to its keys (database, first revocation lists), in the directory of the
`Authority` that it is given; returns the lists that it made."""


def run_ceremony(
    directory: Path,
    config: CeremonyConfig,
    passphrase: bytes,
    *,
    clock: Callable[[], datetime],
    entropy: Entropy,
    finish: Finish | None = None,
    root_passphrase: bytes | None = None,
    pin: PinSource = no_pin,
    root_pin: PinSource = no_pin,
    occasion: Occasion = NOBODY,
) -> Transcript:
    """Make a CA: root, issuing CAs, secrets, log key; what is a file is sealed under the passphrase.

    Args:
        directory: where it shall lie; must not exist yet, or be empty.
        config: what it shall be.
        passphrase: seals all secrets.
        clock: gives the aware present time.
        entropy: source of serials, salts, symmetric keys and the log's key. (Keys of CAs come from OpenSSL's own
            source, or the token's.)
        finish: called when all else is done; if it raises, there is no CA.
        root_passphrase: seals the root's key; the same passphrase if None.
        pin: of the token, if the issuing CAs' keys shall live on one.
        root_pin: of the token, if the root's key shall live on one.
        occasion: who holds the ceremony, for the transcript.

    Raises:
        Conflict: there is something in that directory already, or another file system begins there (code ``exists``).
        Unavailable: the directory, or the folder for the root's key, cannot be written (code ``storage``).
        BadRequest: a passphrase is empty; the folder for the root's key lies in the CA's directory, or others
            may access it (``permissions``).
        LintFailed: the configuration leads to a certificate that the profiles refuse.
    """
    directory = directory.absolute()
    _require_vacant(directory)
    sealer = Sealer(passphrase)
    root_sealer = sealer if root_passphrase in (None, passphrase) else Sealer(root_passphrase)
    building = directory.parent / f".{directory.name}.ceremony-{entropy(8).hex()}"
    try:
        files.make_parents(directory)
        files.make_directory(building, files.PRIVATE_DIRECTORY)
        secrets = _Secrets(sealer, root_sealer, pin, root_pin)
        ceremony = _Ceremony(building, directory, config, secrets, clock(), entropy, occasion)
        try:
            transcript = ceremony.run(finish)
            files.flush_tree(building)
            _require_vacant(directory)
            building.rename(directory)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            ceremony.discard()
            raise
        files.flush_directory(directory.parent)
    except OSError as error:
        raise Unavailable(f"{directory} cannot be written: {error.strerror}", code="storage") from error
    return transcript


def _require_vacant(directory: Path) -> None:
    empty = directory.is_dir() and not any(directory.iterdir())
    if directory.is_symlink() or (directory.exists() and not empty):
        raise Conflict(
            f"{directory} is there already, and is no empty directory",
            code="exists",
            remedy="A ceremony never touches what is there; name another directory.",
        )
    if directory.is_mount():
        # It could not take the name by a rename, and would fail only after keys have been made on a token.
        raise Conflict(
            f"{directory} is the root of a file system",
            code="exists",
            remedy=f"Name a directory in it, for example {directory / 'ca'}.",
        )


@dataclass(frozen=True)
class _Secrets:
    sealer: Sealer
    root_sealer: Sealer
    pin: PinSource = field(repr=False)
    root_pin: PinSource = field(repr=False)


class _Ceremony:
    """One run; `building` is the folder that it fills."""

    def __init__(
        self,
        building: Path,
        directory: Path,
        config: CeremonyConfig,
        secrets: _Secrets,
        at: datetime,
        entropy: Entropy,
        occasion: Occasion,
    ) -> None:
        self._building = building
        self._directory = directory
        self._config = config
        self._secrets = secrets
        self._at = at.astimezone(UTC).replace(microsecond=0)
        self._entropy = entropy
        self._occasion = occasion
        self._custodies: list[Custody] = []

    def discard(self) -> None:
        """Destroy the keys that were made outside the folder under construction."""
        for custody in self._custodies:
            custody.discard()

    def run(self, finish: Finish | None) -> Transcript:
        for name, mode in (
            (CERTIFICATES, files.PUBLIC_DIRECTORY),
            (LISTS, files.PUBLIC_DIRECTORY),
            (PRIVATE, files.PRIVATE_DIRECTORY),
            (OFFLINE, files.PRIVATE_DIRECTORY),
            (RUN, files.PRIVATE_DIRECTORY),
        ):
            files.make_directory(self._building / name, mode)
        prefix = 1 + int.from_bytes(self._entropy(8), "big") % _PREFIXES
        hierarchy = Hierarchy.of_config(self._config, prefix, self._at, self._entropy)
        module = None if self._config.pkcs11 is None else self._config.pkcs11.module
        offline = KeyRing(self._building / OFFLINE, self._secrets.root_sealer, module, self._secrets.root_pin)
        place = root_place(self._config.root.key, offline, self._directory, self._entropy)
        self._custodies.append(place.custody)
        root_key = place.custody.generate(place.name, ROOT_PURPOSE)
        root = hierarchy.make_root(root_key.signer)
        self._write(f"{CERTIFICATES}/{ROOT_CERTIFICATE_FILE}", root.certificate.public_bytes(Encoding.PEM))
        ring = KeyRing(self._building / PRIVATE, self._secrets.sealer, module, self._secrets.pin)
        custody = ring.custody(self._config.keys.issuing, self._entropy)
        self._custodies.append(custody)
        made = [make_issuer(self._building, hierarchy, custody, root, role) for role in _ROLES]
        self._seal(NONCE_KEY_FILE, self._entropy(SECRET_SIZE), NONCE_PURPOSE)
        self._seal(ACTIVATION_KEY_FILE, self._entropy(SECRET_SIZE), ACTIVATION_PURPOSE)
        ca_id = self._config.ca_id or f"vtpm-ca:{root.skid}"
        facts = CaFacts(
            version=1,
            ca_id=ca_id,
            mode=self._config.mode,
            organization=self._config.organization,
            publication_url=self._config.publication_url,
            serial_prefix=prefix,
            validity=self._config.validity,
            keys=self._config.keys,
            publication=PublicationEntry(**self._config.publication.model_dump()),
            pkcs11=self._config.pkcs11,
            log=self._make_log(ca_id),
            root=RootEntry(
                certificate=ROOT_CERTIFICATE_FILE,
                sha256=sha256(root.certificate.public_bytes(Encoding.DER)).hexdigest(),
                key=root_key.reference if is_token_uri(root_key.reference) else None,
            ),
            issuer=[one.entry for one in made],
        )
        self._write(FACTS_FILE, facts.to_toml().encode())
        authority = open_authority(self._building, self._secrets.sealer, self._secrets.pin)
        lists = tuple(finish(authority, root)) if finish is not None else ()
        entries = [TranscriptEntry.of("root", root.certificate, root.skid, place.where(root_key.reference))]
        entries += [
            TranscriptEntry.of(ca.role, ca.certificate, ca.skid, self._place(one.entry.key))
            for one in made
            for ca in (one.issuer,)
        ]
        transcript = Transcript(
            directory=self._directory,
            ca_id=ca_id,
            mode=self._config.mode,
            publication_url=self._config.publication_url,
            at=self._at,
            occasion=self._occasion,
            certificates=tuple(entries),
            lists=lists,
            log=authority.log,
            next_steps=(place.advice(root_key.reference), *_next_steps(entries[0], lists)),
        )
        self._write(TRANSCRIPT_FILE, json.dumps(transcript.to_json(), indent=2).encode() + b"\n")
        self._write(TRANSCRIPT_TEXT_FILE, transcript.to_text().encode())
        return transcript

    def _place(self, reference: str) -> str:
        if is_token_uri(reference):
            return f"token, {reference}"
        return f"sealed file {self._directory / PRIVATE / reference}"

    def _make_log(self, ca_id: str) -> LogEntry:
        seed = self._entropy(SECRET_SIZE)
        self._seal(LOG_KEY_FILE, seed, LOG_PURPOSE)
        return log_entry(ca_id, seed)

    def _seal(self, name: str, secret: bytes, purpose: str) -> None:
        sealed = self._secrets.sealer.seal(secret, purpose=purpose, entropy=self._entropy)
        files.write_new(self._building / PRIVATE / name, sealed, files.PRIVATE_FILE)

    def _write(self, name: str, data: bytes) -> None:
        files.write_new(self._building / name, data, files.PUBLIC_FILE)


def _next_steps(root: TranscriptEntry, lists: Sequence[TranscriptList]) -> list[str]:
    steps = ["Keep this transcript with the configuration that was reviewed."]
    steps += [
        f"Make the root's next revocation list before {instant(item.next_update)}: it takes the root's key."
        for item in lists
        if item.role == "root"
    ]
    steps.append(
        f"Give the root's certificate to those who shall trust this CA; its SHA-256 is {root.sha256}."
    )
    steps.append("Give the log's public key to those who shall audit this CA.")
    steps.append("Put an allow-list in force (vtpm-ca policy apply) and start the server (vtpm-ca serve).")
    return steps
