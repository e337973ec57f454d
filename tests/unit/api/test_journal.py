"""The form of the log: bounded lines of JSON whatever is logged, no text of exceptions, floods cut short."""

import io
import json
import logging
from contextvars import Context

import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from ca_service.api import journal, noting
from ca_service.api.journal import (
    KIND,
    KIND_AT_ONCE,
    LINES_AT_ONCE,
    LINES_PER_SECOND,
    MAX_LINE,
    UNPROVEN,
    LineBudget,
    configure,
    render,
)


def lines(stream) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_whatever_was_set_before(stream):
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    configure(stream)
    structlog.get_logger("x").info("heard")
    assert [line["event"] for line in lines(stream)] == ["heard"]


def test_a_line_says_when_how_bad_and_what(stream):
    configure(stream)
    structlog.get_logger("x").warning("something", number=1, nothing=None, flag=True)
    (line,) = lines(stream)
    assert list(line)[:3] == ["time", "level", "event"]
    assert (line["level"], line["event"], line["number"], line["nothing"], line["flag"]) == (
        "warning", "something", 1, None, True,
    )  # fmt: skip
    assert line["time"].endswith("Z")


def test_each_way_to_say_it_is_one_of_the_levels(stream):
    configure(stream)
    log = structlog.get_logger("x")
    for say in (
        log.debug,
        log.info,
        log.warn,
        log.warning,
        log.error,
        log.exception,
        log.critical,
        log.fatal,
    ):
        say("e")
    log.log(logging.WARNING, "e")
    assert [line["level"] for line in lines(stream)] == [
        *("debug", "info", "warning", "warning", "error", "error", "critical", "critical", "warning"),
    ]


def test_what_is_noted_stands_in_the_lines_of_that_request_and_of_no_other(stream):
    configure(stream)
    log = structlog.get_logger("x")

    def request(name: str) -> None:
        noting.begin(request_id=name)
        noting.note(noted=name, said="noted")
        log.info("e", said="by the line")

    for name in "ab":
        Context().run(request, name)
    noting.note(nobody="hears it")
    log.info("e")
    said = [{key: value for key, value in line.items() if key != "time"} for line in lines(stream)]
    first = {"level": "info", "event": "e"}
    assert said == [
        *(first | {"request_id": name, "said": "by the line", "noted": name} for name in "ab"),
        first,
    ]


TEXTS = st.text(max_size=600) | st.text(st.characters(codec="latin-1"), min_size=300, max_size=5000)
VALUES = TEXTS | st.none() | st.integers() | st.lists(TEXTS, max_size=40) | st.binary(max_size=300)


@settings(max_examples=30)
@given(st.dictionaries(TEXTS, VALUES, max_size=40))
def test_no_line_is_long_or_holds_a_control_character(values):
    text = render(None, "info", {**values, "event": "e"})
    assert len(text) <= MAX_LINE
    assert all(0x20 <= ord(c) < 0x7F for c in text)
    json.loads(text)


def broken(secret: str):
    try:
        int(f"cannot decode {secret}")
    except ValueError as error:
        raise RuntimeError(secret) from error


def test_an_exception_is_its_type_and_our_own_frames(stream):
    configure(stream)
    log = structlog.get_logger("x")
    try:
        # Through our own code and out of it again.
        render(None, "info", {"x": type("Bad", (), {"__str__": lambda _: broken("hunter2")})()})
    except RuntimeError as error:
        log.warning("request failed", exc_info=error)
        log.exception("request failed")
    first, second = lines(stream)
    assert first["error"] == second["error"] == "RuntimeError from ValueError"
    assert any(frame.startswith("ca_service/api/journal.py:") for frame in first["frames"])
    assert all(frame.startswith(("ca_service/", "vtpm/")) for frame in first["frames"])
    assert "hunter2" not in stream.getvalue()


