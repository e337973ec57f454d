"""Media types, methods and header fields: what a client may ask for, and what each answer says of itself."""

import hashlib
import shutil
from dataclasses import replace

import enrollment_world as w
import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from ca_service.api import HttpLimits, Services, Surface, create_app
from ca_service.api.negotiation import NotOffered, NotTaken, check_content, chosen
from ca_service.api.problems import problem_of
from vtpm.wire.enrollment import CertificatesReply, Problem

CERT, CHAIN = "application/pkix-cert", "application/pem-certificate-chain"
OPERATOR = {"environ_overrides": {"vtpm_ca.operator": "alice"}}


def asking(**fields: str) -> Request:
    return Request(EnvironBuilder(headers=fields).get_environ())


class TestAccept:
    @pytest.mark.parametrize(
        ("accept", "form"),
        [
            (None, CERT),
            ("", CERT),
            ("*/*", CERT),
            ("application/*", CERT),
            (CHAIN, CHAIN),
            (CHAIN.upper(), CHAIN),
            (f"{CHAIN}; charset=utf-8", CHAIN),
            (f"{CERT};q=0.5, {CHAIN};q=0.9", CHAIN),
            (f"{CERT};q=0.5, {CHAIN}", CHAIN),
            (f"*/*;q=0.1, {CHAIN}", CHAIN),
            (f"{CERT};q=0, */*", CHAIN),
            (f"application/*;q=0.2, {CERT};q=0.1", CHAIN),
            ("text/html, image/gif, *;q=.2, */*;q=.2", CERT),
            ("*/*;q=" + "9" * 8000 + "x", CERT),
            (f"{CERT};q=x;q=0.1, {CHAIN};q=0.2", CHAIN),
        ],
    )
    def test_the_form_that_is_liked_best(self, accept, form):
        assert chosen(asking(**({} if accept is None else {"Accept": accept})), (CERT, CHAIN)) == form

    @pytest.mark.parametrize(
        "accept", ["text/html", "text/*", f"{CERT};q=0", "*/*;q=0", f"*/*, {CERT};q=0, {CHAIN};q=0"]
    )
    def test_none_is_liked(self, accept):
        with pytest.raises(NotOffered) as refused:
            chosen(asking(Accept=accept), (CERT, CHAIN))
        assert problem_of(refused.value).detail == f"offered here: {CERT}, {CHAIN}"

    @given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=60))
    def test_whatever_it_is_there_is_an_answer(self, accept):
        try:
            assert chosen(asking(Accept=accept), (CERT, CHAIN)) in (CERT, CHAIN)
        except NotOffered:
            assert accept.strip()


class TestContentType:
    @pytest.mark.parametrize(
        "given", ["application/json", "Application/JSON", "application/json; charset=UTF-8"]
    )
    def test_taken(self, given):
        check_content(asking(**{"Content-Type": given}), "application/json")

    @pytest.mark.parametrize(
        "given",
        ["", "text/json", "application/json; charset=utf-16", "application/jsonx", "application/vnd.x+json"],
    )
    def test_not_taken(self, given):
        with pytest.raises(NotTaken):
            check_content(asking(**{"Content-Type": given}), "application/json")

    def test_no_content_needs_no_form_where_none_is_needed(self):
        check_content(asking(), "application/json", needed=False)
        with pytest.raises(NotTaken):
            check_content(Request(EnvironBuilder(data=b"{}").get_environ()), "application/json", needed=False)


@pytest.fixture(scope="module")
def published(ceremony, tmp_path_factory: pytest.TempPathFactory):
    """Client of all surfaces of a CA that is asked and not changed, and the CA."""
    directory = tmp_path_factory.mktemp("published") / "world"
    shutil.copytree(ceremony.directory, directory)
    world = w.World(directory, ceremony.authority)
    store = world.new_store()
    world.apply(store, world.policy())
    enroller = world.enroller(store)
    enroller.recover()
    issued = CertificatesReply.parse(w.issue(world, enroller, w.SoftTpm()))
    services = Services(store, enroller, limits=HttpLimits(verdict_s=0.0))
    yield create_app(services).test_client(), world, issued
    store.close()


