"""The KBS over real HTTP: Trustee's protocol, then the grant."""

import base64
import dataclasses
import json
import logging
import os
import re
import threading
from datetime import UTC, datetime

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc import jwe, jwt
from joserfc.jwk import ECKey

from ca_service.evidence.ear import EAR_CHECKS, EarEvidence
from ca_service.judgment import judge_until_failure
from vtpm.kbs import create_app
from vtpm.kbs.token import TokenSigner
from vtpm.wire.certtable import CertKind
from vtpm.wire.ear import EarToken
from vtpm.wire.encoding import b64url, unb64url
from vtpm.wire.grant import Grant, key_id
from vtpm.wire.jwe import SealedResource, open_sealed, parse_protected, reserialise
from vtpm.wire.jwk import EcJwk
from vtpm.wire.rcar import kbs_report_data
from vtpm.wire.report import Report

RESOURCE = "default/vtpm/one"
ERRORS = "https://github.com/confidential-containers/kbs/errors/"


def opened(client, answer):
    sealed = SealedResource.parse(json.dumps(answer).encode())
    header = parse_protected(sealed.protected.encode())
    secret = open_sealed(
        client.key,
        header.epk,
        aad=sealed.protected.encode(),
        wrapped_cek=sealed.encrypted_key,
        iv=sealed.iv,
        ciphertext=sealed.ciphertext,
        tag=sealed.tag,
    )
    return secret, header


def assert_refused(reply, variant, *, status=401, detail=""):
    assert reply.status_code == status
    assert reply.headers["Content-Type"] == "application/json"
    body = reply.json()
    assert set(body) == {"type", "detail"}
    assert body["type"] == ERRORS + variant
    assert detail in body["detail"]


class TestAuth:
    def test_challenge_and_cookie(self, served):
        reply = served.client().auth()
        challenge = reply.json()
        assert set(challenge) == {"nonce", "extra-params"}
        assert challenge["extra-params"] == ""
        assert len(base64.b64decode(challenge["nonce"], validate=True)) == 32
        # Trustee sets Expires and nothing else.
        assert re.fullmatch(r"kbs-session-id=[0-9a-f]{32}; Expires=[^;]+ GMT", reply.headers["Set-Cookie"])

    def test_guest_components_extra_params_are_taken(self, served):
        body = {"version": "0.4.0", "tee": "snp", "extra-params": {"supported-hash-algorithms": ["sha384"]}}
        assert requests.post(f"{served.url}/kbs/v0/auth", json=body, timeout=30).status_code == 200

    def test_every_challenge_differs(self, served):
        assert len({served.client().auth().json()["nonce"] for _ in range(8)}) == 8

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{}",
            b'{"version":"0.3.0","tee":"snp","extra-params":""}',
            b'{"version":"0.4.1","tee":"snp","extra-params":""}',
            b'{"version":"0.4.0","tee":"sample","extra-params":""}',
        ],
    )
    def test_refusals(self, served, body):
        assert_refused(
            requests.post(f"{served.url}/kbs/v0/auth", data=body, timeout=30),
            "AttestationError",
            detail="Attestation error: RCAR handshake Auth failed: ",
        )


class TestPaths:
    @pytest.mark.parametrize(
        ("method", "path", "status", "variant"),
        [
            ("GET", "auth", 404, "PluginNotFound"),
            ("GET", "attest", 404, "PluginNotFound"),
            ("POST", "nebula-ca/x", 404, "PluginNotFound"),
            ("POST", "resource/a/b/c", 401, "AdminAuthAccess"),
            ("DELETE", "resource/a/b/c", 401, "AdminAuthAccess"),
            ("PUT", "resource/a/b/c", 401, "PluginInternalError"),
            ("GET", "resource/a/b/c", 401, "TokenNotFound"),
        ],
    )
    def test_refusals(self, served, method, path, status, variant):
        assert_refused(
            requests.request(method, f"{served.url}/kbs/v0/{path}", timeout=30), variant, status=status
        )

    def test_health(self, served):
        assert requests.get(f"{served.url}/healthz", timeout=30).status_code == 200

    def test_large_body(self, served):
        reply = requests.post(f"{served.url}/kbs/v0/auth", data=b" " * (256 * 1024 + 1), timeout=30)
        assert reply.status_code == 413
        assert served.client().auth().status_code == 200


