"""Which volumes this SVSM works on: those whose algorithms its kernel has, and whose id can be told to the CA.

The disk is the host's, and nothing vouches for a creation header: without these limits the host would choose, once and
for as long as the volume lives, with what the secrets of a TPM are protected.
"""

from collections.abc import Callable
from pathlib import Path

from vtpm.svsm.errors import BootRefused
from vtpm.volume import Layout, StaticHeader, Volume, VolumeUnsupported, open_volume
from vtpm.volume.format.algorithms import AES128, AES192, AES256, SHA256, SHA384, SHA512

_HASHES = {SHA256, SHA384, SHA512}
_CIPHERS = {AES128, AES192, AES256}


def check_algorithms(layout: Layout) -> None:
    """Accept what the kernel of COCONUT's SVSM has: SHA-256, SHA-384 and SHA-512, and AES.

    Raises:
        VolumeUnsupported: names the first algorithm that is another, and what the layout wants it for.
    """
    hashes = {
        "tree nodes": layout.node_hash,
        "data blocks": layout.data_hash,
        "the root": layout.root_hash,
        "pre-authentication": layout.preauth_hash,
        "key derivation": layout.kdf_hash,
    }
    for use, algorithm in hashes.items():
        if algorithm not in _HASHES:
            raise VolumeUnsupported(f"the SVSM has no {algorithm.name}, which the volume wants for {use}")
    if layout.cipher not in _CIPHERS:
        raise VolumeUnsupported(
            f"the SVSM has no {layout.cipher.name}, which the volume wants for encryption"
        )


def check_header(static: StaticHeader) -> None:
    """Accept a volume, or a volume to be, that a TPM can be certified in.

    Raises:
        VolumeUnsupported: other algorithms than `check_algorithms` accepts.
        BootRefused: no salt. The format allows that, but an enrolment names the volume by it, so a TPM made there could
            never be certified.
    """
    check_algorithms(static.layout)
    if not static.salt:
        raise BootRefused(
            "the volume has no salt, by which an enrolment names it",
            rule="svsm.salt-present",
            remedy="Make the disk with a salt of 1 to 255 random bytes.",
        )


def open_store(disk: Path, secret: bytes, entropy: Callable[[int], bytes]) -> Volume:
    """Open the volume on the machine's disk, or format it at its first use.

    Args:
        disk: file or block device.
        secret: the volume's raw key, as the KBS released it.
        entropy: random bytes by number.

    Raises:
        BootRefused: as `check_header`; the disk was left as it was.
        VolumeError: as `check_header` and `vtpm.volume.open_volume`.
    """
    return open_volume(disk, secret, entropy=entropy, accept=check_header)
