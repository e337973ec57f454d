import contextlib
import hashlib
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from uuid import UUID

import pytest
import volumes
from volumes import KEY, SALT, blank_memory, format_memory, image, manifest

from vtpm.cli import main
from vtpm.volume import Auxiliary, Write, open_volume
from vtpm.volume.device import FileDisk

NAMES = sorted(manifest())
VOLUMES = [name for name in NAMES if "derived" in manifest()[name]]
ACTIVE = [name for name in VOLUMES if manifest()[name]["derived"]["journal_active"]]
READING = ("info", "verify", "ls", "cat")
FILE = 0x100000100
AUXILIARY = Auxiliary(((UUID(int=7), b"wrapped key"),), 512)


@dataclass(frozen=True)
class Done:
    code: int
    out: bytes
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def run(monkeypatch, capfdbinary, tmp_path):
    """Runs `vtpm volume` in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")

    def run(*words, stdin=b""):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["vtpm", "volume", *map(str, words)])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            capfdbinary.readouterr()
            code = 0
            try:
                main()
            except SystemExit as end:
                code = int(end.code or 0)
        captured = capfdbinary.readouterr()
        err = captured.err.decode()
        assert "Traceback" not in err
        return Done(code, captured.out, err)

    return run


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "key"
    path.write_bytes(KEY)
    return ("--key-file", path)


@pytest.fixture
def img(tmp_path):
    """Writes an image's bytes, by default of a small volume with one file, to a file."""

    def write(content=None):
        path = tmp_path / "vol.img"
        if content is None:
            disk = format_memory()
            with volumes.open_memory(disk) as opened:
                opened.transaction({FILE: Write(b"hello", 9)})
            content = disk.content
        path.write_bytes(content)
        return path

    return write


def padded(name):
    return image(name).ljust(256 << 10, b"\0")


def moment(path):
    return path.read_bytes(), path.stat().st_mtime_ns


@pytest.mark.parametrize("name", VOLUMES)
def test_info_derives_what_the_reference_does(run, img, key, name):
    path, expected = img(image(name)), manifest()[name]
    shown = run("info", path, *key, "--json").json
    assert {member: shown[member] for member in expected["derived"]} == expected["derived"]
    assert (shown["salt"], shown["disk_size"]) == (expected["salt"], expected["size"])
    assert shown["files"] == len(expected["files"])
    assert (shown["root"], f"{shown['counter']:032x}") == (shown["root_hmac"], shown["update_counter"])
    block = shown["sizes"]["allocation_block"]
    assert (shown["allocated_blocks"] + shown["free_blocks"]) * block == shown["image_size"]
    assert shown["authenticated"] is True


@pytest.mark.parametrize("name", VOLUMES)
def test_info_without_a_key_shows_all_that_needs_none(run, img, name):
    expected = manifest()[name]["derived"]
    done = run("info", img(image(name)), "--json")
    assert done.code == 0
    for member in ("layout", "journal_active", "image_size"):
        assert done.json[member] == expected[member], member
    assert (done.json["kind"], done.json["authenticated"]) == ("volume", False)
    assert done.json["auxiliary"] == {"records": [], "reserve": 1024}
    assert not {"root", "counter", "root_hmac", "update_counter", "files"} & set(done.json)


@pytest.mark.parametrize("name", [name for name in NAMES if "files" in manifest()[name]])
def test_ls_lists_what_the_manifest_says(run, img, key, name):
    assert run("ls", img(image(name)), *key, "--json").json == manifest()[name]["files"]


