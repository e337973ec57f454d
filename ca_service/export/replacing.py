"""Replacing a file: whoever reads, and whoever is killed, finds the old content or the new."""

import os
from pathlib import Path


def replace_file(path: Path, data: bytes, mode: int) -> None:
    """Write under a hidden name beside it, flush, and rename. What stands under that name is refused, once.

    Raises:
        OSError: it cannot be written; the old file is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # Only a new file: whoever owns the folder may have put a link there.
        with temporary.open("xb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
