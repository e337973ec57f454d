"""The story of a boot, one line per step, for whoever watches: a person, the demo, a test."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO


@dataclass
class Step:
    """One step while it runs; `detail` may be filled in by the code that does the step."""

    name: str
    detail: dict[str, object] = field(default_factory=dict)


class Narrator:
    """Writes each finished step as one JSON line: ``{"step", "ms", "detail"}``; `ms` is wall time."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout

    def say(self, step: str, ms: float = 0.0, **detail: object) -> None:
        """Tell one step; the stream is flushed, since others wait for the line."""
        self._stream.write(json.dumps({"step": step, "ms": round(ms, 1), "detail": detail}) + "\n")
        self._stream.flush()

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Time the block and tell it, unless it raises."""
        step = Step(name)
        start = time.perf_counter()
        yield step
        self.say(step.name, (time.perf_counter() - start) * 1000, **step.detail)
