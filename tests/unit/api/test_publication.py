"""What is published goes on while something is broken; what is asked too often or is no name costs nothing."""

from dataclasses import replace

import pytest
from cryptography import x509

from ca_service.api import Services, create_app
from ca_service.api.limiting import Remembered
from ca_service.api.services import HttpLimits
from ca_service.judgment import Unavailable


class Broken:
    """The key of a token that is gone."""

    def __init__(self, signer) -> None:
        self._signer = signer

    def public_key(self):
        return self._signer.public_key()

    def sign(self, *_arguments: object) -> bytes:
        raise Unavailable("the token is gone", code="token")


def number_of(answer) -> int:
    assert answer.status_code == 200, answer.data
    crl = x509.load_der_x509_crl(answer.data)
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


class TestStoredLists:
    @pytest.fixture
    def url(self, world):
        return f"/crl/{world.authority.issuer('ek').skid}/0.crl"

    def test_a_stored_list_is_served_to_its_end(self, client, services, world, url, monkeypatch):
        assert number_of(client.get(url)) == 1

        def full():
            raise Unavailable("the database cannot be written now: its disk is full")

        monkeypatch.setattr(services.store, "write", full)
        world.later(days=4)
        assert number_of(client.get(url)) == 1
        world.later(days=4)
        answer = client.get(url)
        assert (answer.status_code, "full" in answer.json["detail"]) == (503, True)

    def test_one_key_that_fails_leaves_the_other_lists_alone(self, world, services):
        first, *others = world.authority.issuers
        world.authority = replace(
            world.authority, issuers=(replace(first, signer=Broken(first.signer)), *others)
        )
        client = create_app(
            Services(services.store, world.enroller(services.store), limits=HttpLimits(verdict_s=0.0))
        ).test_client()
        world.later(days=4)
        for ca in others:
            assert number_of(client.get(f"/crl/{ca.skid}/0.crl")) == 2
        assert number_of(client.get(f"/crl/{first.skid}/0.crl")) == 1
        world.later(days=4)
        assert client.get(f"/crl/{first.skid}/0.crl").json["code"] == "token"
        assert number_of(client.get(f"/crl/{others[0].skid}/0.crl")) == 3

    def test_a_renewal_that_failed_is_not_tried_by_every_reader(self, services, world, url, monkeypatch):
        limits = HttpLimits(verdict_s=3600.0)
        client = create_app(Services(services.store, services.enroller, limits=limits)).test_client()
        tries = []

        def full():
            tries.append(1)
            raise Unavailable("full")

        monkeypatch.setattr(services.store, "write", full)
        world.later(days=4)
        for _ in range(3):
            assert number_of(client.get(url)) == 1
        assert len(tries) == 1


class TestReadiness:
    def test_many_who_ask_get_one_verdict(self, services, monkeypatch):
        limits = HttpLimits(verdict_s=3600.0)
        client = create_app(Services(services.store, services.enroller, limits=limits)).test_client()
        looks = []
        real = services.store.check_writable
        monkeypatch.setattr(services.store, "check_writable", lambda: looks.append(1) or real())
        assert {client.get("/readyz").status_code for _ in range(5)} == {200}
        assert len(looks) == 1


class TestRemembered:
    @pytest.mark.parametrize("only_failures", [False, True])
    def test_for_a_moment_and_then_anew(self, only_failures):
        time, calls, broken = [0.0], [], [True]

        def check():
            calls.append(time[0])
            if broken[0]:
                raise Unavailable("no")

        ask = Remembered(check, 2.0, only_failures=only_failures, monotonic=lambda: time[0])
        for moment in (0.0, 1.9):
            time[0] = moment
            with pytest.raises(Unavailable, match="no"):
                ask()
        broken[0] = False
        for moment in (2.0, 3.9, 4.0):
            time[0] = moment
            ask()
        assert calls == ([0.0, 2.0, 3.9, 4.0] if only_failures else [0.0, 2.0, 4.0])


@pytest.mark.parametrize("name", ["%00", "AA", "a" * 65, "a%00", "%27", "%F0%9F%98%80", "zz"])
@pytest.mark.parametrize(
    "url", ["/v1/certificates/{}", "/v1/enrollments/{}", "/ca/{}.cer", "/crl/{}/0.crl"], ids=str
)
def test_what_is_no_name_reaches_no_database(client, services, monkeypatch, url, name):
    def asked():
        raise AssertionError("the database was asked")

    monkeypatch.setattr(services.store, "read", asked)
    answer = client.get(url.format(name))
    assert (answer.status_code, answer.json["code"]) == (404, "not-found")
    assert client.post(f"/v1/enrollments/{name}/activation", json={}).status_code == 404
