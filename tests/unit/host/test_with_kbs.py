"""Simulated processor, host and key broker together; only the SVSM is a test's."""

import threading

import pytest

from vtpm.host import BEHAVIOURS, HostConfig, HostProxy
from vtpm.kbs import Kbs, make_kbs_server
from vtpm.snp import Platform
from vtpm.wire import aproxy
from vtpm.wire.encoding import b64std
from vtpm.wire.grant import Grant, key_id
from vtpm.wire.jwe import open_sealed, parse_protected
from vtpm.wire.jwk import EcJwk
from vtpm.wire.rcar import kbs_report_data

RESOURCE = "default/vtpm/one"


@pytest.fixture
def launch(tmp_path):
    return Platform.create(tmp_path / "chip").launch([(0x1000, b"an SVSM".ljust(4096, b"\0"))])


@pytest.fixture
def kbs(tmp_path, launch, monkeypatch):
    for name in ("VTPM_KBS_PASSPHRASE", "VTPM_KBS_PASSPHRASE_FILE"):
        monkeypatch.delenv(name, raising=False)
    kbs = Kbs.create_or_open(tmp_path / "kbs", measurements=[launch.measurement])
    kbs.declare(RESOURCE)
    return kbs


@pytest.fixture
def config(kbs):
    server = make_kbs_server(kbs)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield HostConfig(f"http://127.0.0.1:{server.server_port}", "http://127.0.0.1:9", RESOURCE)
    server.shutdown()
    thread.join()
    server.server_close()


def booted(connect, launch, certs, *, report_data=None, vmpl=0):
    """The answer to an SVSM that attests as it should, and the SVSM."""
    with connect() as svsm:
        challenge = svsm.negotiate().challenge
        data = report_data or kbs_report_data(b64std(challenge), svsm.tee)
        request = aproxy.AttestationRequest(launch.report(data, vmpl=vmpl), challenge, svsm.tee, certs)
        svsm.send(request.encode())
        return aproxy.AttestationResponse.parse(svsm.receive()), svsm


def opened(svsm, answer, epk):
    part = answer.decryption
    return open_sealed(
        svsm.key,
        epk,
        aad=part.aad,
        wrapped_cek=part.wrapped_cek,
        iv=part.iv,
        ciphertext=answer.secret,
        tag=part.tag,
    )


def test_the_granted_secret_arrives(kbs, config, connect, launch, socket_path):
    with HostProxy(socket_path, BEHAVIOURS["honest"](config)):
        answer, svsm = booted(connect, launch, launch.cert_table())
    header = parse_protected(answer.decryption.aad)
    secret = opened(svsm, answer, header.epk)
    assert secret == kbs.secret(RESOURCE).value
    grant = Grant.parse(header.grant)
    assert grant.signature_holds()
    assert grant.jwk == kbs.public_jwk()
    assert grant.claims.report_id == launch.report_id
    assert grant.claims.key_id == key_id(secret)


@pytest.mark.parametrize("changed", [{"vmpl": 1}, {"report_data": bytes(64)}])
def test_what_the_kbs_refuses_is_success_false(config, connect, launch, socket_path, changed):
    with HostProxy(socket_path, BEHAVIOURS["honest"](config)):
        answer, _ = booted(connect, launch, launch.cert_table(), **changed)
    assert answer == aproxy.AttestationResponse(success=False)


def test_legacy_hash_gets_nothing(config, connect, launch, socket_path):
    """What libaproxy 0.1.0 has an SVSM sign is not Trustee's form."""
    with HostProxy(socket_path, BEHAVIOURS["honest"](config)), connect() as svsm:
        negotiation = svsm.negotiate()
        data = aproxy.legacy_report_data(negotiation.params, svsm.tee, negotiation.challenge)
        request = aproxy.AttestationRequest(
            launch.report(data), negotiation.challenge, svsm.tee, launch.cert_table()
        )
        svsm.send(request.encode())
        assert aproxy.AttestationResponse.parse(svsm.receive()) == aproxy.AttestationResponse(success=False)


def test_m3_against_the_real_broker(kbs, config, connect, launch, socket_path):
    attack = BEHAVIOURS["m3"](config)
    with HostProxy(socket_path, attack):
        answer, svsm = booted(connect, launch, launch.cert_table())
    grant = Grant.parse(parse_protected(answer.decryption.aad).grant)
    assert grant.signature_holds()
    assert grant.jwk == kbs.public_jwk()
    assert opened(svsm, answer, EcJwk("P-521", *answer.decryption.epk)) == attack.loot