class TestAttest:
    def test_token_has_trustees_claims(self, served, launch):
        client = served.client()
        client.auth()
        reply = client.attest(launch)
        assert reply.status_code == 200, reply.text
        assert "kbs-session-id=" in reply.headers["Set-Cookie"]
        assert set(reply.json()) == {"token"}
        token = reply.json()["token"]
        header = json.loads(unb64url(token.split(".")[0], "header"))
        assert set(header) == {"typ", "alg", "jwk"}
        assert (header["typ"], header["alg"]) == ("JWT", "ES256")
        assert (header["jwk"]["crv"], header["jwk"]["alg"]) == ("P-256", "ES256")
        claims = jwt.decode(token, ECKey.import_key(header["jwk"]), algorithms=["ES256"]).claims
        assert claims["eat_profile"] == "tag:github.com,2024:confidential-containers/Trustee"
        assert claims["iss"] == "CoCo-Attestation-Service"
        assert claims["iat"] == int(served.clock.now.timestamp())
        assert claims["exp"] == claims["iat"] + 300
        assert set(claims["ear.verifier-id"]) == {"developer", "build"}
        cpu = claims["submods"]["cpu0"]
        assert cpu["ear.status"] == "affirming"
        assert cpu["ear.appraisal-policy-id"] == "default"
        assert cpu["ear.trustworthiness-vector"]["executables"] == 3
        evidence = cpu["ear.veraison.annotated-evidence"]
        assert evidence["report_data"] == kbs_report_data(client.nonce, client.tee).hex()
        assert evidence["runtime_data_claims"]["nonce"] == client.nonce
        assert evidence["runtime_data_claims"]["tee-pubkey"] == {
            "alg": "ECDH-ES+A256KW",
            **client.tee.members(),
        }
        assert evidence["snp"]["measurement"] == launch.measurement.hex()
        assert evidence["snp"]["policy_debug_allowed"] is False
        assert evidence["snp"]["simulated_platform"] is True

    def test_token_is_good_for_a_ca_that_pins_the_key(self, served, launch):
        client = served.client()
        _, sealed = opened(client, client.fetched(launch))
        client.auth()
        grant = Grant.parse(sealed.grant).claims
        token = client.attest(launch).json()["token"]
        subject = EarEvidence(
            EarToken.parse(token),
            signers=(served.kbs.token_jwk(),),
            max_age_s=300,
            tee_jkt=grant.tee_jkt,
            nonce=client.nonce,
            at=served.clock.now,
        )
        assert judge_until_failure(EAR_CHECKS, subject).admitted
        # The same SVSM's grant, but of the exchange before.
        stale = dataclasses.replace(subject, nonce=grant.nonce)
        assert judge_until_failure(EAR_CHECKS, stale).refusal.rule == "ear.nonce"

    def test_status_is_that_of_what_was_attested(self, kbs, platform):
        signer, tee = TokenSigner(kbs.token_key()), EcJwk("P-521", b"\0" * 66, b"\0" * 66)

        def appraised(policy, *, allowed):
            report = Report.parse(platform.launch([(0x1000, bytes(4096))], policy=policy).report(bytes(64)))
            token = signer.issue(report, tee, "", allowed=allowed, simulated=True, at=datetime.now(UTC))
            appraisal = json.loads(unb64url(token.split(".")[1], "payload"))["submods"]["cpu0"]
            vector = appraisal["ear.trustworthiness-vector"]
            return appraisal["ear.status"], vector["configuration"], vector["executables"]

        assert appraised(0x30000, allowed=True) == ("affirming", 3, 3)
        assert appraised(0x30000, allowed=False) == ("warning", 3, 33)
        assert appraised(0x30000 | 1 << 18, allowed=True) == ("warning", 36, 3)
        assert appraised(0x30000 | 1 << 19, allowed=True) == ("warning", 36, 3)

    def test_second_attestation_gets_the_old_token(self, served, launch, other_launch):
        client = served.client()
        client.auth()
        first = client.attest(launch).json()
        assert client.attest(other_launch).json() == first
        assert client.attest(launch, report_data=bytes(64)).json() == first

    def test_without_cookie(self, served, launch):
        client = served.client()
        client.auth()
        client.http.cookies.clear()
        assert_refused(client.attest(launch), "AttestationError")

    def test_cookie_of_an_ended_session(self, served, launch):
        client = served.client()
        client.auth()
        served.clock.forward(minutes=5)
        assert_refused(client.attest(launch), "AttestationError")

    def test_nonce_of_another_session(self, served, launch):
        client, other = served.client(), served.client()
        client.auth()
        other.auth()
        assert_refused(client.attest(launch, nonce=other.nonce), "AttestationError", detail="kbs.nonce")
        assert_refused(client.get(), "TokenNotFound")

    def test_report_for_another_nonce(self, served, launch):
        client, other = served.client(), served.client()
        client.auth()
        other.auth()
        stale = kbs_report_data(other.nonce, client.tee)
        assert_refused(client.attest(launch, report_data=stale), "AttestationError", detail="kbs.report-data")

    def test_report_for_another_key(self, served, launch):
        client, other = served.client(), served.client()
        client.auth()
        assert_refused(client.attest(launch, tee=other.tee), "AttestationError", detail="kbs.report-data")

    @pytest.mark.parametrize("vmpl", [1, 2, 3])
    def test_report_of_the_guest(self, served, launch, vmpl):
        client = served.client()
        client.auth()
        assert_refused(client.attest(launch, vmpl=vmpl), "AttestationError", detail="snp.vmpl")
        assert_refused(client.get(), "TokenNotFound")

    def test_debug_launch(self, served, platform):
        client = served.client()
        client.auth()
        debug = platform.launch([(0x1000, bytes(4096))], policy=0x30000 | 1 << 19)
        assert_refused(client.attest(debug), "AttestationError", detail="snp.debug")

    def test_changed_report(self, served, launch):
        client = served.client()
        client.auth()
        body = client.body(launch)
        report = body["tee-evidence"]["primary_evidence"]["attestation_report"]
        report["measurement"][0] ^= 1
        reply = client.http.post(f"{client.url}/attest", json=body)
        assert_refused(reply, "AttestationError", detail="snp.signature")

    def test_no_certificate(self, served, launch):
        client = served.client()
        client.auth()
        assert_refused(client.attest(launch, chain={}), "AttestationError", detail="snp.leaf-present")

    def test_certificate_that_is_none(self, served, launch):
        client = served.client()
        client.auth()
        assert_refused(client.attest(launch, chain={CertKind.VCEK: b"\x30\x00"}), "AttestationError")

    def test_simulated_platform_only_where_the_policy_says_so(self, served, launch):
        path = served.kbs.directory / "policy.toml"
        path.write_text(path.read_text().replace("simulated = true", "simulated = false"))
        client = served.client()
        client.auth()
        assert_refused(client.attest(launch), "AttestationError", detail="snp.chain")

    def test_broken_policy_releases_nothing(self, served, launch):
        (served.kbs.directory / "policy.toml").write_text("measurements = 1")
        client = served.client()
        client.auth()
        assert_refused(client.attest(launch), "PolicyEngineError")

    @settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(
        st.binary(max_size=200)
        | st.recursive(
            st.none() | st.text(max_size=9),
            lambda v: st.dictionaries(
                st.sampled_from(["init-data", "runtime-data", "tee-evidence", "nonce", "tee-pubkey", "x"]),
                v,
                max_size=4,
            ),
        )
    )
    def test_any_bytes_are_refused_alike(self, served, body):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        response = served.app.test_client().post("/kbs/v0/attest", data=data)
        assert response.status_code == 401
        assert response.get_json()["type"] == ERRORS + "AttestationError"


