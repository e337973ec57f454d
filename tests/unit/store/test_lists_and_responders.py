"""Revocations and lists by shard, and responders, on every kind of database."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from ca_service.store import (
    CertificateState,
    CrlRow,
    ListTimes,
    ResponderRow,
    RevocationRow,
    Taken,
)


def revocation(serial, at, shard=0, issuer="aa"):
    return RevocationRow(issuer, serial, at, "superseded", "t", shard)


def test_revocations_by_shard(store, at):
    rows = [revocation(f"{number:034x}", at, number % 3) for number in range(1200)]
    with store.write() as tx:
        assert len(tx.revocations.add_all(rows)) == 1200
        assert tx.revocations.touched == {("aa", 0), ("aa", 1), ("aa", 2)}
        tx.revocations.published(("aa", 1))
        assert tx.revocations.add_all([rows[4], rows[5]]) == set()
        assert tx.revocations.touched == {("aa", 0), ("aa", 2)}
        assert tx.revocations.add(revocation(rows[0].serial, at, 7, "bb"))
        assert not tx.revocations.add(revocation(rows[0].serial, at, 6, "bb"))
        assert ("bb", 7) in tx.revocations.touched
    with store.read() as tx:
        assert tx.revocations.touched == frozenset()
        assert tx.revocations.shards("aa") == {0, 1, 2}
        assert tx.revocations.shards("bb") == {7}
        listed = tx.revocations.of_shard("aa", 2)
        assert len(listed) == 400
        assert listed[0] in {(row.serial, at, "superseded") for row in rows if row.shard == 2}
        assert set(tx.revocations.among("aa", [rows[1].serial, "ff"])) == {rows[1].serial}
        assert tx.revocations.among("cc", [rows[1].serial]) == {}


def crl(number, at, shard, issuer="aa"):
    return CrlRow(issuer, number, at, at + timedelta(days=7), b"%d of %d" % (number, shard), shard)


def test_the_lists_in_force(store, at):
    with store.write() as tx:
        for row in (crl(1, at, 0), crl(2, at, 0), crl(1, at, 5), crl(9, at, 1, "bb"), crl(1, at, 0, "cc")):
            tx.crls.add(row)
    with store.read() as tx:
        newest = tx.crls.newest(["aa", "bb"])
        assert newest == {("aa", 0): crl(2, at, 0), ("aa", 5): crl(1, at, 5), ("bb", 1): crl(9, at, 1, "bb")}
        assert tx.crls.newest([]) == {}
        times = tx.crls.times(["aa", "bb"])
        assert {key: one.number for key, one in times.items()} == {
            key: row.number for key, row in newest.items()
        }
        assert times["bb", 1] == ListTimes(9, at, at + timedelta(days=7))
        assert tx.crls.latest("aa") == crl(2, at, 0)
        assert tx.crls.latest("aa", 5) == crl(1, at, 5)
        assert tx.crls.latest("aa", 1) is None
        assert tx.crls.get("aa", 1, 5) == crl(1, at, 5)
        assert tx.log.crl_numbers("aa") == {0: [1, 2], 5: [1]}
    with pytest.raises(Taken), store.write() as tx:
        tx.crls.add(crl(1, at, 5))


def responder(serial, at, days=14):
    state = CertificateState.INTENDED
    return ResponderRow(serial, "aa", state, b"tbs", None, at, None, at + timedelta(days=days), 3)


def test_responders(store, at):
    with store.write() as tx:
        for row in (responder("01", at), responder("02", at, 20), responder("03", at)):
            tx.responders.add(row)
        assert tx.responders.issue("01", b"der", at)
        assert tx.responders.issue("02", b"der", at)
        assert not tx.responders.issue("02", b"other", at)
        assert tx.responders.abandon("03")
        assert not tx.responders.abandon("03")
        assert not tx.responders.abandon("01")
        assert not tx.responders.issue("03", b"der", at)
    with store.read() as tx:
        issued = tx.responders.of_issuer("aa", CertificateState.ISSUED)
        assert [row.serial for row in issued] == ["02", "01"]
        assert {(row.der, row.issued_at, row.shard) for row in issued} == {(b"der", at, 3)}
        assert tx.responders.of_issuer("bb", CertificateState.ISSUED) == []
        assert tx.responders.issued_among("aa", ["01", "03", "04"]) == {"01"}
        assert tx.responders.issued_among("bb", ["01"]) == set()
        assert set(tx.log.responders(["01", "03"])) == {"01"}
        assert sorted(tx.log.without_leaf("responder")) == ["01", "02"]
        index = {tuple(i["column_names"]) for i in sa.inspect(tx.connection).get_indexes("revocations")}
        assert ("issuer", "shard") in index
