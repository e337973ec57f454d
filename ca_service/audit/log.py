"""The log of decisions and certificates, as the CA writes it.

Every append belongs to the transaction that makes what the leaf is about: what is committed is logged, and what is
logged happened. The head row is locked first, so appends follow one another and the tree never forks. A checkpoint
is signed before the commit and leaves the process only after it.
"""

import heapq
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from operator import itemgetter

from ca_service.audit.leaf import CERTIFICATE, DECISION, Leaf, certificate_leaf, decision_leaf
from ca_service.audit.merkle import Frontier, Place, Recipe, inclusion, leaf_hash
from ca_service.audit.note import NoteSigner, sign_note, verifier_key
from ca_service.judgment import NotFound, Unavailable
from ca_service.store import HeadRow, LeafRow, LoggedCertificate, Transaction
from vtpm.wire.errors import WireError
from vtpm.wire.frozen import frozen
from vtpm.wire.log import Checkpoint, Proof
from vtpm.wire.note import VerifierKey, open_note

BATCH = 500
"""How many leaves `Log.catch_up` takes at once."""

_OLDER = "the database is older than what this CA has done"


@frozen
class Receipt:
    """What whoever was logged gets to keep.

    Attributes:
        size: leaves of the tree that the checkpoint is about.
        checkpoint: the signed note, UTF-8.
        proofs: that the leaves stand in that tree, in the order in which they were named.
    """

    size: int
    checkpoint: bytes = field(repr=False)
    proofs: tuple[Proof, ...] = field(repr=False)


def damaged(what: str) -> Unavailable:
    """The error of a log that contradicts itself: nothing may be decided or issued on top of it."""
    return Unavailable(
        f"the log is damaged: {what}",
        code="log",
        remedy="Run `vtpm-ca audit verify`. The CA serves again when the database is restored from a backup.",
    )


@dataclass(frozen=True, order=True)
class Seen:
    """How far a log has come: of two, the later one is the greater one.

    Attributes:
        epoch: number of the database's epoch. A restore begins a new one, and the log may be shorter then.
        size: leaves of the log.
        root: root hash of the tree of that size.
        checkpoint: the signed note that says so.
    """

    epoch: int = 0
    size: int = 0
    root: bytes = field(default=b"", compare=False)
    checkpoint: str = field(default="", compare=False, repr=False)