def test_ls_for_people_is_a_table(run, img, key):
    digest = hashlib.sha256(b"hello").hexdigest()
    assert run("ls", img(), *key).out.decode().splitlines() == [
        "inode        flags  len  sha256",
        f"0x100000100  9      5    {digest}",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_verify_says_what_was_verified(run, img, key, name):
    files = manifest()[name].get("files", [])
    done = run("verify", img(padded(name)), *key, "--json")
    assert done.code == 0
    assert (done.json["valid"], done.json["error"]) == (True, None)
    assert done.json["files"] == len(files)
    assert done.json["bytes"] == sum(file["len"] for file in files)
    # All but headers, journal head and auxiliary metadata.
    assert 0 < done.json["verified_blocks"] < done.json["allocated_blocks"] < done.json["blocks"]
    assert done.json["journal_replayed"] is (name in ACTIVE)
    assert done.json["formatted_in_memory"] is name.endswith("mkfsinfo")
    words = run("verify", img(padded(name)), *key).out.decode()
    assert words.startswith(f"valid: {len(files)} file")
    assert ("applied in memory" in words) is (name in ACTIVE)


def test_verify_names_part_and_place_of_what_is_damaged(run, img, key):
    content = bytearray(image("aes128-alloc4k.files"))
    # The last allocated block: of the last file, which nothing but the tree vouches for.
    path = img(content)
    with open_volume(path, KEY, writable=False) as opened:
        block = max(e.end for one in opened.state.locations.values() for e in one.all) - 1
    content[block * 4096 + 99] ^= 4
    path = img(content)
    done = run("verify", path, *key, "--json")
    assert done.code == 1
    assert done.json["valid"] is False
    error = done.json["error"]
    assert (error["rule"], error["part"], error["block"]) == ("store.damaged", "data block", block)
    done = run("verify", path, *key)
    assert (done.code, done.out) == (1, b"")
    assert f"[store.damaged] data block at allocation block {block}" in done.err


@pytest.mark.parametrize("command", ["info", "verify", "ls"])
def test_another_key_is_refused(run, img, tmp_path, command):
    (tmp_path / "other").write_bytes(KEY[:-1])
    done = run(command, img(), "--key-file", tmp_path / "other")
    assert (done.code, done.out) == (1, b"")
    assert "[store.key]" in done.err
    done = run("verify", img(), "--key-file", tmp_path / "other", "--json")
    assert (done.code, done.json["error"]["rule"]) == (1, "store.key")


def test_the_key_is_taken_as_it_is(run, img, tmp_path):
    disk = format_memory()
    for secret in (b"\n", b" 00ff\n", KEY + b"\n"):
        (tmp_path / "key").write_bytes(secret)
        (tmp_path / "n.img").unlink(missing_ok=True)
        assert run("mkfs", "n.img", "--size", "64K", "--key-file", "key").code == 0
        with open_volume(tmp_path / "n.img", secret, writable=False) as opened:
            assert opened.inodes() == ()
    path = img(disk.content)
    assert run("ls", path, "--key-file", "key").code == 1


@pytest.mark.parametrize("content", [b"", bytes((1 << 20) + 1)], ids=["empty", "endless"])
def test_what_cannot_be_a_key_is_unusable_input(run, img, tmp_path, content):
    (tmp_path / "bad").write_bytes(content)
    for command in (*READING[:3], "mkfs"):
        done = run(command, img(), "--key-file", tmp_path / "bad")
        assert (done.code, done.out) == (2, b"")
        assert "--key-file" in done.err
        assert "no key" in done.err


def test_a_key_file_that_is_not_there_and_none_at_all(run, img):
    done = run("ls", img(), "--key-file", "nowhere")
    assert done.code == 2
    assert "--key-file nowhere: No such file" in done.err
    for command in (["verify"], ["ls"], ["cat", FILE], ["put", FILE], ["rm", FILE], ["mkfs"]):
        done = run(command[0], img(), *command[1:])
        assert done.code == 2
        assert "Missing option '--key-file'" in done.err


@pytest.mark.parametrize("name", [*ACTIVE, "default-aes128.mkfsinfo"])
@pytest.mark.parametrize("command", READING)
def test_reading_changes_nothing_where_opening_would(run, img, key, name, command):
    path = img(padded(name))
    os.utime(path, ns=(5, 5))
    before = moment(path)
    inode = [4294967296] if command == "cat" else []
    done = run(command, path, *inode, *key)
    # Without files there is nothing to print, but it was opened.
    assert done.code == (1 if inode and "mkfs" in name else 0), done.err
    assert moment(path) == before
    with open_volume(path, KEY) as opened:
        opened.transaction({})
    assert path.read_bytes() != before[0]


def test_cat_gives_the_bytes_in_base64_as_json(run, img, key):
    done = run("cat", img(), FILE, "--json", *key)
    digest = hashlib.sha256(b"hello").hexdigest()
    assert done.code == 0
    assert done.json == {"inode": FILE, "flags": 9, "len": 5, "sha256": digest, "content": "aGVsbG8="}


def test_cat_gives_the_bytes_and_nothing_else(run, img, key):
    content = bytes(range(256)) * 300 + b"\r\n\0"
    path = img()
    with open_volume(path, KEY) as opened:
        opened.transaction({FILE: content[:40000], FILE + 1: b""})
    for number in (hex(FILE), FILE):
        assert run("cat", path, number, *key) == Done(0, content[:40000], "")
    assert run("cat", path, FILE + 1, *key) == Done(0, b"", "")


@pytest.mark.parametrize("command", ["cat", "rm"])
def test_a_file_that_is_not_there(run, img, key, command):
    path = img()
    before = path.read_bytes()
    done = run(command, path, FILE + 1, *key)
    assert (done.code, done.out) == (1, b"")
    assert re.search(r"\[store\.inode\] INODE 0x100000101: .*\n`vtpm volume ls`", done.err)
    assert path.read_bytes() == before
    # Those of the format itself are no files.
    assert run(command, path, 3, *key).code == 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["cat", "img", "abc"], 2),
        (["cat", "img", "010"], 2),
        (["put", "img", "15"], 1),
        (["put", "img", hex(1 << 64)], 1),
        (["put", "img", "16", "--flags", "256"], 2),
        (["put", "img", "16", "--flags", "-1"], 2),
        (["ls", "nowhere.img"], 2),
        (["ls", "/dev/null"], 2),
        (["ls", "."], 2),
    ],
)
def test_each_error_names_the_field(run, img, key, arguments, code):
    path = img()
    before = path.read_bytes()
    done = run(*[path if word == "img" else word for word in arguments], *key)
    assert (done.code, done.out) == (code, b"")
    assert re.search(rf"IMAGE|INODE|inode|{arguments[-2]}", done.err)
    assert path.read_bytes() == before


