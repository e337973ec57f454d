"""The system calls of the CA: what it answers was flushed to the disk before."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_SERVE = """
import os, sys
sys.path.insert(0, sys.argv[2])
import enrollment_world as w
world = w.World(w.Path(sys.argv[1]))
store = world.open_store()
enroller = world.enroller(store)
tpm = w.SoftTpm()
first = enroller.enroll(world.body(enroller.new_nonce().nonce, tpm))
os.write(1, b"ANSWER\\n")
enroller.activate(*w.answer(tpm, first.body))
os.write(1, b"ANSWER\\n")
enroller.enroll(world.body(enroller.new_nonce().nonce, tpm, w.Boot(certify=False)))
os.write(1, b"ANSWER\\n")
os._exit(0)
"""


@pytest.fixture
def strace() -> str:
    found = shutil.which("strace")
    if found is None or subprocess.run([found, "-o", "/dev/null", "true"], check=False).returncode != 0:
        pytest.skip("strace is not here or may not trace")
    return found


def test_every_answer_comes_after_the_flush(new_world, strace: str, tmp_path: Path):
    world = new_world("traced")
    trace = tmp_path / "trace"
    calls = "trace=pwrite64,write,fsync,fdatasync"
    subprocess.run(
        [
            *(strace, "-f", "-y", "-e", calls, "-o", str(trace)),
            *(sys.executable, "-c", _SERVE, str(world.directory), str(Path(__file__).parents[1] / "support")),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    pending, flushes, answers = 0, 0, []
    for line in trace.read_text().splitlines():
        if "ca.sqlite3-wal>" in line or "ca.sqlite3>" in line:
            if "sync(" in line:
                pending, flushes = 0, flushes + 1
            elif "write" in line:
                pending += 1
        elif "ANSWER" in line:
            answers.append((pending, flushes))
            flushes = 0
    assert [pending for pending, _ in answers] == [0, 0, 0]
    # T1; T2 and T3; T1 of a known TPM.
    assert [flushes >= wanted for (_, flushes), wanted in zip(answers, (1, 2, 1), strict=True)] == [True] * 3
