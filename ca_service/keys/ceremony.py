"""The key ceremony: from a configuration to a CA, whole or not at all.

Everything is built in a folder beside the final one and appears under its name by one rename. A ceremony that
dies leaves nothing under that name; what it may leave beside it, named ``.<name>.ceremony-...``, holds sealed
keys only and may be deleted.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca_service.judgment import Conflict, Unavailable
from ca_service.keys import files
from ca_service.keys.authority import (
    ACTIVATION_KEY_FILE,
    ACTIVATION_PURPOSE,
    CERTIFICATES,
    FACTS_FILE,
    NONCE_KEY_FILE,
    NONCE_PURPOSE,
    OFFLINE,
    PRIVATE,
    ROOT_KEY_FILE,
    ROOT_PURPOSE,
    RUN,
    SECRET_SIZE,
    issuer_purpose,
)
from ca_service.keys.configuration import CaFacts, CeremonyConfig, IssuerEntry, RootEntry
from ca_service.keys.issue import sign_certificate
from ca_service.keys.sealed import Sealer
from ca_service.keys.signer import FileSigner
from ca_service.profiles import (
    DEFAULT_PAIR,
    CaRole,
    Entropy,
    IssuerInfo,
    IssuerRole,
    draft_issuing,
    draft_root,
    lint,
    new_serial,
)

TRANSCRIPT_FILE = "transcript.json"
_ROLES: tuple[IssuerRole, ...] = ("ek", "devid", "ephemeral")
_PREFIXES = 127


@dataclass(frozen=True)
class TranscriptEntry:
    """One certificate that the ceremony made: role, subject, key id and SHA-256 of the DER in hex."""

    role: str
    subject: str
    skid: str
    sha256: str


@dataclass(frozen=True)
class Transcript:
    """What a ceremony did, for the record; nothing in it is secret."""

    directory: Path
    ca_id: str
    mode: str
    publication_url: str
    at: datetime
    certificates: tuple[TranscriptEntry, ...]

    def to_json(self) -> dict[str, object]:
        """The transcript as plain values."""
        return {
            "ca_id": self.ca_id,
            "mode": self.mode,
            "publication_url": self.publication_url,
            "at": self.at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "certificates": [
                {"role": c.role, "subject": c.subject, "skid": c.skid, "sha256": c.sha256}
                for c in self.certificates
            ],
        }


def run_ceremony(
    directory: Path,
    config: CeremonyConfig,
    passphrase: bytes,
    *,
    clock: Callable[[], datetime],
    entropy: Entropy,
    finish: Callable[[Path], None] | None = None,
) -> Transcript:
    """Make a CA: root, issuing CAs, secrets, all sealed under the passphrase.

    Args:
        directory: where it shall lie; must not exist yet, or be empty.
        config: what it shall be.
        passphrase: seals all secrets.
        clock: gives the aware present time.
        entropy: source of serials, salts and symmetric keys. (Key pairs come from OpenSSL's own.)
        finish: called with the folder under construction when all else is done, to add what belongs to a
            whole CA (database, first revocation lists); if it raises, there is no CA.

    Raises:
        Conflict: there is something in that directory already (code ``exists``).
        Unavailable: the directory cannot be written (code ``storage``).
        BadRequest: the passphrase is empty.
        LintFailed: the configuration leads to a certificate that the profiles refuse.
    """
    directory = directory.absolute()
    _require_vacant(directory)
    sealer = Sealer(passphrase)
    building = directory.parent / f".{directory.name}.ceremony-{entropy(8).hex()}"
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        files.make_directory(building, files.PRIVATE_DIRECTORY)
        try:
            transcript = _Ceremony(building, directory, config, sealer, clock(), entropy).run()
            if finish is not None:
                finish(building)
            files.flush_tree(building)
            _require_vacant(directory)
            building.rename(directory)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        files.flush_directory(directory.parent)
    except OSError as error:
        raise Unavailable(f"{directory} cannot be written: {error.strerror}", code="storage") from error
    return transcript


def _require_vacant(directory: Path) -> None:
    empty = directory.is_dir() and not any(directory.iterdir())
    if directory.is_symlink() or (directory.exists() and not empty):
        raise Conflict(
            f"{directory} is not empty",
            code="exists",
            remedy="A ceremony never touches an existing CA; name another directory.",
        )


@dataclass(frozen=True)
class _KeyedCa:
    info: IssuerInfo
    signer: FileSigner


class _Ceremony:
    """One run; `building` is the folder that it fills."""

    def __init__(
        self,
        building: Path,
        directory: Path,
        config: CeremonyConfig,
        sealer: Sealer,
        at: datetime,
        entropy: Entropy,
    ) -> None:
        self._building = building
        self._directory = directory
        self._config = config
        self._sealer = sealer
        self._at = at.astimezone(UTC).replace(microsecond=0)
        self._entropy = entropy
        self._prefix = 1 + int.from_bytes(entropy(8), "big") % _PREFIXES
        self._entries: list[TranscriptEntry] = []

    def run(self) -> Transcript:
        for name, mode in (
            (CERTIFICATES, files.PUBLIC_DIRECTORY),
            (PRIVATE, files.PRIVATE_DIRECTORY),
            (OFFLINE, files.PRIVATE_DIRECTORY),
            (RUN, files.PRIVATE_DIRECTORY),
        ):
            files.make_directory(self._building / name, mode)
        root = self._make_root()
        issuers = [self._make_issuing(role, DEFAULT_PAIR, root) for role in _ROLES]
        self._seal(PRIVATE, NONCE_KEY_FILE, self._entropy(SECRET_SIZE), NONCE_PURPOSE)
        self._seal(PRIVATE, ACTIVATION_KEY_FILE, self._entropy(SECRET_SIZE), ACTIVATION_PURPOSE)
        facts = CaFacts(
            version=1,
            ca_id=self._config.ca_id or f"vtpm-ca:{root.info.skid}",
            mode=self._config.mode,
            organization=self._config.organization,
            publication_url=self._config.publication_url,
            serial_prefix=self._prefix,
            validity=self._config.validity,
            root=RootEntry(certificate="root.pem", sha256=self._entries[0].sha256),
            issuer=issuers,
        )
        self._write(FACTS_FILE, facts.to_toml().encode())
        transcript = Transcript(
            self._directory, facts.ca_id, facts.mode, facts.publication_url, self._at, tuple(self._entries)
        )
        self._write(TRANSCRIPT_FILE, json.dumps(transcript.to_json(), indent=2).encode() + b"\n")
        return transcript

    def _make_root(self) -> _KeyedCa:
        key = ec.generate_private_key(ec.SECP384R1())
        signer = FileSigner(key)
        draft = draft_root(
            organization=self._config.organization,
            mode=self._config.mode,
            public_key=signer.public_key(),
            serial=new_serial(self._prefix, self._entropy),
            validity=self._config.validity.root(self._at),
        )
        der = sign_certificate(draft.tbs, lint(draft, None), signer, None)
        self._seal(OFFLINE, ROOT_KEY_FILE, _pkcs8(key), ROOT_PURPOSE)
        return _KeyedCa(self._publish("root", "root.pem", der), signer)

    def _make_issuing(self, role: IssuerRole, pair: str, root: _KeyedCa) -> IssuerEntry:
        key = ec.generate_private_key(ec.SECP384R1())
        draft = draft_issuing(
            role,
            pair=pair,
            organization=self._config.organization,
            mode=self._config.mode,
            public_key=key.public_key(),
            serial=new_serial(self._prefix, self._entropy),
            validity=self._config.validity.issuing(self._at, root.info.validity),
            issuer=root.info,
        )
        der = sign_certificate(draft.tbs, lint(draft, root.info), root.signer, root.info.certificate)
        stem = f"{role}-{pair}"
        self._seal(PRIVATE, f"{stem}.sealed", _pkcs8(key), issuer_purpose(role, pair))
        self._publish(role, f"{stem}.pem", der)
        return IssuerEntry(
            role=role,
            pair=pair,
            certificate=f"{stem}.pem",
            key=f"{stem}.sealed",
            sha256=sha256(der).hexdigest(),
        )

    def _publish(self, role: CaRole, name: str, der: bytes) -> IssuerInfo:
        certificate = x509.load_der_x509_certificate(der)
        self._write(f"{CERTIFICATES}/{name}", certificate.public_bytes(Encoding.PEM))
        info = IssuerInfo(certificate, self._config.publication_url, role)
        self._entries.append(
            TranscriptEntry(role, certificate.subject.rfc4514_string(), info.skid, sha256(der).hexdigest())
        )
        return info

    def _seal(self, folder: str, name: str, secret: bytes, purpose: str) -> None:
        sealed = self._sealer.seal(secret, purpose=purpose, entropy=self._entropy)
        files.write_new(self._building / folder / name, sealed, files.PRIVATE_FILE)

    def _write(self, name: str, data: bytes) -> None:
        files.write_new(self._building / name, data, files.PUBLIC_FILE)


def _pkcs8(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
