"""The root's revocation list in the CA's directory.

The running CA has no key to sign it with, so it is no row of the database: who holds the root's key leaves it in
``crl/root.crl``, and the server publishes what lies there. Its loss must not take back what it revokes. So a copy of
the newest lies in another folder, and ``ca.toml`` has its number: a list that is older than that, or none, is never
taken for the newest.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from ca_service.judgment import Unavailable
from ca_service.keys import files
from ca_service.keys.facts import CaFacts
from ca_service.keys.layout import CERTIFICATES, FACTS_FILE, KEYS_LOCK_FILE, LISTS, ROOT_LIST_FILE, RUN
from ca_service.keys.opening import read_facts

NumberOf = Callable[[bytes], int]
"""Gives the number of a list of the root's; raises Unavailable if it is none."""


def held_root_lists(directory: Path, number_of: NumberOf) -> list[bytes]:
    """DER of the root's lists that the directory holds, the newest first; none if none was ever made.

    More than one if they differ: whatever any of them revokes is revoked, also if two nodes gave one number twice.

    Raises:
        NotFound, BadRequest: there is no CA in that directory, or its facts are malformed.
        Unavailable: the newest is missing, or as `number_of` says (code ``crl``).
    """
    return _held(directory, read_facts(directory), number_of)


def replace_root_list(
    directory: Path, number_of: NumberOf, make: Callable[[Sequence[bytes]], bytes]
) -> bytes:
    """Put the next list into the place of the present one, durable, old or new at every moment.

    Args:
        directory: the CA's directory.
        number_of: reads the number of a list.
        make: gets what `held_root_lists` returns, and gives the DER of the next list; if it raises, all stays.

    Returns:
        The DER of the next list.

    Raises:
        Unavailable: the directory cannot be written (code ``storage``), another process works on it (``busy``), or as
            `held_root_lists`.
    """
    try:
        with files.locked(directory / RUN / KEYS_LOCK_FILE):
            facts = read_facts(directory)
            following = make(_held(directory, facts, number_of))
            root = facts.root.model_copy(update={"list_number": number_of(following)})
            # Its number comes last: a crash leaves lists that are newer than it says, and never older ones.
            for path in _places(directory):
                if not path.parent.exists():
                    files.make_directory(path.parent, files.PUBLIC_DIRECTORY)
                files.replace_file(path, following, files.PUBLIC_FILE)
            text = facts.model_copy(update={"root": root}).to_toml()
            CaFacts.from_toml(text)
            files.replace_file(directory / FACTS_FILE, text.encode(), files.PUBLIC_FILE)
            return following
    except OSError as error:
        raise Unavailable(f"{directory} cannot be written: {error.strerror}", code="storage") from error


def _places(directory: Path) -> tuple[Path, Path]:
    """The copy, and what is published."""
    return directory / CERTIFICATES / ROOT_LIST_FILE, directory / LISTS / ROOT_LIST_FILE


def _held(directory: Path, facts: CaFacts, number_of: NumberOf) -> list[bytes]:
    found = {path.read_bytes() for path in _places(directory) if path.exists()}
    numbered = sorted(((number_of(der), der) for der in found), reverse=True)
    newest = numbered[0][0] if numbered else 0
    if newest < (facts.root.list_number or 0):
        there = f"; what is there is number {newest}" if numbered else ""
        raise Unavailable(
            f"the root's revocation list of number {facts.root.list_number} is missing{there}",
            code="crl",
            remedy=f"Put it to {LISTS}/{ROOT_LIST_FILE} again: from a backup, from another node, or from where it was "
            "published. A new one would not know which issuing CAs are revoked.",
        )
    return [der for _, der in numbered]
