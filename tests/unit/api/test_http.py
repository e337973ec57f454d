"""The HTTP face: status, media types, headers, problem documents, limits, and who gets to the operations."""

import hashlib
import json
from dataclasses import replace
from datetime import timedelta

import enrollment_world as w
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ca_service.api import HttpLimits, create_app
from ca_service.api.problems import TooMany, problem_of
from ca_service.enrollment.pace import RateLimit
from ca_service.evidence.profiles import ISSUED_PROFILES
from ca_service.judgment import Unavailable, VtpmCaError
from ca_service.keys import load_root
from ca_service.store import CrlRow, IssuerRow, IssuerState
from vtpm.wire.enrollment import (
    MAX_BODY,
    CertificatesReply,
    Directory,
    EnrollmentState,
    NonceReply,
    Problem,
)
from vtpm.wire.errors import WireError

JSON = {"content_type": "application/json"}
PROBLEM = "application/problem+json"


def problem(response) -> Problem:
    assert response.mimetype == PROBLEM
    found = Problem.parse(response.data)
    assert found.status == response.status_code
    assert found.type == "urn:vtpm-ca:error:" + found.code
    return found


def new_nonce(client) -> str:
    return NonceReply.parse(client.post("/v1/nonces").data).nonce


@pytest.fixture
def issued(client, world, tpm, helpers) -> CertificatesReply:
    first = client.post("/v1/enrollments", data=world.body(new_nonce(client), tpm), **JSON)
    assert first.status_code == 201
    enrollment_id, body = helpers.answer(tpm, first.data)
    second = client.post(f"/v1/enrollments/{enrollment_id}/activation", data=body, **JSON)
    assert second.status_code == 200
    return CertificatesReply.parse(second.data)


def test_a_whole_enrolment(client, world, tpm, issued, helpers):
    state = EnrollmentState.parse(client.get(f"/v1/enrollments/{issued.id}").data)
    assert (state.state, state.decision_id) == ("issued", issued.decision_id)
    known = client.post(
        "/v1/enrollments", data=world.body(new_nonce(client), tpm, helpers.Boot(certify=False)), **JSON
    )
    assert known.status_code == 200
    stored = CertificatesReply.parse(known.data)
    assert [entry.certificate for entry in stored.ek] == [entry.certificate for entry in issued.ek]


def test_nonces_are_created_and_not_cached(client, world):
    response = client.post("/v1/nonces")
    assert response.status_code == 201
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert NonceReply.parse(response.data).aud == world.authority.ca_id


def test_the_directory(client, world):
    directory = Directory.parse(client.get("/.well-known/vtpm-ca").data)
    assert (directory.ca_id, directory.mode) == ("test-ca", "simulation")
    assert directory.profiles == ISSUED_PROFILES
    assert [issuer.role for issuer in directory.issuers] == [
        "root",
        *(ca.role for ca in world.authority.issuers),
    ]
    for issuer in directory.issuers:
        path = issuer.url.removeprefix(world.authority.publication_url)
        assert hashlib.sha256(client.get(path).data).hexdigest() == issuer.sha256


def test_certificates_by_serial_in_both_forms(client, issued):
    serial = f"{x509.load_der_x509_certificate(issued.iak.certificate).serial_number:034x}"
    one = client.get(f"/v1/certificates/{serial}")
    assert (one.mimetype, one.data) == ("application/pkix-cert", issued.iak.certificate)
    chain = client.get(f"/v1/certificates/{serial}", headers={"Accept": "application/pem-certificate-chain"})
    assert chain.mimetype == "application/pem-certificate-chain"
    assert len(x509.load_pem_x509_certificates(chain.data)) == 3
    neither = client.get(f"/v1/certificates/{serial}", headers={"Accept": "text/html"})
    assert problem(neither).code == "not-acceptable"
    assert problem(client.get("/v1/certificates/00")).code == "not-found"


def test_crls_are_the_published_bytes_until_the_next(client, world):
    skid = world.authority.issuer("ek").skid
    first = client.get(f"/crl/{skid}/0.crl")
    assert first.mimetype == "application/pkix-crl"
    assert x509.load_der_x509_crl(first.data).is_signature_valid(
        world.authority.issuer("ek").certificate.public_key()
    )
    assert client.get(f"/crl/{skid}/0.crl").data == first.data
    unchanged = client.get(f"/crl/{skid}/0.crl", headers={"If-None-Match": first.headers["ETag"]})
    assert unchanged.status_code == 304
    world.later(days=4)
    assert client.get(f"/crl/{skid}/0.crl").data != first.data
    assert problem(client.get("/crl/00/0.crl")).code == "not-found"
    assert problem(client.get(f"/crl/{skid}/1.crl")).code == "not-found"


