"""A scripted key broker and CA on real HTTP, and the SVSM's end of the socket."""

import json
import os
import socket
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from vtpm.host import HostConfig
from vtpm.wire import aproxy
from vtpm.wire.encoding import b64std
from vtpm.wire.grant import GrantClaims, key_id, sign_grant
from vtpm.wire.jwe import seal
from vtpm.wire.jwk import EcJwk
from vtpm.wire.rcar import Attestation, kbs_report_data
from vtpm.wire.report import Report, pack_report, pack_signature

RESOURCE = "default/vtpm/one"
NONCE = b64std(bytes(range(32)))
SECRET = b"genuine-persistence-key-32-bytes"


@dataclass
class Server:
    """Answers what `answers` says for a path; remembers what it was asked."""

    url: str
    answers: dict = field(default_factory=dict)
    asked: list = field(default_factory=list)
    attestation: Attestation | None = None
    signing_key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP384R1())
    )


@pytest.fixture
def server():
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            state.asked.append((self.command, self.path, dict(self.headers), body))
            result = state.answers.get((self.command, self.path), (404, b"{}", {}))
            status, content, headers = result(body) if callable(result) else result
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except OSError:
                self.close_connection = True

        do_GET = do_POST = do_PUT = answer  # noqa: N815

        def log_message(self, *arguments):
            pass

    class Httpd(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 256

    httpd = Httpd(("127.0.0.1", 0), Handler)
    state = Server(f"http://127.0.0.1:{httpd.server_port}")
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield state
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture
def broker(server):
    """The scripted server acts as a Trustee KBS with grants."""

    def auth(body):
        assert json.loads(body) == {"version": "0.4.0", "tee": "snp", "extra-params": ""}
        cookie = {"Set-Cookie": "kbs-session-id=" + "ab" * 16, "Content-Type": "application/json"}
        return 200, json.dumps({"nonce": NONCE, "extra-params": ""}).encode(), cookie

    def attest(body):
        server.attestation = Attestation.parse(body)
        return 200, json.dumps({"token": "e30.genuine.e30"}).encode(), {}

    def resource(_body):
        tee = server.attestation.tee
        ephemeral = ec.generate_private_key(ec.SECP521R1())
        claims = GrantClaims(
            EcJwk.from_key(ephemeral.public_key()).thumbprint(),
            tee.thumbprint(),
            server.attestation.nonce,
            key_id(SECRET),
            RESOURCE,
            "kbs-generated",
            Report.parse(server.attestation.report).report_id,
            "0" * 64,
            int(time.time()),
            int(time.time()) + 300,
        )
        grant = sign_grant(claims, server.signing_key)
        sealed = seal(SECRET, tee, ephemeral, extra={"kbs_grant": grant}, entropy=os.urandom)
        return 200, json.dumps(sealed.to_json()).encode(), {}

    server.answers |= {
        ("POST", "/kbs/v0/auth"): auth,
        ("POST", "/kbs/v0/attest"): attest,
        ("GET", f"/kbs/v0/resource/{RESOURCE}"): resource,
    }
    return server


@pytest.fixture
def config(server):
    return HostConfig(kbs=server.url, ca=server.url, resource=RESOURCE)


class Svsm:
    """The SVSM's end of one connection."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(30)
        self.socket.connect(str(path))
        self.key = ec.generate_private_key(ec.SECP521R1())
        self.tee = EcJwk.from_key(self.key.public_key())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, payload):
        self.socket.sendall(aproxy.frame(payload))

    def receive(self):
        """One payload; None when the host closed."""
        header = self._read(8)
        return None if header is None else self._read(aproxy.frame_length(header))

    def _read(self, size):
        data = b""
        while len(data) < size:
            try:
                part = self.socket.recv(size - len(data))
            except ConnectionResetError:
                return None
            if not part:
                return None
            data += part
        return data

    def negotiate(self):
        self.send(aproxy.NegotiationRequest().encode())
        return aproxy.NegotiationResponse.parse(self.receive())

    def request(self, challenge, certs=None):
        body = pack_report(
            version=3,
            cpuid=(0x19, 1, 1),
            report_id=b"\x07" * 32,
            report_data=kbs_report_data(b64std(challenge), self.tee),
        )
        return aproxy.AttestationRequest(body + pack_signature(1, 2), challenge, self.tee, certs)

    def attest(self, certs=None):
        challenge = self.negotiate().challenge
        self.send(self.request(challenge, certs).encode())
        return aproxy.AttestationResponse.parse(self.receive())

    def relay(self, method, path, body=b""):
        self.send(aproxy.RelayRequest(method, path, body).encode())
        return aproxy.RelayResponse.parse(self.receive())


@pytest.fixture
def connect(tmp_path):
    return lambda: Svsm(tmp_path / "host.sock")


@pytest.fixture
def socket_path(tmp_path) -> Path:
    return tmp_path / "host.sock"
