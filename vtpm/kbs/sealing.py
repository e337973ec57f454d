"""How the KBS's secrets lie on its disk: AES-256-GCM under one master key, each sealed to its purpose.

The master key comes from a passphrase by scrypt when one is configured, else from a file beside the secrets. The
file keeps secrets out of a copy of single files, a grep or a log; only the passphrase protects a copy of the whole
directory.
"""

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from vtpm.errors import UsageError
from vtpm.kbs.errors import KbsError
from vtpm.kbs.files import check_private, read_private, write_once
from vtpm.wire.encoding import Members, b64url, canonical, parse_json, unhex
from vtpm.wire.errors import WireError

_FORMAT: Final = "vtpm-kbs-sealed/1"
_SCRYPT_FORMAT: Final = "vtpm-kbs-scrypt/1"
_KEY: Final = 32
_NONCE: Final = 12
_SALT: Final = 16
_MAX_FILE: Final = 256 * 1024
_LOG2_N: Final = 16
"""scrypt cost: 64 MiB and some 0.2 s, once per start."""
_R: Final = 8
_P: Final = 1

KEY_FILE: Final = "master.key"
SCRYPT_FILE: Final = "master.scrypt"


def find_passphrase(environ: Mapping[str, str] | None = None) -> bytes | None:
    """The passphrase from VTPM_KBS_PASSPHRASE_FILE or VTPM_KBS_PASSPHRASE; None when neither is set.

    Raises:
        UsageError: the file cannot be read, or the passphrase is empty.
    """
    environ = os.environ if environ is None else environ
    name = environ.get("VTPM_KBS_PASSPHRASE_FILE", "")
    if name:
        try:
            check_private(Path(name))
            passphrase = Path(name).read_bytes().rstrip(b"\r\n")
        except (KbsError, OSError) as error:
            raise UsageError(f"VTPM_KBS_PASSPHRASE_FILE: {error}") from error
    elif "VTPM_KBS_PASSPHRASE" in environ:
        passphrase = os.fsencode(environ["VTPM_KBS_PASSPHRASE"])
    else:
        return None
    if not passphrase:
        raise UsageError("the KBS's passphrase is empty")
    return passphrase


@dataclass(frozen=True)
class Master:
    """The master key; `create_or_load` finds it."""

    _key: bytes = field(repr=False)

    @classmethod
    def create_or_load(cls, directory: Path, passphrase: bytes | None, *, may_create: bool) -> Self:
        """The master key of a KBS's directory.

        Args:
            directory: where the key file or the scrypt parameters lie.
            passphrase: what the key is derived from; None for the key file.
            may_create: whether there is nothing yet that an older key has sealed. The caller then holds the lock.

        Raises:
            KbsError: the directory is kept the other way, or the master key is gone.
        """
        other, own = (KEY_FILE, SCRYPT_FILE) if passphrase is not None else (SCRYPT_FILE, KEY_FILE)
        if (directory / other).exists():
            kept, remedy = (
                ("without", "unset VTPM_KBS_PASSPHRASE and VTPM_KBS_PASSPHRASE_FILE")
                if passphrase is not None
                else ("with", "set VTPM_KBS_PASSPHRASE_FILE")
            )
            raise KbsError(f"{directory} was made {kept} a passphrase", remedy=remedy)
        try:
            stored = read_private(directory / own)
        except FileNotFoundError:
            if not may_create:
                raise KbsError(f"{directory / own} is gone; what it sealed cannot be opened") from None
            stored = (
                _new_parameters()
                if passphrase is not None
                else secrets.token_bytes(_KEY).hex().encode("ascii")
            )
            write_once(directory / own, stored)
        try:
            if passphrase is not None:
                return cls(_derive(stored, passphrase))
            return cls(unhex(stored.decode("ascii", "replace").strip(), KEY_FILE, size=_KEY))
        except WireError as error:
            raise KbsError(f"{directory / own}: {error}") from None

    def seal(self, plaintext: bytes, purpose: str) -> bytes:
        """The content of a file that only `unseal` with the same purpose opens."""
        nonce = secrets.token_bytes(_NONCE)
        header: dict[str, object] = {"format": _FORMAT, "purpose": purpose, "nonce": b64url(nonce)}
        sealed = AESGCM(self._key).encrypt(nonce, plaintext, canonical(header))
        return canonical({**header, "ciphertext": b64url(sealed)}) + b"\n"

    def unseal(self, data: bytes, purpose: str) -> bytes:
        """The plaintext of a sealed file's content.

        Raises:
            KbsError: damaged, sealed for another purpose, or under another key.
        """
        try:
            members = Members(parse_json(data, purpose, most=_MAX_FILE, depth=1), purpose)
            members.one_of("format", (_FORMAT,))
            members.one_of("purpose", (purpose,))
            nonce = members.b64url("nonce", size=_NONCE)
            ciphertext = members.b64url("ciphertext", most=_MAX_FILE)
            members.end()
        except WireError as error:
            raise KbsError(f"sealed file: {error}") from None
        header = {"format": _FORMAT, "purpose": purpose, "nonce": b64url(nonce)}
        try:
            return AESGCM(self._key).decrypt(nonce, ciphertext, canonical(header))
        except InvalidTag:
            raise KbsError(
                f"the sealed {purpose} does not open: wrong passphrase, or a damaged file"
            ) from None


def _new_parameters() -> bytes:
    salt = b64url(secrets.token_bytes(_SALT))
    return canonical({"format": _SCRYPT_FORMAT, "log2_n": _LOG2_N, "r": _R, "p": _P, "salt": salt}) + b"\n"


def _derive(parameters: bytes, passphrase: bytes) -> bytes:
    members = Members(parse_json(parameters, SCRYPT_FILE, most=1024, depth=1), SCRYPT_FILE)
    members.one_of("format", (_SCRYPT_FORMAT,))
    for name, value in (("log2_n", _LOG2_N), ("r", _R), ("p", _P)):
        members.integer(name, value, value)
    salt = members.b64url("salt", size=_SALT)
    members.end()
    return Scrypt(salt=salt, length=_KEY, n=1 << _LOG2_N, r=_R, p=_P).derive(passphrase)