class TestRelease:
    def test_secret_and_grant(self, served, launch):
        client = served.client()
        secret, header = opened(client, client.fetched(launch))
        assert secret == served.kbs.secret(RESOURCE).value
        grant = Grant.parse(header.grant)
        assert grant.signature_holds()
        assert (grant.alg, grant.jwk) == ("ES384", served.kbs.public_jwk())
        claims = grant.claims
        assert claims.epk_jkt == header.epk.thumbprint()
        assert claims.tee_jkt == client.tee.thumbprint()
        assert claims.nonce == client.nonce
        assert claims.key_id == key_id(secret)
        assert (claims.resource, claims.origin) == (RESOURCE, "kbs-generated")
        assert claims.report_id == launch.report_id
        assert claims.policy == served.kbs.policy().digest
        now = int(served.clock.now.timestamp())
        assert (claims.iat, claims.exp) == (now, now + 300)

    def test_the_same_secret_each_time_under_another_key(self, served, launch):
        client = served.client()
        answers = [client.fetched(launch), client.get().json(), client.get().json()]
        results = [opened(client, answer) for answer in answers]
        assert len({secret for secret, _ in results}) == 1
        assert len({header.epk for _, header in results}) == 3

    def test_proxy_may_rewrite_the_header(self, served, launch):
        answer = served.client().fetched(launch)
        header = unb64url(answer["protected"], "protected")
        assert reserialise(header) == header

    def test_plain_client_opens_it(self, served, launch):
        """A JOSE library that has never heard of grants."""
        client = served.client()
        answer = client.fetched(launch)
        assert set(answer) == {"protected", "encrypted_key", "iv", "ciphertext", "tag"}
        algorithms = ["ECDH-ES+A256KW", "A256GCM"]
        registry = jwe.JWERegistry(algorithms=algorithms, strict_check_header=False)
        # A grant makes the header longer than joserfc takes unasked.
        registry.max_protected_header_length = 8 * 1024
        opened_by_joserfc = jwe.decrypt_json(answer, ECKey.import_key(client.key), registry=registry)
        assert opened_by_joserfc.plaintext == served.kbs.secret(RESOURCE).value

    def test_plain_client_on_p256(self, served, launch):
        client = served.client()
        client.key = ec.generate_private_key(ec.SECP256R1())
        client.tee = EcJwk.from_key(client.key.public_key())
        secret, header = opened(client, client.fetched(launch))
        assert header.epk.crv == "P-256"
        assert secret == served.kbs.secret(RESOURCE).value

    def test_bearer_gets_the_secret_without_a_grant(self, served, launch):
        client = served.client()
        client.auth()
        token = client.attest(launch).json()["token"]
        client.http.cookies.clear()
        reply = client.get(Authorization=f"Bearer {token}")
        assert reply.status_code == 200, reply.text
        secret, header = opened(client, reply.json())
        assert secret == served.kbs.secret(RESOURCE).value
        assert header.grant is None

    def test_stale_cookie_falls_back_to_the_bearer(self, served, launch):
        client = served.client()
        client.auth()
        token = client.attest(launch).json()["token"]
        client.auth()
        _, header = opened(client, client.get(Authorization=f"Bearer {token}").json())
        assert header.grant is None

    def test_bearer_tokens_outlive_the_process(self, served, launch):
        client = served.client()
        client.auth()
        headers = {"Authorization": f"Bearer {client.attest(launch).json()['token']}"}
        for key, status in ((served.kbs, 200), (None, 401)):
            if key is None:
                (served.kbs.directory / "token.key").unlink()
            again = create_app(
                type(served.kbs).create_or_open(served.kbs.directory), served.clock, os.urandom
            )
            reply = again.test_client().get(f"/kbs/v0/resource/{RESOURCE}", headers=headers)
            assert reply.status_code == status

    def test_bearer_tokens_expire(self, served, launch):
        client = served.client()
        client.auth()
        token = client.attest(launch).json()["token"]
        client.http.cookies.clear()
        served.clock.forward(minutes=5)
        assert_refused(client.get(Authorization=f"Bearer {token}"), "TokenVerifierError")

    @pytest.mark.parametrize("token", ["", "x", "e30.e30.", "a.b.c", "e30.e30.e30"])
    def test_bearer_nonsense(self, served, token):
        assert_refused(served.client().get(Authorization=f"Bearer {token}"), "TokenVerifierError")

    def test_token_of_another_signer(self, served, launch):
        client = served.client()
        client.auth()
        token = client.attest(launch).json()["token"]
        client.http.cookies.clear()
        header, payload, _ = token.split(".")
        own = ECKey.generate_key("P-256", private=True)
        claims = json.loads(unb64url(payload, "payload"))
        forged = jwt.encode(
            {"alg": "ES256", "jwk": own.as_dict(private=False)}, claims, own, algorithms=["ES256"]
        )
        assert_refused(client.get(Authorization=f"Bearer {forged}"), "TokenVerifierError")
        none = f"eyJhbGciOiJub25lIn0.{payload}."
        assert_refused(client.get(Authorization=f"Bearer {none}"), "TokenVerifierError")
        for critical in (None, 1, [], ["exp"], "exp"):
            header = b64url(json.dumps({"alg": "ES256", "crit": critical}).encode())
            odd = f"{header}.{token.partition('.')[2]}"
            assert_refused(client.get(Authorization=f"Bearer {odd}"), "TokenVerifierError")
        assert header

    def test_unknown_measurement_gets_a_token_that_says_so_and_no_secret(self, served, other_launch):
        client = served.client()
        client.auth()
        token = client.attest(other_launch).json()["token"]
        claims = json.loads(unb64url(token.split(".")[1], "payload"))["submods"]["cpu0"]
        assert claims["ear.status"] == "warning"
        assert claims["ear.trustworthiness-vector"]["executables"] == 33
        assert_refused(client.get(), "PolicyDeny", detail="Access denied by policy")
        client.http.cookies.clear()
        assert_refused(client.get(Authorization=f"Bearer {token}"), "PolicyDeny")
        assert not list((served.kbs.directory / "resources").glob("*.secret"))

    def test_policy_is_read_anew(self, served, launch, other_launch):
        client = served.client()
        client.auth()
        token = client.attest(other_launch).json()["token"]
        assert_refused(client.get(), "PolicyDeny")
        served.kbs.allow_measurement(other_launch.measurement.hex())
        _, header = opened(client, client.get().json())
        assert Grant.parse(header.grant).claims.policy == served.kbs.policy().digest
        path = served.kbs.directory / "policy.toml"
        path.write_text("measurements = []\nsimulated = true\n")
        assert_refused(client.get(), "PolicyDeny")
        path.write_text(f'measurements = ["{other_launch.measurement.hex()}"]\nsimulated = false\n')
        assert_refused(client.get(), "AttestationError", detail="snp.chain")
        client.http.cookies.clear()
        assert_refused(client.get(Authorization=f"Bearer {token}"), "PolicyDeny")

    def test_undeclared_resource(self, served, launch):
        client = served.client()
        client.fetched(launch)
        for name in ("default/vtpm/two", "default/vtpm", "a/b/c/d", "default/vtpm/..", "default/vtpm/%2e%2e"):
            assert_refused(client.get(name), "PluginInternalError") if "two" in name else None
            assert client.get(name).status_code in (401, 404)
        assert [p.name for p in (served.kbs.directory / "resources").glob("*.secret")] == [
            "default:vtpm:one.secret"
        ]

    def test_declared_while_serving(self, served, launch, kbs):
        client = served.client()
        client.fetched(launch)
        assert_refused(client.get("default/vtpm/late"), "PluginInternalError")
        type(kbs).create_or_open(kbs.directory).declare("default/vtpm/late", b"p" * 32)
        secret, header = opened(client, client.get("default/vtpm/late").json())
        assert secret == b"p" * 32
        assert Grant.parse(header.grant).claims.origin == "provisioned"

    @pytest.mark.parametrize(("size", "granted"), [(31, False), (32, True)])
    def test_short_secrets_get_no_grant(self, served, launch, size, granted):
        served.kbs.declare("default/vtpm/short", b"s" * size)
        client = served.client()
        secret, header = opened(client, client.fetched(launch, "default/vtpm/short"))
        assert secret == b"s" * size
        assert (header.grant is not None) is granted

    def test_session_ends(self, served, launch):
        client = served.client()
        client.fetched(launch)
        served.clock.forward(minutes=5)
        assert_refused(client.get(), "TokenNotFound")

    def test_grant_ends_with_its_session(self, served, launch):
        client = served.client()
        client.auth()
        began = int(served.clock.now.timestamp())
        client.attest(launch)
        served.clock.forward(minutes=4, seconds=59)
        _, header = opened(client, client.get().json())
        claims = Grant.parse(header.grant).claims
        assert (claims.iat, claims.exp) == (began + 299, began + 300)

    def test_many_first_releases_at_once(self, served, launch):
        clients = [served.client() for _ in range(8)]
        for client in clients:
            client.auth()
            client.attest(launch)
        start, secrets = threading.Barrier(8), []

        def fetch(client):
            start.wait()
            secrets.append(opened(client, client.get().json())[0])

        threads = [threading.Thread(target=fetch, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(secrets) == 8
        assert len(set(secrets)) == 1

    def test_nothing_secret_is_logged(self, served, launch, caplog):
        caplog.set_level(logging.DEBUG)
        client = served.client()
        answer = client.fetched(launch)
        client.get("default/vtpm/two")
        secret, _ = opened(client, answer)
        token = client.attest(launch).json()["token"]
        text = "\n".join(record.getMessage() for record in caplog.records)
        assert "released default/vtpm/one" in text
        cookie = client.http.cookies["kbs-session-id"]
        for hidden in (secret.hex(), base64.b64encode(secret).decode(), repr(secret), token, cookie):
            assert hidden not in text

    def test_an_accident_tells_nothing(self, served, launch, monkeypatch, caplog):
        client = served.client()
        client.fetched(launch)

        def fail(self, resource):
            raise RuntimeError("the secret is forty-two")

        monkeypatch.setattr(type(served.kbs), "secret", fail)
        reply = client.get()
        assert reply.status_code == 500
        assert "forty-two" not in reply.text + caplog.text
