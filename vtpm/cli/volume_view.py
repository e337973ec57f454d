"""How `vtpm volume` shows a volume: the same facts as JSON for scripts and as aligned lines for people."""

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence

import click

from vtpm.errors import UnavailableError, UsageError
from vtpm.volume import Auxiliary, CocoonVolume, Layout, VolumeDamaged, VolumeError
from vtpm.volume.format.extents import Extent
from vtpm.volume.inspection import JournalState, Measures, Outside

_GAP = "  "
_NESTED = ("sizes", "algorithms")
_FOR_SCRIPTS = ("root_hmac", "journal_active")
"""Members that say in other words what another one says too."""

Facts = dict[str, object]
"""Members of a JSON object."""


def show_json(value: object) -> None:
    """Print a value as indented JSON, in ASCII: it is the same under every locale."""
    click.echo(json.dumps(value, indent=1))


def show_facts(facts: Mapping[str, object]) -> None:
    """Print one object for people: a line per member, the members of what is nested among them."""
    flat = dict(_flattened(facts))
    width = max(map(len, flat))
    for name, text in flat.items():
        click.echo(f"{name.replace('_', ' ').ljust(width)}{_GAP}{text}")


def show_files(files: Sequence[Mapping[str, object]]) -> None:
    """Print a listing of files for people."""
    rows = [["inode", "flags", "len", "sha256"]]
    rows += [[f"{one['inode']:#x}", *(str(one[name]) for name in rows[0][1:])] for one in files]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo(_GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def show_verified(facts: Mapping[str, object]) -> None:
    """Print for people what was verified."""
    files = "1 file" if facts["files"] == 1 else f"{facts['files']} files"
    replayed = "; a pending transaction was applied in memory" if facts["journal_replayed"] else ""
    made = "; formatted in memory from its creation header" if facts["formatted_in_memory"] else ""
    click.echo(
        f"valid: {files} of {facts['bytes']} bytes; {facts['verified_blocks']} allocation blocks verified,"
        f" {facts['allocated_blocks']} of {facts['blocks']} in use{replayed}{made}"
    )


def emit(content: bytes) -> None:
    """Write bytes to standard output; ends quietly, with exit code 3, if whoever read them has gone away."""
    if sys.stdout is None:
        raise UsageError("standard output is closed; it must take the content")
    try:
        rest = memoryview(content)
        while rest:  # unbuffered, as PYTHONUNBUFFERED has it, a write may be short
            rest = rest[sys.stdout.buffer.write(rest) :]
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # What is left in the buffer must go somewhere, or the interpreter complains at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(UnavailableError.exit_code) from None


def file_facts(inode: int, flags: int | None, content: bytes) -> Facts:
    """What a listing says of a file: inode, flags, length in bytes, and SHA-256 in hex."""
    digest = hashlib.sha256(content).hexdigest()
    return {"inode": inode, "flags": flags, "len": len(content), "sha256": digest}


def layout_facts(layout: Layout, salt: bytes) -> Facts:
    """The layout as its 21 bytes in hex, as sizes in bytes and as names of algorithms; and the salt in hex."""
    return {
        "salt": salt.hex(),
        "layout": layout.encode().hex(),
        "sizes": {
            "allocation_block": layout.block_size,
            "io_block": layout.io_block << layout.block_shift,
            "data_block": layout.data_block << layout.block_shift,
            "tree_node": layout.tree_node << layout.block_shift,
            "bitmap_block": layout.bitmap_block << layout.block_shift,
            "leaf": layout.leaf << layout.block_shift,
            "inner": layout.inner << layout.block_shift,
        },
        "algorithms": {
            "node_hash": layout.node_hash.name,
            "data_hash": layout.data_hash.name,
            "root_hash": layout.root_hash.name,
            "preauth_hash": layout.preauth_hash.name,
            "kdf_hash": layout.kdf_hash.name,
            "cipher": layout.cipher.name,
        },
    }


def outside_facts(outside: Outside, disk_size: int) -> Facts:
    """What a disk of so many bytes shows without a key."""
    return {
        "kind": outside.kind.value,
        "authenticated": False,
        "disk_size": disk_size,
        "image_size": outside.size,
        **layout_facts(outside.layout, outside.salt),
        "journal": outside.journal.value,
        "journal_active": outside.journal is JournalState.ACTIVE,
        "auxiliary": _auxiliary_facts(outside.auxiliary),
        "damage": None if outside.damage is None else error_facts(outside.damage),
    }


def inside_facts(volume: CocoonVolume, measures: Measures) -> Facts:
    """What an open volume shows beside that; a pending transaction has been applied in memory.

    A volume that was formatted in memory for this look has no root and no counter yet: another one would be chosen
    when it is formatted for good.
    """
    state = volume.state
    facts: Facts = {
        "authenticated": True,
        "image_size": state.header.size << state.static.layout.block_shift,
        "auxiliary": _auxiliary_facts(None if state.auxiliary is None else state.auxiliary.content),
        "damage": None,
        "auth_tree_extents": _pairs(measures.tree),
        "auth_tree_height": measures.tree_height,
        "bitmap_extents": _pairs(measures.bitmap),
        "index_height": measures.index_height,
        "files": measures.files,
        "allocated_blocks": measures.allocated,
        "free_blocks": measures.free,
    }
    return facts if volume.created == "this-boot" else {**version_facts(volume), **facts}


def version_facts(volume: CocoonVolume) -> Facts:
    """Root HMAC and update counter, under their short names and those that the format's vectors use."""
    return {
        "root": volume.root.hex(),
        "counter": volume.counter,
        "root_hmac": volume.root.hex(),
        "update_counter": f"{volume.counter:032x}",
    }


def error_facts(error: VolumeError) -> Facts:
    """What went wrong, in which part, and at which allocation block; part and block are None if it has none."""
    part, block = (error.part, error.block) if isinstance(error, VolumeDamaged) else ("", None)
    return {"rule": error.rule, "part": part or None, "block": block, "detail": error.detail}


def _auxiliary_facts(found: Auxiliary | None) -> Facts | None:
    if found is None:
        return None
    records = [{"uuid": str(uuid), "length": len(data)} for uuid, data in found.records]
    return {"records": records, "reserve": found.reserve}


def _pairs(extents: Iterable[Extent]) -> list[list[int]]:
    return [[extent.start, extent.length] for extent in extents]


def _flattened(facts: Mapping[str, object]) -> Iterable[tuple[str, str]]:
    for name, value in facts.items():
        if isinstance(value, Mapping) and name in _NESTED:
            yield from _flattened(value)
        elif name not in _FOR_SCRIPTS:
            yield name, _text(value)


def _text(value: object) -> str:
    if value is None or value == []:
        return "none" if value == [] else "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items())
    if isinstance(value, list):
        return "; ".join("+".join(map(str, one)) if isinstance(one, list) else _text(one) for one in value)
    return str(value)
