"""A throwaway simulation CA in this process: real in all but that named checks may be left out.

What a policy can give up, its policy gives up: that goes the way of `vtpm-ca policy apply`. For all else this is the
only place that puts `UnsafeSkip` into a CA. It exists to show what each check is worth: what it leaves out, it
leaves out of a CA that nobody trusts and that is gone a moment later.
"""

import os
import shutil
import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from cryptography import x509

from ca_service.api import Services, create_app
from ca_service.enrollment import Desk, Enroller, FileLiveness, Judge, Limits
from ca_service.judgment import Record, UnsafeSkip, Verdict
from ca_service.keys import (
    Authority,
    AuthoritySource,
    CeremonyConfig,
    PublicationRule,
    load_authority,
    run_ceremony,
)
from ca_service.operations import OperationContext, ensure_issuers, perform
from ca_service.store import CertificateState, Store, create_store, open_store
from vtpm.lab.loopback import served

Clock = Callable[[], datetime]

OCCUPIED = "ledger.instance-occupied"
"""The one rule that a constraint of the database holds as well; who leaves it out must loosen that too."""

_LAST_ONE_WINS = """
    CREATE TRIGGER lab_last_one_wins BEFORE INSERT ON tpms WHEN NEW.occupies IS NOT NULL
    BEGIN UPDATE tpms SET occupies = NULL WHERE occupies = NEW.occupies; END
"""


@dataclass(frozen=True)
class Ceremony:
    """Keys and empty database of a CA, made once: many throwaway CAs may start from them."""

    authority: Authority
    database: Path

    @classmethod
    def hold(cls, directory: Path, clock: Clock) -> Self:
        """Make them in an empty directory."""
        passphrase = os.urandom(16).hex().encode("ascii")
        config = CeremonyConfig(
            mode="simulation",
            organization="Attack lab",
            publication_url="http://ca.invalid",
            ca_id="lab",
            # There are many of them, and each publishes before the first attack.
            publication=PublicationRule(shards=1, ocsp=False),
        )
        run_ceremony(directory / "ca", config, passphrase, clock=clock, entropy=os.urandom)
        database = directory / "empty.sqlite3"
        create_store(_url(database)).close()
        return cls(load_authority(directory / "ca", passphrase), database)


def _url(database: Path) -> str:
    return f"sqlite:///{database}"


@dataclass(frozen=True)
class ThrowawayCa:
    """A running CA: its base URL, what it has issued, and what its checks have found."""

    url: str
    ca_id: str
    _store: Store

    def certificates(self) -> tuple[x509.Certificate, ...]:
        """Every certificate that was issued, newest first."""
        with self._store.read() as tx:
            rows = tx.certificates.latest(state=CertificateState.ISSUED)
        return tuple(x509.load_der_x509_certificate(row.der) for row in rows if row.der is not None)

    def skipped(self) -> tuple[str, ...]:
        """Every rule that did not count in one of its decisions, in alphabetical order."""
        with self._store.read() as tx:
            traces = [Record.parse(row.trace).trace for row in tx.decisions.latest()]
        findings = (finding for trace in traces for finding in trace.findings)
        return tuple(sorted({each.rule for each in findings if each.verdict is Verdict.UNSAFE_SKIPPED}))


@contextmanager
def throwaway_ca(
    ceremony: Ceremony, directory: Path, policy: str, clock: Clock, off: Collection[str]
) -> Iterator[ThrowawayCa]:
    """Run a CA with a database of its own.

    Args:
        ceremony: its keys.
        directory: for its files.
        policy: the allow-list in force, TOML.
        clock: gives the time, aware.
        off: ids of the checks that are replaced; each leaves ``unsafe-skipped`` in the trace.

    Raises:
        VtpmCaError: the policy cannot be put in force.
    """
    database = directory / "ca.sqlite3"
    shutil.copyfile(ceremony.database, database)
    if OCCUPIED in off:
        with closing(sqlite3.connect(database)) as connection:
            connection.execute(_LAST_ONE_WINS)
            connection.commit()
    authority, store = ceremony.authority, open_store(_url(database))
    liveness = FileLiveness(directory / "run")
    try:
        context = OperationContext(authority, lambda: authority, store, clock, "lab", Limits())
        perform(context, "policy-apply", {"text": policy})
        judge = Judge.of(authority.ca_id, authority.mode)
        if off:
            judge = judge.with_replaced({rule: UnsafeSkip(rule) for rule in off})
        source = AuthoritySource(authority.directory, lambda: authority)
        ensure_issuers(store, authority, clock())
        enroller = Enroller(Desk(source, store, judge, liveness, clock, os.urandom))
        enroller.recover()
        with served(create_app(Services(store, enroller))) as url:
            yield ThrowawayCa(url, authority.ca_id, store)
    finally:
        liveness.close()
        store.close()