def test_put_keeps_the_flags_unless_others_are_given(run, img, key):
    path = img()
    counters = [run("info", path, *key, "--json").json["counter"]]
    for options, flags in (([], 9), (["--flags", "0x11"], 17), ([], 17), (["--flags", "0"], 0)):
        done = run("put", path, hex(FILE), *options, *key, "--json", stdin=b"world")
        assert done.code == 0
        file = {"inode": FILE, "flags": flags, "len": 5, "sha256": hashlib.sha256(b"world").hexdigest()}
        assert file.items() <= done.json.items()
        assert run("ls", path, *key, "--json").json == [file]
        counters.append(done.json["counter"])
        assert run("info", path, *key, "--json").json["root"] == done.json["root"]
    assert [(b - a) % 2**128 for a, b in pairwise(counters)] == [1] * 4
    done = run("put", path, 99, *key)
    assert (done.code, done.out) == (0, b"")
    assert "0 bytes" in done.err
    assert run("ls", path, *key, "--json").json[0]["flags"] == 0


@pytest.mark.parametrize("options", [[], ["--yes"]])
def test_rm_removes_at_once(run, img, key, options):
    path = img()
    assert run("rm", path, FILE, *key, *options).code == 0
    assert run("ls", path, *key, "--json").json == []


def test_rm_counts_a_transaction(run, img, key):
    path = img()
    before = run("info", path, *key, "--json").json["counter"]
    done = run("rm", path, FILE, *key, "--json")
    assert (done.json["inode"], done.json["counter"]) == (FILE, (before + 1) % 2**128)


