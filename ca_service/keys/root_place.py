"""Where the root's key is locked away, as the operator's configuration says."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ca_service.judgment import BadRequest, Unavailable
from ca_service.keys import files
from ca_service.keys.custody import Custody, FileCustody, KeyRing, NewKey
from ca_service.keys.layout import OFFLINE
from ca_service.keys.sealed import Sealer
from ca_service.keys.uri import TokenUri, is_token_uri
from ca_service.profiles import Entropy


class RootPlace(Protocol):
    """A place for the root's key, and what people must know of it."""

    @property
    def custody(self) -> Custody:
        """Who makes and keeps the key."""

    @property
    def name(self) -> str:
        """The key's name for `Custody.generate`."""

    def where(self, reference: str) -> str:
        """Where the key with this reference is, for the transcript."""

    def advice(self, reference: str) -> str:
        """What to do with it next, one sentence."""


def root_place(key: str | None, offline: KeyRing, directory: Path, entropy: Entropy) -> RootPlace:
    """The place that a configuration names.

    Args:
        key: as `RootRule.key` has it.
        offline: the folder ``offline/`` of the CA under construction, and the tokens.
        directory: the CA's directory when it is done.
        entropy: source of salts, ids and names.

    Raises:
        BadRequest: the folder is no place for the key.
        Unavailable: a token cannot be used with what is installed (code ``pkcs11``).
    """
    if key is None:
        return _Inside(offline.custody("file", entropy), directory)
    if is_token_uri(key):
        return _OnToken(offline.custody(key, entropy, label=TokenUri.parse(key).object))
    return _Outside(Path(key), directory, offline, entropy)


@dataclass(frozen=True)
class _Inside:
    """The CA's own folder, from which people must take it."""

    custody: Custody
    directory: Path
    name: str = "root"

    def where(self, reference: str) -> str:
        return f"sealed file {self.directory / OFFLINE / reference}"

    def advice(self, reference: str) -> str:
        path = self.directory / OFFLINE / reference
        return f"Move {path} to a medium in a safe: the running CA does not need the root's key."


@dataclass(frozen=True)
class _OnToken:
    """A PKCS#11 token."""

    custody: Custody
    name: str = "root"

    def where(self, reference: str) -> str:
        return f"token, {reference}"

    def advice(self, reference: str) -> str:
        token = TokenUri.parse(reference).token
        return f"Lock the token {token} away: the running CA does not need the root's key."


class _Outside:
    """A folder that the operator names, for example on a medium."""

    def __init__(self, folder: Path, directory: Path, offline: KeyRing, entropy: Entropy) -> None:
        if folder.resolve().is_relative_to(directory.resolve()):
            raise BadRequest("ceremony.root.key", "must not lie in the CA's directory")
        self._folder = folder
        self._directory = directory
        # Media hold the keys of several CAs, so the name must be nobody else's.
        self.name = f"vtpm-ca-root-{entropy(8).hex()}"
        self.custody: Custody = _FolderCustody(folder, offline.sealer, entropy)

    def where(self, reference: str) -> str:
        return f"sealed file {self._folder / reference}"

    def advice(self, reference: str) -> str:
        path = self._folder / reference
        if self._folder.stat().st_dev == self._directory.parent.stat().st_dev:
            return f"Take {path} off this machine: it lies on the same file system as the CA."
        return f"Lock the medium with {path} away: the running CA does not need the root's key."


class _FolderCustody(FileCustody):
    """A folder that is made if it is missing, and goes again if nothing came about."""

    def __init__(self, folder: Path, sealer: Sealer, entropy: Entropy) -> None:
        super().__init__(folder, sealer, entropy)
        self._path = folder
        self._own = False

    def generate(self, name: str, purpose: str) -> NewKey:
        try:
            if not self._path.exists():
                # Not its parents: the mount point of a medium that is not there must not be made up.
                files.make_directory(self._path, files.PRIVATE_DIRECTORY)
                self._own = True
            files.require_private(self._path)
            return super().generate(name, purpose)
        except OSError as error:
            raise Unavailable(
                f"the folder for the root's key, {self._path}, cannot be written: {error.strerror}",
                code="storage",
                remedy="Is the medium there, and does its file system know permissions?",
            ) from error

    def discard(self) -> None:
        super().discard()
        if self._own:
            with contextlib.suppress(OSError):
                self._path.rmdir()
