"""A store that notes the CPU time spent in it, so that the rest of an enrolment can be looked at alone."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ca_service.store import Store


class Meter:
    """CPU seconds of this process, of the code between `start` and `stop`, and how often that was."""

    def __init__(self) -> None:
        self.spent = 0.0
        self.calls = 0
        self._begun = 0.0

    def start(self) -> None:
        self.calls += 1
        self._begun = time.process_time()

    def stop(self) -> None:
        self.spent += time.process_time() - self._begun


class _Repository:
    """Every call of a repository's method is metered."""

    def __init__(self, inner: object, meter: Meter) -> None:
        self._inner, self._meter = inner, meter

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._inner, name)
        if not callable(member):
            return member

        def metered(*args: object, **named: object) -> object:
            self._meter.start()
            try:
                return member(*args, **named)
            finally:
                self._meter.stop()

        return metered


class _Transaction:
    def __init__(self, inner: object, meter: Meter) -> None:
        self._inner, self._meter = inner, meter

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._inner, name)
        return member if callable(member) else _Repository(member, self._meter)


class _Nothing:
    def nothing(self) -> None:
        pass


def own_cost() -> float:
    """CPU seconds of a metered call that the meter itself causes and does not see."""
    meter, count = Meter(), 2_000
    repository = _Repository(_Nothing(), meter)
    begun = time.process_time()
    for _ in range(count):
        repository.nothing()
    return (time.process_time() - begun - meter.spent) / count


class MeteredStore:
    """Stands in the place of a `Store`; begin, commit and repositories count, the rest does not."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.meter = Meter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @contextmanager
    def read(self) -> Iterator[Any]:
        yield from self._metered(self._store.read())

    @contextmanager
    def write(self, *, together: bool = False) -> Iterator[Any]:
        yield from self._metered(self._store.write(together=together))

    def _metered(self, context: Any) -> Iterator[Any]:
        self.meter.start()
        inner = context.__enter__()
        self.meter.stop()
        try:
            yield _Transaction(inner, self.meter)
        except BaseException as error:
            if not context.__exit__(type(error), error, error.__traceback__):
                raise
        else:
            self.meter.start()
            context.__exit__(None, None, None)
            self.meter.stop()
