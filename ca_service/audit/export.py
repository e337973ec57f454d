"""Filling a folder for an auditor: the log with everything that its leaves name.

An export into a folder that holds an earlier one adds what is new, after it has proved that the log only grew. The
checkpoint is written last, when all else is on the disk: whatever interrupts an export, the folder is as complete as
its checkpoint says.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ca_service.audit import layout
from ca_service.audit.decisions import collateral_named
from ca_service.audit.guide import GUIDE
from ca_service.audit.leaf import CERTIFICATE, DECISION, RESPONDER, Leaf, parse_leaf
from ca_service.audit.log import check_head, damaged
from ca_service.audit.merkle import Frontier, consistency, leaf_hash, verify_consistency
from ca_service.collateral.items import read_item
from ca_service.judgment import Conflict, Unavailable
from ca_service.store import LoggedCertificate, ResponderRow, Transaction
from vtpm.wire.errors import WireError
from vtpm.wire.log import Checkpoint, open_checkpoint
from vtpm.wire.note import VerifierKey

BATCH = 500
"""How many leaves are held in memory at once."""

_Read = tuple[Leaf, Mapping[str, str]]


@dataclass(frozen=True)
class ExportReport:
    """What an export did.

    Attributes:
        folder: where it lies.
        key: verifier key of the log, as an auditor types it.
        old_size: leaves that the folder held before.
        size: leaves that it holds now.
        written: how many files of certificates, evidence and so on were written.
    """

    folder: Path
    key: str
    old_size: int
    size: int
    written: int

    def to_json(self) -> dict[str, object]:
        """The report as plain values."""
        return {
            "folder": str(self.folder),
            "key": self.key,
            "old_size": self.old_size,
            "size": self.size,
            "written": self.written,
        }


def export_log(
    tx: Transaction, key: VerifierKey, path: Path, authorities: Mapping[str, bytes]
) -> ExportReport:
    """Bring a folder to the log's present state.

    Args:
        tx: a read transaction.
        key: verifier key of the log.
        path: the folder; made if it is not there.
        authorities: PEM of the root and of all issuing CAs, by subject key id (hex).

    Raises:
        BadRequest: the folder holds something else (code ``export``).
        Conflict: the folder holds another history than the log (code ``fork``), was changed (``export``), or another
            export works there (``busy``).
        Unavailable: the log contradicts itself (code ``log``), or the folder cannot be written.
    """
    head = check_head(tx, key)
    note = tx.log.head()
    if note is None:
        raise damaged("it has no head")
    with layout.Folder(path) as folder:
        folder.prepare()
        with _alone(path):
            old = _old_checkpoint(path, key)
            _compare_histories(tx, old, head)
            tail, frontier = _resume(path, old)
            root = _Export(tx, folder).append(frontier, tail, head.size)
            if root != head.root:
                raise damaged("its leaves have another root than the one that was signed")
            for skid, pem in authorities.items():
                folder.put(layout.ISSUERS, layout.issuer_name(skid), pem)
            folder.put("", layout.README, GUIDE.encode("utf-8"))
            folder.seal(note.checkpoint.encode("utf-8"))
    return ExportReport(path, str(key), old.size, head.size, folder.written)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise Conflict(f"another export works in {path}", code="busy") from None
    finally:
        os.close(descriptor)


def _old_checkpoint(path: Path, key: VerifierKey) -> Checkpoint:
    note = layout.read_checkpoint(path)
    if note is None:
        return Checkpoint(key.name, 0, Frontier().root())
    try:
        return open_checkpoint(note, key)
    except WireError as error:
        raise Conflict(
            f"the checkpoint in {path} is not this log's: {error}",
            code="fork",
            remedy="Name the folder of this CA's exports, or an empty one.",
        ) from None


def _compare_histories(tx: Transaction, old: Checkpoint, head: Checkpoint) -> None:
    """Refuse to overwrite the evidence of another history."""
    detail = f"the exported log has {old.size} leaves, the CA's only {head.size}: it was truncated"
    if old.size <= head.size:
        recipe = consistency(old.size, head.size)
        try:
            path = recipe.path(tx.log.nodes(recipe.places()))
        except KeyError:
            raise damaged("a hash of the tree is missing") from None
        if verify_consistency(old.size, head.size, old.root, head.root, path):
            return
        detail = f"the first {old.size} leaves of the CA's log are not the exported ones: it was forked"
    raise Conflict(
        detail,
        code="fork",
        remedy="Keep the folder: with its checkpoint it proves this. If nobody has restored a backup since, somebody "
        "rewrote the log. If you have, export to an empty folder: a leaf of kind `restore` says what was lost.",
    )


def _resume(path: Path, old: Checkpoint) -> tuple[list[bytes], Frontier]:
    """What the folder holds: the leaves of its last bundle if that is not full, and the tree."""
    frontier, tail = Frontier(), list[bytes]()
    # What an interrupted export left behind the checkpoint's end is written anew.
    for data in islice(layout.read_leaves(path), old.size):
        frontier, _ = frontier.append(leaf_hash(data))
        tail = [data] if frontier.size % layout.BUNDLE == 1 else [*tail, data]
    if (frontier.size, frontier.root()) != (old.size, old.root):
        raise Conflict(
            f"the leaves in {path} are not those of its checkpoint",
            code="export",
            remedy="Export to an empty folder.",
        )
    return ([] if frontier.size % layout.BUNDLE == 0 else tail), frontier


class _Export:
    def __init__(self, tx: Transaction, folder: layout.Folder) -> None:
        self._tx = tx
        self._folder = folder
        self._policies = set[str]()
        self._collateral = set[str]()

    def append(self, frontier: Frontier, tail: list[bytes], size: int) -> bytes:
        """Write the leaves from the frontier on, and what they name; returns the root."""
        first = frontier.size - len(tail)
        while frontier.size < size:
            rows = self._tx.log.leaves(frontier.size, min(BATCH, size - frontier.size))
            if [row.position for row in rows] != list(
                range(frontier.size, frontier.size + len(rows))
            ) or not rows:
                raise damaged("a leaf is missing")
            for row in rows:
                frontier, _ = frontier.append(leaf_hash(row.data))
                tail.append(row.data)
                if len(tail) == layout.BUNDLE:
                    self._folder.put_leaves(first, tail)
                    first, tail = first + layout.BUNDLE, []
            self._put_subjects([_parsed(row.data) for row in rows])
        if tail:
            self._folder.put_leaves(first, tail)
        return frontier.root()

    def _put_subjects(self, leaves: Sequence[_Read]) -> None:
        certificates = [read for read in leaves if read[0].kind == CERTIFICATE]
        self._put_certificates(certificates, self._tx.log.certificates(_subjects(certificates)))
        responders = [read for read in leaves if read[0].kind == RESPONDER]
        self._put_certificates(responders, self._tx.log.responders(_subjects(responders)))
        self._put_decisions([read for read in leaves if read[0].kind == DECISION])

    def _put_certificates(
        self, leaves: Sequence[_Read], rows: Mapping[str, LoggedCertificate | ResponderRow]
    ) -> None:
        for leaf, members in leaves:
            row = rows.get(leaf.subject)
            content = _intact(
                None if row is None else row.der, members["sha256"], f"certificate {leaf.subject}"
            )
            self._folder.put(layout.CERTIFICATES, layout.certificate_name(leaf.subject), content)

    def _put_decisions(self, leaves: Sequence[_Read]) -> None:
        rows = self._tx.log.decisions([leaf.subject for leaf, _ in leaves])
        for leaf, members in leaves:
            row, what = rows.get(leaf.subject), f"decision {leaf.subject}"
            trace = _intact(None if row is None else row.trace.encode("utf-8"), members["trace"], what)
            self._folder.put(layout.TRACES, layout.trace_name(leaf.subject), trace)
            self._put_collateral(collateral_named(trace.decode("ascii", "replace")), what)
            digest = members["evidence"]
            body = _intact(self._tx.decisions.evidence(digest), digest, f"the evidence of {what}")
            self._folder.put(layout.EVIDENCE, digest, body)
            self._put_policy(int(members["policy_version"]), members["policy"])

    def _put_collateral(self, names: Sequence[str], what: str) -> None:
        new = [name for name in names if name not in self._collateral]
        for name, content in _whole(new, self._tx.decisions.collateral(new), what):
            self._folder.put(layout.COLLATERAL, name, content)
        self._collateral.update(new)

    def _put_policy(self, version: int, digest: str) -> None:
        if not version or digest in self._policies:
            return
        row = self._tx.policies.get(version)
        if row is None or row.digest != digest:
            raise _contradiction(f"policy version {version}")
        self._folder.put(layout.POLICIES, layout.policy_name(digest), row.text.encode("utf-8"))
        self._policies.add(digest)


def _subjects(leaves: Sequence[_Read]) -> list[str]:
    return [leaf.subject for leaf, _ in leaves]


def _parsed(data: bytes) -> _Read:
    try:
        return parse_leaf(data)
    except WireError:
        raise damaged("a leaf cannot be read") from None


def _intact(content: bytes | None, digest: str, what: str) -> bytes:
    if content is None or hashlib.sha256(content).hexdigest() != digest:
        raise _contradiction(what)
    return content


def _whole(names: Sequence[str], found: Mapping[str, bytes], what: str) -> Iterator[tuple[str, bytes]]:
    for name in names:
        content = found.get(name, b"")
        if read_item(name, content) is None:
            raise _contradiction(f"a certificate or list that {what} rests on")
        yield name, content


def _contradiction(what: str) -> Unavailable:
    return Unavailable(
        f"{what} is missing or another one than was logged",
        code="log",
        remedy="Run `vtpm-ca audit verify` for the whole of it.",
    )
