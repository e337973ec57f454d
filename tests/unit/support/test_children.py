"""What the tests' own servers of forked processes know of their children."""

import os
import time

from children import Children


def forked(code):
    pid = os.fork()
    if not pid:
        os._exit(code)
    return pid


def ended(children, pid):
    deadline = time.monotonic() + 10
    while (status := children.poll(pid)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return status


def test_a_number_that_comes_again_is_another_process(monkeypatch):
    """The kernel hands a number out anew after some ten thousand processes: minutes, where servers are killed."""
    children = Children()
    first, second = forked(3), forked(4)
    children.begun(first)
    assert ended(children, first) == 3
    assert children.poll(first) == 3
    wait = os.waitpid
    monkeypatch.setattr(os, "waitpid", lambda pid, options: wait(second if pid == first else pid, options))
    children.begun(first)
    assert ended(children, first) == 4
