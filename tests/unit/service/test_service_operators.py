"""Who an operator is: by a certificate, or by the kernel's word."""

import json
import os
import socket
import ssl

import pytest
from small_service import Spec, connect, rest_of, status_of

from ca_service.service import certified_operator, unix_operator
from ca_service.service.operators import operator_named

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
    ],
)
def test_names_in_certificates(certificate, name):
    assert operator_named(certificate) == name


def test_no_certificate_no_operator():
    with socket.socket() as plain:
        assert certified_operator(plain) is None


def test_the_kernel_says_who_connected(monkeypatch):
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs, socket.socket() as tcp:
        assert unix_operator(ours) == os.getuid()
        assert unix_operator(tcp) is None
        monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
        assert unix_operator(ours) == (0 if os.getuid() == 0 else None)


def test_only_those_with_a_certificate_come_in(serve, authority):
    ca, other = authority("operators"), authority("others")
    files = ca.issue("server", dns=["localhost"])
    server = serve(Spec(tls=(*files, ca.file)))
    alice, nameless = ca.issue("alice", "alice"), ca.issue("nameless", dns=["host"])
    foreign = other.issue("mallory", "alice")

    def ask(pair) -> bytes:
        context = ssl.create_default_context(cafile=ca.file)
        if pair:
            context.load_cert_chain(*pair)
        with connect(server.port) as plain, context.wrap_socket(plain, server_hostname="localhost") as secure:
            secure.sendall(LAST)
            return rest_of(secure)

    found = ask(alice)
    assert json.loads(found.partition(b"\r\n\r\n")[2])["vtpm_ca.operator"] == "CN=alice"
    assert status_of(ask(nameless)) == 403
    for pair in (None, foreign):
        with pytest.raises(ssl.SSLError):
            ask(pair)