def test_put_formats_a_blank_disk(run, tmp_path, key):
    assert run("mkfs-info", "b.img", "--size", "64K", "--salt", "aabb").code == 0
    assert run("info", "b.img", "--json").json["kind"] == "creation-header"
    assert run("put", "b.img", FILE, *key, stdin=b"first").code == 0
    shown = run("info", "b.img", *key, "--json").json
    assert (shown["kind"], shown["salt"], shown["files"]) == ("volume", "aabb", 1)
    assert run("cat", "b.img", FILE, *key).out == b"first"


@pytest.mark.parametrize(
    "command", [["info"], ["verify", "--json"], ["ls"], ["put", FILE], ["rm", FILE], ["mkfs", "--yes"]]
)
def test_a_second_opener_is_refused_as_unavailable(run, img, key, command):
    path = img()
    before = path.read_bytes()
    with contextlib.closing(FileDisk(path, writable=False)):
        done = run(command[0], path, *command[1:], *key)
    assert (done.code, done.out) == (3, b"")
    assert "[store.locked]" in done.err
    assert path.read_bytes() == before


def test_a_second_opener_does_not_get_a_creation_header_in(run, img):
    path = img(blank_memory().content)
    with contextlib.closing(FileDisk(path, writable=False)):
        assert run("mkfs-info", path).code == 3


def flipped(content, at):
    return bytes(content[:at]) + bytes([content[at] ^ 1]) + bytes(content[at + 1 :])


def torn():
    """A volume whose pending transaction's head was not written whole."""
    content = bytearray(image("default-aes128.crash.head-written"))
    at = manifest()["default-aes128.crash.head-written"]["journal_head_offset"]
    content[at + 384 : at + 512] = bytes(128)
    return content


def test_info_tells_the_three_kinds_and_the_three_states_of_the_journal(run, img):
    blank = padded("default-aes128.mkfsinfo")
    interrupted = bytes(512) + blank[512:245760] + blank[:512] + blank[246272:]
    for content, kind, journal in (
        (image("default-aes128.svsm"), "volume", "none"),
        (image("default-aes128.crash.head-written"), "volume", "active"),
        (torn(), "volume", "torn"),
        (blank, "creation-header", "none"),
        (blank[:1024], "creation-header", "none"),
    ):
        shown = run("info", img(content), "--json").json
        assert (shown["kind"], shown["journal"], shown["salt"]) == (kind, journal, "ddeeff")
        assert shown["journal_active"] is (journal == "active")
        assert shown["image_size"] == 262144
    shown = run("info", img(interrupted), "--json").json
    assert shown["kind"] == "interrupted formatting"


def test_a_formatting_in_memory_has_no_root_yet(run, img, key):
    shown = run("info", img(padded("default-aes128.mkfsinfo")), *key, "--json").json
    assert shown["kind"] == "creation-header"
    assert shown["auth_tree_extents"] == [[12, 128]]
    assert not {"root", "counter", "root_hmac", "update_counter"} & set(shown)


@pytest.mark.parametrize("make", [format_memory, blank_memory])
def test_info_shows_auxiliary_metadata_without_a_key(run, img, key, make):
    expected = {"records": [{"uuid": str(UUID(int=7)), "length": 11}], "reserve": 512}
    path = img(make(auxiliary=AUXILIARY).content)
    assert run("info", path, "--json").json["auxiliary"] == expected
    assert run("info", path, *key, "--json").json["auxiliary"] == expected
    assert str(UUID(int=7)) in run("info", path).out.decode()
    assert run("info", img(format_memory(auxiliary=Auxiliary()).content), "--json").json["auxiliary"] is None


def test_info_shows_what_it_can_of_a_damaged_volume(run, img):
    content = image("default-aes128.svsm")
    done = run("info", img(content[: 128 << 10]), "--json")
    assert done.code == 1
    assert (done.json["salt"], done.json["image_size"]) == ("ddeeff", None)
    assert (done.json["damage"]["part"], done.json["damage"]["block"]) == ("mutable header", 4)
    # The ring of auxiliary metadata begins at the block after the tree.
    pointer = image("default-aes128.svsm")[512:520]
    at = (int.from_bytes(pointer, "little") >> 7) * 128
    done = run("info", img(flipped(content, at + 300)), "--json")
    assert (done.code, done.json["auxiliary"]) == (0, None)
    blank = padded("default-aes128.mkfsinfo")
    done = run("info", img(flipped(blank, 700)), "--json")
    assert (done.code, done.json["damage"]["part"]) == (1, "auxiliary metadata")


