"""Where the tests keep their files: in memory, where there is room for them.

Thousands of small databases are made, written and thrown away, and each commit waits for its flush. What the kernel is
asked for is the same wherever a file lies, and that is what the tests of durability look at; none could cut the power.
Who sets TMPDIR has the files there.
"""

import os
import tempfile
from pathlib import Path

ON_DISK = tempfile.gettempdir()
"""Where temporary files lie without this module: for servers whose flushes are to be real ones."""

MEMORY = Path("/dev/shm")  # noqa: S108 - not a file of ours: a whole file system
LEAST_FREE = 4 << 30


def usable(folder: Path, mounts: str, least: int = LEAST_FREE) -> bool:
    """Whether a folder is a file system in memory, with room for the suite, on which programs may be started.

    Args:
        folder: where it is mounted.
        mounts: what ``/proc/mounts`` says.
        least: how many bytes must be free.
    """
    there = [fields for fields in map(str.split, mounts.splitlines()) if fields[1] == str(folder)]
    # Of several mounts on one another, the last is seen.
    if not there or there[-1][2] != "tmpfs" or {"rw", "noexec"} & set(there[-1][3].split(",")) != {"rw"}:
        return False
    found = os.statvfs(folder)
    return os.access(folder, os.W_OK | os.X_OK) and found.f_bavail * found.f_frsize >= least


def keep_in_memory() -> None:
    """Let this process make its temporary files in memory; programs that it starts make theirs where they always do."""
    if "TMPDIR" not in os.environ and usable(MEMORY, Path("/proc/mounts").read_text()):
        tempfile.tempdir = str(MEMORY)
