"""A guest at AMD's service who does not ask twice for what is not there, and goes away when asked to.

All of it is per process. AMD answers 429 to clients that are too fast, and strangers can make up chip ids.
"""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from ca_service.collateral.kds.fetching import Fetcher
from ca_service.judgment import NotFound, Unavailable

_OK: Final = 200
_ABSENT: Final = frozenset({400, 404, 410})
_MINUTE_S: Final = 60.0
_LONGEST_NUMBER: Final = 9


@dataclass(frozen=True)
class KdsLimits:
    """How much is asked of the service, and how patiently.

    Attributes:
        per_minute: requests in any 60 seconds.
        in_flight: requests at the same time; more are not made.
        wait_s: how long an enrolment waits for an answer.
        waiting: enrolments that wait at the same time, fewer than a server has threads; others do not wait.
        kept_most: with so many VCEKs in the bundle, no more are got for enrolments.
        kept_per_chip: likewise of one chip. Whoever owns a chip can make genuine reports for any older TCB of it.
        absent_s: how long what is not there is not asked for again.
        absent_most: how many such things are remembered.
        pause_s: first pause after a failure without Retry-After; each further failure doubles it. Also the least.
        pause_most_s: longest pause, whatever the service asks for.
    """

    per_minute: int = 30
    in_flight: int = 4
    wait_s: float = 8.0
    waiting: int = 8
    kept_most: int = 4096
    kept_per_chip: int = 16
    absent_s: float = 600.0
    absent_most: int = 1024
    pause_s: float = 2.0
    pause_most_s: float = 600.0


class KdsClient:
    """Asks one service, for several threads.

    Args:
        base: see `urls.check_base`.
        fetch: gets one answer.
        limits: see there.
        now: the time, with a time zone; what a date in Retry-After is compared with.
        monotonic: time that only goes forward, in seconds.
    """

    def __init__(
        self,
        base: str,
        fetch: Fetcher,
        limits: KdsLimits | None = None,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.base = base
        self.limits = limits or KdsLimits()
        self._fetch = fetch
        self._now = now
        self._monotonic = monotonic
        self._guard = threading.Lock()
        self._absent: OrderedDict[str, float] = OrderedDict()
        self._asked: deque[float] = deque()
        self._paused_until = float("-inf")
        self._failures = 0

    def get(self, path: str) -> bytes:
        """What is at `path`, relative to the base; it is anybody's bytes.

        Raises:
            NotFound: the service has no such thing, now or when it was asked last.
            Unavailable: it gives no good answer, wants to be left alone, or was asked enough in this minute.
        """
        with self._guard:
            self._admit(path)
        try:
            answer = self._fetch(f"{self.base}/{path}")
        except Unavailable:
            self._failed("")
            raise
        if answer.status == _OK:
            with self._guard:
                self._failures = 0
            return answer.body
        if answer.status in _ABSENT:
            with self._guard:
                self._failures = 0
            self.remember_absent(path)
            raise NotFound(f"the key distribution service has no {path.partition('?')[0]}", code="kds")
        self._failed(answer.retry_after)
        raise Unavailable(f"the key distribution service answers with status {answer.status}", code="kds")

    def pause_left(self) -> float:
        """For how many seconds the service is to be left alone yet."""
        with self._guard:
            return max(0.0, self._paused_until - self._monotonic())

    def remember_absent(self, path: str) -> None:
        """Take the thing for absent for a while, because it is, or because what came was of no use."""
        with self._guard:
            self._absent[path] = self._monotonic() + self.limits.absent_s
            self._absent.move_to_end(path)
            while len(self._absent) > self.limits.absent_most:
                self._absent.popitem(last=False)

    def _admit(self, path: str) -> None:
        at = self._monotonic()
        if self._absent.get(path, at) > at:
            raise NotFound("the key distribution service had no such thing a while ago", code="kds")
        if at < self._paused_until:
            raise Unavailable("the key distribution service is left alone for a while", code="kds")
        while self._asked and at - self._asked[0] >= _MINUTE_S:
            self._asked.popleft()
        if len(self._asked) >= self.limits.per_minute:
            raise Unavailable("the key distribution service was asked enough for this minute", code="kds")
        self._asked.append(at)

    def _failed(self, retry_after: str) -> None:
        wanted = retry_after_s(retry_after, self._now())
        with self._guard:
            self._failures += 1
            if wanted is None:
                # The exponent is bounded, for a service may be away for weeks.
                wanted = self.limits.pause_s * 2 ** min(self._failures - 1, 16)
            pause = min(max(wanted, self.limits.pause_s), self.limits.pause_most_s)
            self._paused_until = max(self._paused_until, self._monotonic() + pause)


def retry_after_s(header: str, now: datetime) -> float | None:
    """The seconds that a Retry-After header asks for (RFC 9110, section 10.2.3); None if it says nothing readable."""
    text = header.strip()
    if text.isascii() and text.isdecimal():
        return float(text[:_LONGEST_NUMBER])
    try:
        at = parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now.timestamp()