@pytest.fixture
def client(published):
    return published[0]


@pytest.fixture
def paths(published):
    _, world, issued = published
    skid = world.authority.issuer("ek").skid
    serial = f"{x509.load_der_x509_certificate(issued.iak.certificate).serial_number:034x}"
    return {
        "/.well-known/vtpm-ca": "application/json",
        f"/ca/{skid}.cer": CERT,
        f"/crl/{skid}/0.crl": "application/pkix-crl",
        f"/v1/certificates/{serial}": CERT,
        f"/v1/enrollments/{issued.id}": "application/json",
        "/log/checkpoint": "text/plain",
        "/healthz": "application/json",
        "/readyz": "application/json",
        "/openapi.json": "application/json",
    }


def said(response) -> Problem:
    assert response.content_type == "application/problem+json"
    found = Problem.parse(response.data)
    assert (found.status, found.type) == (response.status_code, "urn:vtpm-ca:error:" + found.code)
    return found


class TestEveryAnswer:
    def test_good_ones(self, client, paths):
        for path, form in paths.items():
            response = client.get(path)
            assert (response.status_code, response.mimetype) == (200, form), path
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Cache-Control"]
            assert len(response.headers["X-Request-Id"]) == 16
            assert "Set-Cookie" not in response.headers
            assert "Access-Control-Allow-Origin" not in response.headers

    def test_head_is_get_without_content(self, client, paths):
        for path in paths:
            whole, head = client.get(path), client.head(path)
            assert (head.status_code, head.data) == (200, b""), path
            assert head.headers["Content-Length"] == str(len(whole.data))
            for name in ("Content-Type", "ETag", "Last-Modified", "Vary"):
                assert head.headers.get(name) == whole.headers.get(name), (path, name)

    def test_what_is_cached_can_be_asked_for_again(self, client, paths):
        for path in paths:
            whole = client.get(path)
            if "ETag" not in whole.headers:
                assert whole.headers["Cache-Control"] in ("no-store", "public, max-age=2"), path
                continue
            again = client.get(path, headers={"If-None-Match": whole.headers["ETag"]})
            assert (again.status_code, again.data) == (304, b"")
            for name in ("ETag", "Cache-Control", "Vary"):
                assert again.headers.get(name) == whole.headers.get(name)

    def test_a_range_is_the_whole(self, client, paths):
        for path in paths:
            assert client.get(path, headers={"Range": "bytes=0-1"}).status_code == 200, path

    def test_options(self, client, paths):
        for path in paths:
            response = client.options(path)
            assert (response.status_code, response.data) == (204, b"")
            assert response.headers["Allow"] == "GET, HEAD, OPTIONS"
            assert "Content-Type" not in response.headers
        assert client.options("/v1/nonces").headers["Allow"] == "OPTIONS, POST"

    @pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "PROPFIND"])
    def test_other_methods(self, client, paths, method):
        for path in paths:
            response = client.open(path, method=method)
            assert said(response).code == "method-not-allowed"
            assert response.headers["Allow"] == "GET, HEAD, OPTIONS"

    def test_slashes_too_many_are_no_redirect(self, client):
        for path in ("/healthz/", "/v1//nonces", "/.well-known/vtpm-ca/", "/ca//00.cer"):
            response = client.get(path)
            assert said(response).code == "not-found", path
            assert "Location" not in response.headers


