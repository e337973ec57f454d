"""The disguise of staging copies: they are encrypted once more, so that equal blocks do not show what is free.

Each allocation block is a CBC chain of its own, whose IV is made from the block's target and place (CocoonFs,
"journal staging copy disguising"). All chains are worked on together, one cipher block of each at a time: that takes a
few calls of the cipher, however many blocks there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from vtpm.volume.errors import VolumeDamaged
from vtpm.volume.format.algorithms import CIPHER_BLOCK, BlockCipher, CipherAlgorithm, cipher_algorithm
from vtpm.volume.format.entities import Entropy


@dataclass(frozen=True)
class Disguise:
    """One-time keys: one for the blocks, one for their IVs."""

    algorithm: CipherAlgorithm
    key: bytes = field(repr=False)
    iv_key: bytes = field(repr=False)

    @classmethod
    def new(cls, algorithm: CipherAlgorithm, entropy: Entropy) -> "Disguise":
        """Fresh keys."""
        size = algorithm.key_bits // 8
        return cls(algorithm, entropy(size), entropy(size))

    def encode(self) -> bytes:
        """As the journal log has it."""
        return self.algorithm.encode() + self.key + self.iv_key

    @classmethod
    def parse(cls, data: bytes, part: str) -> "Disguise":
        """Inverse of `encode`; raises `VolumeDamaged` or `VolumeUnsupported`."""
        algorithm = cipher_algorithm(int.from_bytes(data[:2], "big"), int.from_bytes(data[2:4], "big"))
        size = algorithm.key_bits // 8
        if len(data) != 4 + 2 * size:
            raise VolumeDamaged("the keys of the disguise have the wrong size", part=part)
        return cls(algorithm, data[4 : 4 + size], data[4 + size :])

    def put_on(self, blocks: Sequence[bytes], places: Sequence[tuple[int, int]]) -> list[bytes]:
        """The blocks as they lie in the journal; `places` gives target and source of each."""
        cipher = BlockCipher(self.algorithm, self.key)
        columns = _columns(blocks)
        chained = self._ivs(places)
        for number, column in enumerate(columns):
            chained = columns[number] = cipher.encrypt_blocks(_xor(column, chained))
        return _rows(columns, len(blocks))

    def take_off(self, blocks: Sequence[bytes], places: Sequence[tuple[int, int]]) -> list[bytes]:
        """Inverse of `put_on`."""
        cipher = BlockCipher(self.algorithm, self.key)
        encrypted = _columns(blocks)
        chained = [self._ivs(places), *encrypted]
        columns = [
            _xor(cipher.decrypt_blocks(column), before)
            for column, before in zip(encrypted, chained, strict=False)
        ]
        return _rows(columns, len(blocks))

    def _ivs(self, places: Sequence[tuple[int, int]]) -> bytes:
        numbers = b"".join(
            target.to_bytes(8, "little") + source.to_bytes(8, "little") for target, source in places
        )
        return BlockCipher(self.algorithm, self.iv_key).encrypt_blocks(numbers)


def _columns(blocks: Sequence[bytes]) -> list[bytes]:
    """The first cipher block of each block, then the second of each, and so on."""
    if not blocks:
        return []
    return [
        b"".join(block[at : at + CIPHER_BLOCK] for block in blocks)
        for at in range(0, len(blocks[0]), CIPHER_BLOCK)
    ]


def _rows(columns: Sequence[bytes], count: int) -> list[bytes]:
    return [
        b"".join(column[at : at + CIPHER_BLOCK] for column in columns)
        for at in range(0, count * CIPHER_BLOCK, CIPHER_BLOCK)
    ]


def _xor(one: bytes, other: bytes) -> bytes:
    value = int.from_bytes(one, "little") ^ int.from_bytes(other, "little")
    return value.to_bytes(len(one), "little")
