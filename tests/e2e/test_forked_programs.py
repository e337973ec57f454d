"""What stands in for a program in a shell's PATH is no other than the program."""

import os
import signal
import subprocess

import pytest
from forked import SCRIPT

SAYS = """
import os, sys
print(sys.stdin.read().upper(), sys.argv[1:], os.environ["HERE"], os.getcwd())
print("to the other", file=sys.stderr)
sys.exit(7)
"""
WAITS = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
print("ready", flush=True)
signal.pause()
"""
DIES = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


@pytest.fixture
def program(programs, forks, tmp_path):
    def made(text):
        path = tmp_path / "program"
        programs.add(path, forks, SCRIPT, text)
        return path

    return made


def test_words_streams_environment_folder_and_exit_code(program, tmp_path):
    done = subprocess.run(
        [program(SAYS), "a b", "", "'c'"],
        input="hello",
        env={**os.environ, "HERE": "there"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    assert done.stdout == f"HELLO ['a b', '', \"'c'\"] there {tmp_path}\n"
    assert done.stderr == "to the other\n"


def test_it_gets_the_signals(program):
    with subprocess.Popen([program(WAITS)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 5


def test_a_program_that_is_killed_ends_so(program):
    done = subprocess.run([program(DIES)], capture_output=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
