"""The bytes of the format ``interim/1``: two headers, one AEAD box. Pure.

Creation header (a blank disk): ``VTPMVOLC``, format name, salt; nothing in it is secret or authenticated. Whoever
makes the disk chooses the salt.

Volume: ``VTPMVOLI``, salt, counter (u64), key check (16 bytes), nonce (12 bytes), AES-256-GCM box over all files.
Associated data is everything before the box, so salt, counter and header cannot be exchanged on their own. Numbers are
big-endian; variable fields are preceded by their length in one byte.

Keys: HKDF-SHA-256 (RFC 5869) from the secret with the salt; one output for the box, and one, the key check, that
tells a wrong key from a damaged volume. The nonce is random: one made from the counter would repeat when the host puts
an old volume back.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import constant_time, hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vtpm.volume.errors import VolumeDamaged, VolumeError, VolumeKeyError, VolumeUnknown

FORMAT = "interim/1"
MAX_FILE = 1 << 20
MAX_FILES = 64
MAX_VOLUME = 8 << 20
"""Largest volume that is read, in bytes."""

MIN_SALT, MAX_SALT = 16, 64
MIN_SECRET = 32
FIRST_COUNTER = 1
"""Formatting is the first transaction. A known start makes a volume that was made anew recognisable as one."""

_CREATION_MAGIC = b"VTPMVOLC"
_VOLUME_MAGIC = b"VTPMVOLI"
_MAGIC_SIZE = 8
_NONCE = 12
_KEY_CHECK = 16
_TAG = 16
_MAX_INODE = (1 << 64) - 1
_MAX_COUNTER = (1 << 63) - 1


def check_salt(salt: bytes) -> bytes:
    """The salt itself; raises `VolumeUnknown` if it has another size than 16 to 64 bytes."""
    if not MIN_SALT <= len(salt) <= MAX_SALT:
        raise VolumeUnknown(f"a volume's salt has {MIN_SALT} to {MAX_SALT} bytes, this one has {len(salt)}")
    return salt


@dataclass(frozen=True)
class CreationHeader:
    """What a blank disk says: which `salt` the volume is to have, in the format ``interim/1``."""

    salt: bytes

    def encode(self) -> bytes:
        """The whole content of a blank disk."""
        name = FORMAT.encode("ascii")
        return _CREATION_MAGIC + bytes([len(name)]) + name + bytes([len(self.salt)]) + self.salt

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Inverse of `encode`.

        Raises:
            VolumeUnknown: torn, with trailing bytes, of another format, or with an unfit salt.
        """
        reader = _Reader(data, _MAGIC_SIZE, VolumeUnknown)
        if reader.counted("format name") != FORMAT.encode("ascii"):
            raise VolumeUnknown(f"the creation header asks for another format than {FORMAT}")
        salt = check_salt(reader.counted("salt"))
        reader.end("creation header")
        return cls(salt)


def is_creation_header(data: bytes) -> bool:
    """Whether a file begins like a creation header."""
    return data.startswith(_CREATION_MAGIC)


@dataclass(frozen=True)
class Keys:
    """The two keys that a secret gives with a salt."""

    box: AESGCM
    check: bytes

    @classmethod
    def derive(cls, secret: bytes, salt: bytes) -> Self:
        """HKDF-SHA-256; raises `VolumeKeyError` for a secret of less than 32 bytes."""
        if len(secret) < MIN_SECRET:
            raise VolumeKeyError(f"a volume's secret has at least {MIN_SECRET} bytes")

        def output(info: bytes, length: int) -> bytes:
            return HKDF(hashes.SHA256(), length, salt, b"vtpm-ca " + FORMAT.encode() + b" " + info).derive(
                secret
            )

        return cls(AESGCM(output(b"box", 32)), output(b"key check", _KEY_CHECK))


@dataclass(frozen=True)
class Content:
    """What a volume holds: its `salt`, the `counter` of its last transaction, its `files` by inode."""

    salt: bytes
    counter: int
    files: Mapping[int, bytes]


