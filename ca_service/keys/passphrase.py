"""Where the operator's secrets come from: never the command line, which all on the machine can read."""

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ca_service.judgment import BadRequest

FILE_VARIABLE = "VTPM_CA_PASSPHRASE_FILE"
TEXT_VARIABLE = "VTPM_CA_PASSPHRASE"
CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
CREDENTIAL_NAME = "vtpm-ca-passphrase"

_LONGEST = 4096

_pipes: dict[tuple[int, int], bytes] = {}
"""What came out of pipes, by device and inode: a pipe gives its content once, and a command may need it again."""


@dataclass(frozen=True)
class _Secret:
    """One kind of secret: its word for people, the code of an error, and where it is looked for."""

    word: str
    whose: str
    code: str
    stem: str
    credential: str

    @property
    def file_variable(self) -> str:
        return f"{self.stem}_FILE"

    def find(self, environ: Mapping[str, str]) -> bytes:
        found = self.search(environ)
        if found is None:
            raise BadRequest(
                self.word,
                f"the {self.word} of {self.whose} is not set",
                code=self.code,
                remedy=f"Set {self.file_variable} or {self.stem}, or give the systemd credential {self.credential}.",
            )
        return found

    def search(self, environ: Mapping[str, str]) -> bytes | None:
        if environ.get(self.file_variable):
            return self._from_file(Path(environ[self.file_variable]))
        if environ.get(self.stem):
            return os.fsencode(environ[self.stem])
        if environ.get(CREDENTIALS_VARIABLE):
            path = Path(environ[CREDENTIALS_VARIABLE]) / self.credential
            if path.exists():
                return self._from_file(path)
        return None

    def _from_file(self, path: Path) -> bytes:
        try:
            seen = path.stat()
            pipe = (seen.st_dev, seen.st_ino) if stat.S_ISFIFO(seen.st_mode) else None
            if pipe is not None and pipe in _pipes:
                return _pipes[pipe]
            with path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                if mode & (stat.S_IRWXO | stat.S_IWGRP):
                    raise BadRequest(
                        str(path),
                        f"the {self.word}'s file may be read by everybody or written by its group",
                        code="permissions",
                        remedy=f"chmod 600 {path}",
                    )
                text = file.read(_LONGEST + 1)
        except OSError as error:
            raise BadRequest(str(path), f"cannot be read: {error.strerror}", code="permissions") from None
        if len(text) > _LONGEST:
            raise BadRequest(str(path), f"holds more than {_LONGEST} bytes", code=self.code)
        secret = text.removesuffix(b"\n").removesuffix(b"\r")
        if not secret:
            raise BadRequest(str(path), f"holds no {self.word}", code=self.code)
        if pipe is not None:
            _pipes[pipe] = secret
        return secret


_PASSPHRASE = _Secret("passphrase", "the CA's keys", "passphrase-missing", TEXT_VARIABLE, CREDENTIAL_NAME)
_ROOT_PASSPHRASE = _Secret(
    "passphrase", "the root's key", "passphrase-missing", "VTPM_CA_ROOT_PASSPHRASE", "vtpm-ca-root-passphrase"
)
_NEW_PASSPHRASE = _Secret(
    "passphrase",
    "the CA's keys from now on",
    "passphrase-missing",
    "VTPM_CA_NEW_PASSPHRASE",
    "vtpm-ca-new-passphrase",
)
_NEW_ROOT_PASSPHRASE = _Secret(
    "passphrase",
    "the root's key from now on",
    "passphrase-missing",
    "VTPM_CA_NEW_ROOT_PASSPHRASE",
    "vtpm-ca-new-root-passphrase",
)
_PIN = _Secret("pin", "the token", "pin-missing", "VTPM_CA_PKCS11_PIN", "vtpm-ca-pkcs11-pin")
_ROOT_PIN = _Secret(
    "pin", "the root's token", "pin-missing", "VTPM_CA_ROOT_PKCS11_PIN", "vtpm-ca-root-pkcs11-pin"
)

