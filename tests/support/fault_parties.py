"""A key broker, a CA and machines as real processes, for the tests that break them. Loaded by `conftest.py`."""

import contextlib
import itertools
import json
import os
import selectors
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import requests
from cryptography import x509
from forked import CA, DEVICE, Forks, Process

from ca_service.policy import example_document
from vtpm.kbs import Kbs
from vtpm.svsm.build import measurement
from vtpm.svsm.records import parse_keys
from vtpm.tpm import Swtpm, TpmKeys, read_certificate, verify_loaded
from vtpm.volume import CERTIFICATES, open_volume, read_tpm
from vtpm.wire.templates import Role, name, template

BIN = Path(sys.executable).parent
START_S = 40
BOOT_S = 60
PASSPHRASE = "correct-horse-battery-staple"
NV = {"ek": 0x01C00002, "iak": 0x01C90100, "idevid": 0x01C90200}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def children(pid: int) -> list[int]:
    """Processes that any of its threads has started."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def child(pid: int, wanted: str) -> int:
    """Process id of the child (or its child) with this text in its command line."""
    for candidate in children(pid):
        if wanted in command_line(candidate):
            return candidate
        with contextlib.suppress(LookupError, OSError):
            return child(candidate, wanted)
    raise LookupError(wanted)


def readable(text: str) -> None:
    """What people get to read is never a traceback."""
    assert "Traceback" not in text, text
    assert 'File "' not in text, text


@dataclass
class Told:
    """One boot: exit code, the story by step, and what went to standard error."""

    code: int
    steps: dict[str, dict[str, object]]
    err: str

    def of(self, step: str, finding: str) -> str:
        return str(self.steps.get(step, {}).get(finding, ""))

    @property
    def ek(self) -> str:
        return self.of("tpm", "ek_name")


@dataclass
class Running:
    """A boot under way; iterate over `steps_as_told` to follow it."""

    process: Process
    steps: dict[str, dict[str, object]] = field(default_factory=dict)
    err: list[str] = field(default_factory=list)
    told: Told | None = None
    _drain: threading.Thread | None = None

    def __post_init__(self) -> None:
        self._drain = threading.Thread(target=lambda: self.err.append(self.process.stderr.read()))
        self._drain.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def steps_as_told(self) -> Iterator[str]:
        for line in self.process.stdout:
            told = json.loads(line)
            self.steps[told["step"]] = told["detail"]
            yield told["step"]

    def until(self, step: str) -> None:
        for told in self.steps_as_told():
            if told == step:
                return
        raise AssertionError(f"no step {step}: {self.steps}, {self.end().err}")

    def end(self, timeout: float = BOOT_S) -> Told:
        if self.told is not None:
            return self.told
        for _ in self.steps_as_told():
            pass
        code = self.process.wait(timeout)
        self._drain.join()
        self.process.stdout.close()
        self.process.stderr.close()
        readable(self.err[0])
        self.told = Told(code, self.steps, self.err[0])
        return self.told

    @property
    def tcti(self) -> str:
        return str(self.steps["guest"]["tcti"])

    @property
    def port(self) -> int:
        return int(self.tcti.rpartition("=")[2])


class Gate:
    """A TCP relay before a server, which tells of every HTTP request and answer that passes; a context manager.

    Args:
        port: of the server.
        watch: called with the number of the request (1, 2, ...) and `asked` before it goes on to the server, and with
            `answered` before the answer goes back. What returns True lets nothing pass any more.
    """

    def __init__(self, port: int, watch: Callable[[int, str], bool | None]) -> None:
        self._port = port
        self._watch = watch
        self._requests = 0
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._relay, args=(near,), daemon=True).start()

    def _relay(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port)) as far:
            waiting = 0
            with selectors.DefaultSelector() as both:
                both.register(near, selectors.EVENT_READ, far)
                both.register(far, selectors.EVENT_READ, near)
                while True:
                    for key, _ in both.select():
                        data = key.fileobj.recv(65536)
                        if not data:
                            return
                        if key.fileobj is near and data.startswith((b"POST ", b"GET ")):
                            with self._lock:
                                self._requests += 1
                                waiting = self._requests
                            stop = self._watch(waiting, "asked")
                        elif key.fileobj is far and waiting:
                            stop = self._watch(waiting, "answered")
                            waiting = 0
                        else:
                            stop = False
                        if stop:
                            return
                        key.data.sendall(data)


class Parties:
    """One organisation's KBS and CA on loopback, policy applied; and machines in `folder`."""

    def __init__(self, folder: Path, forks: Forks) -> None:
        self.folder = folder
        self._forks = forks
        self.ca_directory, self.kbs_directory = folder / "ca", folder / "kbs"
        self.ca_port, self.kbs_port = free_port(), free_port()
        self.ca_url = f"http://127.0.0.1:{self.ca_port}"
        self.kbs_url = f"http://127.0.0.1:{self.kbs_port}"
        self.environment = {
            **os.environ,
            "VTPM_CA_DIR": str(self.ca_directory),
            "VTPM_CA_PASSPHRASE": PASSPHRASE,
            "TSS2_LOG": "all+none",
        }
        self._servers: dict[str, Process | subprocess.Popen] = {}
        self._count = itertools.count(1)

    # -- organisation -------------------------------------------------------------------------------------------

    def found(self) -> None:
        """Make KBS and CA and allow the one at the other."""
        self._kbs = Kbs.create_or_open(self.kbs_directory, measurements=(measurement(),))
        ceremony = example_document("ceremony-simulation.toml").replace("http://127.0.0.1:8443", self.ca_url)
        (self.folder / "ceremony.toml").write_text(ceremony)
        self.run("vtpm-ca", "init", str(self.ca_directory), "--config", "ceremony.toml")
        policy = [
            example_document("simulation.toml"),
            self.run("vtpm", "kbs", "key", str(self.kbs_directory), "--policy"),
            self.run("vtpm", "measure", "--policy"),
        ]
        (self.folder / "policy.toml").write_text("\n".join(policy))
        self.run("vtpm-ca", "policy", "apply", "policy.toml")

    def run(self, *words: str, code: int = 0) -> str:
        done = self._forks.run(words[0], words[1:], env=self.environment, cwd=self.folder)
        readable(done.stderr)
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        return done.stdout

    def start_kbs(self) -> None:
        self._serve(
            "kbs", self.kbs_url, "vtpm", "kbs", "serve", "kbs", "--bind", f"127.0.0.1:{self.kbs_port}"
        )

    def start_ca(self, *, trace: tuple[str, ...] = ()) -> None:
        self._serve(
            "ca", f"{self.ca_url}/healthz", *trace, "vtpm-ca", "serve", "--bind", f"127.0.0.1:{self.ca_port}"
        )

    def start(self) -> None:
        """Both parties up; those that run already go on."""
        if "kbs" not in self._servers:
            self.start_kbs()
        if "ca" not in self._servers:
            self.start_ca()

    def _serve(self, who: str, url: str, *words: str) -> None:
        log = self.folder / f"{who}.log"
        options = {"stdout": log.open("a"), "cwd": self.folder, "env": self.environment}
        with options["stdout"] as stream:
            options["stderr"] = stream
            if words[0] in {CA, DEVICE}:
                process = self._forks.popen(words[0], words[1:], **options)
            else:
                # Somebody else starts it, who wants its name.
                named = [str(BIN / word) if word in {CA, DEVICE} else word for word in words]
                process = subprocess.Popen(named, stdin=subprocess.DEVNULL, **options)
            self._servers[who] = process
        deadline = time.monotonic() + START_S
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            with contextlib.suppress(requests.RequestException):
                requests.get(url, timeout=2)
                return
            time.sleep(0.02)

    def stop(self, who: str) -> None:
        """Ask a server to end, as Ctrl-C would."""
        process = self._servers.pop(who, None)
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        readable((self.folder / f"{who}.log").read_text())

    def kill(self, who: str) -> None:
        """A server and its workers are gone at once."""
        process = self._servers.pop(who)
        workers = children(process.pid)
        for pid in (process.pid, *workers):
            os.kill(pid, signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + START_S
        while any(_runs(pid) for pid in workers):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def close(self) -> None:
        for who in ("ca", "kbs"):
            self.stop(who)

    # -- machines -----------------------------------------------------------------------------------------------

    def new_machine(self) -> tuple[str, str]:
        """Name and declared resource of a machine that has not been on."""
        number = next(self._count)
        resource = f"default/vtpm/machine-{number}"
        self._kbs.declare(resource)
        return f"machine-{number}", resource

    def power_on(
        self, machine: tuple[str, str], *options: str, ca: str = "", kbs: str = "", path: Path | None = None
    ) -> Running:
        """Press the button; `ca` and `kbs` stand in for the parties' URLs, `path` goes first in PATH."""
        directory, resource = machine
        environment = dict(self.environment)
        if path is not None:
            environment["PATH"] = f"{path}:{environment['PATH']}"
        return Running(
            self._forks.popen(
                DEVICE,
                [
                    *("boot", directory, "--json"),
                    *("--ca", ca or self.ca_url, "--kbs", kbs or self.kbs_url),
                    *("--resource", resource, *options),
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self.folder,
                env=environment,
            )
        )

    def boot(self, machine: tuple[str, str], *options: str, **elsewhere: object) -> Told:
        return self.power_on(machine, *options, **elsewhere).end()

    def good_boot(self, machine: tuple[str, str]) -> Told:
        told = self.boot(machine)
        assert told.code == 0, told
        return told

    @contextlib.contextmanager
    def held(self, machine: tuple[str, str]) -> Iterator[Running]:
        """The guest's TPM is up within the block; afterwards the machine is switched off in order."""
        running = self.power_on(machine, "--hold")
        try:
            running.until("guest")
            yield running
        finally:
            running.process.send_signal(signal.SIGTERM)
            told = running.end()
        assert told.code == 0, told
        assert "off" in told.steps

    # -- what is left behind ------------------------------------------------------------------------------------

    def inside(self, machine: tuple[str, str]) -> "Inside | None":
        """What the volume of a machine that is off holds; None if it holds no TPM."""
        directory, resource = machine
        secret = self._kbs.secret(resource).value
        with open_volume(self.folder / directory / "disk.img", secret) as volume:
            record = read_tpm(volume)
            if record is None:
                return None
            parsed = parse_keys(record.keys)
            stored = volume.read(CERTIFICATES)
        with Swtpm() as tpm:
            tpm.power_on(record.state)
            verify_loaded(tpm, parsed)
            nv = {role: read_certificate(tpm, index) for role, index in NV.items()}
        return Inside(parsed, stored, nv)

    def rows(self, sql: str, *values: object) -> list[tuple[object, ...]]:
        """A look into the CA's database, past its program."""
        with contextlib.closing(
            sqlite3.connect(f"file:{self.ca_directory / 'ca.sqlite3'}?mode=ro", uri=True)
        ) as db:
            return db.execute(sql, values).fetchall()

    def check_ledger(self) -> None:
        """What must hold of the CA's records at any time when it is idle."""
        assert self.rows("SELECT id FROM intents WHERE state NOT IN ('issued', 'abandoned')") == []
        doubled = "SELECT live FROM certificates WHERE live IS NOT NULL GROUP BY live HAVING count(*) > 1"
        assert self.rows(doubled) == []
        issued = "SELECT key_name FROM certificates WHERE state = 'issued'"
        twice = f"{issued} GROUP BY profile, key_name HAVING count(*) > 1"
        assert self.rows(twice) == []
        lists = {}
        for serial, issuer, shard, state in self.rows(
            "SELECT serial, issuer, shard, state FROM certificates"
        ):
            if (issuer, shard) not in lists:
                crl = requests.get(f"{self.ca_url}/crl/{issuer}/{shard}.crl", timeout=10)
                lists[issuer, shard] = x509.load_der_x509_crl(crl.content)
            listed = (
                lists[issuer, shard].get_revoked_certificate_by_serial_number(int(str(serial), 16))
                is not None
            )
            assert listed == (state == "abandoned"), (serial, state)

    def check_whole(self, machine: tuple[str, str], told: Told) -> dict[str, bytes]:
        """After a good boot: one TPM, in volume, evidence, NV memory and ledger; returns its certificates."""
        inside = self.inside(machine)
        assert inside is not None
        assert name(inside.keys.eks[0].public).hex() == told.ek
        names = {
            "ek": name(inside.keys.eks[0].public).hex(),
            "iak": name(inside.keys.iak.public).hex(),
            "idevid": name(inside.keys.idevid.public).hex(),
        }
        certificates = {}
        for role, key_name in names.items():
            issued = self.rows(
                "SELECT der, issuer FROM certificates WHERE state = 'issued' AND profile = ? AND key_name = ?",
                role,
                key_name,
            )
            assert len(issued) == 1, (role, issued)
            der, issuer = issued[0]
            assert inside.nv[role] == der
            leaf = x509.load_der_x509_certificate(der)
            self._chains(leaf, str(issuer))
            certificates[role] = der
        occupied = (
            "SELECT count(*) FROM tpms JOIN instances ON tpms.occupies = instances.id WHERE resource = ?"
        )
        assert self.rows(occupied, machine[1]) == [(1,)]
        return certificates

    def _chains(self, leaf: x509.Certificate, issuer: str) -> None:
        answer = requests.get(f"{self.ca_url}/ca/{issuer}.cer", timeout=10)
        issuing = x509.load_der_x509_certificate(answer.content)
        leaf.verify_directly_issued_by(issuing)
        roots = [
            x509.load_pem_x509_certificate(path.read_bytes())
            for path in (self.ca_directory / "certs").glob("*.pem")
        ]
        (root,) = (root for root in roots if root.subject == root.issuer)
        issuing.verify_directly_issued_by(root)


@dataclass
class Inside:
    """What a volume holds: the recorded keys, the stored certificates, and the certificates in the TPM's NV memory."""

    keys: TpmKeys
    stored: bytes | None
    nv: dict[str, bytes | None]


def _runs(pid: int) -> bool:
    """Whether the process is there and no zombie: a zombie holds no file and no lock."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


__all__ = [
    "BIN",
    "NV",
    "Gate",
    "Parties",
    "Role",
    "Running",
    "Told",
    "child",
    "children",
    "free_port",
    "readable",
    "template",
]
