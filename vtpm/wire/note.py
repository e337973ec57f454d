"""Signed notes (C2SP signed-note 1.0.0) with Ed25519: a text, and under it the lines of those who signed it."""

import binascii
import hashlib
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, Self

from vtpm.wire.errors import WireError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

MAX_NOTE: Final = 128 * 1024
"""Largest note that is read, in bytes: room for sixteen signatures of the largest kind."""

MAX_SIGNATURES: Final = 64
MAX_KEY_NAME: Final = 256
"""Longest name of a key, in characters."""

_ED25519: Final = 1
_PUBLIC_KEY: Final = 32
_KEY_ID: Final = 4
_MARK: Final = "\N{EM DASH} "
_HEX_ID: Final = re.compile(r"[0-9a-f]{8}\Z")
_FORBIDDEN: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")
_NOT_IN_NAMES: Final = re.compile(r"[\s+\x00-\x1f\ud800-\udfff]")


def check_key_name(name: str, path: str = "name") -> str:
    """A key's name, unchanged: not empty, no space of any kind, no plus, no control character.

    Raises:
        WireError: another form.
    """
    if not 1 <= len(name) <= MAX_KEY_NAME:
        raise WireError(path, f"must be 1 to {MAX_KEY_NAME} characters long")
    if _NOT_IN_NAMES.search(name):
        raise WireError(path, "must have no spaces, no plus, and nothing but text")
    return name


@dataclass(frozen=True)
class VerifierKey:
    """A public key with the name under which it signs notes.

    Attributes:
        name: the key's name.
        public: the Ed25519 public key, 32 bytes (RFC 8032).
    """

    name: str
    public: bytes

    def __post_init__(self) -> None:
        check_key_name(self.name, "vkey.name")
        if len(self.public) != _PUBLIC_KEY:
            raise WireError("vkey", f"must hold a key of {_PUBLIC_KEY} bytes")

    @cached_property
    def id(self) -> bytes:
        """The key id, 4 bytes: the first of SHA-256(name || 0A || 01 || key)."""
        named = self.name.encode("utf-8") + b"\n" + bytes([_ED25519]) + self.public
        return hashlib.sha256(named).digest()[:_KEY_ID]

    def __str__(self) -> str:
        material = b64encode(bytes([_ED25519]) + self.public).decode("ascii")
        return f"{self.name}+{self.id.hex()}+{material}"

    @classmethod
    def parse(cls, text: str, path: str = "vkey") -> Self:
        """Read a verifier key, `name+id+material`.

        Raises:
            WireError: another form, another algorithm than Ed25519, or an id that is not this key's.
        """
        parts = text.split("+", 2)
        if len(parts) != 3 or not _HEX_ID.match(parts[1]):  # noqa: PLR2004 - name, id, material
            raise WireError(path, "must be name+id+key, as the log's operator gave it")
        material = _base64(parts[2], path)
        if material[:1] != bytes([_ED25519]) or len(material) != 1 + _PUBLIC_KEY:
            raise WireError(path, "must hold an Ed25519 key")
        check_key_name(parts[0], path)
        key = cls(parts[0], material[1:])
        if key.id.hex() != parts[1]:
            raise WireError(path, "has an id that does not belong to its name and key")
        return key

    def verify(self, text: str, signature: bytes) -> bool:
        """Whether this key signed `text`."""
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - as below

        try:
            self._key.verify(signature, text.encode("utf-8"))
        except (InvalidSignature, ValueError):
            return False
        return True

    @cached_property
    def _key(self) -> "Ed25519PublicKey":
        # Whoever reads a problem document comes by here, and few of them verify a signature.
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

        return Ed25519PublicKey.from_public_bytes(self.public)

    def line(self, signature: bytes) -> str:
        """The signature line of a note for this key's `signature`, with its line end."""
        return f"{_MARK}{self.name} {b64encode(self.id + signature).decode('ascii')}\n"


def open_note(note: bytes, keys: Iterable[VerifierKey], path: str = "note") -> str:
    """The text of a note that at least one of the keys signed.

    Signatures of other keys are ignored, as the specification wants it; one of ours that does not verify makes the
    whole note worthless.

    Args:
        note: the note's UTF-8.
        keys: whom to believe.
        path: what the note is, for the error.

    Raises:
        WireError: no note, no signature by one of the keys, or a wrong one.
    """
    text, lines = _split(note, path)
    known = {(key.name, key.id): key for key in keys}
    signed = False
    for line in lines:
        name, id_, signature = _signature(line, path)
        key = known.get((name, id_))
        if key is None:
            continue
        if not key.verify(text, signature):
            raise WireError(path, "has a signature that does not verify")
        signed = True
    if not signed:
        raise WireError(path, "is not signed by the key that was given")
    return text


def check_text(text: str, path: str = "note") -> str:
    """A text that can be signed, unchanged; raises `WireError` for others."""
    if not text.endswith("\n") or _FORBIDDEN.search(text):
        raise WireError(path, "must be text that ends with a line end, without control characters")
    return text


def _split(note: bytes, path: str) -> tuple[str, list[str]]:
    if len(note) > MAX_NOTE:
        raise WireError(path, f"must be at most {MAX_NOTE} bytes, is {len(note)}")
    try:
        whole = note.decode("utf-8")
    except UnicodeDecodeError:
        raise WireError(path, "must be UTF-8 text") from None
    check_text(whole, path)
    text, separator, signatures = whole.rpartition("\n\n")
    # `split` and not `splitlines`: only U+000A ends a line of a note.
    lines = signatures.split("\n")[:-1]
    if not separator or not lines:
        raise WireError(path, "must be a text, an empty line, and signatures")
    if len(lines) > MAX_SIGNATURES:
        raise WireError(path, f"must have at most {MAX_SIGNATURES} signatures")
    return text + "\n", lines


def _signature(line: str, path: str) -> tuple[str, bytes, bytes]:
    name, space, encoded = line.removeprefix(_MARK).partition(" ")
    if not line.startswith(_MARK) or not space:
        raise WireError(path, "has a line among its signatures that is none")
    check_key_name(name, path)
    data = _base64(encoded, path)
    if len(data) <= _KEY_ID:
        raise WireError(path, "has an empty signature")
    return name, data[:_KEY_ID], data[_KEY_ID:]


def _base64(text: str, path: str) -> bytes:
    try:
        data = b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise WireError(path, "must have keys and signatures in base64") from None
    if b64encode(data).decode("ascii") != text:
        raise WireError(path, "must have keys and signatures in canonical base64")
    return data
