"""Volumes in files of this machine: opened, made anew, or made as blank disks that ask for one."""

import secrets
from pathlib import Path

from vtpm.volume.creation import check_first_use, write_creation_header
from vtpm.volume.device import FileDisk
from vtpm.volume.errors import VolumeError
from vtpm.volume.format.auxiliary import Auxiliary
from vtpm.volume.format.entities import Entropy
from vtpm.volume.format.headers import CREATION_MAGIC, MAX_SALT, StaticHeader
from vtpm.volume.format.layout import DEFAULT, Layout
from vtpm.volume.interface import Witness
from vtpm.volume.mkfs import DEFAULT_AUXILIARY, format_disk, length_of
from vtpm.volume.opening import Accept, open_disk
from vtpm.volume.volume import CocoonVolume

DISK_SIZE = 1 << 20
"""Bytes of a machine's disk unless it is asked for another: a TPM with its certificates takes a tenth of it."""


def open_volume(
    path: Path,
    secret: bytes,
    *,
    writable: bool = True,
    entropy: Entropy = secrets.token_bytes,
    witness: Witness | None = None,
    accept: Accept | None = None,
) -> CocoonVolume:
    """Open the volume in a file, or format the file if it carries a creation header: see `open_disk`.

    Raises:
        VolumeMissing: no such file.
        VolumeLocked: somebody else has it open.
        VolumeError: as `open_disk`.
    """
    disk = FileDisk(path, writable=writable)
    try:
        return open_disk(disk, secret, writable=writable, entropy=entropy, witness=witness, accept=accept)
    except BaseException:
        disk.close()
        raise


def make_volume(
    path: Path,
    secret: bytes,
    salt: bytes,
    *,
    size: int = DISK_SIZE,
    layout: Layout = DEFAULT,
    auxiliary: Auxiliary = DEFAULT_AUXILIARY,
    entropy: Entropy = secrets.token_bytes,
    fill: bool = True,
    over: bool = False,
) -> None:
    """Make a new volume in a file.

    Args:
        path: the file; it is made if it is not there, and grows if it is shorter than `size`.
        secret: the volume's raw key.
        salt: the volume's id, up to 255 bytes, never used with the same secret before.
        size: of the volume, in bytes.
        layout: its sizes and algorithms.
        auxiliary: its auxiliary metadata.
        entropy: random bytes by number.
        fill: whether to fill what is free with random bytes, so that it cannot be told from what is not.
        over: whether to write over what the file holds; else it must hold nothing but zeros.

    Raises:
        VolumeError: the file holds something, the size is no whole number of IO blocks, or salt or key is unfit.
        VolumeFull: the size is too small.
        VolumeMissing: the file cannot be made.
        VolumeLocked: somebody else has it open.
        VolumeWriteError: the disk failed.
    """
    _check(salt, size, layout)
    if not secret:
        raise VolumeError("a volume's key has at least one byte", rule="store.key")
    static = StaticHeader(layout, salt)
    length_of(static, size >> layout.block_shift, auxiliary)
    disk = FileDisk(path, writable=True, create=True)
    try:
        if not over:
            _check_blank(disk, path)
        disk.grow(size)
        format_disk(disk, static, secret, size >> layout.block_shift, auxiliary, entropy, fill=fill)
    finally:
        disk.close()


def make_blank_disk(
    path: Path,
    salt: bytes,
    *,
    size: int = DISK_SIZE,
    layout: Layout = DEFAULT,
    auxiliary: Auxiliary = DEFAULT_AUXILIARY,
    over: bool = False,
) -> None:
    """Write the creation header of a volume to be; what a host does when it makes a disk. It takes no key.

    Args:
        path: the file; it is made if it is not there, and grows if it is shorter than `size`.
        salt: the volume's id, up to 255 bytes, never used with the same secret before.
        size: of the volume, in bytes.
        layout: its sizes and algorithms.
        auxiliary: its auxiliary metadata.
        over: whether to write over what the file holds; else it must hold nothing but zeros, or a creation header.

    Raises:
        VolumeError: the file holds something else, the size is no whole number of IO blocks, or the salt is unfit.
        VolumeFull: the size is too small.
        VolumeMissing: the file cannot be made.
        VolumeLocked: somebody else has it open.
        VolumeWriteError: the disk failed.
    """
    _check(salt, size, layout)
    static, blocks = StaticHeader(layout, salt), size >> layout.block_shift
    check_first_use(static, blocks, auxiliary, size)
    disk = FileDisk(path, writable=True, create=True)
    try:
        if not over and disk.read(0, len(CREATION_MAGIC)) != CREATION_MAGIC:
            _check_blank(disk, path)
        disk.grow(size)
        write_creation_header(disk, static, blocks, auxiliary)
    finally:
        disk.close()


def _check_blank(disk: FileDisk, path: Path) -> None:
    if not disk.blank():
        raise VolumeError(f"{path.name} holds something; it is not written over", rule="store.exists")


def _check(salt: bytes, size: int, layout: Layout) -> None:
    if len(salt) > MAX_SALT:
        raise VolumeError(f"a volume's salt has at most {MAX_SALT} bytes, not {len(salt)}", rule="store.salt")
    unit = layout.io_block << layout.block_shift
    if size <= 0 or size % unit:
        raise VolumeError(
            f"a volume's size is a multiple of its IO block of {unit} bytes, not {size}", rule="store.size"
        )
