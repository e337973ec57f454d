"""Several revocation lists for one issuing CA: each about its own certificates, and none in the place of another."""

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from publishing_judges import crl_url, openssl_verify

from ca_service.enrollment import Limits, publish, publish_all, publish_due, revoke
from ca_service.judgment import Unavailable
from ca_service.keys import sign_and_check
from ca_service.profiles import assemble
from ca_service.profiles.extensions import unsigned
from ca_service.profiles.scope import scope_of
from ca_service.store import CertificateState, RevocationRow

SHARDS = 4
LIMITS = Limits()


def with_shards(world, count):
    """The CA after somebody has changed the number in ``ca.toml``."""
    issuers = tuple(replace(ca, info=replace(ca.info, shards=count)) for ca in world.authority.issuers)
    world.authority = replace(world.authority, issuers=issuers)
    return world.authority


def lists(store, authority):
    with store.read() as tx:
        return tx.crls.newest([ca.skid for ca in authority.issuers])


def revoke_at(world, store, row, authority=None):
    authority = authority or world.authority
    revoke(store, authority, row.serial, at=world.time, reason="superseded", cause="t", limits=LIMITS)


def fetch(client, url):
    answer = client.get(url.removeprefix("http://ca.test"))
    assert answer.status_code == 200, answer.data
    return answer.data


def test_each_certificate_names_a_list_that_is_there(client, store, world):
    with store.read() as tx:
        rows = tx.certificates.latest()
    assert len({row.shard for row in rows}) > 1
    for row in rows:
        certificate = x509.load_der_x509_certificate(row.der)
        url = crl_url(certificate)
        assert row.shard == certificate.serial_number % SHARDS
        assert url == f"http://ca.test/crl/{row.issuer}/{row.shard}.crl"
        crl = x509.load_der_x509_crl(fetch(client, url))
        assert scope_of(crl) == url
        assert crl.is_signature_valid(world.authority.issuer_of(row.issuer).certificate.public_key())


def test_the_list_of_its_own_distribution_point_decides(client, store, world, eks, tmp_path):
    first, other = eks
    der = fetch(client, crl_url(x509.load_der_x509_certificate(first.der)))
    assert openssl_verify(tmp_path, world, first.der, der) == "good"
    revoke_at(world, store, first)
    der = fetch(client, crl_url(x509.load_der_x509_certificate(first.der)))
    assert openssl_verify(tmp_path, world, first.der, der) == "revoked"
    beside = fetch(client, crl_url(x509.load_der_x509_certificate(other.der)))
    assert openssl_verify(tmp_path, world, other.der, beside) == "good"


def test_no_list_passes_for_another(client, store, world, eks, tmp_path):
    """A host that hands out the list of another shard, on which the certificate does not stand, gets nowhere."""
    first, other = eks
    revoke_at(world, store, first)
    beside = fetch(client, crl_url(x509.load_der_x509_certificate(other.der)))
    assert first.serial not in {f"{e.serial_number:034x}" for e in x509.load_der_x509_crl(beside)}
    assert "different crl scope" in openssl_verify(tmp_path, world, first.der, beside).lower()


def test_only_the_lists_that_change_are_made_anew(store, world, eks):
    before = lists(store, world.authority)
    assert {number for row in before.values() for number in [row.number]} == {1}
    assert len(before) == 3 * SHARDS
    world.later(hours=1)
    revoke_at(world, store, eks[0])
    after = lists(store, world.authority)
    changed = {key for key, row in after.items() if row != before[key]}
    assert changed == {(eks[0].issuer, eks[0].shard)}
    assert after[eks[0].issuer, eks[0].shard].number == 2


def test_many_at_once_in_several_lists(store, world):
    with store.write() as tx:
        rows = tx.certificates.latest()
        for row in rows:
            tx.certificates.end(row.serial, CertificateState.REVOKED)
        # Whoever adds them need not know the shards.
        new = [RevocationRow(row.issuer, row.serial, world.time, "keyCompromise", "t", 99) for row in rows]
        assert tx.revocations.add_all([*new, new[0]]) == {row.serial for row in rows}
        assert tx.revocations.add_all(new) == set()
        made = publish(tx, world.authority, {row.issuer for row in rows}, world.time, LIMITS)
        assert {row.key for row in made} == {(row.issuer, row.shard) for row in rows}
        assert not tx.revocations.touched
    for row in made:
        wanted = {f.serial for f in rows if (f.issuer, f.shard) == row.key}
        assert {f"{e.serial_number:034x}" for e in x509.load_der_x509_crl(row.der)} == wanted


