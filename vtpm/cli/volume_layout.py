"""What `vtpm volume mkfs` and `mkfs-info` are asked for; what is left out is as the reference tool has it."""

import contextlib
import re
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import click

from vtpm.errors import UsageError
from vtpm.volume import DEFAULT, Layout
from vtpm.volume.device import FileDisk
from vtpm.volume.format.algorithms import cipher_named, hash_named
from vtpm.volume.format.headers import MAX_SALT
from vtpm.volume.format.layout import UNIT

F = TypeVar("F", bound=Callable[..., Any])

_MOST_BYTES = 1 << 62
_SALT_SIZE = 16

_STRENGTHS = (128, 192, 256)
_HASHES = {
    "sha2": ("sha256", "sha384", "sha512"),
    "sha3": ("sha3_256", "sha3_384", "sha3_512"),
    "sm3": ("sm3",),
}
_CIPHERS = {
    "aes": ("aes128", "aes192", "aes256"),
    "camellia": ("camellia128", "camellia192", "camellia256"),
    "sm4": ("sm4",),
}
_MULTIPLIERS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def _size(context: click.Context, option: click.Parameter, text: str | None) -> int | None:
    """A number of bytes, with a binary suffix or none."""
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,30})(?:([kmgt])(?:ib)?|b)?", text.lower())
    size = int(found[1]) * _MULTIPLIERS[found[2] or ""] if found else 0
    if not 0 < size <= _MOST_BYTES:
        raise click.BadParameter(f"{text!r} is no size: write it as 1048576, 1024K or 1M", context, option)
    return size


def _salt(context: click.Context, option: click.Parameter, text: str | None) -> bytes | None:
    """A volume's salt in hex."""
    if text is None:
        return None
    try:
        salt = bytes.fromhex(text)
    except ValueError:
        salt = b""
    if not 0 < len(salt) <= MAX_SALT:
        raise click.BadParameter(
            f"{text!r} is no salt: write 1 to {MAX_SALT} bytes in hexadecimal", context, option
        )
    return salt


class Asked(TypedDict):
    """What `mkfs` and `mkfs-info` are asked for; the sizes of the layout are bytes."""

    size: int | None
    salt: bytes | None
    strength: str
    hash_family: str
    cipher_family: str
    allocation_block_size: int
    io_block_size: int | None
    data_block_size: int | None
    tree_node_size: int | None
    bitmap_block_size: int | None
    leaf_size: int | None
    inner_size: int | None
    yes: bool


_SIZED = (
    ("io-block-size", "unit that is written whole", "512, or an allocation block if larger"),
    ("data-block-size", "unit of authentication", "an IO block"),
    ("tree-node-size", "node of the authentication tree", "1024, or an IO block if larger"),
    ("bitmap-block-size", "unit of the bitmap's encryption", "512, or a data block if larger"),
    ("leaf-size", "leaf of the inode index", "an allocation block"),
    ("inner-size", "inner node of the inode index", "an allocation block"),
)


def for_a_new_volume(command: F) -> F:
    """The options that `mkfs` and `mkfs-info` share."""
    options = [
        click.option(
            "--size", callback=_size, metavar="SIZE",
            help="of the volume, in bytes or as 256K, 1M; default: the image's",
        ),
        click.option("--salt", callback=_salt, metavar="HEX", help="the volume's id; default: 16 random bytes"),
        click.option(
            "--strength", type=click.Choice(list(map(str, _STRENGTHS))), default="128", show_default=True,
            help="of the algorithms, in bits",
        ),
        click.option(
            "--hash", "hash_family", type=click.Choice(list(_HASHES)), default="sha2", show_default=True,
            help="family of the hashes",
        ),
        click.option(
            "--cipher", "cipher_family", type=click.Choice(list(_CIPHERS)), default="aes", show_default=True,
            help="family of the cipher",
        ),
        click.option(
            "--allocation-block-size", callback=_size, metavar="SIZE", default=str(UNIT), show_default=True,
            help="unit of allocation, in bytes",
        ),
        *(
            click.option(f"--{name}", callback=_size, metavar="SIZE", help=f"{what}, in bytes; default: {default}")
            for name, what, default in _SIZED
        ),
        click.option("--yes", is_flag=True, help="write over what the image holds"),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def checked(image: Path, asked: Asked) -> tuple[int, bytes, Layout]:
    """Size in bytes, salt and layout that were asked for.

    Args:
        image: the file to be; its size is taken if none was asked for.
        asked: the options.

    Raises:
        UsageError: an option's value is not what it takes, or does not fit another's.
        VolumeUnsupported: such a layout is not supported here.
        VolumeError: the image is there and cannot be looked at.
    """
    layout = _layout(asked)
    salt = asked["salt"] or secrets.token_bytes(_SALT_SIZE)
    size = asked["size"]
    if size is None and image.exists():
        with contextlib.closing(FileDisk(image, writable=False)) as disk:
            size = disk.size
    if not size:
        raise UsageError("--size: an image that is not there yet, or is empty, needs one, for example 1M")
    unit = layout.io_block << layout.block_shift
    if size % unit:
        raise UsageError(f"--size {size}: must be a multiple of the IO block of {unit} bytes")
    return size, salt, layout


def _layout(asked: Asked) -> Layout:
    """The layout that was asked for, with the reference tool's defaults for what was not."""
    strength = int(asked["strength"])
    digest = _at_strength("--hash", asked["hash_family"], _HASHES, strength)
    weakest = _HASHES[asked["hash_family"]][0]
    block = asked["allocation_block_size"]
    io = asked["io_block_size"] or max(512, block)
    data = asked["data_block_size"] or io
    node = asked["tree_node_size"] or max(1024, io)
    bits = asked["bitmap_block_size"] or max(512, data)
    return replace(
        DEFAULT,
        allocation_block_log2=_log2("allocation-block-size", block, UNIT),
        io_block_log2=_log2("io-block-size", io, block, most=64),
        tree_node_log2=_log2("tree-node-size", node, io),
        data_block_log2=_log2("data-block-size", data, block, most=64),
        bitmap_block_log2=_log2("bitmap-block-size", bits, block),
        leaf_log2=_log2("leaf-size", asked["leaf_size"] or block, block, most=64),
        inner_log2=_log2("inner-size", asked["inner_size"] or block, block, most=64),
        node_hash=hash_named(digest),
        data_hash=hash_named(digest),
        root_hash=hash_named(weakest),
        preauth_hash=hash_named(weakest),
        kdf_hash=hash_named(weakest),
        cipher=cipher_named(_at_strength("--cipher", asked["cipher_family"], _CIPHERS, strength)),
    )


def _at_strength(option: str, family: str, families: dict[str, tuple[str, ...]], strength: int) -> str:
    known = dict(zip(_STRENGTHS, families[family], strict=False))
    if strength not in known:
        raise UsageError(f"{option} {family}: has no member of --strength {strength}; it has one of 128")
    return known[strength]


def _log2(option: str, size: int, unit: int, *, most: int | None = None) -> int:
    """Log2 of how many units a size is; raises `UsageError` unless it is a power of two of them."""
    if size & (size - 1) or size < unit or (most is not None and size > most * unit):
        limit = "" if most is None else f" to {most * unit}"
        raise UsageError(f"--{option} {size}: must be a power of two from {unit}{limit} bytes")
    return (size // unit).bit_length() - 1