def test_issuing_cas_of_other_nodes_and_former_ones(client, services, world):
    """The database has what this node's directory lacks."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "EK CA of another node")])
    der = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, world.time, world.time)
        .sign(key, hashes.SHA384())
        .public_bytes(serialization.Encoding.DER)
    )
    later = world.time + timedelta(seconds=1)
    with services.store.write() as tx:
        tx.issuers.add(IssuerRow("aa" * 20, "ek", "default", IssuerState.PREPARED, None, der, later, later))
        tx.crls.add(CrlRow("aa" * 20, 1, world.time, world.time + timedelta(days=7), b"its list"))

    def listed() -> list[str]:
        directory = Directory.parse(client.get("/.well-known/vtpm-ca").data)
        return [f"{issuer.role} {issuer.state}".strip() for issuer in directory.issuers]

    assert listed() == ["root", "ek active", "ek prepared", "devid active", "ephemeral active"]
    assert client.get("/readyz").status_code == 200
    for state in (IssuerState.PREPARED, IssuerState.OLD, IssuerState.TAINTED, IssuerState.RETIRED):
        with services.store.write() as tx:
            tx.issuers.move("aa" * 20, state, world.time)
        assert (f"ek {state.value}" in listed()) == (state is not IssuerState.RETIRED)
        assert client.get(f"/ca/{'aa' * 20}.cer").data == der
        assert client.get(f"/crl/{'aa' * 20}/0.crl").data == b"its list"


def test_not_ready_without_the_key_that_signs(client, services, world):
    ek = world.authority.issuer("ek").skid
    with services.store.write() as tx:
        tx.issuers.move(ek, IssuerState.OLD, world.time)
        tx.issuers.add(
            IssuerRow(
                "aa" * 20, "ek", "default", IssuerState.ACTIVE, "ek:default", b"", world.time, world.time
            )
        )
    found = problem(client.get("/readyz"))
    assert (found.status, found.code) == (503, "issuer")
    assert client.get("/healthz").status_code == 200


class TestRootCrl:
    @pytest.fixture
    def path(self, world):
        return world.directory / "ca" / "crl" / "root.crl"

    @pytest.fixture
    def url(self, world):
        return f"/crl/{world.authority.root_info.skid}/0.crl"

    def sign(self, key, world) -> bytes:
        return (
            x509.CertificateRevocationListBuilder(
                world.authority.root.subject, world.time, world.time + timedelta(days=300)
            )
            .sign(key, hashes.SHA384())
            .public_bytes(serialization.Encoding.DER)
        )

    def test_it_is_served_as_its_holder_left_it(self, client, world, url, path):
        root = load_root(world.directory / "ca", w.PASSPHRASE)
        der = self.sign(root.signer._private_key, world)
        path.unlink(missing_ok=True)
        assert problem(client.get(url)).code == "not-found"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(der)
        response = client.get(url)
        assert (response.mimetype, response.data) == ("application/pkix-crl", der)
        assert response.headers["Last-Modified"]

    def test_nothing_else_is(self, client, world, url, path):
        path.parent.mkdir(exist_ok=True)
        for content in (b"", b"no list", self.sign(ec.generate_private_key(ec.SECP384R1()), world)):
            path.write_bytes(content)
            assert problem(client.get(url)).status == 503


def test_health_and_readiness(client, services):
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 200
    with services.store.write() as tx:
        tx.connection.exec_driver_sql("DELETE FROM alembic_version")
    assert client.get("/healthz").status_code == 200
    response = client.get("/readyz")
    assert problem(response).code == "schema"
    assert response.headers["Retry-After"]


class TestRefusals:
    def test_a_refusal_names_rule_and_decision(self, client, world, tpm, helpers):
        body = world.body(new_nonce(client), tpm, helpers.Boot(certify=False))
        response = client.post("/v1/enrollments", data=body, **JSON)
        found = problem(response)
        assert (found.status, found.code, found.rule) == (403, "certify-required", "certify.present")
        assert found.decision_id
        assert found.retryable
        assert client.post("/v1/enrollments", data=body, **JSON).data == response.data

    def test_another_body_under_the_nonce_is_a_conflict(self, client, world, tpm):
        nonce = new_nonce(client)
        for status in (201, 409):
            response = client.post("/v1/enrollments", data=world.body(nonce, tpm), **JSON)
            assert response.status_code == status
        assert problem(response).code == "nonce-used"

    def test_a_malformed_body_names_the_member(self, client):
        response = client.post("/v1/enrollments", data=b'{"evidence":{}}', **JSON)
        found = problem(response)
        assert (found.status, found.code, found.pointer) == (400, "malformed", "evidence.profile")

    def test_sizes_are_bounded_before_parsing(self, client):
        response = client.post("/v1/enrollments", data=b"{" * (MAX_BODY + 1), **JSON)
        assert (response.status_code, problem(response).code) == (413, "too-large")

    def test_only_json_is_taken(self, client):
        response = client.post("/v1/enrollments", data=b"{}", content_type="text/plain")
        assert (response.status_code, problem(response).code) == (415, "unsupported-media-type")

    def test_unknown_paths_and_methods(self, client):
        assert problem(client.get("/nowhere")).code == "not-found"
        assert problem(client.delete("/v1/nonces")).code == "method-not-allowed"
        assert problem(client.get("/v1/enrollments/nowhere")).code == "not-found"

    def test_an_unknown_error_keeps_its_text_inside(self, services, monkeypatch):
        def broken(_body: bytes):
            raise RuntimeError("the secret is 1234")

        monkeypatch.setattr(services.enroller, "enroll", broken)
        response = create_app(services).test_client().post("/v1/enrollments", data=b"{}", **JSON)
        assert problem(response).code == "internal"
        assert b"1234" not in response.data

    def test_an_error_without_a_row_in_the_table_is_generic(self):
        assert problem_of(VtpmCaError("inside", code="signer")).to_json()["code"] == "internal"
        assert "inside" not in json.dumps(problem_of(VtpmCaError("inside")).to_json())
        assert problem_of(WireError("a.b", "must be c")).pointer == "a.b"

    def test_details_are_printable(self):
        assert problem_of(WireError("ä\n", "must\x00be")).detail.isprintable()


class TestLimits:
    def test_a_client_that_asks_too_often_waits(self, services):
        limited = replace(services, limits=HttpLimits(requests_per_second=0.001, burst=2))
        client = create_app(limited).test_client()
        statuses = [client.post("/v1/nonces").status_code for _ in range(3)]
        assert statuses == [201, 201, 429]
        response = client.post("/v1/nonces")
        assert problem(response).retryable
        assert response.headers["Retry-After"]
        assert client.get("/healthz").status_code == 200

    def test_the_allowance_comes_back(self):
        now = 100.0
        limit = RateLimit(2.0, 2, lambda: now)
        limit.spend("a")
        limit.spend("a")
        with pytest.raises(TooMany):
            limit.spend("a")
        limit.spend("b")
        now += 0.5
        limit.spend("a")
        with pytest.raises(TooMany):
            limit.spend("a")


class TestOperator:
    @pytest.fixture
    def over_unix(self):
        return {"vtpm_ca.operator": "alice"}

    def test_operations_over_the_unix_socket(self, client, over_unix):
        response = client.post("/operator/v1/echo", json={"a": "b"}, environ_overrides=over_unix)
        assert json.loads(response.data) == {"result": {"by": "alice", "parameters": {"a": "b"}}}
        assert client.post("/operator/v1/nothing", json={}, environ_overrides=over_unix).status_code == 404
        listing = client.post("/operator/v1/echo", json=[], environ_overrides=over_unix)
        assert problem(listing).code == "malformed"
        assert client.get("/healthz", environ_overrides=over_unix).status_code == 200

    def test_a_policy_may_be_larger_than_an_enrolment(self, client, over_unix):
        text = "x" * (2 * MAX_BODY)
        response = client.post("/operator/v1/echo", json={"text": text}, environ_overrides=over_unix)
        assert response.status_code == 200

    def test_for_others_they_do_not_exist(self, client):
        for environ in ({}, {"vtpm_ca.operator": None}, {"vtpm_ca.operator": ""}):
            response = client.post("/operator/v1/echo", json={}, environ_overrides=environ)
            assert (response.status_code, problem(response).code) == (404, "not-found")

    def test_no_header_makes_an_operator(self, client):
        for name in ("vtpm_ca.operator", "vtpm-ca.operator", "vtpm_ca_operator"):
            response = client.post("/operator/v1/echo", json={}, headers={name: "alice"})
            assert response.status_code == 404

    def test_a_broken_operation_is_a_generic_error(self, client, over_unix):
        response = client.post("/operator/v1/break", json={}, environ_overrides=over_unix)
        assert problem(response).code == "internal"


class TestNotReady:
    """The answer names the check that failed, and nothing of where the CA lies."""

    def ask(self, client) -> Problem:
        response = client.get("/readyz")
        found = problem(response)
        assert (found.status, found.retryable) == (503, True)
        assert response.headers["Retry-After"]
        return found

    @pytest.mark.parametrize(
        "error", [Unavailable("its disk is full"), VtpmCaError("/secret/place"), Unavailable("/x is full")]
    )
    def test_the_database_takes_no_write(self, client, services, monkeypatch, error):
        def full():
            raise error

        monkeypatch.setattr(services.store, "check_writable", full)
        found = self.ask(client)
        assert found.code == "database"
        assert "/" not in found.detail

    def test_a_key_that_does_not_sign(self, client, world, monkeypatch):
        def broken(_self, _data):
            return b"no signature"

        monkeypatch.setattr(type(world.authority.issuer("ek").signer), "sign", broken)
        assert self.ask(client).code == "issuer"

    def test_a_clock_that_went_back_before_the_ca_was_made(self, client, world):
        world.later(days=-1)
        found = self.ask(client)
        assert (found.code, "not valid yet" in found.detail) == ("issuer", True)

    def test_a_log_that_contradicts_itself(self, client, services):
        with services.store.write() as tx:
            tx.connection.exec_driver_sql("UPDATE log_head SET size = size + 1")
        assert self.ask(client).code == "log"
