"""The ID block: what a guest's owner states and signs about it before the launch (56860, SNP_LAUNCH_FINISH)."""

import hashlib
from dataclasses import dataclass
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric import ec

from vtpm.snp.errors import PspError

_KEY_SIZE: Final = 0x404
_COORDINATE: Final = 72
_CURVE_P384: Final = 2
_DIGEST: Final = 48
_ID: Final = 16
_MAX_SVN: Final = 0xFFFFFFFF


def key_structure(key: ec.EllipticCurvePublicKey) -> bytes:
    """A public key as the firmware reads it, 0x404 bytes: curve 2, QX and QY little endian in 72 bytes each, zeros.

    Args:
        key: on P-384.

    Raises:
        PspError: on another curve.
    """
    if not isinstance(key.curve, ec.SECP384R1):
        raise PspError("an ID key or author key must be on P-384")
    point = key.public_numbers()
    head = _CURVE_P384.to_bytes(4, "little")
    coordinates = (number.to_bytes(_COORDINATE, "little") for number in (point.x, point.y))
    return b"".join((head, *coordinates)).ljust(_KEY_SIZE, b"\0")


def key_digest(key: ec.EllipticCurvePublicKey) -> bytes:
    """ID_KEY_DIGEST or AUTHOR_KEY_DIGEST of a public key on P-384: SHA-384 of its structure, 48 bytes.

    Raises:
        PspError: on another curve.
    """
    return hashlib.sha384(key_structure(key)).digest()


@dataclass(frozen=True)
class IdBlock:
    """What reports show of an ID block; a guest without one has the defaults, which are zeros.

    The simulated firmware checks no signature of the block: whoever launches says whose keys it was signed with.

    Attributes:
        family_id: 16 bytes, chosen by the owner.
        image_id: 16 bytes, likewise.
        guest_svn: the guest's security version, 32 bits.
        id_key_digest: 48 bytes; zeros without ID block.
        author_key_digest: 48 bytes; None without author key: then it reads zeros and AUTHOR_KEY_EN is 0.

    Raises:
        PspError: a value of another size.
    """

    family_id: bytes = bytes(_ID)
    image_id: bytes = bytes(_ID)
    guest_svn: int = 0
    id_key_digest: bytes = bytes(_DIGEST)
    author_key_digest: bytes | None = None

    def __post_init__(self) -> None:
        ids = {len(self.family_id), len(self.image_id)}
        digests = {len(d) for d in (self.id_key_digest, self.author_key_digest) if d is not None}
        if ids != {_ID} or digests != {_DIGEST} or not 0 <= self.guest_svn <= _MAX_SVN:
            raise PspError("the ID block is malformed")

    @classmethod
    def signed_by(
        cls,
        id_key: ec.EllipticCurvePublicKey,
        author_key: ec.EllipticCurvePublicKey | None = None,
        *,
        family_id: bytes = bytes(_ID),
        image_id: bytes = bytes(_ID),
        guest_svn: int = 0,
    ) -> Self:
        """The ID block that the owner of `id_key` signed, whose key `author_key` signed in turn.

        Raises:
            PspError: a key on another curve, or a value of another size.
        """
        author = None if author_key is None else key_digest(author_key)
        return cls(family_id, image_id, guest_svn, key_digest(id_key), author)
