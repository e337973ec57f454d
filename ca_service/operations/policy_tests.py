"""The tests of a policy document at the CA: no document is put in force whose tests fail.

The evidence comes along with the document, and is kept: a rollback, an approval or an edit of the document in force
runs its tests again, and whoever asks for that need not have the files.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ca_service.enrollment.expectations import EVIDENCE_CODE, Tried, bad_evidence, run_tests
from ca_service.judgment import BadRequest
from ca_service.operations.bounds import MAX_EVIDENCE, MAX_SENT
from ca_service.operations.context import OperationContext
from ca_service.policy import MOST_FILES, Expectation, Policy
from ca_service.store import Store, Transaction
from vtpm.wire.encoding import Members, unb64std
from vtpm.wire.errors import WireError

TESTS_CODE: Final = "policy-tests"
"""Code of the error that tests of a document fail."""

_MOST_PATH: Final = 256
_MOST_NAMED: Final = 20
_MOST_IN_SENTENCE: Final = 6


def evidence_argument(arguments: Members) -> dict[str, bytes]:
    """The optional argument `evidence`: files by the paths that the document has for them.

    Raises:
        WireError: it is malformed, one path stands twice, or all files together are too long.
    """
    if not arguments.has("evidence"):
        return {}
    files: dict[str, bytes] = {}
    left = MAX_EVIDENCE
    for value, at in arguments.array("evidence", 0, MOST_FILES):
        file = Members(value, at)
        path = file.text("path", most=_MOST_PATH)
        content = unb64std(file.text("content", least=0, most=MAX_SENT), file.at("content"))
        file.end()
        if path in files:
            raise WireError(file.at("path"), "stands twice")
        left -= len(content)
        if left < 0:
            raise WireError(arguments.at("evidence"), f"must be at most {MAX_EVIDENCE} bytes long together")
        files[path] = content
    return files


@dataclass(frozen=True)
class _Shelf:
    """Evidence for one document: what was sent, and what the CA keeps for it or for the document in force."""

    store: Store
    policy: Policy
    sent: Mapping[str, bytes]
    at: datetime

    def find(self, test: Expectation) -> bytes:
        """The file that a test names."""
        sent = self.sent.get(test.path)
        if test.path and sent is not None:
            return sent
        with self.store.read() as tx:
            digest = test.digest or self._meant(tx, test.path)
            body = tx.policy_evidence.get(digest)
        if body is None:
            raise _not_here(test)
        if hashlib.sha256(body).hexdigest() != digest:
            raise bad_evidence(test, "what the database keeps of it is damaged")
        return body

    def _meant(self, tx: Transaction, path: str) -> str:
        """Digest of the file that the document means by a path; empty if nobody has said so."""
        own = tx.policy_evidence.files(self.policy.digest).get(path)
        if own is not None:
            return own
        # An edit of the document in force means the same files as that one.
        current = tx.policies.in_force(self.at)
        return "" if current is None else tx.policy_evidence.files(current.digest).get(path, "")


def _not_here(test: Expectation) -> BadRequest:
    return BadRequest(
        f"test {test.name}",
        f"{test.evidence}: was not sent, and this CA does not keep it",
        code=EVIDENCE_CODE,
        remedy="Apply the document from its file, with the evidence beside it.",
    )


def try_here(
    context: OperationContext, policy: Policy, sent: Mapping[str, bytes]
) -> tuple[tuple[Tried, ...], dict[str, bytes]]:
    """Run the tests of a document with what was sent and what the CA keeps; nothing is changed.

    Args:
        context: the CA; its mode is the one that is judged in.
        policy: the document.
        sent: files by path, as `evidence_argument` reads them.

    Returns:
        What came of each test, and the evidence by path.

    Raises:
        BadRequest: as `ca_service.enrollment.expectations.run_tests`; or a file was sent that no test names.
    """
    named = {test.path for test in policy.tests}
    for path in sent:
        if path not in named:
            raise BadRequest(
                "evidence", f"{path}: no test of the document names this file", code=EVIDENCE_CODE
            )
    shelf = _Shelf(context.store, policy, sent, context.clock())
    found: dict[str, bytes] = {}

    def find(test: Expectation) -> bytes:
        body = found[test.evidence] = shelf.find(test)
        if sum(map(len, found.values())) > MAX_EVIDENCE:
            raise bad_evidence(test, f"all evidence together is longer than {MAX_EVIDENCE} bytes")
        return body

    tried = run_tests(policy, find, context.public.mode)
    return tried, {path: body for path, body in found.items() if path in named}


def _failing(failing: Sequence[Tried], count: int) -> BadRequest:
    names = _listed([each.expectation.name for each in failing], _MOST_IN_SENTENCE, ", ")
    lines = [f"test {each.expectation.name}: expected {each.expected}, got {each.got}" for each in failing]
    return BadRequest(
        "test",
        f"{len(failing)} of {count} tests fail: {names}",
        code=TESTS_CODE,
        remedy=_listed(lines, _MOST_NAMED, "\n")
        + "\nNothing was changed. Mend the document, or what its tests expect: `vtpm-ca policy test FILE` runs them.",
    )


def _listed(texts: Sequence[str], most: int, between: str) -> str:
    left = len(texts) - most
    return between.join((*texts[:most], f"and {left} more")) if left > 0 else between.join(texts)


def prove(context: OperationContext, policy: Policy, sent: Mapping[str, bytes]) -> None:
    """Run the tests of a document that is to be put in force, and keep their evidence.

    It is kept before the document is in force: so no version is without it. What is sent with a document that is then
    refused for another reason stays, and does no harm.

    Args:
        context: as for `try_here`.
        policy: likewise.
        sent: likewise.

    Raises:
        BadRequest: a test fails (code `TESTS_CODE`); evidence is missing or not what it should be (code
            `EVIDENCE_CODE`).
    """
    tried, found = try_here(context, policy, sent)
    if failing := [each for each in tried if not each.holds]:
        raise _failing(failing, len(tried))
    if not found:
        return
    with context.store.read() as tx:
        kept = tx.policy_evidence.files(policy.digest)
    if kept != {path: hashlib.sha256(body).hexdigest() for path, body in found.items()}:
        with context.store.write() as tx:
            tx.policy_evidence.keep(policy.digest, found, context.clock())