def test_info_of_a_half_applied_header_leaves_out_what_only_the_journal_has(run, img, key):
    content = bytearray(image("default-aes128.crash.head-written"))
    content[512:1024] = bytes(512)
    done = run("info", img(content), "--json")
    assert (done.code, done.json["image_size"], done.json["damage"]) == (0, None, None)
    assert done.json["auxiliary"] == {"records": [], "reserve": 1024}
    assert run("info", img(content), *key, "--json").json["image_size"] == 262144


@pytest.mark.parametrize("content", [b"", b"COCOONFS", bytes(4096), b"\xff" * 70000], ids=len)
def test_bytes_that_are_no_volume(run, img, key, content):
    for command in ("info", "verify", "ls"):
        done = run(command, img(content), *key)
        assert (done.code, done.out) == (1, b"")
        assert "[store.format]" in done.err
    done = run("verify", img(content), *key, "--json")
    assert done.json["error"] == {
        "rule": "store.format",
        "part": None,
        "block": None,
        "detail": "there is no CocoonFs volume and no creation header",
    }


FAMILIES = [
    ([], "0002010202000000 0b000b000b000b000b00060080"),
    (["--strength", "192"], "0002010202000000 0c000c000b000b000b000600c0"),
    (["--strength", "256"], "0002010202000000 0d000d000b000b000b00060100"),
    (["--hash", "sha3", "--cipher", "camellia"], "0002010202000000 2700270027002700270026 0080"),
    (
        ["--hash", "sha3", "--cipher", "camellia", "--strength", "256"],
        "0002010202000000 2900290027002700270026 0100",
    ),
    (["--hash", "sm3", "--cipher", "sm4"], "0002010202000000 1200120012001200120013 0080"),
    (["--hash", "sm3", "--cipher", "aes"], "0002010202000000 1200120012001200120006 0080"),
    (["--allocation-block-size", "4K"], "0500000000000000 0b000b000b000b000b00060080"),
    (["--io-block-size", "2k"], "0004000404000000 0b000b000b000b000b00060080"),
    (["--data-block-size", "4KiB"], "0002010505000000 0b000b000b000b000b00060080"),
    (["--data-block-size", "128b"], "0002010002000000 0b000b000b000b000b00060080"),
    (
        [
            "--tree-node-size",
            "4096",
            "--bitmap-block-size",
            "128",
            "--leaf-size",
            "512",
            "--inner-size",
            "256",
        ],
        "0002030200020100 0b000b000b000b000b00060080",
    ),
]


