"""Files that an operator names on a command line: read within bounds, complained about by their path."""

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
