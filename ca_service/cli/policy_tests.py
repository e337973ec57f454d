"""`vtpm-ca policy test`: the tests of a policy document, run from its file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ca_service.cli.access import run
from ca_service.cli.files import read_beneath, read_text
from ca_service.cli.options import PathName, directory_option
from ca_service.cli.output import echo, show_json, with_json
from ca_service.judgment import BadRequest
from ca_service.operations.bounds import MAX_EVIDENCE, MAX_POLICY
from vtpm.wire.encoding import b64std

if TYPE_CHECKING:
    from ca_service.policy import Expectation

_FAILED = 1
_SIMULATION = "simulation"


class _Folder:
    """The evidence beside a document: each file read once, all of them within bounds."""

    def __init__(self, document: Path) -> None:
        self._folder = document.parent
        self._files: dict[str, bytes] = {}

    def find(self, test: "Expectation") -> bytes:
        """The file that a test names.

        Raises:
            BadRequest: it is not there or cannot be read, or all files together are too long.
        """
        from ca_service.enrollment.expectations import bad_evidence

        if not test.path:
            raise bad_evidence(test, "is kept by a CA; name its directory with --dir")
        if test.path not in self._files:
            left = MAX_EVIDENCE - sum(map(len, self._files.values()))
            try:
                self._files[test.path] = read_beneath(self._folder, test.path, left)
            except OSError as error:
                raise bad_evidence(
                    test, f"cannot be read, and no link is followed: {error.strerror}"
                ) from error
            except BadRequest:
                raise bad_evidence(
                    test, f"all evidence together is longer than {MAX_EVIDENCE} bytes"
                ) from None
        return self._files[test.path]


def evidence_beside(document: Path, tests: "Sequence[Expectation]") -> list[dict[str, str]] | None:
    """The evidence that the tests of a document name, as operations take it; None if there is none.

    A file that is not there is left out, for the CA may keep it.

    Raises:
        BadRequest: a file cannot be read, or all together are too long.
    """
    folder = _Folder(document)
    files: dict[str, bytes] = {}
    for test in tests:
        if not test.path:
            continue
        try:
            files[test.path] = folder.find(test)
        except BadRequest as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
    return [{"path": path, "content": b64std(body)} for path, body in files.items()] or None


def tests_of(text: str) -> "Sequence[Expectation]":
    """The tests of a document; none if it cannot be read, which is for the CA to say."""
    from ca_service.policy import load

    try:
        return load(text).tests
    except BadRequest:
        return ()


def _asked_directory(context: click.Context, _parameter: click.Parameter, value: str | None) -> Path | None:
    # Not from the environment: what a document says of itself must not depend on where it is asked.
    found = value or context.find_root().obj
    return Path(found) if found else None


@click.command()
@click.argument("file", type=PathName(directory=False))
@directory_option(_asked_directory)
@with_json
def test(file: Path, directory: Path | None, *, as_json: bool) -> int:
    """Run the tests of the policy document FILE, with the evidence beside it. Needs no CA.

    Evidence is judged as by a CA of the kind that recorded it. With --dir it is judged by that CA, as `apply` would.

    Exit codes: 0 all hold, 1 one fails or the document is wrong, 2 evidence cannot be read, 3 unavailable.
    """
    from ca_service.enrollment.expectations import outcome, run_tests
    from ca_service.policy import load_complete

    text = read_text(file, MAX_POLICY)
    policy = load_complete(text)
    if directory is None:
        result: Mapping[str, Any] = outcome(policy, run_tests(policy, _Folder(file).find))
    else:
        result = run(directory, "policy-test", text=text, evidence=evidence_beside(file, policy.tests))
    if as_json:
        show_json(result)
    else:
        _show(result["tests"])
    return 0 if result["holds"] else _FAILED


def _show(tests: Sequence[Mapping[str, Any]]) -> None:
    if not tests:
        echo("no tests")
        return
    width = max(len(test["name"]) for test in tests)
    for test in tests:
        _show_one(test, width)
    failing = sum(not test["holds"] for test in tests)
    echo(f"{failing} of {len(tests)} tests fail" if failing else f"all {len(tests)} tests hold")


def _show_one(test: Mapping[str, Any], width: int) -> None:
    holds = test["holds"]
    got, expected = _verdict(test["got"]), _verdict(test["expected"])
    said = expected if holds else f"expected {expected}; got {got}"
    note = ", recorded by a simulation CA" if test["recorded_mode"] == _SIMULATION else ""
    line = f"{'ok' if holds else 'FAILED':<6}  {test['name'].ljust(width)}  {said}  (at {test['at']}{note})"
    echo(line, fg=None if holds else "red", bold=not holds)
    if not holds and test["got"]["reason"]:
        found = test["got"]
        echo(f"        {found['rule']}: {found['reason']}")
        for word in ("expected", "actual"):
            if found[word]:
                echo(f"        {word} {found[word]}")


def _verdict(verdict: Mapping[str, str]) -> str:
    return f"refused by {verdict['rule']}" if verdict["rule"] else verdict["verdict"]
