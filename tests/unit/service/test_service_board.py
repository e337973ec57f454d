"""The board of connections: who leaves a new connection to whom."""

import os
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca_service.service.board import Board


class Clock:
    def __init__(self) -> None:
        self.now = 10_000_000_000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def board(clock):
    return Board(4, clock)


def test_the_one_with_fewer_is_preferred(board):
    board.write(0, [3, 0])
    board.write(1, [2, 9])
    assert not board.least(0, 0, 3)
    assert board.least(1, 0, 2)
    assert board.least(0, 1, 0)
    assert board.least(0, 0, 2), "as many is not more"


def test_a_worker_that_was_killed_counts_no_more(board, clock):
    board.write(0, [5])
    board.write(1, [0])
    assert not board.least(0, 0, 5)
    board.leave(1)
    assert board.least(0, 0, 5)


def test_a_worker_that_hangs_counts_no_more_after_a_while(board, clock):
    board.write(0, [5])
    board.write(1, [0])
    clock.now += 1_900_000_000
    assert not board.least(0, 0, 5)
    clock.now += 200_000_000
    assert board.least(0, 0, 5)
    board.write(1, [0])
    assert not board.least(0, 0, 5)


def test_places_are_taken_again(board):
    first = board.take([])
    board.write(first, [1])
    second = board.take([first])
    assert second not in (None, first)
    # The worker of the first place is gone, and nobody has said so.
    assert board.take([second]) == first
    assert board.least(second, 0, 1), "what the former one wrote is forgotten"


def test_a_full_board_is_no_hindrance(board):
    assert board.take(range(4)) is None
    board.leave(None)
    board.write(None, [1])
    board.write(0, [0])
    assert board.least(None, 0, 99)


def test_a_worker_not_begun_is_not_waited_for(board):
    board.take([])
    board.write(1, [1])
    assert board.least(1, 0, 1)


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=4))
def test_somebody_always_takes_it(counts):
    board = Board(4)
    for place, count in enumerate(counts):
        board.write(place, [count])
    takers = [place for place, count in enumerate(counts) if board.least(place, 0, count)]
    assert takers == [place for place, count in enumerate(counts) if count == min(counts)]


def test_processes_see_each_other(board):
    pid = os.fork()
    if not pid:
        board.write(1, [7])
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert not board.least(0, 0, 8)
    assert board.least(0, 0, 7)
