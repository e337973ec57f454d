"""Files that an operator names on a command line: read within bounds, complained about by their path."""

import errno
import os
import stat
from pathlib import Path

from ca_service.judgment import BadRequest


def read_start(path: Path, most: int) -> bytes:
    """The first `most` bytes of a file and one more, if there are that many.

    Raises:
        BadRequest: it cannot be opened or read.
    """
    try:
        with path.open("rb") as file:
            return file.read(most + 1)
    except OSError as error:
        raise BadRequest(str(path), f"cannot be read: {error.strerror}") from None


def read_bytes(path: Path, most: int) -> bytes:
    """A whole file.

    Raises:
        BadRequest: it cannot be read, or is longer than `most` bytes.
    """
    content = read_start(path, most)
    if len(content) > most:
        raise BadRequest(str(path), f"is longer than {most} bytes")
    return content


def read_text(path: Path, most: int) -> str:
    """A whole text file.

    Raises:
        BadRequest: it cannot be read, is longer than `most` bytes, or is no UTF-8 text.
    """
    try:
        return read_bytes(path, most).decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest(str(path), "must be UTF-8 text") from None


def read_beneath(folder: Path, name: str, most: int) -> bytes:
    """A whole regular file inside a folder; no link is followed on the way from there.

    Args:
        folder: where to begin.
        name: relative path; whoever calls has seen to it that it does not lead upwards.
        most: longest file, in bytes.

    Raises:
        OSError: there is no such file, or a link, a folder or a device in its place.
        BadRequest: it is longer than `most` bytes.
    """
    *folders, last = name.split("/")
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for step in folders:
            inner = os.open(step, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=place)
            os.close(place)
            place = inner
        # Whoever opens a pipe waits for its other end, unless he says that he does not.
        opened = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=place)
    finally:
        os.close(place)
    with open(opened, "rb") as file:  # noqa: PTH123 - there is no path to it that is known to be still the same
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise OSError(errno.EINVAL, "is no regular file")
        content = file.read(most + 1)
    if len(content) > most:
        raise BadRequest(str(folder / name), f"is longer than {most} bytes")
    return content