def test_a_list_that_is_not_there(client, world):
    skid = world.authority.issuer("ek").skid
    for name in (f"{SHARDS}", "255", "256", "00", "01", "-1", "x"):
        assert client.get(f"/crl/{skid}/{name}.crl").status_code == 404
    assert client.get(f"/crl/{world.authority.root_info.skid}/1.crl").status_code == 404


def test_a_list_is_the_same_to_the_byte_until_the_next_one(client, store, world):
    url = f"/crl/{world.authority.issuer('ek').skid}/3.crl"
    first = client.get(url)
    world.later(days=1)
    again = client.get(url)
    assert again.data == first.data
    assert again.headers["ETag"] == first.headers["ETag"]
    assert again.headers["Last-Modified"] == first.headers["Last-Modified"]
    crl = x509.load_der_x509_crl(first.data)
    age = int(again.headers["Cache-Control"].rpartition("=")[2])
    assert 0 < age <= (crl.next_update_utc - world.time).total_seconds() / 2
    assert client.get(url, headers={"If-None-Match": first.headers["ETag"]}).status_code == 304
    assert client.get(url, headers={"If-Modified-Since": first.headers["Last-Modified"]}).status_code == 304


def test_due_lists_come_one_after_the_other_and_none_after_its_half(store, world):
    begun, numbers = world.time, {}
    for hours in range(1, 85):
        world.time = begun + timedelta(hours=hours)
        for row in publish_due(store, world.authority, world.time, LIMITS):
            numbers.setdefault(row.key, hours)
    assert set(numbers) == {(ca.skid, shard) for ca in world.authority.issuers for shard in range(1, SHARDS)}
    assert len(set(numbers.values())) == SHARDS - 1
    assert min(numbers.values()) > 42
    made = publish_due(store, world.authority, begun + timedelta(hours=84, seconds=1), LIMITS)
    assert {row.key for row in made} == {(ca.skid, 0) for ca in world.authority.issuers}


class TestAnotherNumberOfShards:
    def test_it_may_be_raised(self, client, store, world, eks):
        """What was issued before keeps its list, and a list of all that is left over from then is made anew."""
        publish_due(store, with_shards(world, 2 * SHARDS), world.time, LIMITS)
        after = lists(store, world.authority)
        assert len(after) == 3 * 2 * SHARDS
        assert {after[eks[0].issuer, shard].number for shard in range(SHARDS)} == {2}
        revoke_at(world, store, eks[0])
        crl = x509.load_der_x509_crl(fetch(client, crl_url(x509.load_der_x509_certificate(eks[0].der))))
        assert [f"{e.serial_number:034x}" for e in crl] == [eks[0].serial]

    def test_one_list_becomes_several(self, store, world, eks):
        with store.write() as tx:
            for table in ("crls", "revocations"):
                tx.connection.exec_driver_sql(f"DELETE FROM {table}")  # noqa: S608 - our own words
        publish_all(store, with_shards(world, 1), world.time, LIMITS)
        assert {
            scope_of(x509.load_der_x509_crl(row.der)) for row in lists(store, world.authority).values()
        } == {None}
        publish_due(store, with_shards(world, SHARDS), world.time, LIMITS)
        after = lists(store, world.authority)
        for (skid, shard), row in after.items():
            assert scope_of(x509.load_der_x509_crl(row.der)) == f"http://ca.test/crl/{skid}/{shard}.crl"

    def test_a_smaller_number_ends_no_list(self, client, store, world, eks):
        before = lists(store, world.authority)
        publish_all(store, with_shards(world, 1), world.time, LIMITS)
        after = lists(store, world.authority)
        assert after.keys() == before.keys()
        assert {row.number for row in after.values()} == {2}
        for row in eks:
            revoke_at(world, store, row)
            crl = x509.load_der_x509_crl(fetch(client, crl_url(x509.load_der_x509_certificate(row.der))))
            assert row.serial in {f"{e.serial_number:034x}" for e in crl}


