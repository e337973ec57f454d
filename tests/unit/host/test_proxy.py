import json
import signal
import socket
import subprocess
import sys
import threading
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from vtpm.errors import UsageError
from vtpm.host import BEHAVIOURS, Behaviour, HostConfig, HostProxy
from vtpm.wire import aproxy
from vtpm.wire.certtable import CertKind, pack_table
from vtpm.wire.encoding import b64std, unb64std
from vtpm.wire.grant import Grant, key_id
from vtpm.wire.jwe import open_sealed, parse_protected
from vtpm.wire.jwk import EcJwk

RESOURCE = "default/vtpm/one"
SECRET = b"genuine-persistence-key-32-bytes"


@pytest.fixture
def host(config, socket_path):
    with HostProxy(socket_path, Behaviour(config), timeout_s=20):
        yield


def decrypted(svsm, answer, epk):
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


def beside(answer):
    return EcJwk("P-521", *answer.decryption.epk)


class TestHonest:
    def test_secret_reaches_the_svsm(self, host, broker, connect):
        with connect() as svsm:
            answer = svsm.attest()
            assert svsm.receive() is None
        header = parse_protected(answer.decryption.aad)
        assert header.epk == beside(answer)
        assert decrypted(svsm, answer, header.epk) == SECRET
        grant = Grant.parse(header.grant)
        assert grant.jwk == EcJwk.from_key(broker.signing_key.public_key())
        assert grant.claims.epk_jkt == header.epk.thumbprint()
        assert answer.token == "e30.genuine.e30"

    def test_challenge_is_the_brokers(self, host, broker, connect):
        with connect() as svsm:
            assert svsm.negotiate() == aproxy.NegotiationResponse(
                bytes(range(32)), ("EcPublicKeyBytes", "Challenge")
            )

    def test_body_is_trustees(self, host, broker, connect):
        with connect() as svsm:
            svsm.attest()
        steps = [(method, path) for method, path, _, _ in broker.asked]
        assert steps == [
            ("POST", "/kbs/v0/auth"),
            ("POST", "/kbs/v0/attest"),
            ("GET", f"/kbs/v0/resource/{RESOURCE}"),
        ]
        for _, _, headers, _ in broker.asked[1:]:
            assert headers["Cookie"] == "kbs-session-id=" + "ab" * 16
        body = json.loads(broker.asked[1][3])
        assert body["runtime-data"]["nonce"] == b64std(bytes(range(32)))
        assert body["runtime-data"]["tee-pubkey"] == {"alg": "ECDH-ES+A256KW", **svsm.tee.members()}
        assert body["init-data"] is None
        assert body["tee-evidence"]["additional_evidence"] == ""
        assert body["tee-evidence"]["primary_evidence"]["cert_chain"] is None
        assert broker.attestation.report == svsm.request(bytes(range(32))).report

    def test_sessions_do_not_mix(self, host, broker, connect):
        """Two exchanges at once: each has its own cookie jar."""
        with connect() as one, connect() as two:
            one.negotiate()
            two.negotiate()
        assert all("Cookie" not in headers for _, path, headers, _ in broker.asked if path.endswith("auth"))

    def test_certificates(self, broker, connect, config, socket_path):
        key = ec.generate_private_key(ec.SECP384R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "VCEK")])
        cert = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
            .not_valid_after(datetime(2027, 1, 1, tzinfo=UTC))
            .sign(key, hashes.SHA384())
        )
        der, pem = (cert.public_bytes(form) for form in (Encoding.DER, Encoding.PEM))
        known = HostConfig(config.kbs, config.ca, config.resource, {CertKind.VCEK: pem})
        with HostProxy(socket_path, Behaviour(known)):
            with connect() as svsm:
                svsm.attest()
            assert broker.attestation.chain == (("VCEK", der),)
            with connect() as svsm:
                svsm.attest(
                    pack_table({CertKind.VCEK: b"\x30\x03abc", CertKind.ASK: pem, CertKind.CRL: b"x"})
                )
            # The SVSM's own table comes first, and CRLs are none of Trustee's business.
            assert dict(broker.attestation.chain) == {"VCEK": b"\x30\x03abc", "ASK": der}