class TestForms:
    def test_a_certificate_in_both(self, client, paths):
        (path,) = [path for path in paths if path.startswith("/v1/certificates")]
        der, pem = client.get(path), client.get(path, headers={"Accept": CHAIN})
        assert x509.load_der_x509_certificate(der.data) == x509.load_pem_x509_certificates(pem.data)[0]
        assert der.headers["ETag"] != pem.headers["ETag"]
        assert {der.headers["Vary"], pem.headers["Vary"]} == {"Accept"}
        neither = client.get(path, headers={"Accept": "application/pkcs7-mime"})
        assert said(neither).code == "not-acceptable"
        assert neither.headers["Vary"] == "Accept"

    def test_calls_with_json_say_if_a_client_takes_none(self, client, published):
        _, _, issued = published
        for method, path in (
            ("POST", "/v1/nonces"),
            ("POST", "/v1/enrollments"),
            ("POST", f"/v1/enrollments/{issued.id}/activation"),
            ("GET", f"/v1/enrollments/{issued.id}"),
            ("GET", "/.well-known/vtpm-ca"),
        ):
            fields = {"Accept": "text/html", "Content-Type": "application/json"}
            response = client.open(path, method=method, headers=fields)
            assert said(response).code == "not-acceptable", path
            assert "Vary" not in response.headers

    def test_what_libraries_fetch_is_given_to_all(self, client, paths):
        for path in paths:
            if path.startswith(("/ca/", "/crl/", "/log/", "/healthz", "/readyz", "/openapi")):
                response = client.get(path, headers={"Accept": "image/gif"})
                assert response.status_code == 200, path

    def test_a_wrong_form_is_told_the_right_one(self, client, published):
        _, _, issued = published
        for path in ("/v1/enrollments", f"/v1/enrollments/{issued.id}/activation"):
            for form in (None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
                response = client.post(path, data=b"{}", content_type=form)
                assert said(response).code == "unsupported-media-type"
                assert response.headers["Accept"] == "application/json"
        response = client.post("/operator/v1/echo", data=b"{}", content_type="text/plain", **OPERATOR)
        assert said(response).code == "unsupported-media-type"

    def test_who_is_no_operator_is_not_told_a_form(self, client):
        response = client.post("/operator/v1/echo", data=b"{}", content_type="text/plain")
        assert (said(response).code, "Accept" in response.headers) == ("not-found", False)

    def test_a_refusal_for_its_form_costs_no_nonce(self, client, published):
        _, world, _ = published
        nonce = client.post("/v1/nonces").json["nonce"]
        body = world.body(nonce, w.SoftTpm())
        wrong = {"Accept": "text/html", "Content-Type": "application/json"}
        assert client.post("/v1/enrollments", data=body, headers=wrong).status_code == 406
        assert client.post("/v1/enrollments", data=body, content_type="text/plain").status_code == 415
        assert client.post("/v1/enrollments", data=body, content_type="application/json").status_code in (
            201,
            403,
        )


def test_one_title_for_each_code(client, services):
    """RFC 9457, section 3.1.3: the title does not change from occurrence to occurrence."""
    titles: dict[str, set[str]] = {}
    limited = create_app(
        replace(services, limits=HttpLimits(requests_per_second=0.001, burst=3))
    ).test_client()
    json = {"content_type": "application/json"}
    for response in (
        client.get("/nowhere"),
        client.get("/v1/enrollments/00"),
        client.post("/v1/enrollments", data=b"{", **json),
        client.post("/v1/enrollments", data=b"x" * 70_000, **json),
        client.post("/v1/enrollments", data=b"{}", content_type="text/plain"),
        client.delete("/v1/nonces"),
        *(limited.post("/v1/nonces") for _ in range(4)),
    ):
        if response.status_code >= 400:
            found = said(response)
            titles.setdefault(found.code, set()).add(found.title)
    assert len(titles) == 6
    assert all(len(each) == 1 for each in titles.values())


def test_the_document_is_where_machines_and_operators_are(services):
    for surfaces, status in (
        ({Surface.ENROLMENT}, 200),
        ({Surface.OPERATION, Surface.PUBLICATION}, 200),
        ({Surface.PUBLICATION}, 404),
    ):
        response = create_app(services, surfaces).test_client().get("/openapi.json")
        assert response.status_code == status
    response = create_app(services, {Surface.ENROLMENT}).test_client().get("/openapi.json")
    assert response.headers["ETag"] == f'"{hashlib.sha256(response.data).hexdigest()}"'
    assert response.headers["Cache-Control"] == "public, max-age=3600"
