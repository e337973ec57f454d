"""The form of ``[[test]]``: recorded evidence, and what the document must say of it."""

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, AwareDatetime

from ca_service.policy.document.complaints import Shape
from ca_service.policy.document.form import Identifier, Table, says

MOST_TESTS: Final = 256
"""Most tests of a document: whoever puts it in force waits for all of them."""

KEPT: Final = "sha256:"
"""Before the digest of evidence that the CA keeps, where else a path stands."""

_MOST_PATH: Final = 256
_STEP: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*\Z")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}\Z")

Expect = Literal["admitted", "refused"]


def _evidence(value: str) -> str:
    if value.startswith(KEPT):
        if not _DIGEST.match(value.removeprefix(KEPT)):
            raise ValueError(f"must have 64 lower-case hex digits after {KEPT}")
        return value
    if len(value) > _MOST_PATH:
        raise ValueError(f"must be at most {_MOST_PATH} characters long")
    if value.startswith("/"):
        raise ValueError("must be a path that begins beside the document, not an absolute one")
    steps = value.split("/")
    if ".." in steps:
        raise ValueError("must not lead out of the document's folder")
    if not all(map(_STEP.match, steps)):
        raise ValueError(
            f"must be {KEPT} and a digest, or a relative path of names that have letters, digits, '_', '.', '+' and "
            "'-', and begin with one of the first three"
        )
    return value


class TestTable(Table):
    """What this document must say of recorded evidence."""

    __test__ = False  # for pytest, which takes the name for a test's

    name: Annotated[Identifier, says("Name of the test, unique.")]
    evidence: Annotated[
        str,
        AfterValidator(_evidence),
        says("A file beside the document, or sha256: and the digest of a kept one."),
    ]
    sha256: (
        Annotated[
            str, Shape(r"^[0-9a-f]{64}$", "64 lower-case hex digits"), says("The file must be this one.")
        ]
        | None
    ) = None
    expect: Annotated[Expect, says("The verdict that this document must come to.")]
    rule: (
        Annotated[
            str,
            Shape(r"^[a-z0-9-]{1,32}\.[a-z0-9-]{1,32}$", "the id of a rule, such as kbs.status"),
            says("With refused: the first rule that says no."),
        ]
        | None
    ) = None
    at: Annotated[AwareDatetime, says("Judge as at this time, not at that of the record.")] | None = None
