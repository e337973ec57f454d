"""From values to HTML. Nothing that comes from a value gets into a page but as visible characters.

Names of instances, findings and alarms repeat what guests and hosts have sent, and the database may have been written
by others. Jinja escapes what HTML means something by; what a reader could be deceived with (control characters, marks
that turn the direction of text, characters without a shape) is written as its number instead.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from ca_service.operations.activity import Day
from ca_service.operations.health_model import Status, Unit, shown
from ca_service.operations.overview import STATES
from ca_service.profiles.model import DEVICE_LIFETIME

_HIDDEN: Final = frozenset("CZM")
"""First letters of the Unicode categories that are not shown as they are: controls, separators, combining marks."""

STRIP_HEIGHT: Final = 24.0
STRIP_STEP: Final = 4
_LEAST_BAR: Final = 2.0
"""A bar that is there at all is seen."""

_MARKS: Final[Mapping[str, str]] = {"ok": "✓", "notice": "i", "warning": "!", "unknown": "?", "critical": "✕"}
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def visible(value: object) -> object:
    """A value as text that shows every character it has; what was made safe before stays as it is."""
    if isinstance(value, Markup):
        return value
    text = str(value)
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if _shows(c) else f"\\u{{{ord(c):x}}}" for c in text)


def _shows(char: str) -> bool:
    return char == " " or (unicodedata.category(char)[0] not in _HIDDEN and _is_stated(char))


def _is_stated(char: str) -> bool:
    # Letters by which a whole line turns round; nothing in this CA is written with them.
    return unicodedata.bidirectional(char) not in ("R", "AL", "AN")


def prose(text: str) -> Markup:
    """A sentence in which commands stand between backquotes, as on a terminal."""
    parts = [escape(visible(part)) for part in text.split("`")]
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else part for number, part in enumerate(parts)
    )


def moment(at: datetime | None) -> str | Markup:
    """A time in UTC, to the second; "never" for the end of what has no well-defined end."""
    if at is None:
        return "unknown"
    if at >= DEVICE_LIFETIME:
        return "no end"
    at = at.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        at.strftime("%Y-%m-%dT%H:%M:%SZ"), at.strftime("%Y-%m-%d %H:%M:%S")
    )


def apart(at: datetime | None, now: datetime) -> str:
    """How long ago, or how soon; empty if nobody can say."""
    if at is None or at >= DEVICE_LIFETIME:
        return ""
    seconds = (now - at).total_seconds()
    if abs(seconds) < 1:
        return "now"
    text = _span(abs(seconds))
    return f"{text} ago" if seconds > 0 else f"in {text}"


def _span(seconds: float) -> str:
    for name, size in (("day", _DAY), ("hour", _HOUR), ("minute", _MINUTE), ("second", 1)):
        if seconds >= 2 * size or size == 1:
            number = round(seconds / size)
            return f"{number} {name}{'' if number == 1 else 's'}"
    return ""


def headline(counts: Mapping[Status, int]) -> str:
    """The state of the CA in a few words, by how many checks found what; the worst first."""
    parts = []
    for status in reversed(Status):
        number = counts.get(status, 0)
        if status is not Status.OK and number:
            plural = "s" if number > 1 and status in _COUNTABLE else ""
            parts.append(f"{number} {_WORDS.get(status, status.value)}{plural}")
    return ", ".join(parts) or "All is well"


_WORDS: Final[Mapping[str, str]] = {"unknown": "not known", "critical": "critical"}
_COUNTABLE: Final = frozenset(status for status in Status if status.value not in _WORDS)


@dataclass(frozen=True)
class Bar:
    """What is drawn of an hour: places from the top of a strip that is `STRIP_HEIGHT` high.

    Attributes:
        x: left edge.
        admitted: height of the bar of what was admitted, which stands on the bottom.
        refused: height of the bar of what was refused, which stands on that.
        title: the numbers in words.
    """

    x: int
    admitted: float
    refused: float
    title: str

    @property
    def admitted_y(self) -> float:
        """Upper edge."""
        return round(STRIP_HEIGHT - self.admitted, 2)

    @property
    def refused_y(self) -> float:
        """Upper edge."""
        return round(STRIP_HEIGHT - self.admitted - self.refused, 2)


def peak(days: Sequence[Day]) -> int:
    """The most decisions in one hour: what the full height of a strip means."""
    return max(
        (hour.verdicts.admitted + hour.verdicts.refused for day in days for hour in day.hours), default=0
    )


def strip(day: Day, most: int) -> list[Bar]:
    """The bars of the hours of a day that saw anything."""
    bars = []
    for hour in day.hours:
        admitted, refused = hour.verdicts.admitted, hour.verdicts.refused
        if admitted or refused:
            first, second = _height(admitted, most), _height(refused, most)
            first = min(first, STRIP_HEIGHT - second)
            title = f"{hour.at:%H}:00 to {hour.at:%H}:59 UTC: {admitted} admitted, {refused} refused"
            bars.append(Bar(STRIP_STEP * hour.at.hour, first, second, title))
    return bars


def _height(number: int, most: int) -> float:
    return round(max(_LEAST_BAR, STRIP_HEIGHT * number / most), 2) if number else 0.0


def environment() -> Environment:
    """What the templates are rendered by."""
    made = Environment(
        loader=PackageLoader("ca_service.api.page"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"moment": moment, "prose": prose, "strip": strip}
    made.globals |= {
        "apart": apart,
        "bytes_of": lambda number: shown(number, Unit.BYTES),
        "mark_of": lambda status: _MARKS.get(status, "!"),
        "peak": peak,
        "states": STATES,
    }
    return made