class Log:
    """One log: its name, its key, and the tables of whichever transaction it is given.

    Safe for threads. It remembers which head it signed or verified last, to save a verification, and how far
    the log had come at the most: a database that is behind that has been put into the place of the present one while
    this process lived, for example by a failover to a standby that had not got the last commits. The log stops then.
    """

    def __init__(self, origin: str, signer: NoteSigner) -> None:
        self.key = verifier_key(origin, signer)
        self._signer = signer
        self._vouched: tuple[HeadRow, Frontier, Seen] | None = None
        self._guard = threading.Lock()
        self._seen = Seen()
        self._stopped = ""

    @property
    def seen(self) -> Seen:
        """How far this process has seen the log come. Only what was committed counts."""
        return self._seen

    @property
    def stopped(self) -> str:
        """Why nothing may rest on this database any more; empty if nothing is wrong."""
        return self._stopped

    def stop(self, why: str) -> None:
        """Let this process append no more, and call nothing ready: its database is not the one that it was."""
        self._stopped = self._stopped or why

    def check_going(self) -> None:
        """Raises `Unavailable` (code ``rolled-back``) once the log was stopped."""
        if self._stopped:
            raise Unavailable(
                self._stopped,
                code="rolled-back",
                remedy="Stop all servers. Bring the newest database back, or a backup by `vtpm-ca db restore`.",
            )

    def _note(self, seen: Seen) -> None:
        with self._guard:
            self._seen = max(self._seen, seen)

    def _check_forward(self, present: Seen, before: Seen) -> None:
        """Stop unless the present database goes on from where the log was before its transaction began."""
        if present < before:
            self.stop(
                f"{_OLDER}: its log has {present.size} leaves in epoch {present.epoch},"
                f" {before.size} in epoch {before.epoch} were seen"
            )
        elif present == before and present.root != before.root and before.root:
            self.stop(f"{_OLDER}: its log of {before.size} leaves is another than the one that was seen")
        self.check_going()

    def __repr__(self) -> str:
        return f"Log({self.key})"

    def append(self, tx: Transaction, leaves: Sequence[Leaf], at: datetime) -> Receipt:
        """Append leaves in their order, sign the new checkpoint, and prove that they stand in its tree.

        Without leaves it only makes sure that there is a checkpoint. Three statements, whatever the size of the tree.

        Raises:
            Taken: one of them is in the log already; by the transaction's end.
            Unavailable: the log contradicts itself (code ``log``), or the database was rolled back under this process
                (code ``rolled-back``); nothing was written.
        """
        before, hashes, checkpoint = self._grow(tx, leaves, at)
        paths = before.last_paths(hashes)
        proofs = tuple([Proof(leaf.data, before.size + i, paths[i]) for i, leaf in enumerate(leaves)])
        return Receipt(before.size + len(leaves), checkpoint, proofs)

    def add(self, tx: Transaction, leaves: Sequence[Leaf], at: datetime) -> None:
        """The same for leaves that nobody gets a proof of now; raises as `append`."""
        self._grow(tx, leaves, at)

    def _grow(
        self, tx: Transaction, leaves: Sequence[Leaf], at: datetime
    ) -> tuple[Frontier, list[bytes], bytes]:
        """Append; gives the tree as it was, the hashes of the leaves, and the checkpoint."""
        row = tx.log.head(lock=True)
        before, present = self._standing(tx, row)
        # No other transaction writes now, so what was seen until now was committed before.
        self._check_forward(present, self._seen)
        if row is not None and not leaves:
            return before, [], row.checkpoint.encode("utf-8")
        hashes = [leaf_hash(leaf.data) for leaf in leaves]
        grown, nodes = before.append(*hashes)
        completed = list[bytes]()
        for level, _, hash_ in nodes:
            # Of what a leaf completes, the leaf itself comes first.
            if level:
                completed[-1] += hash_
            else:
                completed.append(hash_)
        head, _, grown_to = self._sign(grown, present.epoch, at)
        tx.log.add_leaves(
            LeafRow(before.size + i, leaf.kind, leaf.subject, leaf.data, completed[i])
            for i, leaf in enumerate(leaves)
        )
        tx.log.set_head(head, first=row is None)
        tx.when_committed(lambda: self._note(grown_to))
        return before, hashes, head.checkpoint.encode("utf-8")

    def proofs(self, tx: Transaction, wanted: Sequence[tuple[str, str]]) -> Receipt:
        """Prove to the present head that older leaves stand in the tree.

        Three statements, and O(log n) hashes per leaf. After an `append` in the same transaction the head is the
        one of that append.

        Args:
            tx: any transaction.
            wanted: kind and subject of each leaf.

        Raises:
            NotFound: one of them is not in the log.
            Unavailable: the log contradicts itself (code ``log``).
        """
        row = tx.log.head()
        if row is None:
            raise NotFound("the log is empty")
        rows = tx.log.about(wanted)
        if not all(subject in rows for subject in wanted):
            raise NotFound("the log has no such leaf")
        leaves = [rows[subject] for subject in wanted]
        try:
            recipes = [inclusion(leaf.position, row.size) for leaf in leaves]
        except ValueError:
            raise damaged("a leaf stands outside the tree") from None
        nodes = tx.log.nodes({place for recipe in recipes for place in recipe.places()})
        proofs = tuple(
            Proof(leaf.data, leaf.position, _path(recipe, nodes))
            for leaf, recipe in zip(leaves, recipes, strict=True)
        )
        return Receipt(row.size, row.checkpoint.encode("utf-8"), proofs)

    def check_head(self, tx: Transaction, before: Seen | None = None) -> Checkpoint:
        """The present checkpoint, after holding frontier, root, signature and the number of leaves together.

        Args:
            tx: any transaction.
            before: `seen` as it was before the transaction began, if that only reads; it goes on from here then.

        Raises:
            Unavailable: they do not fit, or there is no log (code ``log``); or the database was rolled back under
                this process (code ``rolled-back``).
        """
        row, checkpoint = _checked_head(tx, self.key)
        present = Seen(row.epoch, row.size, checkpoint.root, row.checkpoint)
        self._check_forward(present, before or Seen())
        if before is not None:
            self._note(present)
        return checkpoint

    def catch_up(self, tx: Transaction, at: datetime) -> int:
        """Append what has no leaf yet, in the order of time: what releases without a log decided and issued.

        Makes the first head too, so that every CA has a checkpoint. Needs a write transaction; for a CA with a million
        certificates it takes minutes.

        Returns:
            How many leaves it appended.
        """
        count = 0
        self._grow(tx, (), at)
        decisions = ((when, DECISION, id_) for when, id_ in tx.log.unlogged_decisions())
        certificates = ((when, CERTIFICATE, serial) for when, serial in tx.log.unlogged_certificates())
        # Of one second the decisions come first, for a certificate rests on one.
        wanting = heapq.merge(decisions, certificates, key=itemgetter(0))
        while batch := list(islice(wanting, BATCH)):
            self._grow(tx, _leaves(tx, [(kind, key) for _, kind, key in batch]), at)
            count += len(batch)
        return count

    def _standing(self, tx: Transaction, row: HeadRow | None) -> tuple[Frontier, Seen]:
        """The tree of the present head, and how far it has come."""
        if row is None:
            if tx.log.length():
                raise damaged("it has leaves and no head")
            return Frontier(), Seen()
        vouched = self._vouched
        if vouched is None or vouched[0] != row:
            frontier, checkpoint = _verified(row, self.key)
            seen = Seen(row.epoch, row.size, checkpoint.root, row.checkpoint)
            self._vouched = vouched = row, frontier, seen
        return vouched[1:]

    def _sign(self, tree: Frontier, epoch: int, at: datetime) -> tuple[HeadRow, Frontier, Seen]:
        root = tree.root()
        text = Checkpoint(self.key.name, tree.size, root).to_text()
        checkpoint = sign_note(text, self.key, self._signer).decode("utf-8")
        head = HeadRow(tree.size, tree.to_bytes(), checkpoint, at, epoch)
        self._vouched = vouched = head, tree, Seen(epoch, tree.size, root, checkpoint)
        return vouched


