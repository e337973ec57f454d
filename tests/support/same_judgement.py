"""The same questions to judges who remember nothing, and to judges who remember all that they may.

`cold` is what a process finds that has never met the evidence nor the policy. `Warm` keeps policies, submissions and
collateral as a server does, so that everything is remembered that may be. As a program the module answers the questions
of a file cold, in a process of its own.
"""

import hashlib
import pickle
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ca_service.enrollment.claim import Claim
from ca_service.enrollment.judge import Judge
from ca_service.enrollment.submission import Submission
from ca_service.evidence.snp import Collateral
from ca_service.policy import Policy, load


@dataclass(frozen=True)
class Question:
    """What a decision is a function of: the request, the policy, the time, the CA's mode and its collateral.

    Attributes:
        lists: revocation lists that the operator keeps, in DER.
        certify: whether TPM2_Certify is demanded.
    """

    body: bytes
    document: str
    at: datetime
    mode: str
    lists: tuple[bytes, ...]
    certify: bool


def collateral(lists: Sequence[bytes]) -> Collateral:
    made = Collateral()
    for data in lists:
        found = Collateral.of_file(data)
        assert found is not None
        made += found
    return made


def trace(question: Question, judge: Judge, submission: Submission, policy: Policy) -> str:
    """The trace of a decision and whose it would be, as text."""
    found = judge.authenticate(submission, question.at)
    # A CA stops where evidence is not authentic; what it would say of it must be as pure as the rest.
    found += judge.decide(submission, policy, question.at, certify=question.certify)
    claim = Claim.of(submission, policy)
    return (
        f"{found.text()} {claim.kbs_id} {claim.resource} {claim.salt} {[key.profile for key in claim.keys]}"
    )


def cold(question: Question) -> str:
    """The answer of a process that has met neither the request nor the policy before."""
    Submission.parse.cache_clear()
    held = collateral(question.lists)
    judge = Judge.of("test-ca", question.mode, lambda: held)
    return trace(question, judge, Submission.parse(question.body), load(question.document))


class Warm:
    """A process that has met everything before."""

    def __init__(self) -> None:
        self._policies: dict[str, Policy] = {}
        self._judges: dict[tuple[str, tuple[bytes, ...]], Judge] = {}

    def __call__(self, question: Question) -> str:
        """The answer, from whatever is remembered."""
        policy = self._policies.get(question.document)
        if policy is None:
            policy = self._policies[question.document] = load(question.document)
        key = question.mode, question.lists
        if key not in self._judges:
            held = collateral(question.lists)
            self._judges[key] = Judge.of("test-ca", question.mode, lambda: held)
        return trace(question, self._judges[key], Submission.parse(question.body), policy)


def digest(answers: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(answers).encode()).hexdigest()


def main() -> None:
    """Answer the questions of a file, last one first, and print the digest of the answers in their order."""
    questions = pickle.loads(Path(sys.argv[1]).read_bytes())  # noqa: S301 - the test's own file
    answers = [cold(Question(*members)) for members in reversed(questions)]
    print(digest(answers[::-1]))


if __name__ == "__main__":
    main()
