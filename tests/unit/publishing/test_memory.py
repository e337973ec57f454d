"""What the CA remembers of its lists, what a restore makes of it, and what an audit finds in several lists."""

import os
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from ca_service.enrollment import Limits, revoke
from ca_service.judgment import BadRequest, Unavailable
from ca_service.operations import open_database
from ca_service.operations.audit import audit_ca
from ca_service.operations.backup import make_backup, restore
from ca_service.operations.kept import FOLDER, check_not_rolled_back, keep_state, read_state
from ca_service.profiles import serial_hex
from ca_service.status import build_crl
from ca_service.store import CertificateState

SHARDS = 4


@pytest.fixture
def ca(world):
    return world.authority


@pytest.fixture
def file(world, store, ca, tmp_path):
    """A backup of before each test's own work."""
    keep_state(ca, store)
    path = tmp_path / "backup.sqlite3"
    make_backup(ca, store, path, world.time)
    return path


@pytest.fixture
def revoked(file, world, store, ca, eks):
    """Revoked after the backup: a certificate that does not stand on the first list."""
    row = next(row for row in eks if row.shard)
    revoke(store, ca, row.serial, at=world.time, reason="keyCompromise", cause="t", limits=Limits())
    return row


def on(der):
    return {serial_hex(entry.serial_number) for entry in x509.load_der_x509_crl(der)}


class TestMemory:
    def test_each_list_has_its_file(self, world, store, ca):
        kept = keep_state(ca, store)
        names = {path.name for path in (ca.directory / FOLDER).iterdir()} - {"kept.json"}
        skids = [issuer.skid for issuer in ca.issuers]
        assert names == {f"crl-{skid}.der" for skid in skids} | {
            f"crl-{skid}-{shard}.der" for skid in skids for shard in range(1, SHARDS)
        }
        assert read_state(ca) == kept

    def test_an_older_list_of_any_shard_is_noticed(self, store, ca, file, revoked):
        keep_state(ca, store)
        with store.write() as tx:
            tx.connection.exec_driver_sql("DELETE FROM crls WHERE number > 1")
        with pytest.raises(Unavailable, match=f"{revoked.issuer}/{revoked.shard} is number 1, 2") as caught:
            check_not_rolled_back(ca, store)
        assert caught.value.code == "rolled-back"

    @pytest.mark.parametrize(
        "name", ["crl-{}-1.der", "crl-{}-01.der", "crl-{}-0.der", "crl-{}-x.der", "crl-{}-9.der"]
    )
    def test_a_list_in_the_place_of_another_is_none(self, store, ca, name):
        keep_state(ca, store)
        skid, folder = ca.issuers[0].skid, ca.directory / FOLDER
        shutil.copy(folder / f"crl-{skid}-2.der", folder / name.format(skid))
        with pytest.raises(Unavailable) as caught:
            read_state(ca)
        assert caught.value.code == "kept-state"


@pytest.mark.parametrize("source", ["present", "kept", "crl"])
def test_what_was_revoked_stays_on_its_list(world, store, ca, file, revoked, source):
    """Known from the present database, from the CA's memory, or from a list that the operator brings."""
    with store.read() as tx:
        published = tx.crls.latest(revoked.issuer, revoked.shard)
    if source == "kept":
        keep_state(ca, store)
    store.close()
    if source != "present":
        Path(world.url.removeprefix("sqlite:///")).unlink()
    lists = {"a list": published.der} if source == "crl" else {}
    restore(ca, world.url, file, at=world.time, entropy=os.urandom, limits=Limits(), crls=lists)
    restored = open_database(world.url)
    with restored.read() as tx:
        assert tx.certificates.get(revoked.serial).state is CertificateState.REVOKED
        assert tx.revocations.get(revoked.issuer, revoked.serial).shard == revoked.shard
        latest = tx.crls.newest([issuer.skid for issuer in ca.issuers])
    restored.close()
    assert revoked.serial in on(latest[revoked.issuer, revoked.shard].der)
    assert latest[revoked.issuer, revoked.shard].number > published.number
    assert len(latest) == 3 * SHARDS
    assert {key for key, row in latest.items() if row.number == 1} == set()


def test_a_list_that_says_it_is_of_another_place_is_refused(world, store, ca, file, revoked):
    issuer, end = ca.issuer_of(revoked.issuer), world.time + timedelta(days=7)
    elsewhere = f"http://other.test/crl/{revoked.issuer}/1.crl"
    made = build_crl(issuer, [], 9, world.time, end, scope=elsewhere)
    with pytest.raises(BadRequest) as caught:
        restore(
            ca, world.url, file, at=world.time, entropy=os.urandom, limits=Limits(), crls={"a list": made}
        )
    assert caught.value.code == "crl"


class TestAudit:
    def test_in_order(self, store, ca, file, revoked):
        keep_state(ca, store)
        assert audit_ca(ca, store, kept=read_state(ca).crls).clean

    @pytest.mark.parametrize(
        ("statement", "expected"),
        [
            # The list, the revocation or the certificate in another shard.
            (
                "UPDATE crls SET shard = 7 WHERE issuer = :issuer AND shard = :shard",
                {"crl.forged", "revocation.unpublished"},
            ),
            (
                "UPDATE revocations SET shard = (shard + 1) % 4",
                {"revocation.misplaced", "revocation.missing", "revocation.unpublished"},
            ),
            (
                "UPDATE certificates SET shard = (shard + 1) % 4 WHERE serial = :serial",
                {"certificate.mismatch", "revocation.misplaced"},
            ),
            ("DELETE FROM crls WHERE issuer = :issuer AND shard = :shard AND number = 1", {"crl.missing"}),
            (
                "DELETE FROM crls WHERE issuer = :issuer AND shard = :shard AND number = 2",
                {"revocation.unpublished"},
            ),
            ("DELETE FROM revocations", {"revocation.missing"}),
        ],
    )
    def test_an_edit_by_sql_is_found(self, store, ca, file, revoked, statement, expected):
        given = {"issuer": revoked.issuer, "shard": revoked.shard, "serial": revoked.serial}
        with store.write() as tx:
            tx.connection.exec_driver_sql(statement, {k: v for k, v in given.items() if f":{k}" in statement})
        assert set(audit_ca(ca, store).counts) == expected

    def test_a_list_that_only_the_memory_has(self, store, ca, file, revoked):
        keep_state(ca, store)
        with store.write() as tx:
            tx.connection.exec_driver_sql("DELETE FROM crls WHERE number > 1")
            tx.connection.exec_driver_sql("DELETE FROM revocations")
        counts = audit_ca(ca, store, kept=read_state(ca).crls).counts
        # The certificate that still counts as revoked, and the serial on the list.
        assert counts["revocation.missing"] == 2
