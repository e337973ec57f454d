"""Who an operator is: by a certificate, or by the kernel's word."""

import hashlib
import json
import os
import signal
import socket
import ssl
import struct
from datetime import UTC, datetime
from unittest import mock

import pytest
from cryptography import x509
from small_service import Spec, connect, rest_of, status_of, until

from ca_service.judgment import BadRequest
from ca_service.service import OperatorList, certified_operator, unix_operator
from ca_service.service.operators import operator_named, parse_list

LAST = b"GET /who HTTP/1.1\r\nHost: ca\r\nConnection: close\r\n\r\n"


def subject(*names: str) -> dict:
    return {"subject": tuple(((("commonName", name),)) for name in names)}


@pytest.mark.parametrize(
    ("certificate", "name"),
    [
        ({}, None),
        (subject("alice"), "CN=alice"),
        (subject("alice", "bob"), None),
        (subject("x" * 62), None),
        (subject("x" * 61), "CN=" + "x" * 61),
        (subject("a\nb"), None),
        (subject("\N{CYRILLIC SMALL LETTER A}lice"), None),
        ({**subject("alice"), "subjectAltName": (("DNS", "host"),)}, "CN=alice"),
        ({**subject("alice"), "subjectAltName": (("URI", "spiffe://org/ops"),)}, "spiffe://org/ops"),
        ({"subject": (), "subjectAltName": (("URI", "a:b"), ("URI", "c:d"))}, None),
        ({"subject": (), "subjectAltName": (("URI", "root"),)}, None),
        ({"subject": (), "subjectAltName": (("URI", "CN=alice:x"),)}, None),
        ({"subject": (), "subjectAltName": (("URI", ":root"),)}, None),
    ],
)
def test_names_in_certificates(certificate, name):
    assert operator_named(certificate) == name


def test_no_certificate_no_operator():
    with socket.socket() as plain:
        assert certified_operator(plain) is None


def test_the_kernel_says_who_connected():
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs, socket.socket() as tcp:
        assert unix_operator(ours) == os.getuid()
        assert unix_operator(tcp) is None


@pytest.mark.parametrize(("uid", "operator"), [(1000, 1000), (0, 0), (1001, None), (65534, None)])
def test_only_the_servers_user_and_root(monkeypatch, uid, operator):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    connection = mock.Mock(family=socket.AF_UNIX)
    connection.getsockopt.return_value = struct.pack("3i", 4711, uid, 0)
    assert unix_operator(connection) == operator


class TestList:
    DIGEST = hashlib.sha256(b"alice's certificate").hexdigest()

    def test_names_and_digests(self):
        shown = ":".join(self.DIGEST.upper()[at : at + 2] for at in range(0, 64, 2))
        listed = parse_list("x", f"# who\n\nCN=bob\n spiffe://org/ops \nSHA256:{shown}\n")
        assert listed.has("CN=bob", b"any")
        assert listed.has("spiffe://org/ops", b"any")
        assert listed.has("CN=alice", b"alice's certificate")
        assert not listed.has("CN=alice", b"another")
        assert not listed.has("CN=bo", b"any")
        assert not listed.has("# who", b"any")

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "# nobody\n",
            "alice",
            "CN=alice\nroot",
            "sha256:1234",
            "sha256:" + "g" * 64,
            "sha256:" + "0" * 65,
            "CN=" + "x" * 62,
            "CN=a\x00b",
            "CN=a\tb",
        ],
    )
    def test_what_is_no_list(self, text):
        with pytest.raises(BadRequest) as refusal:
            parse_list("--operator-list", text)
        assert refusal.value.path == "--operator-list"

    def test_files_that_are_none(self, tmp_path):
        path = tmp_path / "list"
        for content in (None, "CN=\u00e9".encode(), b"#" * (1 << 20) + b"\nCN=a"):
            if content is not None:
                path.write_bytes(content)
            with pytest.raises(BadRequest):
                OperatorList(path, "--operator-list")

    def test_what_is_in_force_stays(self, tmp_path):
        path = tmp_path / "list"
        path.write_text("CN=alice\n")
        found = OperatorList(path, "--operator-list")
        path.write_text("nonsense\n")
        with pytest.raises(BadRequest):
            found.renew()
        assert found.listed.names == {"CN=alice"}
        path.write_text("CN=bob\n")
        found.renew()
        assert found.listed.names == {"CN=bob"}
        path.chmod(0o664)
        assert "may write" in found.concerns(datetime.now(UTC))[0]

    def test_no_certificate_no_operator(self, tmp_path):
        path = tmp_path / "list"
        path.write_text("CN=alice\n")
        with socket.socket() as plain:
            assert OperatorList(path, "x")(plain) is None


def test_only_those_with_a_certificate_come_in(serve, authority, tmp_path):
    ca, other = authority("operators"), authority("others")
    files = ca.issue("server", dns=["localhost"])
    operators = tmp_path / "list"
    bob = ca.issue("bob", "bob")
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(bob[0].read_text())).hexdigest()
    operators.write_text(f"sha256:{digest}\n")
    server = serve(Spec(tls=(*files, ca.file)), Spec(tls=(*files, ca.file), listed=operators))
    alice, nameless = ca.issue("alice", "alice"), ca.issue("nameless", dns=["host"])
    foreign, expired = other.issue("mallory", "alice"), ca.issue("expired", "alice", hours=-0.5)
    machine = ca.issue("machine", "alice", usage=x509.ExtendedKeyUsageOID.SERVER_AUTH)

    def ask(pair, port=server.ports[0]) -> bytes:
        context = ssl.create_default_context(cafile=ca.file)
        if pair:
            context.load_cert_chain(*pair)
        with connect(port) as plain, context.wrap_socket(plain, server_hostname="localhost") as secure:
            secure.sendall(LAST)
            return rest_of(secure)

    found = ask(alice)
    assert json.loads(found.partition(b"\r\n\r\n")[2])["vtpm_ca.operator"] == "CN=alice"
    assert status_of(ask(nameless)) == 403
    for pair in (None, foreign, expired, machine):
        with pytest.raises(ssl.SSLError):
            ask(pair)
    # Listed by digest is bob's certificate; then it is alice, by name.
    assert [status_of(ask(pair, server.ports[1])) for pair in (alice, bob, nameless)] == [403, 200, 403]
    operators.write_text("CN=alice\n")
    before = server.workers
    server.process.send_signal(signal.SIGHUP)
    until(lambda: len(server.workers) == 1 and server.workers != before)
    assert [status_of(ask(pair, server.ports[1])) for pair in (alice, bob, nameless)] == [200, 403, 403]
    assert server.end() == 0
    log = server.log.read_text()
    assert "look after a listener's files" in log
    assert "Traceback" not in log


def test_the_log_says_why_an_operator_could_not_come(serve, authority):
    """The first line comes at once; those after it would take a minute."""
    ca = authority("operators")
    server = serve(Spec(tls=(*ca.issue("server", dns=["localhost"]), ca.file)))
    context = ssl.create_default_context(cafile=ca.file)
    context.load_cert_chain(*ca.issue("expired", "alice", hours=-0.5))
    with (
        connect(server.port) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
        pytest.raises(ssl.SSLError),
    ):
        secure.recv(1)
    until(lambda: "tls-certificate-has-expired=1" in server.log.read_text())
