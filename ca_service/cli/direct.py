"""Working on a CA's directory and database without a server."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ca_service.cli.channel import read_facts
from ca_service.cli.options import DATABASE_VARIABLE
from ca_service.cli.place import find_database, now, open_public, user_name
from ca_service.enrollment import Limits
from ca_service.judgment import Unavailable
from ca_service.keys import Authority, PublicAuthority, find_passphrase, find_pin, load_authority
from ca_service.operations import OperationContext, check_not_rolled_back, open_database, perform
from ca_service.store import Store


def perform_here(public: PublicAuthority, operation: str, arguments: dict[str, object]) -> Any:
    """Perform an operation on the CA's directory; whoever calls holds its lock.

    Raises:
        VtpmCaError: as the operation says, or the CA cannot be opened.
    """
    directory = public.directory

    def unlock() -> Authority:
        return load_authority(directory, find_passphrase(os.environ), find_pin(os.environ))

    store = _open_database(directory, f"Start the server, or name its database in {DATABASE_VARIABLE}.")
    try:
        check_not_rolled_back(public, store)
        by = user_name(os.getuid())
        return perform(OperationContext(public, unlock, store, now, by, Limits()), operation, arguments)
    finally:
        store.close()


@contextlib.contextmanager
def working_database(directory: Path) -> Iterator[Store]:
    """The database that the CA in `directory` works on, for commands that read it beside a running server.

    Raises:
        Unavailable: the server works on another one, and nobody says which.
    """
    open_public(directory)
    store = _open_database(directory, f"Name its database in {DATABASE_VARIABLE}.")
    try:
        yield store
    finally:
        store.close()


def _open_database(directory: Path, remedy: str) -> Store:
    """The database of the CA, unless its server works on one that only the server's settings name."""
    if read_facts(directory).get("own_database") is False and not os.environ.get(DATABASE_VARIABLE):
        raise Unavailable(
            "this CA's server works on another database than the one in the directory", remedy=remedy
        )
    return open_database(find_database(directory))
