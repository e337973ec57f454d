"""A CA with its keys on a token, from the ceremony to a server with several processes: everything by its commands."""

import contextlib
import json
import os
import select
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest
from cryptography import x509
from forked import CA, Forks

MODULE = "/usr/lib/softhsm/libsofthsm2.so"
PIN = "the pin of both tokens"
CONFIG = f"""
mode = "simulation"
organization = "Tests"
publication_url = "http://ca.test"
[root]
key = "pkcs11:token=root"
[keys]
issuing = "pkcs11:token=issuing"
[pkcs11]
module = "{MODULE}"
"""


class Operator:
    """Somebody with a passphrase, a PIN and tokens, at a machine."""

    def __init__(self, folder: Path, forks: Forks) -> None:
        self._forks = forks
        self.ca = folder / "ca"
        self.log = folder / "log"
        (folder / "tokens").mkdir()
        settings = folder / "softhsm2.conf"
        settings.write_text(f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\n")
        for name, secret in (("pin", PIN), ("passphrase", "a passphrase")):
            (folder / name).touch(mode=0o600)
            (folder / name).write_text(secret + "\n")
        self.environ = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "SOFTHSM2_CONF": str(settings),
            "VTPM_CA_PASSPHRASE_FILE": str(folder / "passphrase"),
            "VTPM_CA_PKCS11_PIN_FILE": str(folder / "pin"),
        }
        for label in ("root", "issuing"):
            words = [
                "softhsm2-util",
                "--init-token",
                "--free",
                "--label",
                label,
                "--pin",
                PIN,
                "--so-pin",
                "12345678",
            ]
            subprocess.run(words, check=True, capture_output=True, env=self.environ)
        (folder / "ceremony.toml").write_text(CONFIG)
        done = self.run("init", self.ca, "--config", folder / "ceremony.toml")
        assert (done.returncode, done.stderr) == (0, "")
        self.greeting = done.stdout

    def run(self, *words: object, **environ: str | None) -> subprocess.CompletedProcess:
        env = {k: v for k, v in {**self.environ, **environ}.items() if v is not None}
        return self._forks.run(CA, words, env=env)

    def skids(self) -> list[str]:
        """The key ids of root, EK, DevID and Ephemeral CA."""
        done = self.run("ca", "list", "--dir", self.ca, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        return [row["skid"] for row in json.loads(done.stdout)]

    @contextlib.contextmanager
    def serving(self, *words: object):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        with self.log.open("ab") as log:
            command = ("serve", "--dir", self.ca, "--bind", address, *words)
            server = self._forks.popen(CA, command, env=self.environ, stdout=subprocess.PIPE, stderr=log)
        try:
            ready, _, _ = select.select([server.stdout], [], [], 60)
            assert ready
            assert "serves on" in server.stdout.readline(), self.log.read_text()
            yield f"http://{address}"
        finally:
            server.terminate()
            server.wait(60)
            server.stdout.close()


@pytest.fixture(scope="module")
def operator(tmp_path_factory, forks):
    return Operator(tmp_path_factory.mktemp("t"), forks)


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - loopback
        assert answer.status == 200
        return answer.read()


def test_a_server_of_several_processes_signs_with_the_token(operator):
    root = operator.skids()[0]
    with operator.serving("--workers", 2) as url:
        for _ in range(6):
            assert b"ready" in fetch(f"{url}/readyz")
        before = x509.load_der_x509_crl(fetch(f"{url}/crl/{root}/0.crl"))
        done = operator.run("crl", "publish", "--root", "--dir", operator.ca, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)[0]["number"] == number(before) + 1
        assert number(x509.load_der_x509_crl(fetch(f"{url}/crl/{root}/0.crl"))) == number(before) + 1
    assert PIN not in operator.log.read_text() + operator.greeting


def number(crl: x509.CertificateRevocationList) -> int:
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def test_the_transcript_names_who_and_with_what(operator):
    stored = json.loads((operator.ca / "transcript.json").read_text())
    assert stored["tool"].startswith("vtpm-ca ")
    assert stored["by"]
    assert len(stored["config_sha256"]) == 64
    assert "transcript.txt" in operator.greeting
    assert "Lock the token root away" in operator.greeting


def test_without_the_right_pin_it_does_not_start(operator):
    wrong = operator.run(
        "serve", "--dir", operator.ca, VTPM_CA_PKCS11_PIN_FILE=None, VTPM_CA_PKCS11_PIN="mistyped"
    )
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "refuses the PIN" in wrong.stderr
    assert "mistyped" not in wrong.stderr
    missing = operator.run("serve", "--dir", operator.ca, VTPM_CA_PKCS11_PIN_FILE=None)
    assert missing.returncode == 2
    assert "VTPM_CA_PKCS11_PIN_FILE" in missing.stderr


def test_an_issuing_ca_that_signs_is_not_revoked(operator):
    ek = operator.skids()[1]
    done = operator.run("crl", "publish", "--root", "--revoke", ek, "--yes", "--dir", operator.ca)
    assert done.returncode == 1
    assert "signs" in done.stderr
    assert operator.run("crl", "publish", "--revoke", ek, "--dir", operator.ca).returncode == 2