PinSource = Callable[[], bytes]
"""Gives a token's PIN when it is needed; raises BadRequest if there is none (code ``pin-missing``)."""


def find_passphrase(environ: Mapping[str, str]) -> bytes:
    """The passphrase of the CA's sealed files.

    Looked for in this order: the file that VTPM_CA_PASSPHRASE_FILE names, the text of VTPM_CA_PASSPHRASE, the
    systemd credential ``vtpm-ca-passphrase``. One line end at the end of a file does not count. The file may be a pipe:
    it is read once.

    Args:
        environ: environment variables.

    Raises:
        BadRequest: there is none, or it is empty (code ``passphrase-missing``); its file is readable by all
            or cannot be read (code ``permissions``).
    """
    return _PASSPHRASE.find(environ)


def find_root_passphrase(environ: Mapping[str, str]) -> bytes:
    """The passphrase of the root's sealed key.

    Looked for like `find_passphrase`, under VTPM_CA_ROOT_PASSPHRASE_FILE, VTPM_CA_ROOT_PASSPHRASE and the
    credential ``vtpm-ca-root-passphrase``; without any of them it is the passphrase of the other files.
    """
    found = _ROOT_PASSPHRASE.search(environ)
    return find_passphrase(environ) if found is None else found


@dataclass(frozen=True)
class NewPassphrase:
    """What opens keys, and what shall open them in its place."""

    old: bytes = field(repr=False)
    new: bytes = field(repr=False)


def find_new_passphrase(environ: Mapping[str, str]) -> NewPassphrase:
    """The passphrase of the CA's sealed files, and the one that follows it.

    The new one is looked for like `find_passphrase`, under VTPM_CA_NEW_PASSPHRASE_FILE, VTPM_CA_NEW_PASSPHRASE and the
    credential ``vtpm-ca-new-passphrase``.
    """
    return NewPassphrase(find_passphrase(environ), _NEW_PASSPHRASE.find(environ))


def find_new_root_passphrase(environ: Mapping[str, str], *, needed: bool) -> NewPassphrase | None:
    """The same for the root's key, under VTPM_CA_NEW_ROOT_PASSPHRASE_FILE and so on.

    Without them the root's key gets the new passphrase of the other files, unless it has had one of its own: what two
    people guard is not to end up with one of them unawares.

    Returns:
        None if it has one of its own and no new one is given.

    Raises:
        BadRequest: as `find_passphrase`; that one is needed and not given.
    """
    own, new = _ROOT_PASSPHRASE.search(environ), _NEW_ROOT_PASSPHRASE.search(environ)
    if own is not None and new is None:
        return NewPassphrase(own, _NEW_ROOT_PASSPHRASE.find(environ)) if needed else None
    old = find_passphrase(environ) if own is None else own
    return NewPassphrase(old, _NEW_PASSPHRASE.find(environ) if new is None else new)


def find_pin(environ: Mapping[str, str]) -> PinSource:
    """The PIN of the token with the issuing CAs' keys, looked for only when it is wanted, and only once.

    Looked for like `find_passphrase`, under VTPM_CA_PKCS11_PIN_FILE, VTPM_CA_PKCS11_PIN and the credential
    ``vtpm-ca-pkcs11-pin``.
    """
    return _once(lambda: _PIN.find(environ))


def find_root_pin(environ: Mapping[str, str]) -> PinSource:
    """The PIN of the token with the root's key.

    Looked for like `find_pin`, under VTPM_CA_ROOT_PKCS11_PIN_FILE, VTPM_CA_ROOT_PKCS11_PIN and the credential
    ``vtpm-ca-root-pkcs11-pin``; without any of them it is the PIN of the other token.
    """

    def find() -> bytes:
        found = _ROOT_PIN.search(environ)
        return _PIN.find(environ) if found is None else found

    return _once(find)


def no_pin() -> bytes:
    """The source of those who have no token."""
    return _PIN.find({})


def _once(find: PinSource) -> PinSource:
    """A file may be a pipe, which gives its content once."""
    known: list[bytes] = []

    def source() -> bytes:
        if not known:
            known.append(find())
        return known[0]

    return source
