"""The three shapes of encrypted things (CocoonFs, "encryption entity formats"): always CBC, with a fresh random IV.

- a *block*: IV, then one CBC stream over a payload whose length is known;
- *extents*: IV, then one CBC stream over payload, PKCS#7 padding and zero blocks, through all extents of a file;
- *chained extents*: a list that is found by following it, each extent naming the next inside its ciphertext, each with
  a tag where it is read before the authentication tree can vouch for it.

The tag stands before the IV, and the tag's context holds the length of the associated data and the cipher: both as
the reference has it, and not as the format document says.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives import constant_time

from vtpm.volume.errors import VolumeDamaged, VolumeKeyError
from vtpm.volume.format.algorithms import CIPHER_BLOCK, BlockCipher, Hmac
from vtpm.volume.format.extents import MAX_POINTED, NIL, Extent, Pointer
from vtpm.volume.format.layout import Layout

Entropy = Callable[[int], bytes]

_POINTER = 8
_CHAINED_EXTENTS = b"\x00\x05"
"""Version of the authentication context, and what it is about."""


def seal_block(cipher: BlockCipher, payload: bytes, size: int, entropy: Entropy) -> bytes:
    """An encrypted block of `size` bytes; the rest after the payload is random to whoever lacks the key."""
    iv = entropy(CIPHER_BLOCK)
    return iv + cipher.encrypt_cbc(iv, payload.ljust(size - CIPHER_BLOCK, b"\0"))


def open_block(cipher: BlockCipher, data: bytes) -> bytes:
    """All bytes that an encrypted block may hold, payload first."""
    return cipher.decrypt_cbc(data[:CIPHER_BLOCK], data[CIPHER_BLOCK:])


def sealed_size(length: int) -> int:
    """Bytes that a file of `length` bytes takes in its extents, before rounding up to allocation blocks."""
    return CIPHER_BLOCK + length - length % CIPHER_BLOCK + CIPHER_BLOCK


def seal_extents(cipher: BlockCipher, payload: bytes, size: int, entropy: Entropy) -> bytes:
    """A file's content as it lies in extents of `size` bytes together."""
    iv = entropy(CIPHER_BLOCK)
    return iv + cipher.encrypt_cbc(iv, _pad(payload, size - CIPHER_BLOCK))


def open_extents(cipher: BlockCipher, data: bytes, part: str) -> bytes:
    """A file's content; raises `VolumeDamaged` if the padding is not what is written."""
    return _unpad(cipher.decrypt_cbc(data[:CIPHER_BLOCK], memoryview(data)[CIPHER_BLOCK:]), part)


def _pad(payload: bytes, size: int) -> bytes:
    pad = CIPHER_BLOCK - len(payload) % CIPHER_BLOCK
    return (payload + bytes([pad]) * pad).ljust(size, b"\0")


def _unpad(plain: bytes, part: str) -> bytes:
    end = len(plain.rstrip(b"\0"))
    pad = plain[end - 1] if end else 0
    if end % CIPHER_BLOCK or not 0 < pad <= CIPHER_BLOCK or plain[end - pad : end] != bytes([pad]) * pad:
        raise VolumeDamaged("the padding is not what is written", part=part)
    return plain[: end - pad]


