"""keylime's own registrar, verifier and tenant take what this CA issues, and refuse what they can tell apart."""

import base64
import itertools
import uuid
from contextlib import contextmanager

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from keylime_agent import Agent, AgentTpm
from keylime_services import Keylime
from keylime_site import Site

from vtpm.wire.templates import Role

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    made = Site(tmp_path_factory.mktemp("ca"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def keylime(site, tmp_path_factory):
    with Keylime(tmp_path_factory.mktemp("keylime"), site.store) as running:
        yield running


@pytest.fixture(scope="module")
def first(site):
    return site.guest()


@pytest.fixture(scope="module")
def second(site):
    return site.guest()


@contextmanager
def agent_of(keylime, guest, tpm=None, agent_id=None):
    tpm = tpm or AgentTpm(guest.tpm.gateway.port)
    with Agent(agent_id or str(uuid.uuid4()), tpm, keylime.registrar, keylime.trusted_ca) as agent:
        yield agent


def add(keylime, agent, *options, **environment):
    return keylime.tenant("add", agent.id, "-t", "127.0.0.1", "-tp", str(agent.port), *options, **environment)


def text(der: bytes) -> str:
    return base64.b64encode(der).decode()


def pem(der: bytes) -> str:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()


class TestAccepted:
    def test_from_registration_to_quotes_that_count(self, keylime, first):
        with agent_of(keylime, first) as agent:
            agent.join()
            done = add(keylime, agent)
            assert done.returncode == 0, done.stderr
            found = keylime.await_attested(agent.id)
            assert found["attestation_status"] == "PASS"
            assert agent.quotes >= 3  # one for the tenant
            assert keylime.tenant("delete", agent.id).returncode == 0
