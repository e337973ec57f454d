"""Where the private keys of CAs come to rest, and how they are reached again.

A key is named by a reference: the name of a sealed file, or a PKCS#11 URI. Only this module tells the two apart.
"""

import contextlib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca_service.judgment import BadRequest, Unavailable
from ca_service.keys import files
from ca_service.keys.passphrase import PinSource, no_pin
from ca_service.keys.sealed import Sealer
from ca_service.keys.signer import FileSigner, Signer
from ca_service.keys.uri import TokenUri, is_token_uri
from ca_service.profiles import Entropy, IssuerInfo

if TYPE_CHECKING:
    from ca_service.keys.token import Token


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
        """Delete the files that this object wrote, each if it can be."""
        for path in self._made:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


class KeyRing:
    """Finds the keys of one CA by their references.

    Args:
        folder: where sealed files lie.
        sealer: opens them.
        module: path of the PKCS#11 module; None if no key lives on a token.
        pin: of the token.
    """

    def __init__(
        self, folder: Path, sealer: Sealer, module: str | None = None, pin: PinSource = no_pin
    ) -> None:
        self._folder = folder
        self.sealer = sealer
        self._module = module
        self._pin = pin
        self._tokens: dict[TokenUri, Token] = {}

    def signer(self, reference: str, purpose: str, info: IssuerInfo) -> Signer:
        """The signer with this key, which is proved to be the one of the certificate in `info`.

        Raises:
            NotFound: the sealed file is not there.
            BadRequest: others may access the file (code ``permissions``), it does not open (``passphrase``), the
                token refuses the PIN (``pin``), or the key is another than the certificate's (``authority``).
            Unavailable: the token is out of reach (``token``), or cannot be used with what is installed
                (``pkcs11``).
        """
        if is_token_uri(reference):
            key = TokenUri.parse(reference)
            signer: Signer = _token_rooms().open_signer(self._token(key), key, info.public_key())
            return signer
        path = self._folder / reference
        local = FileSigner.from_der(self.sealer.unseal(files.read_private(path), purpose=purpose))
        if local.public_key() != info.public_key():
            raise BadRequest(path.name, "does not hold the key of its certificate", code="authority")
        return local

    def custody(self, place: str, entropy: Entropy, *, label: str = "") -> Custody:
        """Who makes further keys.

        Args:
            place: ``file``, or a PKCS#11 URI of a token.
            entropy: source of salts and ids.
            label: of the one key that is made on a token; by default made from its name.

        Raises:
            Unavailable: a token cannot be used with what is installed (code ``pkcs11``).
        """
        if not is_token_uri(place):
            return FileCustody(self._folder, self.sealer, entropy)
        token = self._token(TokenUri.parse(place))
        custody: Custody = _token_rooms().TokenCustody(token, entropy, label=label)
        return custody

    def _token(self, uri: TokenUri) -> "Token":
        if self._module is None:
            raise BadRequest("pkcs11.module", "a key is on a token, but no module is named", code="pkcs11")
        name = TokenUri(uri.token, uri.serial)
        if name not in self._tokens:
            self._tokens[name] = _token_rooms().Token(self._module, name, self._pin)
        return self._tokens[name]


def _token_rooms() -> ModuleType:
    try:
        return import_module("ca_service.keys.token")
    except ImportError:
        raise Unavailable(
            "a key is on a token, and the package python-pkcs11 is not installed",
            code="pkcs11",
            remedy="Install vtpm-ca[pkcs11].",
        ) from None


def _pkcs8(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
