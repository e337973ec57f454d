"""`vtpm-ca serve` as real processes: start, stop, kill, TLS, and operators who come through its socket."""

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import stat
import threading
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from enrolment_load import free_port
from tls_files import Authority

from ca_service.cli.channel import operator_socket
from ca_service.judgment import BadRequest
from ca_service.service import check_bind

RESOURCE = "default/vtpm/guest-a"


def ask(server, path: str, *, scheme: str = "http", context=None, method: str = "GET") -> bytes:
    url = f"{scheme}://127.0.0.1:{server.port}{path}"
    request = urllib.request.Request(url, method=method)  # noqa: S310 - our own server
    with urllib.request.urlopen(request, timeout=20, context=context) as answer:  # noqa: S310 - our own server
        return answer.read()


def until(condition, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def tls(tmp_path):
    """A certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    at = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(at - timedelta(hours=1))
        .not_valid_after(at + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    files = tmp_path / "tls.pem", tmp_path / "tls.key"
    files[0].write_bytes(certificate.public_bytes(pem))
    files[1].write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


class TestBind:
    @pytest.mark.parametrize(
        ("bind", "address"),
        [
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("127.9.9.9:65535", "127.9.9.9:65535"),
            ("[::1]:8443", "[::1]:8443"),
            ("::1:8443", "[::1]:8443"),
            ("localhost:8443", "localhost:8443"),
        ],
    )
    def test_loopback_needs_no_tls(self, bind, address):
        assert check_bind(bind, tls=False) == address

    @pytest.mark.parametrize("bind", ["0.0.0.0:8443", "[::]:8443", "192.0.2.1:443", "ca.example:8443"])
    def test_all_else_does(self, bind):
        with pytest.raises(BadRequest, match="TLS"):
            check_bind(bind, tls=False)
        assert check_bind(bind, tls=True) == bind

    @pytest.mark.parametrize(
        "bind",
        [
            "",
            ":",
            "8443",
            ":8443",
            "127.0.0.1",
            "127.0.0.1:",
            "127.0.0.1:0",
            "127.0.0.1:65536",
            "127.0.0.1:x",
            "unix:/run/x:1",
            "fd://3:1",
            "a b:1",
            "127.0.0.1:\N{ARABIC-INDIC DIGIT ONE}",
            "127.0.0.1:" + "9" * 5000,
        ],
    )
    def test_what_is_no_address(self, bind):
        for tls in (False, True):
            with pytest.raises(BadRequest, match="--bind"):
                check_bind(bind, tls=tls)


class TestRefusedToStart:
    def test_beyond_loopback_without_tls(self, here, ca):
        done = here("serve", "--bind", "0.0.0.0:8443", "--dir", ca)
        assert (done.code, "--tls-cert" in done.err) == (2, True)

    def test_bad_tls_files(self, here, ca, tls, tmp_path):
        certificate, key = tls
        other = tmp_path / "other.key"
        other.write_bytes(
            ec.generate_private_key(ec.SECP256R1()).private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"1234"),
            )
        )
        for pair in (
            (key, certificate),
            (certificate, other),
            (tmp_path / "none", key),
            (certificate, tmp_path),
        ):
            done = here("serve", "--dir", ca, "--tls-cert", pair[0], "--tls-key", pair[1])
            assert (done.code, done.out) == (2, "")
        assert here("serve", "--dir", ca, "--tls-cert", certificate).code == 2

    @pytest.mark.parametrize(
        "words",
        [
            ("--publish", "8080"),
            ("--publish", "127.0.0.1:8443"),
            ("--publish", "0.0.0.0:8443"),
            ("--operator-list", "CERT"),
            ("--operator-bind", "[::1]:1", "--operator-cert", "CERT", "--operator-key", "KEY",
             "--operator-ca", "CERT", "--operator-list", "CERT"),
            ("--operator-bind", "127.0.0.1:8443", "--operator-cert", "CERT", "--operator-key", "KEY",
             "--operator-ca", "CERT"),
            ("--operator-bind", "127.0.0.1:8444"),
            ("--operator-ca", "CERT"),
            ("--operator-bind", "x", "--operator-cert", "CERT", "--operator-key", "KEY", "--operator-ca", "CERT"),
            ("--operator-bind", "[::1]:1", "--operator-cert", "CERT", "--operator-key", "KEY", "--operator-ca", "KEY"),
            ("--operator-bind", "[::1]:1", "--operator-cert", "KEY", "--operator-key", "KEY", "--operator-ca", "CERT"),
            ("--operator-bind", "[::1]:1", "--operator-cert", "CERT", "--operator-key", "KEY", "--operator-ca", "/-"),
        ],
    )  # fmt: skip
    def test_listeners_that_cannot_be(self, here, ca, tls, words):
        files = dict(zip(("CERT", "KEY"), tls, strict=True))
        done = here("serve", "--dir", ca, *(files.get(word, word) for word in words))
        assert (done.code, done.out) == (2, "")
        assert words[0][:9] in done.err

    def test_without_the_passphrase(self, here, ca):
        assert here("serve", "--dir", ca, env={"VTPM_CA_PASSPHRASE_FILE": None}).code == 2
        wrong = {"VTPM_CA_PASSPHRASE_FILE": None, "VTPM_CA_PASSPHRASE": "open sesame"}
        assert here("serve", "--dir", ca, env=wrong).code == 1

    def test_something_in_the_sockets_place(self, here, ca):
        operator_socket(ca).write_text("mine")
        assert here("serve", "--dir", ca).code == 2
        assert operator_socket(ca).read_text() == "mine"

    def test_an_address_in_use(self, forked, ca):
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            done = forked("serve", "--dir", ca, "--bind", f"127.0.0.1:{other.getsockname()[1]}")
        assert done.returncode == 3
        assert "Connection in use" in done.stderr
        assert "Traceback" not in done.stderr


def test_operators_get_the_same_through_the_server_and_without_it(serve, here, ca, tmp_path, monkeypatch):
    policy = tmp_path / "policy.toml"
    policy.write_text("schema = 1\n# " + "\N{EURO SIGN}\n#" * 100_000)
    bad = tmp_path / "bad.toml"
    bad.write_text("schema = 1\nnothing = 2\n")
    huge = tmp_path / "huge.toml"
    huge.write_text("#" * (5 << 20))
    decision = json.loads(here("decision", "list", "--json", "--dir", ca).out)[0]["id"]
    serial = json.loads(here("cert", "list", "--json", "--dir", ca).out)[0]["serial"]
    questions = [
        ("cert", "list"),
        ("cert", "list", "--all", "--json"),
        ("cert", "show", serial),
        ("cert", "show", "00"),
        ("cert", "show", "zz"),
        ("cert", "revoke", serial),
        ("instance", "list", "--json"),
        ("instance", "show", "org-kbs", RESOURCE),
        ("instance", "show", "nobody", RESOURCE),
        ("instance", "reset", "org-kbs", RESOURCE),
        ("decision", "list"),
        ("decision", "show", decision, "--json"),
        ("alarm", "list"),
        ("policy", "log"),
        ("policy", "show", "--version", "9"),
        ("policy", "show"),
        ("policy", "apply", bad),
        ("policy", "apply", huge),
    ]
    server = serve(ca, "--workers", "2")
    assert "simulation CA test-ca serves on" in server.greeting
    assert here("policy", "apply", policy, "--dir", ca).code == 0
    through = [here(*words, "--dir", ca) for words in questions]
    assert server.end(signal.SIGTERM) == 0
    assert not operator_socket(ca).exists()
    assert [here(*words, "--dir", ca) for words in questions] == through
    assert {done.code for done in through} == {0, 1, 2}
    assert "Traceback" not in server.log.read_text()


def test_two_workers_work_on_one_database(serve, here, ca):
    server = serve(ca, "--workers", "2")
    until(lambda: len(server.workers) == 2)
    socket_mode = operator_socket(ca).stat().st_mode
    assert stat.S_ISSOCK(socket_mode)
    assert not socket_mode & 0o077
    nonces: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: nonces.append(ask(server, "/v1/nonces", method="POST")))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(nonces)) == 20
    published = json.loads(here("crl", "publish", "--json", "--dir", ca).out)
    crl = x509.load_der_x509_crl(ask(server, f"/crl/{published[0]['issuer']}/0.crl"))
    number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    assert number == published[0]["number"]
    with pytest.raises(urllib.error.HTTPError) as refusal:
        ask(server, "/operator/v1/cert-list", method="POST")
    assert refusal.value.code == 404
    refusal.value.close()
    killed = server.workers[0]
    os.kill(killed, signal.SIGKILL)
    until(lambda: len(server.workers) == 2 and killed not in server.workers)
    assert here("cert", "list", "--dir", ca).code == 0
    assert json.loads(ask(server, "/readyz")) == {"status": "ready"}
    assert server.end(signal.SIGINT) == 0


def test_secrets_show_nowhere(serve, stage, here, ca):
    server = serve(ca, by_name=True)
    until(lambda: server.workers)
    here("crl", "publish", "--dir", ca)
    for pid in (server.process.pid, *server.workers):
        for name in ("cmdline", "environ"):
            assert stage.w.PASSPHRASE not in Path(f"/proc/{pid}/{name}").read_bytes()
    assert server.end(signal.SIGTERM) == 0
    assert stage.w.PASSPHRASE.decode() not in server.log.read_text() + server.greeting


def test_a_second_server_is_refused(serve, forked, ca):
    server = serve(ca)
    done = forked("serve", "--dir", ca, "--bind", f"127.0.0.1:{server.port + 1}")
    assert (done.returncode, "a server works on" in done.stderr) == (3, True)
    assert json.loads(ask(server, "/healthz")) == {"status": "alive"}
    assert operator_socket(ca).exists()


def test_a_killed_server_leaves_nothing_in_the_way(serve, here, ca):
    first = serve(ca)
    until(lambda: first.workers)
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    assert operator_socket(ca).exists()
    second = serve(ca)
    assert here("cert", "list", "--dir", ca).code == 0
    assert second.end(signal.SIGTERM) == 0
    assert not operator_socket(ca).exists()
    assert here("cert", "list", "--dir", ca).code == 0


def test_each_listener_is_for_its_own(serve, here, ca, tls, tmp_path):
    """TLS to enrol, plain HTTP for what is published, certificates for operators; the socket stays as it is."""
    certificate, key = tls
    operators = Authority(tmp_path, "operators")
    alice = operators.issue("alice", "alice")
    publish, remote = free_port(), free_port()
    server = serve(
        ca, "--tls-cert", certificate, "--tls-key", key, "--publish", f"127.0.0.1:{publish}",
        "--operator-bind", f"127.0.0.1:{remote}", "--operator-cert", certificate, "--operator-key", key,
        "--operator-ca", operators.file,
    )  # fmt: skip
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    nonce = ask(server, "/v1/nonces", scheme="https", context=context, method="POST")
    assert json.loads(nonce)["nonce"]
    with pytest.raises(OSError, match=r".*"):
        ask(server, "/v1/nonces", method="POST")
    with pytest.raises(urllib.error.HTTPError) as refusal:
        ask(server, "/log/checkpoint", scheme="https", context=context)
    refusal.value.close()
    assert json.loads(ask(server, "/readyz", scheme="https", context=context)) == {"status": "ready"}
    with urllib.request.urlopen(f"http://127.0.0.1:{publish}/healthz", timeout=20) as answer:
        assert json.loads(answer.read()) == {"status": "alive"}
    assert len(json.loads(here("cert", "list", "--json", "--dir", ca).out)) == 3

    def operate(name: str, **arguments: object) -> object:
        connection = http.client.HTTPSConnection("127.0.0.1", remote, timeout=20, context=context)
        with contextlib.closing(connection):
            headers = {"Content-Type": "application/json"}
            connection.request("POST", f"/operator/v1/{name}", json.dumps(arguments), headers)
            return json.loads(connection.getresponse().read())["result"]

    with pytest.raises(OSError, match=r".*"):
        operate("cert-list")
    context.load_cert_chain(*alice)
    operate("policy-apply", text="schema = 1\n")
    rows = json.loads(here("policy", "log", "--json", "--dir", ca).out)
    assert [row["applied_by"] for row in rows if row["version"] == max(r["version"] for r in rows)] == [
        "CN=alice"
    ]
    assert server.end(signal.SIGTERM) == 0
    assert here("cert", "list", "--dir", ca).code == 0
    assert "Traceback" not in server.log.read_text()


def test_sockets_that_nobody_checked_are_not_taken(here, ca, monkeypatch):
    """gunicorn takes listeners from the environment; ours come from --bind alone."""
    seen = {}

    def run(server):
        seen.update({name: os.environ.get(name) for name in ("LISTEN_FDS", "LISTEN_PID", "GUNICORN_FD")})
        seen["bind"] = server.cfg.bind
        seen["steered from elsewhere"] = not server.cfg.control_socket_disable
        raise SystemExit(0)

    monkeypatch.setattr("ca_service.service.server.Server.run", run)
    env = {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid()), "GUNICORN_FD": "3"}
    assert here("serve", "--dir", ca, env=env).code == 0
    assert seen == {
        "LISTEN_FDS": None,
        "LISTEN_PID": None,
        "GUNICORN_FD": None,
        "steered from elsewhere": False,
        "bind": ["127.0.0.1:8443", f"unix:{operator_socket(ca)}"],
    }
