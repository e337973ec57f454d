"""Changing the passphrase of the sealed files: all of a CA's at once, or none.

The new set is made beside the old one, whole and durable, and read back from there with the new passphrase. Then two
renames put it into the old one's place. Whoever opens the CA in between takes the new set, see `private_folder`. What
a try that ended half-way has left is brought to its end, or taken away, by whoever next makes keys or changes the
passphrase.

What is deleted is not overwritten first: neither journals and snapshots of file systems nor flash memory would keep
such a promise.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ca_service.judgment import BadRequest, NotFound, Unavailable
from ca_service.keys import files
from ca_service.keys.authority import PublicAuthority
from ca_service.keys.custody import KeyRing
from ca_service.keys.layout import (
    KEYS_LOCK_FILE,
    NONCE_KEY_FILE,
    NONCE_PURPOSE,
    OFFLINE,
    PRIVATE,
    PRIVATE_FORMER,
    PRIVATE_NEXT,
    ROOT_KEY_FILE,
    ROOT_PURPOSE,
    RUN,
)
from ca_service.keys.opening import load_public, read_facts
from ca_service.keys.passphrase import NewPassphrase
from ca_service.keys.sealed import Sealer, opens, reseal
from ca_service.profiles import Entropy


@dataclass(frozen=True)
class Rewording:
    """What a change of passphrase has done.

    Attributes:
        changed: the sealed files that have another passphrase now, by their paths.
        kept: those that had the new one already.
        root_kept: the root's sealed key in the CA's directory, if it has a passphrase of its own and keeps it.
    """

    changed: tuple[Path, ...]
    kept: tuple[Path, ...]
    root_kept: Path | None


def change_passphrase(
    directory: Path,
    passphrase: NewPassphrase,
    entropy: Entropy,
    *,
    root: NewPassphrase | None = None,
    root_key: Path | None = None,
) -> Rewording:
    """Seal all secrets of a CA under another passphrase. If it is interrupted, run it again with the same two.

    A running server is not disturbed: it has its keys, and looks at none of these files until it is started again or
    takes up issuing CAs that were prepared meanwhile.

    Args:
        directory: the CA's directory.
        passphrase: of the files in ``private/``.
        entropy: source of salts and nonces.
        root: of the root's key; None if that one keeps its own.
        root_key: the root's sealed key, if it is not in its place because it was taken offline; needs `root`.

    Raises:
        NotFound: there is no CA in that directory, or no such file.
        BadRequest: old and new are the same, or a file opens with neither (code ``passphrase``); a file may be
            accessed by others (``permissions``) or is no sealed one; the root's key is on a token, or is another
            one's (``authority``). Nothing is changed.
        Unavailable: the directory cannot be written (``storage``), or another process works on its keys (``busy``).
    """
    for each in (passphrase, root):
        if each is not None and each.old == each.new:
            raise BadRequest("passphrase", "the new one is the old one", code="passphrase")
    public = load_public(directory)
    try:
        (directory / RUN).mkdir(mode=files.PRIVATE_DIRECTORY, exist_ok=True)
        with files.locked(directory / RUN / KEYS_LOCK_FILE):
            settle_private(directory)
            private = _Folder(directory / PRIVATE, passphrase, entropy)
            place = _Root(public, directory, root_key, root, entropy)
            if private.changed:
                _switch(directory, private.files, passphrase.new)
            place.write()
    except OSError as error:
        raise Unavailable(
            f"{error.filename or directory} cannot be read or written: {error.strerror}",
            code="storage",
            remedy="The CA opens with the old or with the new passphrase; the command again brings it to its end.",
        ) from error
    changed, kept = private.changed + place.changed, private.kept + place.kept
    return Rewording(changed, kept, place.own)


def settle_private(directory: Path) -> None:
    """End a change of passphrase that was interrupted; the lock on the keys is held.

    Whose new set is not in its place yet has never begun: it goes. Else the old set does.
    """
    private, following = directory / PRIVATE, directory / PRIVATE_NEXT
    if not private.exists() and following.is_dir():
        following.rename(private)
        files.flush_directory(directory)
    for left in (f".{PRIVATE_NEXT}.new", PRIVATE_NEXT, PRIVATE_FORMER):
        if private.is_dir() and (directory / left).is_dir():
            shutil.rmtree(directory / left)
    files.flush_directory(directory)


def _switch(directory: Path, contents: Mapping[str, bytes], new: bytes) -> None:
    private, following, former = (directory / name for name in (PRIVATE, PRIVATE_NEXT, PRIVATE_FORMER))
    try:
        files.write_directory(following, contents)
        _read_back(following, contents, Sealer(new))
    except BaseException:
        shutil.rmtree(following, ignore_errors=True)
        raise
    private.rename(former)
    following.rename(private)
    files.flush_directory(directory)
    shutil.rmtree(former)
    files.flush_directory(directory)


def _read_back(folder: Path, contents: Mapping[str, bytes], sealer: Sealer) -> None:
    """See that what the disk has is what was written, and opens: the old set is about to go."""
    for name, content in contents.items():
        found = files.read_private(folder / name)
        if found != content or not opens(found, sealer):
            raise Unavailable(f"{folder / name} is not what was written: its disk fails", code="storage")


class _Folder:
    """The files of ``private/`` as they shall be, and which of them that changes."""

    def __init__(self, folder: Path, passphrase: NewPassphrase, entropy: Entropy) -> None:
        before, after = Sealer(passphrase.old), Sealer(passphrase.new)
        first = files.read_private(folder / NONCE_KEY_FILE)
        if not opens(first, after):
            # A mistyped passphrase is called that; of another file that does not open, the name is said.
            before.unseal(first, purpose=NONCE_PURPOSE)
        self.files: dict[str, bytes] = {}
        self.changed: tuple[Path, ...] = ()
        self.kept: tuple[Path, ...] = ()
        for path in sorted(folder.iterdir()):
            # A write that was killed has left it: nothing refers to it.
            if path.name.startswith(".") and path.name.endswith(".new"):
                continue
            data = _content(path)
            try:
                if opens(data, after):
                    self.kept += (path,)
                else:
                    data = reseal(data, before, after, entropy)
                    self.changed += (path,)
            except BadRequest as error:
                raise BadRequest(
                    str(path),
                    f"cannot be sealed anew: {error.detail}",
                    code=error.code,
                    remedy="Bring it back from a copy of the CA's directory; or, if ca.toml does not name it, move it "
                    "away.",
                ) from None
            self.files[path.name] = data


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise BadRequest(str(path), "is no sealed file", remedy="Move it out of the folder.")
    return files.read_private(path)


class _Root:
    """The root's sealed key as it shall be, if it changes at all."""

    def __init__(
        self,
        public: PublicAuthority,
        directory: Path,
        key_file: Path | None,
        passphrase: NewPassphrase | None,
        entropy: Entropy,
    ) -> None:
        self.changed: tuple[Path, ...] = ()
        self.kept: tuple[Path, ...] = ()
        self.own: Path | None = None
        self._data = b""
        path = key_file or directory / OFFLINE / ROOT_KEY_FILE
        if key_file is not None:
            _require_sealed_root(directory, path)
        if not path.exists():
            return
        if passphrase is None:
            self.own = path
            return
        before, after = Sealer(passphrase.old), Sealer(passphrase.new)
        data = files.read_private(path)
        known = opens(data, after)
        try:
            # That it is the root's key and no other one shows only when it is open.
            KeyRing(path.parent, after if known else before).signer(path.name, ROOT_PURPOSE, public.root_info)
        except BadRequest as error:
            if key_file is not None or error.code != "passphrase":
                raise
            self.own = path
            return
        if known:
            self.kept = (path,)
        else:
            self._data, self.changed = reseal(data, before, after, entropy), (path,)

    def write(self) -> None:
        for path in self.changed:
            files.replace_file(path, self._data, files.PRIVATE_FILE)


def _require_sealed_root(directory: Path, path: Path) -> None:
    token = read_facts(directory).root.key
    if token is not None:
        raise BadRequest("root", f"has its key on a token, {token}, and not in a file", code="authority")
    if not path.exists():
        raise NotFound(
            f"the root's key is not at {path}", remedy="Bring the medium and name the sealed file."
        )
