"""How a CA says what is revoked: stated in its ceremony, and as earlier releases had it where nobody said."""

import os
import tomllib
from datetime import UTC, datetime

import pytest

from ca_service.judgment import BadRequest
from ca_service.keys import CeremonyConfig, load_authority, load_public, run_ceremony
from ca_service.keys.documents import MAX_OCSP_URL

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
TOP = 'mode = "simulation"\norganization = "O"\npublication_url = "{}"\n'
URL = "http://ca.example"


def config(table="", url=URL):
    return CeremonyConfig.from_toml(TOP.format(url) + table)


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    directory = tmp_path_factory.mktemp("publication") / "ca"
    stated = config("[publication]\nshards = 8\n")
    run_ceremony(directory, stated, b"passphrase", clock=lambda: NOW, entropy=os.urandom)
    return directory


def test_a_new_ca_has_lists_enough_and_answers():
    assert config().publication.model_dump() == {"shards": 32, "ocsp": True}


def test_what_the_ceremony_states_is_what_the_ca_does(ca):
    facts = tomllib.loads((ca / "ca.toml").read_text())
    assert facts["publication"] == {"shards": 8, "ocsp": True}
    for authority in (load_public(ca), load_authority(ca, b"passphrase")):
        assert {(issuer.info.shards, issuer.info.ocsp) for issuer in authority.issuers} == {(8, True)}
        # The root has one list, and nobody answers for it.
        assert (authority.root_info.shards, authority.root_info.ocsp_url) == (1, None)


def test_a_ca_of_an_earlier_release_keeps_its_one_list(ca, tmp_path):
    text = (ca / "ca.toml").read_text()
    before, _, after = text.partition("[publication]\nshards = 8\nocsp = true\n")
    path = ca / "ca.toml"
    try:
        path.write_text(before + after)
        public = load_public(ca)
        assert {(issuer.info.shards, issuer.info.ocsp) for issuer in public.issuers} == {(1, False)}
        path.write_text(before + "[publication]\nshards = 16\n" + after)
        public = load_public(ca)
        assert {(issuer.info.shards, issuer.info.ocsp) for issuer in public.issuers} == {(16, False)}
        path.write_text(before + "[publication]\nshards = 3\n" + after)
        with pytest.raises(BadRequest, match="power of two") as caught:
            load_public(ca)
        assert caught.value.path == "ca.toml.publication.shards"
    finally:
        path.write_text(text)


@pytest.mark.parametrize("value", ["0", "3", "-1", "512", '"16"', "16.0", "true"])
def test_a_number_that_is_none(value):
    with pytest.raises(BadRequest) as caught:
        config(f"[publication]\nshards = {value}\n")
    assert caught.value.path == "ceremony.publication.shards"


def test_a_url_that_certificates_have_no_room_for_twice():
    longest = "http://" + "a" * (MAX_OCSP_URL - 7)
    assert config(url=longest).publication.ocsp
    with pytest.raises(BadRequest, match="publication_url must be at most 48") as caught:
        config(url=longest + "a")
    assert "ocsp = false" in caught.value.detail
    assert config("[publication]\nocsp = false\n", url=longest + "a").publication.shards == 32
