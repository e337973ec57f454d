"""Temporary files go into memory only where that is a place for all that the tests do."""

import subprocess
import sys
from pathlib import Path

import pytest
from memory_folders import MEMORY, usable

SUPPORT = Path(__file__).parents[2] / "support"
TMPFS = "tmpfs {} tmpfs rw,relatime,size=24684096k 0 0\n"


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        (TMPFS, True),
        ("/dev/vda / ext4 rw 0 0\n" + TMPFS, True),
        ("/dev/vda / ext4 rw 0 0\n", False),
        (TMPFS.replace("tmpfs rw", "ext4 rw"), False),
        (TMPFS.replace("rw,", "rw,nosuid,nodev,noexec,"), False),
        (TMPFS.replace("rw,", "ro,"), False),
        (TMPFS + TMPFS.replace("tmpfs rw", "ext4 rw"), False),
    ],
    ids=[
        "memory",
        "among others",
        "no file system",
        "on a disk",
        "no programs",
        "no writing",
        "under another",
    ],
)
def test_only_a_file_system_in_memory_that_starts_programs(tmp_path, mounts, expected):
    assert usable(tmp_path, mounts.replace("{}", str(tmp_path)), least=1) is expected


def test_not_without_room(tmp_path):
    assert not usable(tmp_path, TMPFS.format(tmp_path), least=1 << 60)


def asked(environment: dict[str, str]) -> list[str]:
    code = (
        "import memory_folders as m, tempfile; m.usable = lambda *_: True; m.keep_in_memory();"
        "print(tempfile.gettempdir(), m.ON_DISK)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(SUPPORT)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return found.stdout.split()


def test_who_says_where_has_them_there(tmp_path):
    assert asked({"TMPDIR": str(tmp_path)}) == [str(tmp_path)] * 2


def test_else_they_are_in_memory_but_for_servers_that_flush():
    kept, flushed = asked({})
    assert kept == str(MEMORY)
    assert flushed not in {kept, ""}
