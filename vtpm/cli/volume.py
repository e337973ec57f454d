"""`vtpm volume`: look into CocoonFs volumes and the disks that ask for one, change and make them."""

import base64
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn, Unpack

import click

from vtpm.cli import volume_view as view
from vtpm.cli.volume_layout import Asked, checked, for_a_new_volume
from vtpm.errors import UnavailableError, UsageError
from vtpm.volume import (
    CocoonVolume,
    VolumeError,
    VolumeMissing,
    Write,
    make_blank_disk,
    make_volume,
    open_volume,
)
from vtpm.volume.device import FileDisk
from vtpm.volume.format.node import MAX_FLAGS
from vtpm.volume.inspection import JournalState, inspect, measure
from vtpm.volume.opening import open_disk

_MOST_KEY_BYTES = 1 << 20


def _number(context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    """A number as Python writes it: decimal, or with 0x in front hexadecimal."""
    try:
        return None if text is None else int(text, 0)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is no number: write it as 4294967552 or 0x100000100", context, parameter
        ) from None


_image = click.argument("image", type=click.Path(path_type=Path, dir_okay=False))
_inode = click.argument("inode", callback=_number)
_json = click.option("--json", "as_json", is_flag=True, help="print JSON")
_KEY_FILE = click.Path(path_type=Path, dir_okay=False)
_KEY_HELP = "file with the volume's raw key, taken as it is"
_key = click.option("--key-file", type=_KEY_FILE, required=True, help=_KEY_HELP)
_key_if_any = click.option("--key-file", type=_KEY_FILE, help=_KEY_HELP)


@click.group()
def volume() -> None:
    """CocoonFs volumes: encrypted and authenticated stores, as COCONUT's SVSM has them.

    INODE is a file's number, decimal or in hex: 0x100000100 is file 0x100 of namespace 1. Commands that only read leave
    the image as it is: a pending transaction, or a formatting that is asked for, is done in memory.
    """


@volume.command()
@_image
@_key_if_any
@_json
def info(image: Path, key_file: Path | None, *, as_json: bool) -> None:
    """Show layout, salt and journal of IMAGE; with its key also counter, root and extents.

    Without the key nothing of it is authenticated. Exit code 1 if something that needs no key is damaged.
    """
    secret = None if key_file is None else _read_key(key_file)
    with _given(image), contextlib.closing(FileDisk(image, writable=False)) as disk:
        outside = inspect(disk)
        facts = view.outside_facts(outside, disk.size)
        if secret is not None:
            with open_disk(disk, secret, writable=False) as opened:
                facts |= view.inside_facts(opened, measure(opened.state))
    if as_json:
        view.show_json(facts)
    else:
        view.show_facts(facts)
    if facts["damage"] is not None:
        raise SystemExit(1)


@volume.command()
@_image
@_key
@_json
def verify(image: Path, key_file: Path, *, as_json: bool) -> None:
    """Verify every allocated byte of IMAGE and decrypt every file.

    Exit code 1, and what failed where, if anything is not authentic.
    """
    secret = _read_key(key_file)
    try:
        facts = _verified(image, secret)
    except VolumeError as error:
        if not as_json or isinstance(error, UnavailableError):
            raise
        view.show_json({"valid": False, "error": view.error_facts(error)})
        raise SystemExit(1) from None
    if as_json:
        view.show_json({"valid": True, "error": None, **facts})
    else:
        view.show_verified(facts)


def _verified(image: Path, secret: bytes) -> view.Facts:
    """What was verified: everything, or this raises."""
    with _given(image), contextlib.closing(FileDisk(image, writable=False)) as disk:
        outside = inspect(disk)
        with open_disk(disk, secret, writable=False) as opened:
            lengths = [len(opened.read(inode) or b"") for inode in opened.inodes()]
            return {
                "files": len(lengths),
                "bytes": sum(lengths),
                "verified_blocks": opened.state.covered.count(),
                "allocated_blocks": opened.state.allocated.count(),
                "blocks": opened.state.header.size,
                "journal_replayed": outside.journal is JournalState.ACTIVE,
                "formatted_in_memory": opened.created == "this-boot",
            }


@volume.command()
@_image
@_key
@_json
def ls(image: Path, key_file: Path, *, as_json: bool) -> None:
    """List the files in IMAGE: inode, flags, length in bytes, SHA-256."""
    with _open(image, key_file, writable=False) as opened:
        files = [
            view.file_facts(inode, opened.flags(inode), opened.read(inode) or b"")
            for inode in opened.inodes()
        ]
    if as_json:
        view.show_json(files)
    else:
        view.show_files(files)


@volume.command()
@_image
@_inode
@_key
@_json
def cat(image: Path, inode: int, key_file: Path, *, as_json: bool) -> None:
    """Write the content of file INODE to standard output, and nothing else.

    As JSON it is in base64, beside what `ls` says of the file.
    """
    with _open(image, key_file, writable=False) as opened:
        content, flags = opened.read(inode), opened.flags(inode)
    if content is None:
        _no_such_file(image, inode)
    if as_json:
        encoded = base64.b64encode(content).decode("ascii")
        view.show_json({**view.file_facts(inode, flags, content), "content": encoded})
    else:
        view.emit(content)