def check_head(tx: Transaction, key: VerifierKey) -> Checkpoint:
    """The present checkpoint, for whoever has no more than the log's public key; raises as `Log.check_head`."""
    return _checked_head(tx, key)[1]


def _checked_head(tx: Transaction, key: VerifierKey) -> tuple[HeadRow, Checkpoint]:
    row = tx.log.head()
    if row is None:
        raise damaged("it has no head")
    _, checkpoint = _verified(row, key)
    if tx.log.length() != row.size:
        raise damaged("its head counts other leaves than there are")
    return row, checkpoint


def _verified(row: HeadRow, key: VerifierKey) -> tuple[Frontier, Checkpoint]:
    """The tree of a head, and the checkpoint that was signed about just this tree."""
    try:
        frontier = Frontier.from_bytes(row.size, row.frontier)
    except ValueError:
        raise damaged("its frontier does not fit its size") from None
    checkpoint = Checkpoint(key.name, row.size, frontier.root())
    try:
        signed = open_note(row.checkpoint.encode("utf-8"), (key,))
    except (WireError, UnicodeError):
        raise damaged("its checkpoint is not signed by the log's key") from None
    if signed != checkpoint.to_text():
        raise damaged("its head is not the one that was signed")
    return frontier, checkpoint


def _path(recipe: Recipe, nodes: dict[Place, bytes]) -> tuple[bytes, ...]:
    try:
        return recipe.path(nodes)
    except KeyError:
        raise damaged("a hash of the tree is missing") from None


def leaf_of_certificate(row: LoggedCertificate) -> Leaf:
    """The leaf of a certificate that is stored."""
    return certificate_leaf(
        serial=row.serial,
        issuer=row.issuer,
        profile=row.profile,
        key_name=row.key_name,
        der=row.der,
        decision_id=row.decision_id,
        at=row.issued_at,
    )


def _leaves(tx: Transaction, subjects: Sequence[tuple[str, str]]) -> list[Leaf]:
    """The leaves of decisions and certificates that are stored, in the order in which they are named."""
    decisions = tx.log.decisions([key for kind, key in subjects if kind == DECISION])
    certificates = tx.log.certificates([key for kind, key in subjects if kind == CERTIFICATE])
    return [
        decision_leaf(decisions[key]) if kind == DECISION else leaf_of_certificate(certificates[key])
        for kind, key in subjects
    ]
