"""Operators who change the policy of one CA together, each on a node of his own."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

from ca_service.enrollment import Limits
from ca_service.operations import OperationContext, perform
from ca_service.store import DecisionRow, open_store

NOON = datetime(2026, 11, 26, 12, 0, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
ALICE, BOB, ROOT = "CN=alice", "spiffe://ca.example/bob", "root"


class Operators:
    """Operators of one CA, each through a store of his own as on a node of his own, by one clock."""

    def __init__(self, url: str, mode: str = "production") -> None:
        self.now = NOON
        self.mode = mode
        self.stores = {name: open_store(url) for name in (ALICE, BOB, ROOT)}

    def close(self) -> None:
        for store in self.stores.values():
            store.close()

    def context(self, who: str) -> OperationContext:
        store = self.stores.get(who, self.stores[ROOT])
        public = SimpleNamespace(mode=self.mode)
        return OperationContext(public, lambda: None, store, lambda: self.now, who, Limits())

    def __call__(self, who: str, name: str, **arguments: object):
        return perform(self.context(who), f"policy-{name}", arguments)

    def put(self, who: str, seconds: int, rule: str = "", **arguments: object):
        """Apply a document that admits grants of so many seconds; the more the wider."""
        return self(who, "apply", text=document(seconds, rule), **arguments)

    def in_force(self) -> int:
        with self.stores[BOB].read() as tx:
            return tx.policies.version_in_force(self.now)

    def states(self) -> list[str]:
        return [row["state"] for row in self(ROOT, "log")]

    def decide(self) -> None:
        """A decision by the version in force."""
        with self.stores[BOB].write() as tx:
            version, number = tx.policies.version_in_force(self.now), len(tx.decisions.latest())
            tx.decisions.keep_evidence("aa", b"body", self.now)
            tx.decisions.add(
                DecisionRow(f"d{number}", self.now, "enroll", 0, "r", "[]", version, "", "aa", "org", "r")
            )


def document(seconds: int, rule: str = "") -> str:
    return f"schema = 1\n[grant]\nmax_age_s = {seconds}\n" + (
        f'[approval]\nwidening = "{rule}"\n' if rule else ""
    )