@volume.command()
@_image
@_inode
@_key
@click.option(
    "--flags",
    callback=_number,
    metavar="NUMBER",
    help="0 to 255; default: those that the file has, 0 for a new one",
)
@_json
def put(image: Path, inode: int, key_file: Path, flags: int | None, *, as_json: bool) -> None:
    """Make standard input the content of file INODE, in one transaction."""
    if flags is not None and not 0 <= flags <= MAX_FLAGS:
        raise UsageError(f"--flags {flags}: must be a number from 0 to {MAX_FLAGS}")
    if sys.stdin is None:
        raise UsageError("standard input is closed; it must give the content")
    content = sys.stdin.buffer.read()
    with _open(image, key_file, writable=True) as opened:
        opened.transaction({inode: Write(content, flags)})
        facts = view.file_facts(inode, opened.flags(inode), content) | view.version_facts(opened)
    _report(facts, f"wrote {len(content)} bytes to file {inode:#x}", as_json=as_json)


@volume.command()
@_image
@_inode
@_key
@click.option("--yes", is_flag=True, expose_value=False, help="accepted, but one named file needs no consent")
@_json
def rm(image: Path, inode: int, key_file: Path, *, as_json: bool) -> None:
    """Remove file INODE, in one transaction."""
    with _open(image, key_file, writable=True) as opened:
        if inode not in opened:
            _no_such_file(image, inode)
        opened.transaction({inode: None})
        facts = {"inode": inode, **view.version_facts(opened)}
    _report(facts, f"removed file {inode:#x}", as_json=as_json)


@volume.command()
@_image
@_key
@click.option("--sparse", is_flag=True, help="leave what is free as it is; it shows how much is in use")
@for_a_new_volume
@_json
def mkfs(image: Path, key_file: Path, *, sparse: bool, as_json: bool, **asked: Unpack[Asked]) -> None:
    """Make a volume in IMAGE under a key.

    If the image holds anything but zeros, it is refused without --yes.
    """
    secret = _read_key(key_file)
    with _given(image), _unless_agreed():
        size, salt, layout = checked(image, asked)
        make_volume(image, secret, salt, size=size, layout=layout, fill=not sparse, over=asked["yes"])
    facts = {"image_size": size, **view.layout_facts(layout, salt)}
    _report(facts, f"made a volume of {size} bytes with salt {salt.hex()}", as_json=as_json)


@volume.command("mkfs-info")
@_image
@for_a_new_volume
@_json
def mkfs_info(image: Path, *, as_json: bool, **asked: Unpack[Asked]) -> None:
    """Write a creation header: IMAGE becomes a volume when it is first opened with a key. It takes no key itself.

    Another creation header is replaced; anything else that the image holds only with --yes.
    """
    with _given(image), _unless_agreed():
        size, salt, layout = checked(image, asked)
        make_blank_disk(image, salt, size=size, layout=layout, over=asked["yes"])
    facts = {"image_size": size, **view.layout_facts(layout, salt)}
    _report(facts, f"asks for a volume of {size} bytes with salt {salt.hex()}", as_json=as_json)


@contextlib.contextmanager
def _given(image: Path) -> Iterator[None]:
    """An image that cannot be opened is a matter of what was given, not of something that will come back."""
    try:
        yield
    except VolumeMissing as error:
        raise UsageError(f"IMAGE {image}: {error.detail}", rule=error.rule) from error


@contextlib.contextmanager
def _unless_agreed() -> Iterator[None]:
    """What would be lost is lost only by --yes."""
    try:
        yield
    except VolumeError as error:
        if error.rule != "store.exists":
            raise
        raise VolumeError(
            f"IMAGE: {error.detail}",
            rule=error.rule,
            remedy="With --yes it is written over, and what it holds is lost.",
        ) from error


@contextlib.contextmanager
def _open(image: Path, key_file: Path, *, writable: bool) -> Iterator[CocoonVolume]:
    secret = _read_key(key_file)
    with _given(image), open_volume(image, secret, writable=writable) as opened:
        yield opened


def _read_key(path: Path) -> bytes:
    """The raw key in a file; raises `UsageError` if it cannot be one."""
    try:
        with path.open("rb") as stream:
            secret = stream.read(_MOST_KEY_BYTES + 1)
    except OSError as error:
        raise UsageError(f"--key-file {path}: {error.strerror}") from error
    if not 0 < len(secret) <= _MOST_KEY_BYTES:
        raise UsageError(
            f"--key-file {path}: holds {'no byte' if not secret else 'more than a mebibyte'},"
            " so it is no key; a key has at least one byte"
        )
    return secret


def _no_such_file(image: Path, inode: int) -> NoReturn:
    raise VolumeError(
        f"INODE {inode:#x}: there is no such file in {image.name}",
        rule="store.inode",
        remedy="`vtpm volume ls` lists those that there are.",
    )


def _report(facts: view.Facts, line: str, *, as_json: bool) -> None:
    """What was done: as JSON on standard output, or as a line beside it."""
    if as_json:
        view.show_json(facts)
    else:
        click.echo(line, file=sys.stderr)
