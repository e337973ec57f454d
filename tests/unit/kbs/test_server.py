"""The KBS as a process of its own."""

import os
import signal
import socket
import subprocess
import sys

import pytest
import requests

from vtpm.errors import UnavailableError
from vtpm.kbs import Kbs, make_kbs_server
from vtpm.wire.rcar import auth_request

PROGRAM = """
import sys
from pathlib import Path
from vtpm.kbs import Kbs, serve
serve(Kbs.create_or_open(Path(sys.argv[1])), "127.0.0.1", 0)
"""


@pytest.fixture
def process(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "kbs")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        if process.poll() is None:
            process.kill()


def test_says_where_it_listens_and_ends_on_request(process):
    said, url = process.stdout.readline().rsplit(" ", 1)
    assert said == "listening on"
    reply = requests.post(f"{url.strip()}/kbs/v0/auth", json=auth_request(), timeout=30)
    assert reply.status_code == 200
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in stderr


def test_a_killed_kbs_comes_back_as_the_same(process, tmp_path):
    process.stdout.readline()
    first = Kbs.create_or_open(tmp_path / "kbs").public_jwk()
    os.kill(process.pid, signal.SIGKILL)
    process.wait(30)
    assert Kbs.create_or_open(tmp_path / "kbs").public_jwk() == first


def test_a_taken_port(tmp_path):
    kbs = Kbs.create_or_open(tmp_path / "kbs")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UnavailableError, match="cannot listen"):
            make_kbs_server(kbs, "127.0.0.1", taken.getsockname()[1])
