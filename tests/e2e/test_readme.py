"""The README's commands, taken from its text: what a newcomer types is what runs here, line by line.

Our programs are forked by what the shells start; the long runs start them by name.
"""

import contextlib
import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography import x509
from forked import CA, DEVICE

from vtpm.volume import open_volume

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PORTS = (8443, 8480, 2321, 2322)
LIMIT_S = 180
"""For a block of several commands; each takes seconds to start on a busy machine."""


def by_hand(name):
    """The lines of the block that is marked with this name."""
    (block,) = re.findall(rf"<!-- by-hand: {name} -->\n```sh\n(.*?)```", README, re.DOTALL)
    return block


class Terminal:
    """A shell in a session of its own, in a newcomer's checkout; `ctrl_c` is what the key does."""

    def __init__(self, folder, name):
        self.log = folder / f"terminal-{name}-{time.monotonic_ns()}.log"
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith("VTPM_") and k != "VIRTUAL_ENV"
        }
        with self.log.open("w") as stream:
            self._shell = subprocess.Popen(
                ["bash", "-e", "-c", by_hand("set-up") + by_hand(name)],
                cwd=folder / "checkout",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )

    @property
    def shown(self):
        text = self.log.read_text()
        assert "Traceback" not in text, text
        return text

    def until(self, pattern):
        """Wait until it shows this; returns the match."""
        deadline = time.monotonic() + LIMIT_S
        while (found := re.search(pattern, self.shown)) is None:
            assert self._shell.poll() is None, self.shown
            assert time.monotonic() < deadline, self.shown
            time.sleep(0.05)
        return found

    def end(self):
        code = self._shell.wait(LIMIT_S)
        return code, self.shown

    def ctrl_c(self):
        os.killpg(self._shell.pid, signal.SIGINT)
        return self.end()

    def close(self):
        if self._shell.poll() is None:
            os.killpg(self._shell.pid, signal.SIGTERM)
            try:
                self._shell.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self._shell.pid, signal.SIGKILL)
                self._shell.wait()


@pytest.fixture
def ports():
    """Those that the README names; the test is skipped if another program has one."""
    for port in PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                pytest.skip(f"port {port} of the README is in use on this machine")


@pytest.fixture(params=["forked", pytest.param("by name", marks=pytest.mark.slow)])
def terminal(request, programs, forks, tmp_path):
    """Opens terminals in a folder that looks like a checkout after `make setup`; all are closed in the end."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    if request.param == "by name":
        (checkout / ".venv").symlink_to(sys.prefix)
    else:
        (checkout / ".venv/bin").mkdir(parents=True)
        for name in (CA, DEVICE):
            programs.add(checkout / ".venv/bin" / name, forks, name)
    (checkout / "policies").symlink_to(ROOT / "policies")
    (checkout / "tests").symlink_to(ROOT / "tests")
    with contextlib.ExitStack() as stack:

        def open_terminal(name):
            opened = Terminal(tmp_path, name)
            stack.callback(opened.close)
            return opened

        yield open_terminal


@pytest.mark.timeout(600)
def test_by_hand_in_three_terminals(ports, terminal, tmp_path):
    hand = tmp_path / "checkout" / "build" / "hand"
    kbs, ca = terminal("kbs"), terminal("ca")
    kbs.until(r"listening on http://127\.0\.0\.1:8480")
    ca.until(r"serves on 127\.0\.0\.1:8443")

    machine = terminal("boot")
    machine.until(r"tcti swtpm:host=127\.0\.0\.1,port=2321")
    ek = machine.until(r"origin manufactured +ek_name ([0-9a-f]{16})")[1]
    code, shown = terminal("client").end()
    assert code == 0, shown
    certificate = (hand / "ek.der").read_bytes()
    x509.load_der_x509_certificate(certificate)
    assert "Issuer:" in shown
    for role in ("ek", "iak", "idevid"):
        assert re.search(rf"\b{role}\b", shown), shown
    assert "default/vtpm/demo" in shown
    exported = sorted(path.name for path in (hand / "tpm_cert_store").iterdir())
    assert [name.split("-")[2] for name in exported] == ["devid", "ek"]
    code, shown = machine.ctrl_c()
    assert code == 0, shown
    assert re.search(r"^ +off\b", shown, re.MULTILINE), shown

    machine = terminal("boot")
    machine.until(r"tcti swtpm:host=127\.0\.0\.1,port=2321")
    assert machine.until(r"origin loaded +ek_name ([0-9a-f]{16})")[1] == ek
    code, shown = terminal("client").end()
    assert code == 0, shown
    assert (hand / "ek.der").read_bytes() == certificate
    code, shown = terminal("keep").end()
    assert code == 0, shown
    assert re.search(r"^ek +default +2\b.* active\b", shown, re.MULTILINE), shown
    assert (hand / "backup.sqlite3").is_file()
    assert len(list((hand / "tpm_cert_store").iterdir())) == 4
    code, shown = terminal("policy").end()
    assert code == 0, shown
    assert "all 7 tests hold" in shown
    assert re.search(r"^\d+ agree in every finding$", shown, re.MULTILINE), shown
    assert machine.ctrl_c()[0] == 0
    for server in (ca, kbs):
        code, shown = server.ctrl_c()
        assert code == 0, shown


@pytest.mark.timeout(600)
def test_attacks_by_hand(ports, terminal):
    code, shown = terminal("attacks").end()
    assert code == 0, shown
    for attack, rule in (("m1", "kbs.listed"), ("m3", "svsm.epk")):
        assert re.search(rf"^{attack}\b", shown, re.MULTILINE), shown
        assert rule in shown


def test_volumes_by_hand(terminal, tmp_path):
    code, shown = terminal("volume").end()
    assert code == 0, shown
    lines = shown.splitlines()
    assert "hello" in lines
    digest = hashlib.sha256(b"hello\n").hexdigest()
    assert re.search(rf"^0x300000001 +0 +6 +{digest}$", shown, re.MULTILINE), shown
    assert re.search(r"^valid: 1 file of 6 bytes", shown, re.MULTILINE), shown
    assert re.search(r"^kind +volume$", shown, re.MULTILINE), shown
    with open_volume(
        tmp_path / "checkout/build/hand/volume.img",
        (tmp_path / "checkout/build/hand/volume.key").read_bytes(),
        writable=False,
    ) as opened:
        assert opened.read(0x300000001) == b"hello\n"


def test_reports_by_hand(terminal):
    code, shown = terminal("evidence").end()
    assert code == 0, shown
    assert "NOT VERIFIED" in shown
    assert re.search(r"^VALID +ok", shown, re.MULTILINE), shown
    assert '"verdict": "VALID"' in shown


@pytest.mark.parametrize("command", [["vtpm", "--help"], ["vtpm-ca", "--help"], ["make", "help"]])
def test_the_help_it_points_to(command):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert done.stderr == ""


def test_every_link_leads_somewhere():
    links = [link for link in re.findall(r"\]\(([^)#]+)", README) if "://" not in link]
    assert len(links) > 4
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_shell_line_names_a_target_or_command_that_exists():
    """No block is forgotten: each is marked, and run by hand here, or is the one with the two make targets."""
    blocks = re.findall(r"(<!-- by-hand: [\w-]+ -->\n)?```sh\n(.*?)```", README, re.DOTALL)
    unmarked = [block for marker, block in blocks if not marker]
    assert len(unmarked) == 1
    targets = re.findall(r"^make ([\w-]+)", unmarked[0], re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
