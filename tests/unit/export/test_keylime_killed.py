"""An export killed at each of its system calls: every file that keylime sees is an old one or a new one, whole."""

import contextlib
import itertools
import os
import shutil
import subprocess
import time
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from forked import SCRIPT

from ca_service.export import export_keylime
from ca_service.export.keylime import file_name
from ca_service.keys import CeremonyConfig, load_public, run_ceremony

CALLS = (
    *("mkdir", "openat", "flock", "getdents64", "read", "close"),
    *("write", "fchmod", "fsync", "rename", "unlink"),
)
LIMIT_S = 30
EXPORT = """
import os, sys
from pathlib import Path
from ca_service.export import export_keylime
from ca_service.keys import load_public
store, ca, gate = map(Path, sys.argv[1:])
issuers = load_public(ca).issuers
# Reading it waits until the other side has closed it.
with open(gate, "rb", buffering=0) as waiting:
    waiting.read()
export_keylime(store, issuers, None)
"""


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    directory = tmp_path_factory.mktemp("ca") / "ca"
    config = CeremonyConfig(mode="simulation", organization="Example", publication_url="http://ca.example")
    run_ceremony(directory, config, b"passphrase", clock=lambda: datetime.now(UTC), entropy=os.urandom)
    return load_public(directory)


@pytest.fixture
def before(public, tmp_path):
    """A store with one file to write, one to mend, one to take away, and what a killed export left."""
    store = tmp_path / "before"
    store.mkdir()
    issuer = public.issuer("ek")
    old = public.issuer("devid").certificate.public_bytes(Encoding.PEM)
    (store / file_name(issuer)).write_bytes(old)
    (store / "vtpm-ca-ek-old-0123456789abcdef.pem").write_bytes(old)
    (store / f".{file_name(issuer)}.1.tmp").write_bytes(old[:100])
    return store


def until(condition, what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def export_until(forks, public, store, gate, call: str, number: int) -> int:
    """Run an export that is killed as it begins the system call of this name and number; how it ended."""
    os.mkfifo(gate)
    process = forks.popen(SCRIPT, (EXPORT, store, public.directory, gate), env={})
    # Opening a FIFO for writing waits for its reader.
    opened = os.open(gate, os.O_WRONLY)
    inject = ("-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}")
    tracer = subprocess.Popen(
        ["strace", *inject, "-o", os.devnull, "-p", str(process.pid)], stderr=subprocess.PIPE, text=True
    )
    try:
        told = tracer.stderr.readline()
        if "attached" not in told:
            process.kill()
            pytest.skip(f"processes may not be traced here: {told.strip()}")
        os.close(opened)
        return process.wait(LIMIT_S)
    finally:
        with contextlib.suppress(OSError):
            os.close(opened)
        tracer.communicate(timeout=LIMIT_S)
        gate.unlink()


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_whatever_call_it_is_killed_at(public, before, tmp_path, forks):
    aside = tmp_path / "good"
    export_keylime(aside, public.issuers, None)
    good = {path.name: path.read_bytes() for path in aside.iterdir()}
    old = {path.name: path.read_bytes() for path in before.glob("*.pem") if not path.name.startswith(".")}
    seen, killed = set(), 0
    for call in CALLS:
        for number in itertools.count(1):
            store = tmp_path / f"{call}-{number}"
            shutil.copytree(before, store)
            code = export_until(forks, public, store, tmp_path / "gate", call, number)
            assert code in (0, -9)
            found = {p.name: p.read_bytes() for p in store.glob("*.pem") if not p.name.startswith(".")}
            for name, content in found.items():
                assert content in (good.get(name), old.get(name)), (call, number, name)
            # What should be there is there before anything is taken away.
            assert old.keys() <= found.keys() or good.items() <= found.items()
            seen.add(frozenset(found.items()))
            assert export_keylime(store, public.issuers, None).in_order
            assert {p.name: p.read_bytes() for p in store.iterdir()} == good
            shutil.rmtree(store)
            if code == 0:
                break
            killed += 1
    assert killed > 20
    assert frozenset(old.items()) in seen
    assert frozenset(good.items()) in seen
    assert len(seen) == 4  # a file was written, one mended, one removed: each alone was a state of its own
