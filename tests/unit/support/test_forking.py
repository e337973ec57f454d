"""A forked command ends as one that was started by name, in the order and with the code of the interpreter."""

import os
from pathlib import Path

import pytest
from forked import SCRIPT

ENVIRONMENT = {"PATH": os.environ["PATH"]}

ENDS = """
import atexit, sys, threading, time

class Thing:
    def __del__(self):
        print("freed", flush=True)

kept = Thing()
atexit.register(print, "registered")

def late():
    time.sleep(0.05)
    print("thread")

threading.Thread(target=late).start()
sys.stderr.write("said")
sys.exit({code})
"""


@pytest.mark.parametrize(
    ("code", "expected"), [("", 0), ("None", 0), ("3", 3), ("True", 1), ("-1", 255), ("256", 0)]
)
def test_threads_and_what_was_registered_come_first(forks, code, expected):
    done = forks.run(SCRIPT, [ENDS.replace("{code}", code)], env=ENVIRONMENT)
    assert (done.returncode, done.stdout, done.stderr) == (expected, "thread\nregistered\n", "said")


@pytest.mark.parametrize(
    ("program", "last"),
    [("import sys; sys.exit('why')", "why"), ("1 / 0", "ZeroDivisionError: division by zero")],
)
def test_what_is_no_number_is_said(forks, program, last):
    done = forks.run(SCRIPT, [program], env=ENVIRONMENT)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, last)


@pytest.mark.parametrize("end", ["pass", "import sys; sys.exit(3)"])
def test_output_that_nobody_took_is_an_error(forks, end):
    with Path("/dev/full").open("w") as full:
        assert forks.popen(SCRIPT, [f"print(1); {end}"], env=ENVIRONMENT, stdout=full).wait(20) == 120
