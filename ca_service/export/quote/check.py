"""What a check of a quote is, and what several of them say."""

from collections.abc import Callable
from dataclasses import dataclass

from ca_service.export.quote.keys import SigningKey
from ca_service.export.quote.subject import QuoteSubject
from ca_service.judgment import Finding, failed, passed
from ca_service.residency.quote import QuoteInfo
from ca_service.residency.signature import KeySignature


@dataclass(frozen=True)
class Wrong:
    """What is wrong.

    Attributes:
        reason: one sentence.
        expected: what was wanted; empty if it would say nothing.
        actual: what is there.
    """

    reason: str
    expected: str = ""
    actual: str = ""


@dataclass(frozen=True)
class QuoteCheck:
    """One check. `wrong` says what is wrong, or nothing (None)."""

    id: str
    wrong: Callable[[QuoteSubject], Wrong | None]

    def judge(self, subject: QuoteSubject) -> Finding:
        """Look at the quote."""
        found = self.wrong(subject)
        if found is None:
            return passed(self)
        return failed(self, found.reason, expected=found.expected, actual=found.actual)


def of_structure(
    look: Callable[[QuoteSubject, QuoteInfo], Wrong | None],
) -> Callable[[QuoteSubject], Wrong | None]:
    """A check of what is in the structure, which fails if nothing is."""

    def wrong(s: QuoteSubject) -> Wrong | None:
        info = s.quoted.info
        return Wrong("there is no readable quote") if info is None else look(s, info)

    return wrong


def number_text(value: int | None) -> str:
    """A field in front of a structure, for people."""
    return "nothing" if value is None else hex(value)


def no_key(s: QuoteSubject) -> Wrong:
    """There is nothing to verify a quote with."""
    if s.ak is not None:
        return Wrong("the attestation key has no public area that can be read")
    return Wrong("there is no IAK: its certificate cannot be read, or is of another kind of key")


def signature_of(key: SigningKey, signature: KeySignature | None, signed: bytes, reason: str) -> Wrong | None:
    """What is wrong with a key's signature over octets, `reason` saying it in words."""
    if signature is not None and signature.scheme == key.scheme and signature.holds(key.key, signed):
        return None
    return Wrong(reason, f"a signature by the key with the Name {key.name.hex()}", "none that verifies")
