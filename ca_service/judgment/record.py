"""How a decision's trace is stored: the findings, and what they rest on besides evidence, policy and time."""

import json
from collections.abc import Mapping
from typing import Self

from ca_service.judgment.checks import Trace
from vtpm.wire.frozen import frozen

_plain = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


@frozen
class Record:
    """A trace as it is kept.

    Attributes:
        trace: all findings.
        inputs: what the judge was given besides, as plain values; None in what releases before 0.5 wrote, whose
            decisions can be read and not be made anew.
    """

    trace: Trace
    inputs: Mapping[str, object] | None = None

    def text(self) -> str:
        """As JSON, in ASCII."""
        findings = self.trace.text()
        if self.inputs is None:
            return findings
        return f'{{"findings":{findings},"inputs":{_plain(self.inputs)}}}'

    @classmethod
    def parse(cls, text: str) -> Self:
        """Inverse of `text`.

        Raises:
            ValueError: it is nothing of the kind.
        """
        try:
            stored = json.loads(text)
            if isinstance(stored, list):
                return cls(Trace.from_json(stored))
            return cls(Trace.from_json(stored["findings"]), dict(stored["inputs"]))
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            raise ValueError("no trace of a decision") from error
