"""The root's revocation list in the CA's directory.

The running CA has no key to sign it with, so it is no row of the database: who holds the root's key leaves it in
``crl/root.crl``, and the server publishes what lies there.
"""

from collections.abc import Callable
from pathlib import Path

from ca_service.judgment import Unavailable
from ca_service.keys import files
from ca_service.keys.layout import KEYS_LOCK_FILE, LISTS, ROOT_LIST_FILE, RUN


def replace_root_list(directory: Path, make: Callable[[bytes | None], bytes]) -> bytes:
    """Put the next list into the place of the present one, durable, old or new at every moment.

    Args:
        directory: the CA's directory.
        make: gets the DER of the present list, or None, and returns that of the next; if it raises, all stays.

    Returns:
        The DER of the next list.

    Raises:
        Unavailable: the directory cannot be written (code ``storage``), or another process works on it (``busy``).
    """
    path = directory / LISTS / ROOT_LIST_FILE
    try:
        with files.locked(directory / RUN / KEYS_LOCK_FILE):
            following = make(path.read_bytes() if path.exists() else None)
            if not path.parent.exists():
                files.make_directory(path.parent, files.PUBLIC_DIRECTORY)
            files.replace_file(path, following, files.PUBLIC_FILE)
            return following
    except OSError as error:
        raise Unavailable(f"{directory} cannot be written: {error.strerror}", code="storage") from error