@dataclass(frozen=True)
class Chain:
    """One kind of chained extents.

    Attributes:
        part: what it is, for errors.
        layout: of the volume.
        cipher: encrypts it.
        tag: the HMAC of its tags; None for those that the authentication tree vouches for.
        associated: data that the tags bind too.
        tells_key: whether the first tag is the first thing that needs the key, and so tells a wrong one.
        header: bytes of plain header in the first extent.
        unit: allocation blocks of which the extents are multiples.
    """

    part: str
    layout: Layout
    cipher: BlockCipher
    tag: Hmac | None = None
    associated: bytes = b""
    tells_key: bool = False
    header: int = 0
    unit: int = 1

    def capacity(self, length: int, *, first: bool) -> int:
        """Payload bytes, padding included, of an extent of `length` blocks; negative if it is too short."""
        return self._cipher_size(length << self.layout.block_shift, first=first) - _POINTER

    def place(self, payload: int, take: Callable[[int], Extent], head: Extent | None = None) -> list[Extent]:
        """Extents for `payload` bytes.

        Args:
            payload: bytes to store.
            take: gives an extent of so many blocks, or fewer, but at least of one unit.
            head: the first extent, where it is given.
        """
        longest = MAX_POINTED // self.unit * self.unit
        extents = [] if head is None else [head]
        left = payload + 1 - sum(self.capacity(extent.length, first=True) for extent in extents)
        while left > 0:
            first = not extents
            extents.append(take(min(longest, self._needed(left, first=first))))
            left -= self.capacity(extents[-1].length, first=first)
        return extents

    def seal(
        self, payload: bytes, extents: Sequence[Extent], entropy: Entropy, header: bytes = b""
    ) -> list[bytes]:
        """The bytes of each of the extents, which `place` has sized; `header` is the plain header."""
        iv = entropy(CIPHER_BLOCK)
        tag = bytes(self._tag_size)
        sealed: list[bytes] = []
        for number, extent in enumerate(extents):
            first, last = number == 0, number == len(extents) - 1
            size = extent.length << self.layout.block_shift
            room = self._cipher_size(size, first=first) - _POINTER
            chunk, payload = payload[:room], payload[room:]
            pointer = NIL if last else Pointer(extents[number + 1]).encode()
            plain = _pad(pointer + chunk, room + _POINTER) if last else pointer + chunk
            encrypted = self.cipher.encrypt_cbc(iv, plain)
            front = header + tag + iv if first else tag
            front += entropy(size - len(front) - len(encrypted))
            if self.tag is not None:
                at = len(header) if first else 0
                tag = self._tag(front + encrypted, b"" if first else iv)
                front = front[:at] + tag + front[at + len(tag) :]
            sealed.append(front + encrypted)
            iv = encrypted[-CIPHER_BLOCK:]
        return sealed

    def open(self, head: Extent, read: Callable[[Extent], bytes], limit: int) -> tuple[bytes, list[Extent]]:
        """Payload of the chain that begins at `head`, and its extents.

        Args:
            head: the first extent.
            read: gives an extent's bytes.
            limit: the first block after the image.

        Raises:
            VolumeKeyError: the first tag does not hold, and it is what tells the key.
            VolumeDamaged: another tag does not hold, the chain does not end, or is no such chain.
        """
        extents, seen, length, payload = [head], {head}, head.length, bytearray()
        data, at = read(head), self.header
        iv = data[at + self._tag_size :][:CIPHER_BLOCK]
        carried, previous = b"", bytes(self._tag_size)
        while True:
            first = len(extents) == 1
            size = self._cipher_size(len(data), first=first)
            if size < CIPHER_BLOCK:
                raise VolumeDamaged("an extent is too short", part=self.part, block=extents[-1].start)
            if self.tag is not None:
                tag = data[at : at + self._tag_size]
                covered = data[:at] + previous + data[at + self._tag_size :]
                if not constant_time.bytes_eq(self._tag(covered, carried), tag):
                    error = VolumeKeyError if first and self.tells_key else VolumeDamaged
                    raise error("the tag does not hold", part=self.part, block=extents[-1].start)
                previous = tag
            plain = self.cipher.decrypt_cbc(iv, data[len(data) - size :])
            following = Pointer.parse(plain[:_POINTER], limit, self.part)
            if following is None:
                return bytes(payload) + _unpad(plain, self.part)[_POINTER:], extents
            payload += plain[_POINTER:]
            seen.add(following.extent)
            length += following.extent.length
            if following.indirect or len(seen) == len(extents) or length > limit:
                raise VolumeDamaged("the chain does not end", part=self.part, block=following.extent.start)
            iv = carried = data[-CIPHER_BLOCK:]
            extents.append(following.extent)
            data, at = read(following.extent), 0

    @property
    def _tag_size(self) -> int:
        return 0 if self.tag is None else self.tag.digest_size

    def _start(self, *, first: bool) -> int:
        """Bytes before the ciphertext and its alignment."""
        return self.header + self._tag_size + CIPHER_BLOCK if first else self._tag_size

    def _cipher_size(self, size: int, *, first: bool) -> int:
        """Bytes of ciphertext of an extent of `size` bytes: whole cipher blocks, at its end."""
        return (size - self._start(first=first)) // CIPHER_BLOCK * CIPHER_BLOCK

    def _needed(self, payload: int, *, first: bool) -> int:
        """Blocks of an extent that takes `payload` bytes, padding included."""
        plain = -(-(payload + _POINTER) // CIPHER_BLOCK) * CIPHER_BLOCK
        length = self.layout.blocks(self._start(first=first) + plain)
        return -(-length // self.unit) * self.unit

    def _tag(self, covered: bytes, carried: bytes) -> bytes:
        """Tag of an extent whose tag has been replaced by the previous one, or by zeros in the first."""
        assert self.tag is not None  # noqa: S101 - callers ask
        return self.tag.digest(
            covered,
            carried,
            self.associated,
            len(self.associated).to_bytes(8, "little"),
            self.layout.cipher.encode(),
            b"\x01" if carried else b"\x00",
            _CHAINED_EXTENTS,
        )