class TestRefusals:
    def test_refused_attestation_is_success_false(self, host, broker, connect):
        broker.answers["POST", "/kbs/v0/attest"] = (401, b'{"type":"x","detail":"no\xff\x00"}', {})
        with connect() as svsm:
            assert svsm.attest() == aproxy.AttestationResponse(success=False)

    @pytest.mark.parametrize(
        "answer", [(401, b"{}", {}), (200, b"{}", {}), (200, b"[" * 9999, {}), (302, b"", {})]
    )
    def test_bad_resource_is_success_false(self, host, broker, connect, answer):
        broker.answers["GET", f"/kbs/v0/resource/{RESOURCE}"] = answer
        with connect() as svsm:
            assert svsm.attest() == aproxy.AttestationResponse(success=False)

    @pytest.mark.parametrize(
        "answer", [(401, b"{}", {}), (200, b"", {}), (200, b'{"nonce":"%","extra-params":""}', {})]
    )
    def test_no_challenge_closes_the_channel_and_the_next_is_served(self, host, broker, connect, answer):
        genuine = broker.answers["POST", "/kbs/v0/auth"]
        broker.answers["POST", "/kbs/v0/auth"] = answer
        with connect() as svsm:
            svsm.send(aproxy.NegotiationRequest().encode())
            assert svsm.receive() is None
        broker.answers["POST", "/kbs/v0/auth"] = genuine
        with connect() as svsm:
            assert svsm.attest().success

    @pytest.mark.parametrize(
        "sent",
        [
            b"",
            b"\x01",
            b"\xff" * 8,
            (1 << 20 | 1).to_bytes(8, "little"),
            aproxy.frame(b""),
            aproxy.frame(b"{}"),
            aproxy.frame(b"\xff" * 100),
            aproxy.frame(b'{"version":[0,2,0],"tee":"snp"}'),
            aproxy.frame(b"[" * 5000),
            aproxy.frame(aproxy.NegotiationRequest().encode()) + aproxy.frame(b"{}"),
        ],
    )
    def test_nonsense_ends_one_exchange_only(self, host, broker, connect, sent):
        with connect() as svsm:
            svsm.socket.sendall(sent)
            svsm.socket.shutdown(socket.SHUT_WR)
            while svsm.receive() is not None:
                pass
        with connect() as svsm:
            assert svsm.attest().success

    def test_an_accident_ends_one_exchange_only(self, broker, config, connect, socket_path):
        class Clumsy(Behaviour):
            def negotiation(self, challenge):
                raise ZeroDivisionError

        with HostProxy(socket_path, Clumsy(config)):
            for _ in range(2):
                with connect() as svsm:
                    svsm.send(aproxy.NegotiationRequest().encode())
                    assert svsm.receive() is None

    def test_silent_svsm_is_dropped(self, config, connect, socket_path):
        with HostProxy(socket_path, Behaviour(config), timeout_s=0.2), connect() as svsm:
            svsm.socket.sendall(b"\x10")
            assert svsm.receive() is None

    def test_many_at_once(self, host, broker, connect):
        answers = []

        def boot():
            with connect() as svsm:
                svsm.negotiate()
                answers.append(1)

        threads = [threading.Thread(target=boot) for _ in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(answers) == 100


class TestRelay:
    def test_request_and_answer_pass(self, host, server, connect):
        server.answers["POST", "/v1/enrollments"] = (201, b'{"id":"x"}', {})
        with connect() as svsm:
            assert svsm.relay("POST", "/v1/enrollments", b'{"a":1}') == aproxy.RelayResponse(
                201, b'{"id":"x"}'
            )
        method, path, headers, body = server.asked[0]
        assert (method, path, body) == ("POST", "/v1/enrollments", b'{"a":1}')
        assert headers["Content-Type"] == "application/json"

    @pytest.mark.parametrize("status", [200, 400, 403, 409, 429, 500, 503])
    def test_statuses_pass(self, host, server, connect, status):
        server.answers["GET", "/v1/enrollments/x"] = (status, b"{}", {})
        with connect() as svsm:
            assert svsm.relay("GET", "/v1/enrollments/x").status == status

    @pytest.mark.parametrize(
        "path", ["/metrics", "/v1", "/v10/x", "/healthz", "/.well-known/vtpm-ca", "/kbs/v0/auth"]
    )
    def test_other_paths_are_not_asked(self, host, server, connect, path):
        with connect() as svsm:
            assert svsm.relay("POST", path) == aproxy.RelayResponse(0)
        assert server.asked == []

    @pytest.mark.parametrize(
        "path", ["/v1/../metrics", "/v1/x?y", "/v1/%2e%2e/metrics", "//evil/v1/x", "http://evil/v1/x"]
    )
    def test_paths_with_two_readings_end_the_exchange(self, host, server, connect, path):
        with connect() as svsm:
            svsm.send(aproxy.RelayRequest("GET", path).encode())
            assert svsm.receive() is None
        assert server.asked == []

    def test_redirects_are_not_followed(self, host, server, connect):
        server.answers["GET", "/v1/x"] = (302, b"", {"Location": server.url + "/metrics"})
        with connect() as svsm:
            assert svsm.relay("GET", "/v1/x").status == 302
        assert len(server.asked) == 1

    def test_large_answers_are_cut_off(self, host, server, connect):
        server.answers["GET", "/v1/most"] = (200, b"x" * 512 * 1024, {})
        server.answers["GET", "/v1/more"] = (200, b"x" * (512 * 1024 + 1), {})
        with connect() as svsm:
            assert len(svsm.relay("GET", "/v1/most").body) == 512 * 1024
        with connect() as svsm:
            assert svsm.relay("GET", "/v1/more") == aproxy.RelayResponse(0)

    def test_unreachable_ca_is_status_0(self, config, connect, socket_path):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{taken.getsockname()[1]}"
            with (
                HostProxy(socket_path, Behaviour(HostConfig(config.kbs, url, config.resource))),
                connect() as svsm,
            ):
                assert svsm.relay("POST", "/v1/nonces") == aproxy.RelayResponse(0)


class TestAttacks:
    def test_every_behaviour_says_what_it_does(self):
        assert set(BEHAVIOURS) == {"honest", "m1", "m3"}
        assert all(behaviour.summary for behaviour in BEHAVIOURS.values())

    def test_m1_is_right_in_all_but_the_signer(self, broker, config, connect, socket_path):
        attack = BEHAVIOURS["m1"](config)
        with HostProxy(socket_path, attack):
            seen = []
            for _ in range(2):
                with connect() as svsm:
                    challenge = svsm.negotiate().challenge
                    svsm.send(svsm.request(challenge).encode())
                    answer = aproxy.AttestationResponse.parse(svsm.receive())
                header = parse_protected(answer.decryption.aad)
                grant = Grant.parse(header.grant)
                assert decrypted(svsm, answer, header.epk) == attack.loot
                assert grant.signature_holds()
                assert grant.claims.epk_jkt == header.epk.thumbprint()
                assert grant.claims.tee_jkt == svsm.tee.thumbprint()
                assert unb64std(grant.claims.nonce, "nonce") == challenge
                assert grant.claims.key_id == key_id(attack.loot)
                assert grant.claims.report_id == b"\x07" * 32
                assert grant.claims.resource == RESOURCE
                seen.append(grant.jwk)
        assert broker.asked == []
        assert seen[0] == seen[1] != EcJwk.from_key(broker.signing_key.public_key())

    def test_m3_keeps_the_genuine_header_and_swaps_the_secret(self, broker, config, connect, socket_path):
        attack = BEHAVIOURS["m3"](config)
        with HostProxy(socket_path, attack), connect() as svsm:
            answer = svsm.attest()
        header = parse_protected(answer.decryption.aad)
        grant = Grant.parse(header.grant)
        assert grant.signature_holds()
        assert grant.jwk == EcJwk.from_key(broker.signing_key.public_key())
        assert grant.claims.epk_jkt == header.epk.thumbprint()
        # Who believes the key beside the header gets the attacker's secret; who takes the header's key gets nothing.
        assert decrypted(svsm, answer, beside(answer)) == attack.loot
        with pytest.raises(ValueError, match="does not decrypt"):
            decrypted(svsm, answer, header.epk)
        assert grant.claims.key_id != key_id(attack.loot)

    def test_attacks_can_be_given_their_secret(self, config):
        assert BEHAVIOURS["m3"](config, loot=b"l" * 32).loot == b"l" * 32


class TestSocket:
    def test_a_stale_socket_is_replaced_and_the_own_removed(self, config, socket_path):
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(socket_path))
        with HostProxy(socket_path, Behaviour(config)):
            assert socket_path.stat().st_mode & 0o777 == 0o600
        assert not socket_path.exists()

    def test_a_file_is_left_alone(self, config, socket_path):
        socket_path.write_text("mine")
        with pytest.raises(UsageError):
            HostProxy(socket_path, Behaviour(config)).bind()
        assert socket_path.read_text() == "mine"

    def test_a_path_that_is_too_long(self, config, tmp_path):
        with pytest.raises(UsageError):
            HostProxy(tmp_path / ("x" * 200), Behaviour(config)).bind()

    def test_stop_ends_one_that_comes_meanwhile(self, config, socket_path, monkeypatch):
        proxy = HostProxy(socket_path, Behaviour(config))
        ours, theirs = socket.socketpair()

        class Listener:
            def accept(self):
                # As when another thread stops the proxy just after the kernel has let somebody in.
                proxy._stopping.set()
                return theirs, ""

        monkeypatch.setattr(proxy, "_listener", Listener())
        proxy.serve()
        with ours:
            ours.settimeout(5)
            assert ours.recv(1) == b""

    def test_stop_ends_open_exchanges(self, config, connect, socket_path):
        with HostProxy(socket_path, Behaviour(config)):
            svsm = connect()
        with svsm:
            assert svsm.receive() is None


