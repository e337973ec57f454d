"""Opening a volume, formatting what asks for it, and settling what a crash has left pending."""

import secrets
from collections.abc import Callable
from contextlib import suppress

from vtpm.volume.bootstrap import read_log, read_state, replayed
from vtpm.volume.creation import erase_copy, find_creation_header, format_at_first_use, unknown
from vtpm.volume.device import Disk, Overlay
from vtpm.volume.errors import VolumeDamaged, VolumeError, VolumePending
from vtpm.volume.format.entities import Entropy
from vtpm.volume.format.headers import StaticHeader
from vtpm.volume.format.journal import Log
from vtpm.volume.format.kdf import Keys
from vtpm.volume.format.layout import UNIT
from vtpm.volume.interface import Version, Witness
from vtpm.volume.state import State
from vtpm.volume.volume import CocoonVolume, invalidate_head, write_all

Accept = Callable[[StaticHeader], None]
"""Raises for a layout or a salt that must not be used."""


def open_disk(
    disk: Disk,
    secret: bytes,
    *,
    writable: bool = True,
    entropy: Entropy = secrets.token_bytes,
    witness: Witness | None = None,
    accept: Accept | None = None,
) -> CocoonVolume:
    """Open a volume, or format the disk if it carries a creation header.

    Existing content is never written over or encrypted under another key. A pending transaction is applied. When the
    volume is opened for reading only, both happen in memory and the file stays as it is.

    Args:
        disk: it lies on; closed with the volume, and by whoever opened it if this raises.
        secret: its raw key, of at least one byte.
        writable: whether transactions will be made.
        entropy: random bytes by number.
        witness: told of each transaction, and asked about a pending one.
        accept: judges layout and salt of the volume. Nothing vouches for what a creation header asks for, and what it
            asks for stays.

    Raises:
        VolumeUnknown: neither a volume nor a creation header.
        VolumeUnsupported: of a version, or with algorithms or dimensions, that are not supported here.
        VolumeKeyError: made under another key.
        VolumeDamaged: not what was written; names what and where.
        VolumeFull: too small to be formatted.
        VolumePending: the witness did not say what becomes of a pending transaction; it stays pending.
        VolumeReadError: the disk cannot be read.
        VolumeWriteError: formatting or applying failed.
    """
    if not secret:
        raise VolumeError("a volume's key has at least one byte", rule="store.key")
    created = "earlier"
    static = StaticHeader.parse(lambda size: disk.read(0, size))
    if static is None:
        found = find_creation_header(disk)
        if found is None:
            raise unknown(disk)
        created, static = "this-boot", StaticHeader(found.header.layout, found.header.salt)
        _judge(static, accept)
        disk = disk if writable else Overlay(disk, UNIT)
        format_at_first_use(disk, found, secret, entropy, fill=writable)
    else:
        _judge(static, accept)
    keys = Keys(secret, static.layout, static.salt)
    log = read_log(disk, static, keys)
    if log is None:
        state, _ = read_state(disk, static, keys)
        if writable:
            _clear_torn_head(disk, static)
            erase_copy(disk, state.allocated, static.layout, entropy)
    else:
        state, disk = _settle(disk, static, keys, log, witness, writable=writable)
    return CocoonVolume(disk, state, writable=writable, created=created, entropy=entropy, witness=witness)


def _judge(static: StaticHeader, accept: Accept | None) -> None:
    if accept is not None:
        accept(static)


def _clear_torn_head(disk: Disk, static: StaticHeader) -> None:
    """Clear away a head that was cut off while it was written, before the next one is written there."""
    layout = static.layout
    if any(disk.read(static.journal.start << layout.block_shift, layout.io_block << layout.block_shift)):
        invalidate_head(disk, static)


def _resolved(witness: Witness, old: Version | None, new: Version) -> bool:
    try:
        return witness.resolve(old, new)
    except Exception as error:
        raise VolumePending(f"the witness did not say what becomes of the transaction: {error}") from error


def _settle(
    disk: Disk, static: StaticHeader, keys: Keys, log: Log, witness: Witness | None, *, writable: bool
) -> tuple[State, Disk]:
    """Apply a pending transaction, or cancel it if the witness wants that; the state then, and the disk to read."""
    overlay = replayed(disk, static, log)
    state, rebuilt = read_state(overlay, static, keys, log)
    if witness is not None:
        before: State | None = None
        with suppress(VolumeDamaged):
            before, _ = read_state(disk, static, keys)
        if before is not None and before.header.root == state.header.root:
            before = None  # applied in full: there is no version before it any more
        old = None if before is None else Version(before.counter, before.header.root)
        if not _resolved(witness, old, Version(state.counter, state.header.root)):
            if before is None:
                raise VolumeDamaged(
                    "has been applied in part, and can no longer be cancelled", part="journal"
                )
            if writable:
                invalidate_head(disk, static)
                disk.barrier()
            return before, disk
    if not writable:
        return state, overlay
    nodes = [
        (state.geometry.node_place(number) << static.layout.block_shift, node)
        for number, node in rebuilt.items()
    ]
    write_all(disk, [*overlay.replaced(), *nodes])
    disk.barrier()
    invalidate_head(disk, static)
    disk.barrier()
    return state, disk
