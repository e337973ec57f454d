"""keylime's own registrar, verifier and tenant take what this CA issues, and refuse what they can tell apart.

What keylime looks at, and what it does not, stands in docs/keylime.md.
"""

import base64
import configparser
import re
import shutil
import socket
import uuid
from contextlib import contextmanager

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from enrolment_load import free_port
from forking import TENANT
from keylime_agent import Agent, AgentTpm
from keylime_document import BLOCKS, ROOT, TEXT, Reader
from keylime_services import Keylime
from keylime_site import Site

from vtpm.wire.templates import Role

pytestmark = [pytest.mark.keylime, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    made = Site(tmp_path_factory.mktemp("ca"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def namesake(tmp_path_factory):
    """Another CA, whose issuing CAs have the names of ours."""
    made = Site(tmp_path_factory.mktemp("namesake"))
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


@pytest.fixture(scope="module")
def honest(keylime, first):
    """An agent that has joined; tests that need one that the registrar knows share it."""
    with agent_of(keylime, first) as agent:
        agent.join()
        yield agent


@contextmanager
def agent_of(keylime, guest, tpm=None, agent_id=None):
    tpm = tpm or AgentTpm(guest.tpm.gateway.port)
    with Agent(agent_id or str(uuid.uuid4()), tpm, keylime.registrar, keylime.trusted_ca) as agent:
        yield agent


def add(keylime, agent, **environment):
    return keylime.tenant("add", agent.id, "-t", "127.0.0.1", "-tp", str(agent.port), **environment)


def refused_by_tenant(keylime, agent, **environment) -> str:
    """What the tenant says when it does not take an agent; the verifier has not heard of it then."""
    done = add(keylime, agent, **environment)
    assert done.returncode != 0, done.stderr
    assert keylime.ask(agent.id) == {}
    assert f"TPM Quote from Agent {agent.id}" in done.stderr
    return done.stderr


def assert_attested(keylime, agent) -> None:
    done = add(keylime, agent)
    assert done.returncode == 0, done.stderr
    assert keylime.await_attested(agent.id)["attestation_status"] == "PASS"
    keylime.forget(agent.id)


def pem(der: bytes) -> str:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()


class TestAccepted:
    def test_quotes_count_with_the_check_script(self, site, keylime, programs, forks, first, tmp_path):
        checked = site.ek_check(tmp_path / "check", programs, forks)
        with agent_of(keylime, first) as agent:
            agent.join()
            done = add(keylime, agent, **checked)
            assert done.returncode == 0, done.stderr
            assert "Checking EK" in done.stderr
            assert keylime.await_attested(agent.id)["attestation_status"] == "PASS"
            assert agent.quotes >= 3  # one of them for the tenant
            keylime.forget(agent.id)

    def test_twice_and_after_a_reboot_and_a_new_enrolment(self, site, keylime):
        guest = site.guest()
        before = guest.certificates
        tpm = AgentTpm(guest.tpm.gateway.port)
        with agent_of(keylime, guest, tpm) as agent:
            agent.join()
            agent.join()
        guest.tpm.reboot()
        tpm.move(guest.tpm.gateway.port)
        with agent_of(keylime, guest, tpm, agent.id) as agent:
            agent.join()
            assert guest.enrol() == before
            agent.join()
            assert_attested(keylime, agent)

    def test_after_a_rollover(self, site, keylime, first):
        with agent_of(keylime, first) as old:
            old.join()
            before = first.certificates
            site.roll_over()
            assert first.enrol() == before
            old.join()
            newcomer = site.guest()
            issuers = [x509.load_der_x509_certificate(g.certificates[0]).issuer for g in (first, newcomer)]
            assert issuers[0] != issuers[1]
            with agent_of(keylime, newcomer) as new:
                new.join()
                assert_attested(keylime, new)

    def test_another_devices_idevid_beside_its_own_iak(self, keylime, first, second):
        """keylime never lets the IDevID prove anything: that all three keys are in one TPM, only the CA has seen."""
        with agent_of(keylime, first) as agent:
            other = AgentTpm(second.tpm.gateway.port)
            foreign = {
                "idevid_tpm": base64.b64encode(other.public(Role.IDEVID)).decode(),
                "idevid_cert": base64.b64encode(second.certificates[2]).decode(),
            }
            reply = agent.register(**foreign)
            assert reply.status_code == 200, reply.text
            assert agent.activate(reply).status_code == 200

    def test_nothing_is_checked_for_a_push_model(self, keylime, honest, tmp_path):
        """Documented: the tenant looks neither into its store nor asks the check script."""
        store = tmp_path / "empty"
        store.mkdir()
        environment = {
            "KEYLIME_TENANT_TPM_CERT_STORE": str(store),
            "KEYLIME_TENANT_EK_CHECK_SCRIPT": "/bin/false",
        }
        done = keylime.tenant("add", honest.id, "--push-model", **environment)
        assert done.returncode == 0, done.stderr
        keylime.forget(honest.id)


class TestRefused:
    """Each with its counterpart: the same agent, honest or with our store, is taken."""

    def test_a_store_without_our_ca(self, site, keylime, honest, namesake, tmp_path):
        empty = tmp_path / "empty"
        empty.mkdir()
        for store in (empty, namesake.store):
            told = refused_by_tenant(keylime, honest, KEYLIME_TENANT_TPM_CERT_STORE=str(store))
            assert "Invalid EK certificate" in told

    @pytest.mark.parametrize("other", ["none", "namesake"])
    def test_a_registrar_whose_store_is_without_our_ca(self, other, site, keylime, first, namesake):
        with agent_of(keylime, first) as agent:
            with site.trusting(None if other == "none" else namesake.store):
                assert agent.register().status_code == 400
            agent.join()

    def test_a_ca_of_the_same_name_beside_ours_does_no_harm(self, site, keylime, first, namesake):
        with agent_of(keylime, first) as agent, site.trusting(namesake.store):
            site.export()
            assert {path.name for path in namesake.store.iterdir()} < {
                path.name for path in site.store.iterdir()
            }
            agent.join()

    @pytest.mark.parametrize("field", ["ekcert", "iak_cert", "idevid_cert"])
    def test_the_certificate_of_another_tpms_key(self, field, keylime, first, second):
        at = ("ekcert", "iak_cert", "idevid_cert").index(field)
        with agent_of(keylime, first) as agent:
            honest = agent.registration()
            reply = agent.register(honest, **{field: pem(second.certificates[at])})
            assert reply.status_code == 400, reply.text
            assert agent.register(honest, **{field: pem(first.certificates[at])}).status_code == 200

    def test_another_certificate_for_an_ek_that_is_registered(self, site, keylime, namesake):
        """Why the CA gives a TPM the certificate again that it has. A record that was deleted is no hindrance."""
        guest = site.guest()
        with agent_of(keylime, guest) as agent, site.trusting(namesake.store):
            site.export()
            agent.join()
            before = guest.certificates
            reissued = pem(namesake.guest(guest.tpm).certificates[0])
            assert agent.register(ekcert=reissued).status_code == 403
            assert agent.register(ekcert=pem(before[0])).status_code == 200
            assert keylime.tenant("regdelete", agent.id).returncode == 0
            assert agent.register(ekcert=reissued).status_code == 200

    def test_another_tpms_ek(self, keylime, first, second):
        """The challenge is for the other TPM, so this one cannot answer, and a wrong answer ends the registration."""
        other = AgentTpm(second.tpm.gateway.port)
        foreign = {
            "ek_tpm": base64.b64encode(other.public(Role.EK)).decode(),
            "ekcert": pem(second.certificates[0]),
        }
        with agent_of(keylime, first) as agent:
            reply = agent.register(**foreign)
            assert reply.status_code == 200, reply.text
            with pytest.raises(AgentTpm.REFUSED):
                agent.activate(reply)
            assert agent.answer_challenge(b"a guess").status_code == 400
            assert add(keylime, agent).returncode != 0

    def test_an_ak_that_another_tpms_iak_certified(self, keylime, first, second):
        with agent_of(keylime, first) as agent, agent_of(keylime, second, agent_id=agent.id) as other:
            stated, foreign = agent.registration(), other.registration()
            names = ("iak_attest", "iak_sign")
            assert agent.register(stated, **{n: getattr(foreign, n) for n in names}).status_code == 400
            keys = ("iak_tpm", "iak_cert", "idevid_tpm", "idevid_cert")
            changed = {n: getattr(foreign, n) for n in names + keys}
            assert agent.register(stated, **changed).status_code == 400

    def test_a_revoked_ek_by_the_check_script_only(self, site, keylime, programs, forks, tmp_path):
        guest = site.guest()
        with agent_of(keylime, guest) as agent:
            agent.join()
            site.operate("cert-revoke", serial=guest.serials[0], yes=True)
            checked = site.ek_check(tmp_path / "check", programs, forks)
            told = refused_by_tenant(keylime, agent, **checked)
            assert "vtpm-ca-ek-check: refused: relying.revocation" in told, told
            # keylime itself reads no revocation list, and for IAK and IDevID it asks nobody who does.
            for serial in guest.serials[1:]:
                site.operate("cert-revoke", serial=serial, yes=True)
            agent.join()
            assert_attested(keylime, agent)


class TestTheStore:
    def test_an_unreadable_file_stops_the_whole_store(self, site, keylime, honest, tmp_path):
        """Why the export is atomic, and names such files."""
        store = tmp_path / "store"
        site.export(store)
        (store / "other.pem").write_bytes(b"\xff\xfe")
        refused = add(keylime, honest, KEYLIME_TENANT_TPM_CERT_STORE=str(store))
        assert refused.returncode != 0
        with site.trusting(store):
            assert honest.register().status_code == 400
        (store / "other.pem").rename(store / ".other.pem.tmp")
        with site.trusting(store):
            honest.join()
        done = add(keylime, honest, KEYLIME_TENANT_TPM_CERT_STORE=str(store))
        assert done.returncode == 0, done.stderr
        keylime.forget(honest.id)


AGENT_ID = "d432fbb3-d2f1-4a97-9ef7-75bd81c00000"


def pair_of_ports() -> int:
    """The first of two neighbouring ports that are free now; a TPM takes both."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


@pytest.fixture
def reader(site, keylime, programs, forks, tmp_path):
    """Follows docs/keylime.md; keylime's services run already, and their store is the one that it fills."""
    ca, kbs, tpm = free_port(), free_port(), pair_of_ports()
    folder = tmp_path / "checkout"
    replaced = {
        "vtpm-ca serve": f"vtpm-ca serve --bind 127.0.0.1:{ca}",
        "vtpm kbs serve build/keylime/kbs": f"vtpm kbs serve build/keylime/kbs --bind 127.0.0.1:{kbs}",
        "vtpm boot": f"vtpm boot --ca http://127.0.0.1:{ca} --kbs http://127.0.0.1:{kbs}",
        "127.0.0.1:8443": f"127.0.0.1:{ca}",
        "2321": str(tpm),
        "/var/lib/keylime/tpm_cert_store": str(site.store),
        "/var/lib/keylime": str(folder / "keylime"),
        "/etc/keylime": str(folder / "etc"),
        "/opt/vtpm-ca/bin": str(folder / "bin"),
    }
    folder.mkdir()
    for name in ("keylime", "etc"):
        (folder / name).mkdir()
    # The one place that cannot be typed otherwise: where the check looks by itself.
    environment = {"VTPM_CA_EK_CHECK_CONFIG": str(folder / "etc" / "vtpm-ca-ek-check.toml")}
    made = Reader(folder, replaced, environment, programs, forks)
    yield made
    made.close()
    # Its CA ends here, so its issuers leave the store that other tests use.
    shutil.rmtree(site.store)
    site.export()


@pytest.mark.timeout(600)
def test_the_document_from_nothing_to_an_attested_vm(keylime, programs, reader):
    reader.start("kbs", "listening on")
    reader.start("ca", "serves on")
    reader.start("boot", r"\bguest\b.*swtpm:host=127\.0\.0\.1,port=\d+")
    reader.run("export")
    lines = configparser.RawConfigParser()
    lines.read_string(reader.typed(BLOCKS["tenant"].commands))
    told = {f"KEYLIME_TENANT_{option.upper()}": value for option, value in lines["tenant"].items()}
    programs.add(reader.bin / TENANT, keylime.forks, TENANT, environment=keylime.environment(**told))
    reader.run("ekcheck")
    reader.run("certificates")
    tpm = AgentTpm(int(reader.typed("2321")))
    files = {Role.IAK: "iak-cert.crt", Role.IDEVID: "idevid-cert.crt"}
    for role, name in files.items():
        assert (reader.folder / "keylime" / name).read_bytes() == tpm.certificate(role)
    with Agent(AGENT_ID, tpm, keylime.registrar, keylime.trusted_ca) as agent:
        agent.join()
        reader.also("9002", str(agent.port))
        reader.run("add")
        keylime.await_attested(AGENT_ID)
        reader.run("status")
        reader.run("delete")
    assert keylime.ask(AGENT_ID) == {}
    told_all = {"shell", "kbs", "ca", "boot", "export", "tenant", "ekcheck", "certificates", "add", "status"}
    assert set(BLOCKS) == told_all | {"delete"}


def test_every_command_of_the_document_is_in_a_block_that_runs():
    assert len(re.findall("^```(?:sh|ini)$", TEXT, re.MULTILINE)) == len(BLOCKS)
    links = [link for link in re.findall(r"\]\(([^)#]+)", TEXT) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
