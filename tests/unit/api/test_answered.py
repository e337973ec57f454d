"""The application behind the service's own WSGI side, without a socket: what it says is what clients are sent."""

import http.client
import io

import pytest
from flask import g, signals

from ca_service.service.answer import Client, answer
from ca_service.service.request import read_head


class _Stream(io.BytesIO):
    def makefile(self, *_arguments: object) -> "_Stream":
        return self


@pytest.fixture
def ask(app):
    """Sends a request for a path as an operator; returns the response as a client reads it, and its content."""

    def asked(path: str, method: str = "GET", *fields: str) -> tuple[http.client.HTTPResponse, bytes]:
        lines = (f"{method} {path} HTTP/1.1", "Host: localhost", *fields, "", "")
        head = read_head(bytearray("\r\n".join(lines).encode()), 0)
        found = answer(app, head, b"", Client(None, "alice", secure=False), lambda: False)
        response = http.client.HTTPResponse(_Stream(b"".join(found.parts)), method=method)
        response.begin()
        assert found.keep
        return response, response.read()

    return asked


@pytest.fixture
def paths(world):
    skid = world.authority.issuer("ek").skid
    fixed = ("/.well-known/vtpm-ca", "/openapi.json", "/healthz", "/metrics", "/status")
    return (*fixed, f"/ca/{skid}.cer", f"/crl/{skid}/0.crl")


def test_each_kind_of_response_is_sent_as_it_was_meant(ask, client, paths):
    for path in paths:
        expected = client.get(path, environ_overrides={"vtpm_ca.operator": "alice"})
        assert expected.status_code == 200, path
        response, content = ask(path)
        assert response.status == 200, path
        if path != "/metrics":
            assert content == expected.data, path
        own = {"server", "date", "connection", "x-request-id", "content-length"}
        said = {name.lower(): value for name, value in response.getheaders()}
        meant = {name.lower(): value for name, value in expected.headers}
        assert {n: said[n] for n in said.keys() - own} == {n: meant[n] for n in meant.keys() - own}, path
        assert own <= said.keys()
        head, nothing = ask(path, "HEAD")
        assert (head.status, nothing) == (200, b""), path


def test_what_a_cache_has_is_not_sent_again(ask, paths):
    whole, _ = ask(paths[-1])
    response, content = ask(paths[-1], "GET", f"If-None-Match: {whole.headers['ETag']}")
    assert (response.status, content) == (304, b"")
    assert response.headers["ETag"] == whole.headers["ETag"]
    assert response.headers["Cache-Control"] == whole.headers["Cache-Control"]


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/v1/nonces", "POST", 201),
        ("/v1/nonces", "OPTIONS", 204),
        ("/v1/nonces", "GET", 405),
        ("/a", "GET", 404),
    ],
)
def test_other_outcomes(ask, path, method, status):
    response, content = ask(path, method)
    assert response.status == status
    assert bool(content) == (status != 204)
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert len(response.headers["X-Request-Id"]) == 16


def test_what_flask_would_keep_for_one_request_is_not_kept_for_all(app):
    """Its context of the application is one for all requests here."""
    with app.test_request_context("/"), pytest.raises(AttributeError):
        g.let_in = True


def test_nobody_waits_for_the_end_of_a_request(app):
    """Nobody would be told."""
    assert (dict(app.teardown_request_funcs), app.teardown_appcontext_funcs) == ({}, [])
    assert not any(
        each.receivers
        for each in (signals.request_started, signals.request_finished, signals.request_tearing_down)
    )
