"""Keys of a volume: one root key from the secret, one subkey for each entity and purpose (CocoonFs, "key derivation").

The root key is derived over all algorithms and the salt, so that another algorithm in the header gives other keys.
Where the format document and the reference implementation differ (length of the root key, cipher mode in its
context, numbers of the subdomains), this does what the reference does.
"""

from enum import IntEnum
from functools import cached_property

from vtpm.volume.format.algorithms import SHA512, BlockCipher, HashAlgorithm, Hmac
from vtpm.volume.format.inodes import INODE_TREE
from vtpm.volume.format.layout import Layout

MAGIC = b"COCOONFS"
VERSION = b"\x01"
_TPM_ALG_CBC = b"\x00\x42"


class Purpose(IntEnum):
    """What a key is for; the label of its derivation."""

    DERIVATION = 1
    TREE_ROOT = 2
    TREE_DATA = 3
    PREAUTH = 4
    ENCRYPTION = 5


class Part(IntEnum):
    """Which part of an inode a key is for; the subdomain of its derivation."""

    NONE = 0
    EXTENTS = 1
    DATA = 2


def kdfa(algorithm: HashAlgorithm, key: bytes, label: bytes, context: bytes, size: int) -> bytes:
    """KDFa of the TPM 2.0 Library, part 1 section 11.4.10.2: `size` bytes, in counter mode over HMAC."""
    mac = Hmac(algorithm, key)
    fixed = label + b"\0" + context + (size * 8).to_bytes(4, "big")
    rounds = range(1, -(-size // algorithm.digest_size) + 1)
    return b"".join(mac.digest(i.to_bytes(4, "big"), fixed) for i in rounds)[:size]


class Keys:
    """The keys of one volume, each derived when it is first needed.

    Args:
        secret: the raw key, of any length but none.
        layout: of the volume.
        salt: of the volume.
    """

    def __init__(self, secret: bytes, layout: Layout, salt: bytes) -> None:
        self._layout = layout
        context = b"".join(
            (
                MAGIC,
                VERSION,
                *(
                    algorithm.identifier.to_bytes(2, "big")
                    for algorithm in (
                        layout.kdf_hash,
                        layout.root_hash,
                        layout.node_hash,
                        layout.data_hash,
                        layout.preauth_hash,
                    )
                ),
                _TPM_ALG_CBC,
                layout.cipher.encode(),
                bytes([len(salt)]),
                salt,
            )
        )
        self._root = kdfa(SHA512, secret, bytes([Purpose.DERIVATION]), context, layout.kdf_hash.digest_size)
        self._ciphers: dict[tuple[int, Part], BlockCipher] = {}

    def subkey(self, purpose: Purpose, domain: int, part: Part) -> bytes:
        """The key of one purpose for one part of inode `domain`."""
        layout = self._layout
        size = {
            Purpose.DERIVATION: layout.kdf_hash.digest_size,
            Purpose.TREE_ROOT: layout.root_hash.digest_size,
            Purpose.TREE_DATA: layout.data_hash.digest_size,
            Purpose.PREAUTH: layout.preauth_hash.digest_size,
            Purpose.ENCRYPTION: layout.cipher.key_bits // 8,
        }[purpose]
        context = domain.to_bytes(8, "little") + part.to_bytes(4, "little")
        return kdfa(layout.kdf_hash, self._root, bytes([purpose]), context, size)

    def cipher(self, domain: int, part: Part = Part.DATA) -> BlockCipher:
        """The cipher of one part of an inode."""
        cipher = self._ciphers.get((domain, part))
        if cipher is None:
            key = self.subkey(Purpose.ENCRYPTION, domain, part)
            cipher = self._ciphers[domain, part] = BlockCipher(self._layout.cipher, key)
        return cipher

    def preauth(self, domain: int, part: Part = Part.DATA) -> Hmac:
        """The HMAC of what is decrypted before the tree can vouch for it."""
        return Hmac(self._layout.preauth_hash, self.subkey(Purpose.PREAUTH, domain, part))

    @cached_property
    def tree_root(self) -> Hmac:
        """The HMAC over the authentication tree's root node."""
        return Hmac(self._layout.root_hash, self.subkey(Purpose.TREE_ROOT, INODE_TREE, Part.NONE))

    @cached_property
    def tree_data(self) -> Hmac:
        """The HMAC over data blocks."""
        return Hmac(self._layout.data_hash, self.subkey(Purpose.TREE_DATA, INODE_TREE, Part.NONE))
