"""The server's log: JSON, one object a line, of bounded length, for machines and for people with `jq`.

Whatever a line is about, `time`, `level` and `event` stand in it, and `request_id` while a request is at work. What
strangers send may stand in a value, never in a name, and neither its length nor its characters can do harm. Of an
exception the type is logged and where in our own code it came from, never its text, which may repeat a secret.
"""

import json
import logging
import math
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator, MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TextIO

import structlog

from ca_service.api.noting import noted

MAX_VALUE: Final = 240
"""Longest text in a line, in characters; a longer one is cut."""

MAX_LINE: Final = 4000
"""Longest line, in bytes. A pipe takes up to 4,096 at once, so lines of several processes do not mix (pipe(7))."""

LINES_AT_ONCE: Final = 50
LINES_PER_SECOND: Final = 5.0
"""Most lines of a process about requests that prove nothing: so many at once, and then so many a second.

Warnings and errors are not among them: of each kind of these, there are as many as of each kind.
"""

KIND_AT_ONCE: Final = 10
KIND_PER_SECOND: Final = 1.0
"""The same for each kind of such lines, so that one kind does not hide the others."""

UNPROVEN: Final = "_unproven"
"""Noted while a request has proven nothing; its lines come out of the budget."""

KIND: Final = "_kind"
"""Under this name a line says of which kind it is, if that is not its event; it is not written."""

_MOST_KINDS: Final = 256
_OVERDUE_S: Final = 60.0
_MOST_FRAMES: Final = 12
_CUT: Final = "..."
_ROOT: Final = Path(__file__).parents[2]
_OUR_OWN: Final = ("ca_service", "vtpm")

Line = MutableMapping[str, Any]


