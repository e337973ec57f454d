"""Where the private keys of CAs come to rest, and how they are reached again.

A key is named by a reference: the name of a sealed file, or a PKCS#11 URI. Only this module tells the two apart.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca_service.judgment import BadRequest
from ca_service.keys import files
from ca_service.keys.sealed import Sealer
from ca_service.keys.signer import FileSigner, Signer
from ca_service.profiles import Entropy, IssuerInfo


@dataclass(frozen=True)
class NewKey:
    """A key that was just made: who signs with it, and the reference by which it is found again."""

    signer: Signer
    reference: str


class Custody(Protocol):
    """Makes keys and keeps them."""

    def generate(self, name: str, purpose: str) -> NewKey:
        """Make a P-384 key.

        Args:
            name: how people shall tell it from others; also the stem of a file's name.
            purpose: what it is for.
        """

    def discard(self) -> None:
        """Destroy the keys that this object made, as far as possible: what they were for did not come about."""


class FileCustody:
    """Sealed files in one private folder."""

    def __init__(self, folder: Path, sealer: Sealer, entropy: Entropy) -> None:
        self._folder = folder
        self._sealer = sealer
        self._entropy = entropy
        self._made: list[Path] = []

    def generate(self, name: str, purpose: str) -> NewKey:
        """Make a key and write it, durable, to ``<name>.sealed``, which must not exist."""
        key = ec.generate_private_key(ec.SECP384R1())
        sealed = self._sealer.seal(_pkcs8(key), purpose=purpose, entropy=self._entropy)
        path = self._folder / f"{name}.sealed"
        files.write_new(path, sealed, files.PRIVATE_FILE)
        self._made.append(path)
        files.flush_directory(self._folder)
        return NewKey(FileSigner(key), path.name)

    def discard(self) -> None:
        """Delete the files that this object wrote."""
        for path in self._made:
            path.unlink(missing_ok=True)


def open_sealed(path: Path, sealer: Sealer, purpose: str, info: IssuerInfo) -> Signer:
    """The signer whose key lies in a sealed file.

    Raises:
        NotFound: the file is not there.
        BadRequest: others may access it (code ``permissions``), it does not open (``passphrase``), or holds
            another key than the certificate in `info` (``authority``).
    """
    signer = FileSigner.from_der(sealer.unseal(files.read_private(path), purpose=purpose))
    if signer.public_key() != info.public_key():
        raise BadRequest(path.name, "does not hold the key of its certificate", code="authority")
    return signer


def _pkcs8(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
