"""Setting a CA up: ceremony, database and first revocation lists, whole or not at all."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from ca_service.enrollment import Limits, publish_all
from ca_service.keys import CeremonyConfig, Transcript, load_authority, run_ceremony
from ca_service.profiles import Entropy
from ca_service.store import create_store

DATABASE = "ca.sqlite3"


def database_url(directory: Path) -> str:
    """The database that a CA uses unless it is told otherwise."""
    return f"sqlite:///{(directory / DATABASE).absolute()}"


def init(
    directory: Path,
    config: CeremonyConfig,
    passphrase: bytes,
    *,
    clock: Callable[[], datetime],
    entropy: Entropy,
) -> Transcript:
    """Make a CA in `directory`; raises as `run_ceremony` does, and then nothing is there."""

    def finish(building: Path) -> None:
        store = create_store(database_url(building))
        try:
            publish_all(store, load_authority(building, passphrase), clock(), Limits())
        finally:
            store.close()

    return run_ceremony(directory, config, passphrase, clock=clock, entropy=entropy, finish=finish)
