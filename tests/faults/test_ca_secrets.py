"""No secret of the CA is in anything that a server shows: with a passphrase in a file, and with keys on a token.

A server that is started by name serves whole enrolments, refusals and broken requests; a worker crashes. Then all that
it wrote and all that can be asked of it is searched: log, streams, command lines and environments of its processes,
metrics, problem documents, directory and database.
"""

import base64
import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import enrollment_world as w
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from enrolment_load import Client, Habits, free_port, load_world, machines, tpms
from forked import CA
from serving import until

from ca_service.cli.channel import get_from_server
from ca_service.keys import load_authority
from ca_service.keys.sealed import Sealer

MODULE = "/usr/lib/softhsm/libsofthsm2.so"
PIN = "the pin of the token 83641"
TOKEN_CA = f"""
mode = "simulation"
organization = "Tests"
publication_url = "http://ca.test"
ca_id = "test-ca"
[keys]
issuing = "pkcs11:token=issuing"
[pkcs11]
module = "{MODULE}"
"""


@dataclass
class Place:
    """A CA that can be served, and what must show nowhere, by name."""

    folder: Path
    environ: dict[str, str]
    secrets: dict[str, bytes]

    @property
    def ca(self) -> Path:
        return self.folder / "ca"


def secret_file(path: Path, secret: bytes) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(secret + b"\n")
    return path