def test_what_cannot_be_written_disturbs_nobody():
    class Full(io.StringIO):
        def write(self, _text):
            raise OSError(28, "No space left on device")

    configure(Full())
    structlog.get_logger("x").info("lost")
    closed = io.StringIO()
    closed.close()
    configure(closed)
    structlog.get_logger("x").info("lost")
    structlog.reset_defaults()


class TestBudget:
    def test_a_flood_of_one_kind(self):
        now = 0.0
        budget = LineBudget(lambda: now)
        written = 0
        for step in range(100_000):
            now = step / 2000
            written += budget.take("a") is not None
        assert KIND_AT_ONCE < written <= KIND_AT_ONCE + 50 + 1

    def test_a_flood_of_all_kinds(self):
        now = 0.0
        budget = LineBudget(lambda: now)
        written = 0
        for step in range(100_000):
            now = step / 2000
            written += budget.take(f"kind {step % 5000}") is not None
        assert LINES_AT_ONCE < written <= LINES_AT_ONCE + 50 * LINES_PER_SECOND + 1

    def test_what_was_left_out_is_said_once(self):
        now = 0.0
        budget = LineBudget(lambda: now)
        answers = [budget.take("a") for _ in range(KIND_AT_ONCE + 7)]
        assert answers == [0] * KIND_AT_ONCE + [None] * 7
        assert budget.overdue() == []
        now = 5.0
        assert [budget.take("a"), budget.take("a")] == [7, 0]
        for _ in range(20):
            budget.take("a")
        now += 59.0
        assert budget.overdue() == []
        now += 2.0
        assert budget.overdue() == [("a", 17)]
        assert budget.overdue() == []

    def test_each_kind_is_overdue_in_its_own_time(self):
        now = 0.0
        budget = LineBudget(lambda: now)
        for kind in "ab":
            for _ in range(KIND_AT_ONCE + 1):
                budget.take(kind)
            now += 5.0
        now = 61.0
        assert budget.overdue() == [("a", 1)]
        now = 64.0
        assert budget.overdue() == []
        now = 66.0
        assert budget.overdue() == [("b", 1)]
        now = 1000.0
        assert budget.overdue() == []

    def test_one_kind_does_not_hide_another(self):
        budget = LineBudget(lambda: 0.0)
        for _ in range(1000):
            budget.take("a")
        assert budget.take("b") == 0

    def test_what_is_grave_is_not_hidden_by_what_is_not(self):
        budget = LineBudget(lambda: 0.0)
        for number in range(1000):
            budget.take(f"kind {number}")
        assert budget.take("another") is None
        answers = [budget.take("grave", grave=True) for _ in range(KIND_AT_ONCE + 5)]
        assert answers == [0] * KIND_AT_ONCE + [None] * 5

    def test_only_what_proves_nothing_is_limited(self, stream):
        configure(stream, LineBudget(lambda: 0.0))
        log = structlog.get_logger("x")
        for _ in range(100):
            log.info("proven")

        def unproven() -> None:
            noting.begin(**{UNPROVEN: True})
            for _ in range(100):
                log.info("unproven", **{KIND: "k"})

        Context().run(unproven)
        events = [line["event"] for line in lines(stream)]
        assert (events.count("proven"), events.count("unproven")) == (100, KIND_AT_ONCE)
        assert not any({UNPROVEN, KIND} & set(line) for line in lines(stream))


def test_lines_of_libraries_are_lines_of_ours(stream):
    configure(stream, LineBudget(lambda: 0.0))
    other = logging.getLogger("some.library")
    other.info("not that")
    try:
        broken("hunter2")
    except RuntimeError:
        other.exception("it failed for %s", "a\x1b[31mb\nc" + "x" * 5000)
    for number in range(100):
        other.warning(f"request {number} is bad")
    first, *rest = lines(stream)
    assert (first["level"], first["logger"]) == ("error", "some.library")
    assert first["error"] == "RuntimeError from ValueError"
    assert "hunter2" not in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
    assert len(rest) == KIND_AT_ONCE
    assert len(first["event"]) <= journal.MAX_VALUE