class TestProcess:
    def start(self, broker, path, *more):
        arguments = ["--socket", path, "--kbs", broker.url, "--ca", broker.url, "--resource", RESOURCE]
        return subprocess.Popen(
            [sys.executable, "-m", "vtpm.host", *arguments, *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def test_serves_until_terminated(self, broker, connect, socket_path):
        with self.start(broker, str(socket_path)) as process:
            assert process.stdout.readline() == f"listening {socket_path}\n"
            with connect() as svsm:
                assert svsm.attest().success
            process.send_signal(signal.SIGTERM)
            _, stderr = process.communicate(timeout=30)
        assert process.returncode == 0
        assert "Traceback" not in stderr
        assert not socket_path.exists()

    def test_attacks_by_name(self, broker, connect, socket_path):
        with self.start(broker, str(socket_path), "--behaviour", "m1") as process:
            process.stdout.readline()
            with connect() as svsm:
                assert svsm.attest().success
            process.terminate()
            process.communicate(timeout=30)
        assert broker.asked == []

    @pytest.mark.parametrize(
        "more", [["--behaviour", "m99"], ["--resource", "../x"], ["--vcek", "/nonexistent"]]
    )
    def test_usage(self, broker, socket_path, more):
        with self.start(broker, str(socket_path), *more) as process:
            _, stderr = process.communicate(timeout=30)
        assert process.returncode == 2
        assert "Traceback" not in stderr


def test_nothing_secret_is_logged(host, broker, connect, caplog):
    caplog.set_level("DEBUG", logger="vtpm")
    with connect() as svsm:
        svsm.attest()
    assert SECRET.decode() not in caplog.text
    assert "e30.genuine.e30" not in caplog.text