def seal(content: Content, keys: Keys, entropy: Callable[[int], bytes]) -> bytes:
    """The volume's bytes.

    Raises:
        VolumeError: a file, or all of them, are larger than the format takes.
    """
    _check_files(content.files)
    header = b"".join(
        (
            _VOLUME_MAGIC,
            bytes([len(content.salt)]),
            content.salt,
            content.counter.to_bytes(8, "big"),
            keys.check,
            nonce := entropy(_NONCE),
        )
    )
    return header + keys.box.encrypt(nonce, _pack_files(content.files), header)


def unseal(data: bytes, secret: bytes) -> tuple[Content, Keys]:
    """Open a volume's bytes.

    Raises:
        VolumeUnknown: they are no volume.
        VolumeKeyError: made under another secret.
        VolumeDamaged: not what was written.
    """
    if not data.startswith(_VOLUME_MAGIC):
        raise VolumeUnknown("the file is no volume and no creation header of a format that is known")
    reader = _Reader(data, _MAGIC_SIZE, VolumeDamaged)
    salt = reader.counted("salt")
    if not MIN_SALT <= len(salt) <= MAX_SALT:
        raise VolumeDamaged("the volume's salt is damaged")
    counter = reader.number(8, "counter")
    check = reader.take(_KEY_CHECK, "key check")
    nonce = reader.take(_NONCE, "nonce")
    header, box = data[: reader.offset], data[reader.offset :]
    keys = Keys.derive(secret, salt)
    if not constant_time.bytes_eq(check, keys.check):
        raise VolumeKeyError("the volume was made under another secret, or its header is damaged")
    if len(box) < _TAG:
        raise VolumeDamaged("the volume is cut off")
    try:
        plain = keys.box.decrypt(nonce, box, header)
    except InvalidTag as error:
        raise VolumeDamaged("the volume's content does not authenticate") from error
    return Content(salt, counter, _unpack_files(plain)), keys


def next_counter(counter: int) -> int:
    """The counter after one more transaction."""
    if counter >= _MAX_COUNTER:
        raise VolumeError("the volume's counter is exhausted")
    return counter + 1


def _check_files(files: Mapping[int, bytes]) -> None:
    if len(files) > MAX_FILES or sum(map(len, files.values())) > MAX_VOLUME - (1 << 16):
        raise VolumeError("the volume is full")
    for inode, content in files.items():
        if not 0 <= inode <= _MAX_INODE:
            raise VolumeError("an inode is a 64-bit number")
        if len(content) > MAX_FILE:
            raise VolumeError(
                f"a file of the volume has at most {MAX_FILE} bytes, inode {inode:#x} would have more"
            )


def _pack_files(files: Mapping[int, bytes]) -> bytes:
    """Number of files, then inode, length and content of each, in ascending order."""
    parts = [struct.pack(">I", len(files))]
    for inode in sorted(files):
        parts += (struct.pack(">QI", inode, len(files[inode])), files[inode])
    return b"".join(parts)


def _unpack_files(data: bytes) -> dict[int, bytes]:
    reader = _Reader(data, 0, VolumeDamaged)
    files: dict[int, bytes] = {}
    for _ in range(reader.number(4, "number of files")):
        inode = reader.number(8, "inode")
        files[inode] = reader.take(reader.number(4, "length"), "content")
    reader.end("list of files")
    return files


class _Reader:
    """Takes fields from the front of some bytes; raises `error` when they run out."""

    def __init__(self, data: bytes, offset: int, error: type[VolumeUnknown] | type[VolumeDamaged]) -> None:
        self._data = data
        self._error = error
        self.offset = offset

    def take(self, size: int, what: str) -> bytes:
        if size > len(self._data) - self.offset:
            raise self._error(f"the volume is cut off in its {what}")
        self.offset += size
        return self._data[self.offset - size : self.offset]

    def number(self, size: int, what: str) -> int:
        return int.from_bytes(self.take(size, what), "big")

    def counted(self, what: str) -> bytes:
        return self.take(self.number(1, what), what)

    def end(self, what: str) -> None:
        if self.offset != len(self._data):
            raise self._error(f"the volume has bytes after its {what}")
