"""The EK check against what the CA's own service publishes: lists of the real shards, and its OCSP responder."""

import shutil
from urllib.parse import urlsplit

import enrollment_world as w
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from relying_stage import loaded, shown

from ca_service.api import Services, create_app
from ca_service.export.ek_check.program import World, run
from ca_service.export.ek_check.writing import export_ek_check
from ca_service.judgment import Unavailable
from ca_service.operations.root_list import publish_root_list
from ca_service.profiles import serial_hex


@pytest.fixture
def host(stage, tmp_path):
    """A CA with its service, and a host that fetches from it."""
    shutil.copytree(stage.world.directory, tmp_path / "world")
    world = w.World(tmp_path / "world", stage.world.authority)
    publish_root_list(world.directory / "ca", stage.root, world.time)
    store = world.open_store()
    enroller = world.enroller(store)
    enroller.recover()
    client = create_app(Services(store, enroller)).test_client()
    export_ek_check(tmp_path / "ek", stage.root.certificate, world.authority.issuers)
    configuration = tmp_path / "ek" / "vtpm-ca-ek-check.toml"
    whole = configuration.read_text()

    def fetch(url):
        parts = urlsplit(url)
        assert (parts.scheme, parts.netloc) == ("http", "ca.test")
        answer = client.get(parts.path)
        if answer.status_code != 200:
            raise Unavailable(f"{url}: {answer.status_code}")
        return answer.data

    def check(der, *, ocsp=False):
        configuration.write_text(f"ocsp = {str(ocsp).lower()}\n{whole}")
        environment = shown(stage, EK_CERT=der, VTPM_CA_EK_CHECK_CONFIG=str(configuration))
        return run([], World(environment, lambda: world.time, fetch))

    def revoke(der):
        w.operate(world, store, "cert-revoke", serial=serial_hex(loaded(der).serial_number), yes=True)

    yield check, revoke, world, stage
    store.close()
    world.close()


@pytest.mark.parametrize("ocsp", [False, True])
def test_before_and_after_the_revocation(host, ocsp):
    check, revoke, world, stage = host
    pem = loaded(stage.ek).public_bytes(Encoding.PEM).decode()
    assert check(pem, ocsp=ocsp)[0] == 0
    revoke(stage.ek)
    world.later(hours=2)
    status, line = check(pem, ocsp=ocsp)
    assert status == 1
    assert "relying.revocation" in line
    assert "was revoked" in line
