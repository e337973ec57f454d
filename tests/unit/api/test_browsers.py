"""What a browser may do on an operator's connection: read the status page, and nothing that another site wants."""

import json
import shutil

import enrollment_world as w
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca_service.api import Services, create_app
from ca_service.api.browsers import is_nobodys

OPERATOR = {"vtpm_ca.operator": "alice"}


@pytest.fixture(scope="module")
def client(ceremony, tmp_path_factory):
    """Of a CA that tests leave as it is."""
    directory = tmp_path_factory.mktemp("browsers") / "world"
    shutil.copytree(ceremony.directory, directory)
    world = w.World(directory, ceremony.authority)
    store = world.new_store()
    yield create_app(Services(store, world.enroller(store), lambda *_: "done")).test_client()
    store.close()


def code(response):
    return response.status_code, json.loads(response.data)["code"]


class TestOperations:
    @pytest.fixture
    def post(self, client):
        def ask(headers, data=b"{}", content_type="application/json", **environ):
            return client.post(
                "/operator/v1/echo",
                data=data,
                content_type=content_type,
                headers=headers,
                environ_overrides=OPERATOR | environ,
            )

        return ask

    def test_a_command_is_let_through(self, post):
        assert post({}).status_code == 200
        assert post({}, content_type="application/json; charset=utf-8").status_code == 200
        assert post({}, b"").status_code == 200

    @pytest.mark.parametrize(
        "headers",
        [
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": ""},
            # Nor the status page's own: it has nothing to send.
            {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "none"},
        ],
    )
    def test_a_browser_is_not(self, post, headers):
        response = post(headers)
        assert code(response) == (403, "refused")
        assert json.loads(response.data)["rule"] == "operator.no-browser"
        # Over TLS, where the browser has shown a certificate, neither.
        assert post(headers, **{"wsgi.url_scheme": "https"}).status_code == 403

    @pytest.mark.parametrize(
        "kind",
        [
            None,
            "",
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/json-seq",
            "text/plain; a=application/json",
        ],
    )
    def test_what_a_page_may_send_without_asking(self, post, kind):
        """The Fetch standard's content types that need no preflight, and none."""
        assert code(post({}, content_type=kind)) == (415, "unsupported-media-type")

    def test_nobody_is_told_that_another_site_may(self, client):
        asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        for path in ("/operator/v1/echo", "/status"):
            answer = client.options(path, headers=asked, environ_overrides=OPERATOR)
            assert not [name for name, _ in answer.headers if name.lower().startswith("access-control")]

    def test_who_is_no_operator_learns_nothing_of_it(self, client):
        response = client.post("/operator/v1/echo", json={}, headers={"Origin": "https://evil.example"})
        assert code(response) == (404, "not-found")


class TestReading:
    @pytest.mark.parametrize("path", ["/status", "/metrics", "/healthz"])
    def test_a_name_that_can_be_let_point_here(self, client, path):
        """DNS rebinding: to the browser, the answer is the other site's own."""
        for host in (
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
        ):
            response = client.get(path, headers={"Host": host}, environ_overrides=OPERATOR)
            assert code(response) == (400, "host"), host
        for host in ("localhost", "localhost:8080", "127.0.0.1:8080", "[::1]:8080", "ca", "operator"):
            response = client.get(path, headers={"Host": host}, environ_overrides=OPERATOR)
            assert response.status_code == 200, host

    def test_over_tls_the_browser_has_compared_the_name(self, client):
        environ = OPERATOR | {"wsgi.url_scheme": "https"}
        response = client.get("/status", headers={"Host": "ca.example"}, environ_overrides=environ)
        assert response.status_code == 200

    @pytest.mark.parametrize("path", ["/status", "/metrics"])
    def test_another_site_may_link_here_and_not_look_inside(self, client, path):
        for site in ("cross-site", "same-site"):
            for mode, target in (("no-cors", "image"), ("cors", "empty"), ("navigate", "iframe"), ("", "")):
                headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": target}
                response = client.get(path, headers=headers, environ_overrides=OPERATOR)
                assert code(response) == (403, "refused"), headers
            headers |= {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
            assert client.get(path, headers=headers, environ_overrides=OPERATOR).status_code == 200
        own = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "style"}
        assert client.get(path, headers=own, environ_overrides=OPERATOR).status_code == 200

    def test_what_is_public_is_for_everybody(self, client):
        """Whoever is no operator is asked none of this."""
        headers = {"Host": "ca.example", "Origin": "https://a.example", "Sec-Fetch-Site": "cross-site"}
        assert client.get("/healthz", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:1",
        "a.localhost",
        "ca",
        "127.0.0.1",
        "10.1.2.3:80",
        "[::1]",
        "[fe80::1]:80",
    ],
)
def test_nobodys(host):
    assert is_nobodys(host)


@pytest.mark.parametrize(
    "host",
    [
        "", ":80", "a.b", "a.b:80", "localhost.", "a.", ".", "a.localhost.b", "a.b.localhost", "localhost:x",
        "localhost:8080:80", "[a.b]", "1.2.3", "127.0.0.1.", "a@b", "a/b", "a b", "\uff4cocalhost", "[", "[]",
        "::1", "%61",
    ],
)  # fmt: skip
def test_somebodys(host):
    assert not is_nobodys(host)


@given(st.text(max_size=30))
def test_a_name_with_a_dot_is_somebodys(text):
    assert not is_nobodys(f"evil.{text}com") or text.startswith("localhost")
    is_nobodys(text)