def keys_of(authority) -> dict[str, bytes]:
    """The secrets of an open CA: those from which others are derived, and the private keys that are files."""
    raw = (Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    found = {
        "nonce key": authority.nonce_key,
        "activation key": authority.activation_key,
        "log key": authority.log_key.private_bytes(*raw),
    }
    for issuer in authority.issuers:
        private = getattr(issuer.signer, "_private_key", None)
        if private is not None:
            found[f"{issuer.role} key"] = private.private_numbers().private_value.to_bytes(48, "big")
    return found


def forms(secret: bytes) -> set[bytes]:
    """How bytes are written by those who do not mean to hide them."""
    number = str(int.from_bytes(secret, "big")).encode()
    urlsafe, standard = base64.urlsafe_b64encode(secret), base64.b64encode(secret)
    # Base64 of a longer text that the secret begins within: without the ends, which depend on the neighbours.
    shifted = {base64.b64encode(b"x" * pad + secret)[4:-4] for pad in (1, 2)}
    escaped = json.dumps(secret.decode("latin-1"))[1:-1].encode()
    plain = {
        secret,
        secret.hex().encode(),
        secret.hex().upper().encode(),
        number,
        repr(secret)[2:-1].encode(),
    }
    return plain | {urlsafe.rstrip(b"="), standard.rstrip(b"="), standard[:-4], escaped} | shifted


def environment(folder: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "VTPM_CA_PASSPHRASE_FILE": str(secret_file(folder / "passphrase", w.PASSPHRASE)),
    }


@pytest.fixture
def in_files(founding, own) -> Place:
    secrets = {"passphrase": w.PASSPHRASE, **keys_of(load_authority(own.ca, w.PASSPHRASE))}
    assert "ek key" in secrets
    return Place(own.folder, environment(own.folder), secrets)


@pytest.fixture
def on_a_token(founding, own, forks) -> Place:
    """The same world, with a CA whose issuing keys are on a token."""
    folder = own.folder
    (folder / "ca").rename(folder / "another")
    (folder / "tokens").mkdir()
    settings = folder / "softhsm2.conf"
    settings.write_text(f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\n")
    environ = {
        **environment(folder),
        "SOFTHSM2_CONF": str(settings),
        "VTPM_CA_PKCS11_PIN_FILE": str(secret_file(folder / "pin", PIN.encode())),
    }
    words = [
        "softhsm2-util",
        "--init-token",
        "--free",
        "--label",
        "issuing",
        "--pin",
        PIN,
        "--so-pin",
        "12345678",
    ]
    subprocess.run(words, check=True, capture_output=True, env=environ)
    (folder / "ceremony.toml").write_text(TOKEN_CA)
    (folder / "policy.toml").write_text(founding.world.policy())
    commands = (
        ("init", folder / "ca", "--config", folder / "ceremony.toml"),
        ("policy", "apply", folder / "policy.toml", "--dir", folder / "ca"),
    )
    for command in commands:
        done = forks.run(CA, command, env=environ)
        assert done.returncode == 0, done.stderr
        assert not any(form in (done.stdout + done.stderr).encode() for form in forms(PIN.encode()))
    secrets = {"passphrase": w.PASSPHRASE, "pin": PIN.encode(), **sealed_in(folder / "ca")}
    assert {"nonce", "activation", "log"} <= secrets.keys()
    return Place(folder, environ, secrets)


def sealed_in(ca: Path) -> dict[str, bytes]:
    """What is in the sealed files, by the file's name; the token stays closed."""
    sealer = Sealer(w.PASSPHRASE)
    found = {}
    for path in (ca / "private").glob("*.sealed"):
        data = path.read_bytes()
        found[path.stem] = sealer.unseal(data, purpose=json.loads(data)["purpose"])
    return found


def ask(port: int, method: str, path: str, body: bytes | None = None, **fields: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    with contextlib.closing(connection):
        connection.request(method, path, body, {"Content-Type": "application/json", **fields})
        answer = connection.getresponse()
        return answer.status, str(answer.headers).encode() + answer.read()


def processes(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def seen_from_outside(pid: int) -> dict[str, bytes]:
    """What others on the machine may read of a process, which leaves no dump of its memory to them."""
    assert re.search(r"Max core file size +0 +0 ", Path(f"/proc/{pid}/limits").read_text())
    names = ("cmdline", "environ", "status")
    return {f"{name} of {pid}": Path(f"/proc/{pid}/{name}").read_bytes() for name in names}


@pytest.mark.parametrize("where", ["in_files", "on_a_token"])
def test_no_secret_shows_anywhere(where, request, forks):
    place: Place = request.getfixturevalue(where)
    port, log, shown = free_port(), place.folder / "server.log", {}
    command = ("serve", "--dir", place.ca, "--bind", f"127.0.0.1:{port}", "--workers", "2")
    with log.open("wb") as stream:
        server = subprocess.Popen(
            [sys.executable, "-c", "from ca_service.cli import main; main()", *map(str, command)],
            env=place.environ, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def ready() -> bool:
        with contextlib.suppress(OSError):
            return ask(port, "GET", "/readyz")[0] == 200
        return server.poll() is not None

    try:
        until(ready, 60, log.read_text)
        assert server.poll() is None, log.read_text()
        received: list[dict] = []
        client = Client(
            1, [f"http://127.0.0.1:{port}"], lambda **line: received.append(line), Habits(again=0.0)
        )
        with contextlib.closing(client):
            (vm,) = [next(machines(load_world(place.folder), tpms(), "secrets"))]
            client.enrol(vm)
        assert client.figures.counts["certificates"] >= 3
        shown["answers"] = json.dumps(received).encode()
        # Refusals and errors of every kind.
        _, nonce = ask(port, "POST", "/v1/nonces")
        forged = vm.body(json.loads(nonce[nonce.index(b"{") :])["nonce"]).replace(b"VM", b"MV")
        problems = [
            ask(port, "POST", "/v1/enrollments", b"{"),
            ask(port, "POST", "/v1/enrollments", forged),
            ask(port, "POST", "/v1/enrollments", b"\xff" * 100),
            ask(port, "POST", "/v1/enrollments/00/activation", b'{"secrets":["AAAA"]}'),
            ask(port, "DELETE", "/v1/nonces"),
            ask(port, "GET", "/nowhere", Expect="a" * 7000),
        ]
        assert all(400 <= status < 500 for status, _ in problems), problems
        (place.ca / "ca.sqlite3").rename(place.ca / "away")
        (place.ca / "ca.sqlite3").write_bytes(b"no database")
        # Sessions that are open go on; a worker that starts now finds none.
        crashed, ended = processes(server.pid)[1:]
        os.kill(crashed, signal.SIGABRT)
        os.kill(ended, signal.SIGSEGV)
        until(lambda: not {crashed, ended} & set(processes(server.pid)), 30)
        until(lambda: len(processes(server.pid)) == 3, 30)
        problems.append(ask(port, "POST", "/v1/enrollments", vm.body("A" * 43)))
        problems.append(ask(port, "GET", "/readyz"))
        assert problems[-1][0] == 503, problems[-1]
        (place.ca / "away").rename(place.ca / "ca.sqlite3")
        shown["problems"] = b"".join(content for _, content in problems)
        shown["metrics"] = get_from_server(place.ca, "/metrics")[1]
        shown["directory"] = b"".join(
            ask(port, "GET", path)[1] for path in ("/.well-known/vtpm-ca", "/healthz")
        )
        for pid in processes(server.pid):
            shown |= seen_from_outside(pid)
        done = forks.run(CA, ("health-check", "--json", "--dir", place.ca), env=place.environ)
        shown["health-check"] = (done.stdout + done.stderr).encode()
    finally:
        server.terminate()
        server.wait(60)
    shown["log"] = log.read_bytes()
    assert b"request" in shown["log"]
    files = [path for path in place.ca.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} >= {"private", "certs"}
    shown |= {str(path): path.read_bytes() for path in files}
    for name, secret in place.secrets.items():
        assert len(secret) >= 16
        needles = forms(secret)
        for what, content in shown.items():
            assert not any(needle in content for needle in needles), f"{name} is in {what}"


def test_the_search_finds_what_is_there(in_files):
    """Otherwise it would prove nothing."""
    for secret in in_files.secrets.values():
        for text in (secret, b"x" + secret.hex().encode(), json.dumps({"a": secret.hex()}).encode()):
            assert any(form in text for form in forms(secret))
        for pad in range(3):
            assert any(form in base64.b64encode(b"y" * pad + secret + b"zz") for form in forms(secret))
        assert any(form in f"Sealer({secret!r})".encode() for form in forms(secret))