class LineBudget:
    """How many lines may be written about requests that prove nothing. Safe for threads.

    Args:
        monotonic: gives seconds that never go back.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._guard = threading.Lock()
        self._all = _Allowance(LINES_PER_SECOND, LINES_AT_ONCE)
        self._kinds: OrderedDict[str, _Allowance] = OrderedDict()
        self._due_at = math.inf

    def take(self, kind: str, *, grave: bool = False) -> int | None:
        """Ask for a line of this kind: None if it must not be written, else how many were left out before it.

        A grave one, a warning or worse, counts for its kind alone: no flood of others may hide it.
        """
        now = self._monotonic()
        with self._guard:
            one = self._kinds.setdefault(kind, _Allowance(KIND_PER_SECOND, KIND_AT_ONCE))
            self._kinds.move_to_end(kind)
            while len(self._kinds) > _MOST_KINDS:
                self._kinds.popitem(last=False)
            if not (one.may(now) and (grave or self._all.may(now))):
                one.leave_out(now)
                self._due_at = min(self._due_at, one.since + _OVERDUE_S)
                return None
            one.spend(now)
            if not grave:
                self._all.spend(now)
            return one.report()

    def overdue(self) -> list[tuple[str, int]]:
        """Kinds of which lines were left out a while ago and no line has said so yet, with how many; each once."""
        now = self._monotonic()
        if now < self._due_at:
            return []
        with self._guard:
            found = [
                (kind, one.report())
                for kind, one in self._kinds.items()
                if one.left_out and now - one.since >= _OVERDUE_S
            ]
            owing = (one.since for one in self._kinds.values() if one.left_out)
            self._due_at = min(owing, default=math.inf) + _OVERDUE_S
            return found


class _Allowance:
    """The generic cell rate algorithm, and what was left out because of it."""

    def __init__(self, per_second: float, burst: int) -> None:
        self._interval = 1.0 / per_second
        self._tolerance = self._interval * (burst - 1)
        self._whole_at = -math.inf
        self.left_out = 0
        self.since = 0.0

    def may(self, now: float) -> bool:
        return max(self._whole_at, now) - now <= self._tolerance

    def spend(self, now: float) -> None:
        self._whole_at = max(self._whole_at, now) + self._interval

    def leave_out(self, now: float) -> None:
        self.since = self.since if self.left_out else now
        self.left_out += 1

    def report(self) -> int:
        found, self.left_out = self.left_out, 0
        return found


def configure(stream: TextIO, budget: LineBudget | None = None) -> LineBudget:
    """Let all logging of this process go to a stream, as this module says. Returns the budget, for `overdue`."""
    limit, lines = budget or LineBudget(), _Lines(stream)
    structlog.configure(
        processors=[
            add_noted,
            Limited(limit),
            stamped,
            frames_only,
            render,
        ],
        # Said in full: what is left out here would stay as somebody else has set it.
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, OtherLog)]:
        root.removeHandler(handler)
    root.addHandler(OtherLog())
    return limit


class _Lines:
    """Writes lines; one that finds no room, or no reader, is lost, and the request goes on."""

    _guard = threading.Lock()

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        try:
            with self._guard:
                self._stream.write(line + "\n")
                self._stream.flush()
        except (OSError, ValueError):
            # The disk of the log is full, or whoever read it is gone.
            return

    debug = info = warning = error = critical = exception = log = msg


def add_noted(_logger: object, _method: str, line: Line) -> Line:
    """Add what was noted of the request at work; what the line itself says goes first."""
    for name, value in noted().items():
        line.setdefault(name, value)
    return line


class Limited:
    """Leaves out lines about unproven requests that are too many, and says on the next one how many there were."""

    def __init__(self, budget: LineBudget) -> None:
        self._budget = budget

    def __call__(self, _logger: object, method: str, line: Line) -> Line:
        """A processor of structlog; raises `DropEvent` for a line that is left out."""
        kind = line.pop(KIND, None)
        if not line.pop(UNPROVEN, False):
            return line
        before = self._budget.take(str(kind or line.get("event", "")), grave=method != "info")
        if before is None:
            raise structlog.DropEvent
        if before:
            line["suppressed"] = before
        return line


def stamped(_logger: object, method: str, line: Line) -> Line:
    """Add when it is, and how bad: the filtering logger calls its methods by the names of levels."""
    line["time"] = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    line["level"] = method
    return line


def frames_only(_logger: object, _method: str, line: Line) -> Line:
    """Replace an exception by its type, those that caused it, and the places in our own code that it passed."""
    error = line.pop("exc_info", None)
    if error is True:
        error = sys.exception()
    if isinstance(error, tuple):
        error = error[1]
    if not isinstance(error, BaseException):
        return line
    line["error"] = " from ".join(type(one).__name__ for one in _chain(error))
    line["frames"] = _frames(error)
    return line


def _chain(error: BaseException) -> Iterator[BaseException]:
    one: BaseException | None = error
    seen = 0
    while one is not None and seen < _MOST_FRAMES:
        yield one
        one, seen = one.__cause__ or (None if one.__suppress_context__ else one.__context__), seen + 1


def _frames(error: BaseException) -> list[str]:
    found = []
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename)
        if path.is_relative_to(_ROOT) and path.relative_to(_ROOT).parts[0] in _OUR_OWN:
            found.append(f"{path.relative_to(_ROOT)}:{frame.lineno} {frame.name}")
    return found[-_MOST_FRAMES:]


def render(_logger: object, _method: str, line: Line) -> str:
    """The line as JSON in ASCII: what would steer a terminal, or end a line, is an escape."""
    first = {name: line.pop(name) for name in ("time", "level", "event", "request_id") if name in line}
    values = {str(name)[:MAX_VALUE]: _plain(value) for name, value in {**first, **line}.items()}
    text = _json(values)
    while len(text) > MAX_LINE:
        longest = max(values, key=lambda name: (len(_json({name: values[name]})), name))
        if values[longest] == _CUT:
            del values[longest]
        else:
            values[longest] = _CUT
        text = _json(values)
    return text


def _json(values: dict[str, Any]) -> str:
    # JSON leaves one control character of ASCII as it is.
    return json.dumps(values).replace("\x7f", "\\u007f")


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value[:_MOST_FRAMES]]
    text = str(value)
    return text if len(text) <= MAX_VALUE else text[: MAX_VALUE - len(_CUT)] + _CUT


class OtherLog(logging.Handler):
    """Takes up what libraries log, from warnings on; they are budgeted by the place in their code."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        """Write it as a line of ours."""
        if not structlog.is_configured():
            return
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001 - a library's format does not fit its own values
            text = str(record.msg)
        structlog.get_logger(record.name).log(
            min(max(record.levelno, logging.WARNING), logging.CRITICAL) // 10 * 10,
            text,
            logger=record.name,
            exc_info=record.exc_info[1] if record.exc_info else None,
            **{
                KIND: f"{record.name} {record.module}:{record.lineno}",
                UNPROVEN: record.levelno < logging.CRITICAL,
            },
        )