@pytest.mark.parametrize(("options", "layout"), FAMILIES)
@pytest.mark.parametrize("command", ["mkfs", "mkfs-info"])
def test_layouts_are_those_of_the_reference_tool(run, tmp_path, key, command, options, layout):
    mine = key if command == "mkfs" else ()
    done = run(command, "n.img", "--size", "256k", "--salt", "AAbb", *options, *mine, "--json")
    assert done.code == 0, done.err
    assert (done.json["layout"], done.json["salt"]) == (re.sub("[^0-9a-f]", "", layout), "aabb")
    assert done.json["image_size"] == 256 << 10 == (tmp_path / "n.img").stat().st_size
    done = run("put", "n.img", FILE, *key, stdin=b"x" * 3000)
    assert done.code == 0, done.err
    shown = run("info", "n.img", *key, "--json").json
    assert (shown["layout"], shown["salt"], shown["files"]) == (re.sub("[^0-9a-f]", "", layout), "aabb", 1)
    assert run("cat", "n.img", FILE, *key).out == b"x" * 3000


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        (["--strength", "192", "--hash", "sm3"], 2, "--hash sm3"),
        (["--strength", "256", "--cipher", "sm4"], 2, "--cipher sm4"),
        (["--strength", "64"], 2, "--strength"),
        (["--hash", "sha1"], 2, "--hash"),
        (["--size", "1KB"], 2, "--size"),
        (["--size", "0"], 2, "--size"),
        (["--size", "-1"], 2, "--size"),
        (["--size", "9" * 30 + "G"], 2, "--size"),
        (["--size", "1000"], 2, "--size 1000"),
        (["--size", "4K"], 1, "store.full"),
        (["--salt", "abc"], 2, "--salt"),
        (["--salt", ""], 2, "--salt"),
        (["--salt", "00" * 256], 2, "--salt"),
        (["--allocation-block-size", "64"], 2, "--allocation-block-size"),
        (["--io-block-size", "384"], 2, "--io-block-size"),
        (["--io-block-size", "16K"], 2, "--io-block-size"),
        (["--tree-node-size", "256"], 2, "--tree-node-size"),
        (["--leaf-size", "16K"], 2, "--leaf-size"),
        (["--allocation-block-size", "2T"], 1, "layout"),
    ],
)
@pytest.mark.parametrize("command", ["mkfs", "mkfs-info"])
def test_what_no_volume_can_be_made_of_is_refused_before_anything_is_written(
    run, img, key, command, options, code, named
):
    mine = key if command == "mkfs" else ()
    path = img()
    before = moment(path)
    done = run(command, path, "--size", "64K", "--yes", *options, *mine)
    assert (done.code, done.out) == (code, b"")
    assert named in done.err
    assert moment(path) == before
    assert run(command, "new.img", "--size", "64K", *options, *mine).code == code
    assert not path.with_name("new.img").exists()


@pytest.mark.parametrize("command", ["mkfs", "mkfs-info"])
def test_what_holds_something_is_written_over_only_with_yes(run, img, key, command):
    mine = key if command == "mkfs" else ()
    beyond_the_beginning = bytes((2 << 20) - 1) + b"\1"
    for content in (None, b"\1" * 100, beyond_the_beginning, torn()):
        path = img(content)
        before = path.read_bytes()
        done = run(command, path, "--size", "64K", *mine)
        assert (done.code, done.out) == (1, b"")
        assert re.search(r"\[store\.exists\] IMAGE: .*\nWith --yes", done.err)
        assert path.read_bytes() == before
        assert run(command, path, "--size", "64K", "--salt", "01", "--yes", *mine).code == 0
        assert run("info", path, "--json").json["salt"] == "01"
        assert run("verify", path, *key).code == 0


@pytest.mark.parametrize("command", ["mkfs", "mkfs-info"])
@pytest.mark.parametrize("content", [None, b"", bytes(100), bytes(128 << 10)])
def test_what_is_missing_empty_or_zeroed_needs_no_yes(run, tmp_path, key, command, content):
    path = tmp_path / "n.img"
    if content is not None:
        path.write_bytes(content)
    mine = key if command == "mkfs" else ()
    assert run(command, path, "--size", "64K", *mine).code == 0
    assert path.stat().st_size == max(64 << 10, len(content or b""))
    shown = run("info", path, "--json").json
    assert (shown["image_size"], len(shown["salt"])) == (64 << 10, 32)
    assert run("verify", path, *key).code == 0


def test_the_size_is_the_images_unless_another_is_given(run, tmp_path, key):
    path = tmp_path / "n.img"
    for content in (None, b""):
        if content is not None:
            path.write_bytes(content)
        done = run("mkfs-info", path)
        assert done.code == 2
        assert "--size" in done.err
    path.write_bytes(bytes(96 << 10))
    assert run("mkfs-info", path).code == 0
    assert run("info", path, "--json").json["image_size"] == 96 << 10


def test_a_creation_header_may_be_replaced_by_another_but_not_by_a_volume(run, img, key):
    path = img(blank_memory().content)
    assert run("mkfs", path, *key).code == 1
    assert run("mkfs-info", path, "--salt", "0102").code == 0
    assert run("info", path, "--json").json["salt"] == "0102" != SALT.hex()


