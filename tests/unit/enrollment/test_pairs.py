"""A broker's entry in the policy names the pair of issuing CAs that signs for its TPMs."""

import os
import shutil

import enrollment_world as w
import pytest

from ca_service.judgment import BadRequest, Unavailable
from ca_service.keys import load_authority, load_root, prepare_issuing
from ca_service.policy import load
from ca_service.store import CertificateState, IssuerState

PAIR = "blue"


@pytest.fixture(scope="session")
def with_pair(ceremony, tmp_path_factory: pytest.TempPathFactory):
    """The same CA with a second pair."""
    directory = tmp_path_factory.mktemp("pairs") / "world"
    shutil.copytree(ceremony.directory, directory)
    prepare_issuing(
        directory / "ca",
        load_root(directory / "ca", w.PASSPHRASE),
        ("ek", "devid"),
        PAIR,
        passphrase=w.PASSPHRASE,
        clock=lambda: w.START,
        entropy=os.urandom,
    )
    return w.World(directory, load_authority(directory / "ca", w.PASSPHRASE))


@pytest.fixture
def world(with_pair, tmp_path, helpers):
    directory = tmp_path / "world"
    shutil.copytree(with_pair.directory, directory)
    made = helpers.World(directory, with_pair.authority)
    yield made
    made.close()


def named(world, pair: str) -> str:
    return world.policy().replace('id = "org-kbs"', f'id = "org-kbs"\npair = "{pair}"')


def issuers(world, reply: bytes) -> set[tuple[str, str]]:
    """(role, pair) of the CAs that signed the certificates in an answer."""
    by_name = {ca.certificate.subject: (ca.role, ca.pair) for ca in world.authority.issuers}
    return {by_name[certificate.issuer] for certificate in w.certificates(reply)}


def test_without_a_name_the_default_pair_signs(world, enroller, tpms, helpers):
    assert issuers(world, helpers.issue(world, enroller, tpms(0))) == {
        ("ek", "default"),
        ("devid", "default"),
    }


def test_the_named_pair_signs(world, store, enroller, tpms, helpers):
    world.apply(store, named(world, PAIR))
    assert issuers(world, helpers.issue(world, enroller, tpms(0))) == {("ek", PAIR), ("devid", PAIR)}


def test_a_known_tpm_keeps_what_it_has(world, store, enroller, tpms, helpers):
    first = helpers.issue(world, enroller, tpms(0))
    world.apply(store, named(world, PAIR))
    again = enroller.enroll(world.body(enroller.new_nonce().nonce, tpms(0), helpers.Boot(certify=False)))
    assert helpers.ders(again.body) == helpers.ders(first)


@pytest.mark.parametrize("pair", [PAIR, "green"])
def test_a_pair_that_does_not_sign_yet_issues_nothing(world, store, enroller, tpms, helpers, pair):
    world.apply(store, named(world, pair))
    with store.write() as tx:
        for ca in world.authority.issuers:
            if ca.pair == PAIR:
                tx.issuers.move(ca.skid, IssuerState.PREPARED, world.time)
    with pytest.raises(Unavailable) as error:
        helpers.issue(world, enroller, tpms(0))
    assert error.value.code == "issuer"
    assert pair not in error.value.detail
    with store.read() as tx:
        assert tx.intents.open() == []
        assert tx.certificates.latest(state=CertificateState.INTENDED) == []


@pytest.mark.parametrize("pair", ["", "Blue", "a b", "-x", "a" * 25])
def test_names_have_a_form(world, pair):
    with pytest.raises(BadRequest, match="pair"):
        load(named(world, pair))
