"""Every path at every listener, from the outside: a path is where it belongs, and a new one is nowhere by default."""

import contextlib
from dataclasses import replace

import pytest
from werkzeug.test import Client

from ca_service.api import HttpLimits
from ca_service.cli.listeners import Address, Addresses, listeners_of
from ca_service.service import OPERATOR

ENROLMENT = ("/v1/nonces", "/v1/enrollments", "/openapi.json")
PUBLICATION = ("/.well-known/vtpm-ca", "/ca/", "/crl/", "/ocsp", "/log/checkpoint", "/v1/certificates/")
HEALTH = ("/healthz", "/readyz")
FOR_OPERATORS = ("/operator/v1/echo", "/metrics")
NOWHERE = ("/", "/static/x", "/console", "/v1", "/v1/", "/operator", "/operator/v1", "/healthz/", "//healthz")


def listen(services, world, *, apart: bool):
    publication = Address("--publish", "127.0.0.1:2") if apart else None
    addresses = Addresses(Address("--bind", "127.0.0.1:1"), publication, None)
    return {each.name: each.application for each in listeners_of(addresses, world.directory, services)}


@pytest.fixture(params=[False, True], ids=["together", "apart"])
def found(request, services, world):
    """The applications by the names of their listeners, with and without a publication of its own."""
    return listen(services, world, apart=request.param)


def ask(application, path: str, method: str) -> tuple[int, bytes]:
    """Ask as an operator: a listener for others must not become one by taking somebody for one."""
    answer = Client(application).open(path, method=method, environ_overrides={OPERATOR: "alice"}, data=b"")
    with contextlib.closing(answer):
        return answer.status_code, answer.data


def is_there(application, path: str) -> bool:
    """What is not there is answered, by every method, as any path that nobody has ever heard of."""
    return any(
        ask(application, path, method) != ask(application, "/unheard-of", method)
        for method in ("GET", "POST")
    )


def every_path(applications) -> list[str]:
    """A path for each rule of any of these."""
    made = set()
    for application in applications:
        for rule in application.url_map.iter_rules() if hasattr(application, "url_map") else ():
            text = str(rule)
            while "<" in text:
                before, _, rest = text.partition("<")
                variable, _, after = rest.partition(">")
                text = before + ("0" if variable.startswith("shard") else "ab") + after
            made.add(text)
    return sorted(made)


def test_each_path_is_where_it_belongs(services, world, found):
    paths = every_path(listen(services, world, apart=False).values())
    assert {path for path in paths if path.startswith(FOR_OPERATORS[1:])}
    for path in paths:
        public = path.startswith((*PUBLICATION, *HEALTH))
        enrols = path.startswith(ENROLMENT)
        expected = enrols or path.startswith(HEALTH) or (public and "publication" not in found)
        assert is_there(found["enrolment"], path) == expected, path
        if "publication" in found:
            assert is_there(found["publication"], path) == public, path
        if path.startswith("/v1/"):
            assert is_there(found["operator socket"], path) == public, path


def test_health_is_everywhere(found):
    for name, application in found.items():
        for path in HEALTH:
            assert ask(application, path, "GET")[0] == 200, (name, path)
            assert ask(application, path, "POST")[0] == 405, (name, path)


def test_what_nobody_but_operators_has(found):
    del found["operator socket"]
    for name, application in found.items():
        for path in (*NOWHERE, *FOR_OPERATORS):
            assert not is_there(application, path), (name, path)


def test_whoever_asks_where_the_ca_looks_once(services, world, monkeypatch):
    looked = []
    monkeypatch.setattr("ca_service.api.publication._check_ready", lambda *_: looked.append(1))
    found = listen(replace(services, limits=HttpLimits(verdict_s=60.0)), world, apart=True)
    for name in ("enrolment", "publication", "enrolment"):
        assert ask(found[name], "/readyz", "GET")[0] == 200
    assert looked == [1]