def test_salts_are_random_unless_given(run):
    salts = {run("mkfs-info", "n.img", "--size", "64K", "--json").json["salt"] for _ in range(3)}
    assert len(salts) == 3


def test_a_blank_disk_is_sparse_and_so_is_a_volume_if_that_is_wanted(run, tmp_path, key):
    def taken(name):
        return (tmp_path / name).stat().st_blocks * 512

    run("mkfs-info", "header.img", "--size", "4M")
    run("mkfs", "sparse.img", "--size", "4M", *key, "--sparse")
    run("mkfs", "full.img", "--size", "4M", *key)
    assert taken("header.img") < 1 << 20
    assert taken("sparse.img") < 2 << 20
    assert (tmp_path / "sparse.img").read_bytes().count(bytes(4096)) > 500
    assert (tmp_path / "full.img").read_bytes().count(bytes(4096)) == 0


def test_info_for_people_has_a_line_for_each_fact(run, img, key):
    lines = run("info", img(), *key).out.decode().splitlines()
    shown = dict(re.split(r"  +", line, maxsplit=1) for line in lines)
    assert shown["kind"] == "volume"
    assert shown["salt"] == SALT.hex()
    assert shown["io block"] == "512"
    assert shown["cipher"] == "aes128"
    assert shown["journal"] == "none"
    assert shown["authenticated"] == "yes"
    assert re.fullmatch("[0-9]+", shown["counter"])
    assert int(shown["counter"]) == int(shown["update counter"], 16)
    assert re.fullmatch("[0-9a-f]{64}", shown["root"])
    assert re.fullmatch(r"\d+\+\d+", shown["auth tree extents"])


COMMAND = [sys.executable, "-c", "from vtpm.cli import main; main()", "volume"]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_of_cat_that_goes_away_is_no_traceback(tmp_path, img, unbuffered):
    path = img(format_memory(size=16 << 20).content)
    (tmp_path / "key").write_bytes(KEY)
    with open_volume(path, KEY) as opened:
        opened.transaction({FILE: bytes(8 << 20)})
    words = [*COMMAND, "cat", path, str(FILE), "--key-file", tmp_path / "key"]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout.read(1) == b"\0"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 3


@pytest.mark.parametrize(
    ("command", "redirect", "named"), [("put", "<&-", "input"), ("cat", ">&-", "output")]
)
def test_a_standard_stream_that_is_closed_is_named(tmp_path, img, command, redirect, named):
    path = img()
    (tmp_path / "key").write_bytes(KEY)
    before = path.read_bytes()
    words = [*COMMAND, command, str(path), str(FILE), "--key-file", str(tmp_path / "key")]
    done = subprocess.run(
        ["bash", "-c", f'exec "$@" {redirect}', "-", *words], capture_output=True, check=False
    )
    assert done.returncode == 2
    assert f"standard {named} is closed" in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert path.read_bytes() == before


@pytest.mark.parametrize("command", ["info", "verify", "ls", "cat", "put", "rm", "mkfs", "mkfs-info"])
def test_each_command_explains_itself(run, command):
    done = run(command, "--help")
    assert (done.code, done.err) == (0, "")
    lines = done.out.decode().splitlines()
    assert lines[0].startswith(f"Usage: vtpm volume {command} [OPTIONS] IMAGE")
    assert max(map(len, lines)) <= 110
    assert "--json" in done.out.decode()


def test_the_short_helps_are_whole(run):
    listed = run("--help").out.decode().split("Commands:")[1]
    assert "mkfs-info" in listed
    assert "..." not in listed


@pytest.mark.parametrize("command", ["info", "verify", "ls"])
def test_a_disk_of_version_0_1_says_what_to_do(run, img, key, command):
    done = run(command, img(b"VTPMVOLI".ljust(8192, b"x")), *key)
    assert done.code == 1
    assert "make a new disk" in done.err