class TestWhatLeavesAList:
    @pytest.fixture
    def short(self, store, world, eks):
        """An EK certificate that the CA has signed for a day, and revoked."""
        ca, row = world.authority.issuer_of(eks[0].issuer), eks[0]
        end = world.time + timedelta(days=1)
        self.put(store, row, self.signed(ca, row, world.time, end), end)
        revoke_at(world, store, row)
        return row

    @staticmethod
    def signed(ca, row, start, end, signer=None):
        key = x509.load_der_x509_certificate(row.der).public_key()
        builder = x509.CertificateBuilder(
            ca.certificate.subject, x509.Name([]), key, int(row.serial, 16), start, end
        )
        tbs = unsigned(builder)
        return assemble(tbs, sign_and_check(signer or ca.signer, tbs))

    @staticmethod
    def put(store, row, der, end):
        with store.write() as tx:
            tx.connection.exec_driver_sql(
                "UPDATE certificates SET der = ?, not_after = ? WHERE serial = ?",
                (der, f"{end:%Y-%m-%dT%H:%M:%SZ}", row.serial),
            )

    def listed(self, world, store, row):
        publish_all(store, world.authority, world.time, LIMITS)
        der = lists(store, world.authority)[row.issuer, row.shard].der
        return row.serial in {f"{e.serial_number:034x}" for e in x509.load_der_x509_crl(der)}

    def test_an_expired_certificate_after_one_more_list(self, world, store, short):
        world.later(hours=12)
        assert self.listed(world, store, short)
        world.later(hours=13)
        assert self.listed(world, store, short), "it has not been on a list since it expired"
        world.later(hours=1)
        assert not self.listed(world, store, short)
        world.later(hours=1)
        assert not self.listed(world, store, short), "it must not come back either"

    @pytest.mark.parametrize("seconds", [0, 1])
    def test_one_that_is_revoked_after_its_end_is_named_once(self, world, store, eks, seconds):
        """Also in the very second of the last list, which does not name it."""
        ca, end = world.authority.issuer_of(eks[0].issuer), world.time + timedelta(days=1)
        self.put(store, eks[0], self.signed(ca, eks[0], world.time, end), end)
        world.later(days=2)
        assert not self.listed(world, store, eks[0])
        world.later(seconds=seconds)
        revoke_at(world, store, eks[0])
        der = lists(store, world.authority)[eks[0].issuer, eks[0].shard].der
        assert [e.serial_number for e in x509.load_der_x509_crl(der)] == [int(eks[0].serial, 16)]

    def test_a_clock_that_ran_ahead_takes_nobody_off(self, world, store, short):
        """By a wrong clock it has expired and left; by the right one it is valid, and revoked as before."""
        world.later(days=365)
        assert self.listed(world, store, short)
        world.later(hours=1)
        assert not self.listed(world, store, short)
        world.later(days=-365)
        assert self.listed(world, store, short)
        world.later(hours=1)
        assert self.listed(world, store, short)

    def test_the_database_cannot_say_that_it_has_expired(self, world, store, eks, short):
        """Whoever may write to the database must not get a serial off its list."""
        ca, end = world.authority.issuer_of(short.issuer), world.time - timedelta(days=1)
        other = world.authority.issuer("devid").signer
        forged = self.signed(ca, short, end - timedelta(days=1), end, signer=other)
        with store.read() as tx:
            genuine = tx.certificates.get(short.serial).der
        elsewhere = self.signed(ca, replace(short, serial=eks[1].serial), end - timedelta(days=1), end)
        for der in (genuine, forged, elsewhere, b"", b"nonsense"):
            self.put(store, short, der, end)
            world.later(seconds=5)
            assert self.listed(world, store, short)

    def test_a_certificate_without_end_never_leaves(self, world, store, eks):
        revoke_at(world, store, eks[1])
        world.time = world.time.replace(year=9998)
        for _ in range(3):
            world.later(days=1)
            assert self.listed(world, store, eks[1])

    def test_a_revocation_that_is_taken_back_stops_the_next_list(self, world, store, short):
        with store.write() as tx:
            tx.connection.exec_driver_sql("DELETE FROM revocations")
        with pytest.raises(Unavailable) as caught:
            publish_all(store, world.authority, world.time, LIMITS)
        assert caught.value.code == "log"

    def test_one_that_is_put_into_another_shard_stops_it_too(self, world, store, short):
        with store.write() as tx:
            tx.connection.exec_driver_sql("UPDATE revocations SET shard = (shard + 1) % 4")
        with pytest.raises(Unavailable) as caught:
            publish_all(store, world.authority, world.time, LIMITS)
        assert caught.value.code == "log"

    @pytest.mark.parametrize("which", ["another shard's", "an older one"])
    def test_another_list_of_the_issuer_does_not_say_what_the_last_one_names(
        self, world, store, short, which
    ):
        """With the revocation gone, any list of the same key that does not name it would do."""
        shard = (short.shard + 1) % SHARDS if which == "another shard's" else short.shard
        with store.write() as tx:
            other = tx.crls.get(short.issuer, 1, shard)
            tx.connection.exec_driver_sql("DELETE FROM revocations")
            tx.connection.exec_driver_sql(
                "UPDATE crls SET der = ? WHERE issuer = ? AND shard = ? AND number = 2",
                (other.der, short.issuer, short.shard),
            )
        with pytest.raises(Unavailable) as caught:
            publish_all(store, world.authority, world.time, LIMITS)
        assert caught.value.code == "log"
