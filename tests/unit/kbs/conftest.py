"""A KBS on real HTTP, a simulated platform, and a plain client that speaks Trustee's protocol."""

import contextlib
import json
import os
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import ec
from werkzeug.serving import make_server

from vtpm.kbs import Kbs, create_app
from vtpm.snp import Platform
from vtpm.wire.certtable import CertKind, parse_table
from vtpm.wire.jwk import EcJwk
from vtpm.wire.rcar import Attestation, auth_request, kbs_report_data

RESOURCE = "default/vtpm/one"
PAGES = [(0x1000, b"an SVSM".ljust(4096, b"\0"))]


@dataclass
class Clock:
    now: datetime

    def __call__(self):
        return self.now

    def forward(self, **span):
        self.now += timedelta(**span)


@dataclass
class Served:
    kbs: Kbs
    url: str
    clock: Clock
    app: object

    def client(self):
        return Client(self.url)


class Client:
    """The guest's side of Trustee's protocol, knowing nothing of grants."""

    def __init__(self, url):
        self.url = url + "/kbs/v0"
        self.http = requests.Session()
        self.http.trust_env = False
        self.key = ec.generate_private_key(ec.SECP521R1())
        self.tee = EcJwk.from_key(self.key.public_key())
        self.nonce = None

    def auth(self):
        reply = self.http.post(f"{self.url}/auth", json=auth_request())
        assert reply.status_code == 200
        self.nonce = reply.json()["nonce"]
        return reply

    def body(self, launch, *, nonce=None, tee=None, vmpl=0, report_data=None, chain=None):
        nonce = nonce or self.nonce
        report_data = report_data or kbs_report_data(nonce, self.tee)
        table = parse_table(launch.cert_table()) if chain is None else chain
        return Attestation(
            nonce,
            tee or self.tee,
            launch.report(report_data, vmpl=vmpl),
            tuple((str(kind), der) for kind, der in table.items()),
        ).to_json()

    def attest(self, launch, **changes):
        body = json.dumps(self.body(launch, **changes)).encode()
        return self.http.post(f"{self.url}/attest", data=body)

    def get(self, resource=RESOURCE, **headers):
        return self.http.get(f"{self.url}/resource/{resource}", headers=headers)

    def fetched(self, launch, resource=RESOURCE):
        self.auth()
        assert self.attest(launch).status_code == 200
        reply = self.get(resource)
        assert reply.status_code == 200, reply.text
        return reply.json()


@pytest.fixture(autouse=True)
def _no_passphrase(monkeypatch):
    monkeypatch.delenv("VTPM_KBS_PASSPHRASE", raising=False)
    monkeypatch.delenv("VTPM_KBS_PASSPHRASE_FILE", raising=False)


@pytest.fixture(scope="session")
def platform(tmp_path_factory):
    return Platform.create(tmp_path_factory.mktemp("platform") / "chip")


@pytest.fixture
def launch(platform):
    return platform.launch(PAGES)


@pytest.fixture
def other_launch(platform):
    return platform.launch([(0x1000, b"another SVSM".ljust(4096, b"\0"))])


@pytest.fixture
def kbs(tmp_path, launch):
    kbs = Kbs.create_or_open(tmp_path / "kbs", measurements=(launch.measurement,))
    kbs.declare(RESOURCE)
    return kbs


@contextlib.contextmanager
def running(app):
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def served(kbs):
    clock = Clock(datetime.now(UTC))
    app = create_app(kbs, clock, os.urandom)
    with running(app) as url:
        yield Served(kbs, url, clock, app)


@pytest.fixture
def vcek(launch):
    return parse_table(launch.cert_table())[CertKind.VCEK]
