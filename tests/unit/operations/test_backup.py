"""Backup and restore: nothing is lost unnoticed, nothing revoked comes back, no nonce of before is good again."""

import errno
import json
import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import enrollment_world as w
import pytest
from cryptography import x509
from postgres_cluster import ROLE

from ca_service.audit import Log, restore_leaf
from ca_service.enrollment import Limits
from ca_service.judgment import BadRequest, Refused, Unavailable
from ca_service.keys import files, load_public
from ca_service.operations import backup_file, database_url, ensure_issuers, open_database, upgrade_database
from ca_service.operations.audit import audit_ca
from ca_service.operations.backup import make_backup, plan_restore, restore
from ca_service.operations.backup_file import MANIFEST, read_manifest
from ca_service.operations.kept import (
    FOLDER,
    KeptState,
    check_not_rolled_back,
    compare,
    keep_state,
    read_state,
)
from ca_service.status import build_crl
from ca_service.store import (
    BlockedKeyRow,
    CertificateState,
    IssuerState,
    PolicyRow,
    PolicyStartRow,
    Store,
    clear_rows,
    create_store,
    schema,
    take_time,
)


@pytest.fixture
def ca(desk):
    """The public and secret side of the CA in the desk's directory."""
    return replace(desk.world.authority, directory=desk.world.directory / "ca")


@pytest.fixture
def file(desk, ca, tmp_path) -> Path:
    """A backup of the CA as it stands before each test's own work."""
    keep_state(ca, desk.store)
    path = tmp_path / "backup.sqlite3"
    make_backup(ca, desk.store, path, desk.world.time)
    return path


def serial_of(desk, profile: str = "ek") -> str:
    return {row["profile"]: row["serial"] for row in desk("cert-list")}[profile]


def rows(store: Store) -> dict[str, list]:
    with store.read() as tx:
        return {
            table.name: [
                tuple(row) for row in tx.connection.execute(table.select().order_by(*table.primary_key))
            ]
            for table in schema.metadata.sorted_tables
        }


def bring_back(desk, ca, file: Path, url: str | None = None, **options) -> Store:
    desk.store.close()
    url = url or desk.world.url
    restore(ca, url, file, at=desk.world.time, entropy=os.urandom, limits=Limits(), **options)
    desk.world.url = url
    desk.store = open_database(url)
    desk.context = replace(desk.context, store=desk.store)
    return desk.store


class TestBackup:
    def test_it_holds_every_row_and_nobody_else_reads_it(self, desk, file):
        copy = Store(f"sqlite:///{file}")
        assert rows(copy) == rows(desk.store)
        copy.close()
        assert file.stat().st_mode & 0o777 == 0o600
        assert sorted(path.name for path in file.parent.iterdir() if "backup" in path.name) == [file.name]

    def test_the_manifest_says_what_it_is(self, desk, ca, file):
        manifest = read_manifest(file)
        assert (manifest.ca_id, manifest.epoch) == (ca.ca_id, 1)
        assert manifest.rows["certificates"] == len(rows(desk.store)["certificates"])
        assert set(manifest.sha256) == {*schema.metadata.tables, "alembic_version"}

    def test_it_overwrites_nothing(self, desk, ca, file):
        before = file.read_bytes()
        with pytest.raises(BadRequest) as error:
            make_backup(ca, desk.store, file, desk.world.time)
        assert error.value.code == "exists"
        assert file.read_bytes() == before

    def test_a_medium_without_hard_links(self, desk, ca, tmp_path, monkeypatch):
        def link(*_arguments: object) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", link)
        path = tmp_path / "stick"
        make_backup(ca, desk.store, path, desk.world.time)
        assert read_manifest(path).ca_id == ca.ca_id
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(BadRequest):
            make_backup(ca, desk.store, path, desk.world.time)

    def test_names_may_hold_what_means_something_in_a_url(self, desk, ca, tmp_path):
        folder = tmp_path / "50%25 of?mode=memory#1"
        shutil.copytree(ca.directory, folder)
        store = open_database(database_url(folder))
        path = tmp_path / "%2e%2e?x"
        make_backup(ca, store, path, desk.world.time)
        store.close()
        assert read_manifest(path).ca_id == ca.ca_id
        there = replace(ca, directory=folder)
        restore(there, database_url(folder), path, at=desk.world.time, entropy=os.urandom, limits=Limits())
        assert len(list(folder.glob("ca.sqlite3.*Z"))) == 1
        assert {entry.name for entry in tmp_path.iterdir()} == {"world", folder.name, path.name}

    def test_a_name_that_is_no_text_is_refused(self, desk, ca, tmp_path):
        with pytest.raises(BadRequest, match="UTF-8"):
            make_backup(ca, desk.store, tmp_path / os.fsdecode(b"caf\xe9"), desk.world.time)

    @pytest.mark.parametrize("call", ["link", "fsync"])
    def test_a_disk_that_fails_leaves_nothing(self, desk, ca, tmp_path, monkeypatch, call):
        def fail(*_arguments: object) -> None:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(os, call, fail)
        with pytest.raises(Unavailable, match="Input/output error"):
            make_backup(ca, desk.store, tmp_path / "stick", desk.world.time)
        assert not [path for path in tmp_path.iterdir() if "stick" in path.name]

    def test_a_folder_that_is_not_there(self, desk, ca, tmp_path):
        with pytest.raises(Unavailable, match="cannot be written") as caught:
            make_backup(ca, desk.store, tmp_path / "nowhere" / "backup", desk.world.time)
        assert caught.value.code == "storage"

    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE revocations SET reason = 'other'",
            "DELETE FROM decisions WHERE id = (SELECT min(id) FROM decisions)",
            "UPDATE alembic_version SET version_num = '0001'",
            "DROP TABLE blocked_keys",
            f"DROP TABLE {MANIFEST}",
            "UPDATE vtpm_ca_backup SET manifest = '{}'",
            "UPDATE vtpm_ca_backup SET manifest = '[]'",
            "UPDATE vtpm_ca_backup SET manifest = json_set(manifest, '$.epoch', '9')",
            "UPDATE vtpm_ca_backup SET manifest = json_set(manifest, '$.epoch', 2147483647)",
            "UPDATE vtpm_ca_backup SET manifest = json_set(manifest, '$.epoch', NULL)",
            "UPDATE vtpm_ca_backup SET manifest = json_set(manifest, '$.rows', 5)",
            "UPDATE vtpm_ca_backup SET manifest = json_set(manifest, '$.more', 5)",
            "UPDATE vtpm_ca_backup SET manifest = json_set(manifest, '$.at', hex(zeroblob(50000)))",
            "UPDATE vtpm_ca_backup SET manifest = x'ff'",
            "CREATE TRIGGER t AFTER INSERT ON revocations BEGIN DELETE FROM revocations; END",
            "CREATE VIEW v AS SELECT * FROM revocations",
        ],
    )
    def test_a_changed_one_is_not_taken(self, desk, ca, file, change):
        if change.startswith("UPDATE revocations"):
            desk("cert-revoke", serial=serial_of(desk), yes=True)
            file.unlink()
            make_backup(ca, desk.store, file, desk.world.time)
        with closing(sqlite3.connect(file)) as database:
            database.execute(change)
            database.commit()
        with pytest.raises(BadRequest) as error:
            plan_restore(ca, desk.world.url, file)
        assert error.value.code in ("damaged", "format")

    def test_what_is_none(self, desk, ca, tmp_path):
        (tmp_path / "text").write_text("a text")
        for path in (tmp_path / "text", tmp_path / "nowhere", tmp_path):
            with pytest.raises(BadRequest):
                plan_restore(ca, desk.world.url, path)

    def test_another_ca_s_is_not_taken(self, desk, ca, file):
        with pytest.raises(BadRequest) as error:
            plan_restore(replace(ca, ca_id="another"), desk.world.url, file)
        assert error.value.code == "other-ca"


class TestRestore:
    def test_without_yes_it_only_says_what_would_be_lost(self, desk, ca, file, tmp_path):
        with pytest.raises(Refused):
            desk.world.enroller(desk.store).enroll(_wrong(desk))
        desk("cert-revoke", serial=serial_of(desk), yes=True)
        before = rows(desk.store)
        losses = plan_restore(ca, desk.world.url, file)
        assert (losses.certificates, losses.decisions, losses.epoch) == (0, 1, 2)
        assert losses.revocations >= 1
        assert rows(desk.store) == before

    @pytest.mark.parametrize("source", ["present", "kept", "crl"])
    def test_what_was_revoked_stays_revoked(self, desk, ca, file, source):
        """Known from the present database, from the CA's own memory, or from a list that the operator brings."""
        serial = serial_of(desk)
        desk("cert-revoke", serial=serial, yes=True)
        with desk.store.read() as tx:
            issuer = tx.certificates.get(serial).issuer
            published = tx.crls.latest(issuer)
        options = {}
        if source == "kept":
            keep_state(ca, desk.store)
        if source == "crl":
            options["crls"] = {"a list": published.der}
        if source != "present":
            desk.store.close()
            Path(desk.world.url.removeprefix("sqlite:///")).unlink()
        store = bring_back(desk, ca, file, **options)
        with store.read() as tx:
            assert tx.certificates.get(serial).state is CertificateState.REVOKED
            assert tx.revocations.get(issuer, serial) is not None
            latest = tx.crls.latest(issuer)
        assert latest.number > published.number
        assert _on(latest.der, serial)
        assert desk("cert-show", serial=serial)["state"] == "revoked"

    def test_no_nonce_of_before_is_good(self, desk, ca, file):
        world = desk.world
        body = world.body(world.enroller(desk.store).new_nonce().nonce, w.SoftTpm())
        store = bring_back(desk, ca, file)
        with pytest.raises(Refused) as refusal:
            world.enroller(store).enroll(body)
        assert refusal.value.rule.startswith("nonce.")
        assert not refusal.value.decision_id

    def test_the_epoch_is_above_all_that_were_seen(self, desk, ca, file):
        for number in (2, 3, 4):
            store = bring_back(desk, ca, file)
            with store.read() as tx:
                assert tx.epochs.current().number == number
        Path(desk.world.url.removeprefix("sqlite:///")).unlink()
        with bring_back(desk, ca, file).read() as tx:
            assert tx.epochs.current().number == 5
            assert len({epoch.salt for epoch in tx.epochs.all()}) == 2

    def test_the_log_admits_it_and_holds(self, desk, ca, file):
        with pytest.raises(Refused):
            desk.world.enroller(desk.store).enroll(_wrong(desk))
        seen = keep_state(ca, desk.store)
        store = bring_back(desk, ca, file)
        with store.read() as tx:
            leaf = json.loads(tx.log.leaf("restore", "2").data)
        assert (leaf["size"], leaf["root"]) == (str(seen.log_size), seen.log_root)
        assert not audit_ca(ca, store).findings

    def test_keys_stay_blocked_and_given_up_issuers_do(self, desk, ca, file):
        skid = ca.issuer("ek").skid
        with desk.store.write() as tx:
            tx.connection.exec_driver_sql(
                "INSERT INTO blocked_keys (spki, at, \"by\", cause) VALUES ('ab', '2026-11-23T12:00:00Z', 'me', '')"
            )
            tx.issuers.move(skid, IssuerState.TAINTED, desk.world.time)
        with bring_back(desk, ca, file).read() as tx:
            assert tx.blocked_keys.among(["ab"]) == {"ab"}
            assert tx.issuers.get(skid).state is IssuerState.TAINTED

    def test_the_old_database_stays_beside_it(self, desk, ca, file):
        desk("cert-revoke", serial=serial_of(desk), yes=True)
        before = rows(desk.store)
        folder = Path(desk.world.url.removeprefix("sqlite:///")).parent
        bring_back(desk, ca, file)
        (old,) = [p for p in folder.glob("ca.sqlite3.2*") if not p.name.endswith(("-wal", "-shm"))]
        assert not list(folder.glob(".*part*"))
        former = Store(f"sqlite:///{old}")
        assert rows(former) == before
        former.close()

    def test_a_forged_list_is_not_taken(self, desk, ca, file, new_ca):
        with desk.store.read() as tx:
            der = bytearray(tx.crls.latest(ca.issuer("ek").skid).der)
        der[-1] ^= 1
        for given in (bytes(der), b"", b"-----BEGIN X509 CRL-----"):
            with pytest.raises(BadRequest) as error:
                plan_restore(ca, desk.world.url, file, {"lists/3.crl": given})
            assert error.value.code == "crl"
            assert "lists/3.crl" in error.value.detail

    def test_the_root_s_list_has_another_place(self, desk, ca, file):
        """Whoever fetches all that was published has it among the others."""
        with pytest.raises(BadRequest, match="is the root's list") as error:
            plan_restore(
                ca, desk.world.url, file, {"root.crl": (ca.directory / "crl" / "root.crl").read_bytes()}
            )
        assert "Leave it out" in error.value.remedy

    def test_another_ca_s_database_is_not_replaced(self, desk, ca, file):
        """Two CAs on one server, and the wrong name in the environment: PostgreSQL keeps no copy of what was there."""
        with desk.store.write() as tx:
            tx.connection.exec_driver_sql("UPDATE issuers SET skid = substr('ff' || skid, 1, 40)")
        before = rows(desk.store)
        for doing in (
            plan_restore,
            partial(restore, at=desk.world.time, entropy=os.urandom, limits=Limits()),
        ):
            with pytest.raises(BadRequest, match="is the one of another CA"):
                doing(ca, desk.world.url, file)
        assert rows(desk.store) == before

    def test_a_restore_that_fails_leaves_all_as_it_was(self, desk, ca, file, monkeypatch):
        before = rows(desk.store)
        monkeypatch.setattr("ca_service.operations.survivors.publish_every", _fail)
        with pytest.raises(RuntimeError):
            bring_back(desk, ca, file)
        store = open_database(desk.world.url)
        assert rows(store) == before
        check_not_rolled_back(ca, store)
        store.close()

    def test_it_serves_again(self, desk, ca, file):
        store = bring_back(desk, ca, file)
        world = desk.world
        world.apply(store, world.policy())
        enroller = world.enroller(store)
        enroller.recover()
        assert w.issue(world, enroller, w.SoftTpm(), w.Boot(resource="default/vtpm/new", secret=bytes(32)))
        world.close()
        check_not_rolled_back(ca, store)


NOW = w.START
LATER = datetime(2099, 1, 1, tzinfo=UTC)


class TestPolicies:
    """An old allow-list does not come back, and no version number means two documents."""

    def versions(self, store: Store) -> list[tuple[int, str]]:
        with store.read() as tx:
            return [(row.version, row.text) for row in tx.policies.all()]

    def suspend(self, desk) -> None:
        desk.world.apply(desk.store, desk.world.policy(status="suspended"))

    def refused(self, desk, store: Store) -> str:
        boot = w.Boot(resource="default/vtpm/new", secret=bytes(32))
        enroller = desk.world.enroller(store)
        with pytest.raises(Refused) as refusal:
            enroller.enroll(desk.world.body(enroller.new_nonce().nonce, w.SoftTpm(), boot))
        return refusal.value.rule

    def test_what_was_narrowed_stays_narrow(self, desk, ca, file):
        self.suspend(desk)
        before = self.versions(desk.store)
        losses = plan_restore(ca, desk.world.url, file)
        assert (losses.policies, losses.policy_version, losses.policy_lost) == (1, 2, False)
        store = bring_back(desk, ca, file)
        assert self.versions(store) == before
        assert self.refused(desk, store) == "kbs.status"

    def test_what_has_become_of_versions_since_is_known(self, desk, ca, file, tmp_path):
        """Those of the backup that were withdrawn, and later ones that wait or are to come."""
        store, text = desk.store, desk.world.policy(status="suspended")
        with store.write() as tx:
            tx.policies.add(PolicyRow(2, "b" * 64, "two", NOW, "CN=a", 1))
            tx.policies.start(PolicyStartRow(2, LATER, NOW))
            tx.policies.add(PolicyRow(3, "c" * 64, "three", NOW, "CN=a", 1))
        make_backup(ca, store, tmp_path / "pending", NOW)
        desk("policy-withdraw", version=2)
        desk("policy-withdraw", version=3)
        desk("policy-apply", text=text, at="2099-01-01T00:00:00Z")
        states = [row["state"] for row in desk("policy-log")]
        assert states == ["in-force", "withdrawn", "withdrawn", "scheduled"]
        before = desk("policy-log")
        losses = plan_restore(ca, desk.world.url, tmp_path / "pending")
        assert (losses.policies, losses.policy_version, losses.policy_lost) == (1, 1, False)
        desk.context = replace(desk.context, store=bring_back(desk, ca, tmp_path / "pending"))
        assert desk("policy-log") == before

    def test_what_a_backup_was_about_to_put_in_force_is_dropped_with_it(self, desk, ca, tmp_path):
        with desk.store.write() as tx:
            tx.policies.add(PolicyRow(2, "b" * 64, "two", NOW, "CN=a", 1, LATER))
            tx.policies.start(PolicyStartRow(2, LATER, NOW))
        make_backup(ca, desk.store, tmp_path / "pending", NOW)
        desk.store.close()
        Path(desk.world.url.removeprefix("sqlite:///")).unlink()
        losses = plan_restore(ca, desk.world.url, tmp_path / "pending")
        assert (losses.policy_version, losses.policy_lost) == (3, True)
        desk.context = replace(desk.context, store=bring_back(desk, ca, tmp_path / "pending"))
        assert [row["state"] for row in desk("policy-log")] == ["past", "dropped", "in-force"]

    @pytest.mark.parametrize("present", ["gone", "old", "empty"])
    def test_without_the_present_policy_nothing_is_admitted(self, desk, ca, file, tmp_path, present):
        """Its database is lost, is an old copy, or is one that never knew a policy."""
        path = Path(desk.world.url.removeprefix("sqlite:///"))
        if present == "old":
            desk.store.close()
            shutil.copyfile(path, tmp_path / "old")
            desk.context = replace(desk.context, store=(store := open_database(desk.world.url)))
            desk.store = store
        desk("cert-revoke", serial=serial_of(desk), yes=True)
        self.suspend(desk)
        desk.store.close()
        path.unlink()
        if present == "old":
            shutil.copyfile(tmp_path / "old", path)
        if present == "empty":
            create_store(desk.world.url).close()
        losses = plan_restore(ca, desk.world.url, file)
        assert (losses.policies, losses.policy_version, losses.policy_lost) == (1, 2, True)
        assert "NOTHING IS ADMITTED" in losses.to_json()["policy"]
        store = bring_back(desk, ca, file)
        self.refused(desk, store)
        applied = desk("policy-apply", text=desk.world.policy())
        assert (applied["version"], applied["changed"]) == (3, True)

    def test_what_differs_follows_with_new_numbers(self, desk, ca, file, tmp_path):
        """A backup of another line of versions than the present one."""
        Path(desk.world.url.removeprefix("sqlite:///")).unlink()
        bring_back(desk, ca, file)
        keep_state(ca, desk.store)
        self.suspend(desk)
        present = self.versions(desk.store)
        other = tmp_path / "other"
        shutil.copytree(desk.world.directory, other)
        with Store(f"sqlite:///{other}/ca/ca.sqlite3").write() as tx:
            for table in ("policy_starts", "policies"):
                tx.connection.exec_driver_sql(f"DELETE FROM {table} WHERE version > 1")  # noqa: S608
            tx.policies.append("00" * 32, "another", desk.world.time, "me")
        source = Store(f"sqlite:///{other}/ca/ca.sqlite3")
        make_backup(ca, source, tmp_path / "other.sqlite3", desk.world.time)
        source.close()
        texts = [text for _, text in present]
        assert self.versions(bring_back(desk, ca, tmp_path / "other.sqlite3")) == list(
            enumerate([texts[0], "another", *texts[1:]], start=1)
        )


class TestIssuers:
    """An issuing CA goes on its way and never back."""

    def states(self, store: Store) -> dict[str, IssuerState]:
        with store.read() as tx:
            return tx.issuers.states()

    def test_a_rollover_is_not_undone(self, rolled, new_ca, tmp_path):
        """The backup does not know of the second generation, and of the first one that it still signs."""
        desk, ca = rolled, rolled.world.authority

        def issuer(role: str, generation: int):
            return next(i for i in ca.issuers if (i.role, i.generation) == (role, generation))

        path = tmp_path / "backup.sqlite3"
        keep_state(ca, desk.store)
        make_backup(ca, desk.store, path, desk.world.time)
        new, devid = issuer("ek", 2), issuer("devid", 2)
        old = issuer("ek", 1)
        ensure_issuers(desk.store, ca, desk.world.time)
        with desk.store.write() as tx:
            tx.issuers.move(old.skid, IssuerState.OLD, desk.world.time)
            tx.issuers.move(new.skid, IssuerState.ACTIVE, desk.world.time)
            tx.issuers.move(devid.skid, IssuerState.TAINTED, desk.world.time)
        before = self.states(desk.store)
        store = bring_back(desk, ca, path)
        ensure_issuers(store, ca, desk.world.time)
        assert self.states(store) == before
        with store.read() as tx:
            assert tx.issuers.active()["ek:default"] == new.skid

    @pytest.mark.parametrize("end", [IssuerState.OLD, IssuerState.TAINTED])
    def test_an_activation_that_was_taken_back_is_so_afterwards(self, rolled, tmp_path, end):
        """In the backup the second generation signs; since then the first one signs again."""
        desk, ca = rolled, rolled.world.authority
        first, second = (
            next(i.skid for i in ca.issuers if (i.role, i.generation) == ("ek", number)) for number in (1, 2)
        )
        ensure_issuers(desk.store, ca, desk.world.time)
        with desk.store.write() as tx:
            tx.issuers.move(first, IssuerState.OLD, desk.world.time)
            tx.issuers.move(second, IssuerState.ACTIVE, desk.world.time)
        path = tmp_path / "backup.sqlite3"
        keep_state(ca, desk.store)
        make_backup(ca, desk.store, path, desk.world.time)
        with desk.store.write() as tx:
            tx.issuers.move(second, end, desk.world.time)
            tx.issuers.move(first, IssuerState.ACTIVE, desk.world.time)
        before = self.states(desk.store)
        assert self.states(bring_back(desk, ca, path)) == before


class TestReplacing:
    """At every moment the old database or the new one is there, and nothing that was kept is overwritten."""

    @pytest.mark.parametrize("step", range(4))
    def test_one_that_is_killed_loses_nothing(self, desk, ca, file, monkeypatch, step):
        class Killed(BaseException):
            pass

        steps = iter(range(100))

        def dying(real):
            def call(*arguments, **named):
                if next(steps) == step:
                    raise Killed
                return real(*arguments, **named)

            return call

        left_over = Path(desk.world.url.removeprefix("sqlite:///")).with_name(".ca.sqlite3.0123.part-wal")
        left_over.touch()
        with desk.store.write() as tx:
            tx.blocked_keys.add(BlockedKeyRow("ab" * 32, desk.world.time, "alice", "stolen"))
        module = "ca_service.operations.backup_file"
        with monkeypatch.context() as patch:
            patch.setattr(f"{module}.second_name", dying(backup_file.second_name))
            patch.setattr(f"{module}.flush_directory", dying(backup_file.flush_directory))
            patch.setattr(Path, "rename", dying(Path.rename))
            with pytest.raises(Killed):
                bring_back(desk, ca, file)
        left = open_database(desk.world.url)
        with left.read() as tx:
            assert tx.blocked_keys.among(["ab" * 32])
        left.close()
        store = bring_back(desk, ca, file)
        with store.read() as tx:
            assert tx.blocked_keys.among(["ab" * 32])
        check_not_rolled_back(ca, store)
        assert len(kept_beside(desk)) == (2 if step == 3 else 1)
        assert not left_over.exists()

    def test_each_keeps_its_own_copy(self, desk, ca, file):
        for _ in range(3):
            bring_back(desk, ca, file)
        epochs = set()
        for path in kept_beside(desk):
            with closing(sqlite3.connect(path)) as database:
                epochs |= {database.execute("SELECT max(number) FROM epochs").fetchone()}
        assert epochs == {(1,), (2,), (3,)}

    def test_a_damaged_one_is_kept(self, desk, ca, file):
        path = Path(desk.world.url.removeprefix("sqlite:///"))
        desk.store.close()
        path.write_bytes(b"no database" * 1000)
        bring_back(desk, ca, file)
        (kept,) = kept_beside(desk)
        assert kept.read_bytes() == b"no database" * 1000

    def test_the_log_of_one_that_cannot_be_folded_goes_along(self, desk, tmp_path, monkeypatch):
        monkeypatch.setattr(backup_file, "_fold", lambda _: False)
        target, new = tmp_path / "db", tmp_path / "new"
        for name, data in (("db", b"old"), ("db-wal", b"its log"), ("db-shm", b"its index")):
            (tmp_path / name).write_bytes(data)
        create_store(f"sqlite:///{new}").close()
        backup_file.put_in_place(new, target, desk.world.time)
        kept = {path.read_bytes() for path in tmp_path.glob("db.*")}
        assert kept == {b"old", b"its log", b"its index"}
        assert not list(tmp_path.glob("db-*"))

    def test_nobody_may_work_with_it(self, desk, ca, file):
        with desk.store.read() as tx:
            tx.policies.all()
            with pytest.raises(Unavailable, match="somebody works with it"):
                restore(ca, desk.world.url, file, at=desk.world.time, entropy=os.urandom, limits=Limits())
        assert not kept_beside(desk)
        check_not_rolled_back(ca, desk.store)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
    def test_what_root_restores_the_ca_s_user_can_open(self, desk, ca, file):
        folder = Path(desk.world.url.removeprefix("sqlite:///")).parent
        for path in (folder, *folder.rglob("*")):
            os.chown(path, 65534, 65534)
        bring_back(desk, ca, file)
        assert {path.stat().st_uid for path in folder.glob("ca.sqlite3*")} == {65534}

    def test_only_rows_come_out_of_a_backup(self, desk, ca, file, monkeypatch):
        with closing(sqlite3.connect(file)) as database:
            database.execute(
                "CREATE TRIGGER t AFTER INSERT ON revocations BEGIN DELETE FROM revocations; END"
            )
            database.execute("DROP INDEX ix_decisions_refused")
        monkeypatch.setattr(backup_file, "_only_tables", lambda _: True)
        with bring_back(desk, ca, file).read() as tx:
            query = "SELECT type, name FROM sqlite_master"
            found = {tuple(row) for row in tx.connection.exec_driver_sql(query)}
        assert ("index", "ix_decisions_refused") in found
        assert "trigger" not in {kind for kind, _ in found}


class TestLog:
    def test_a_backup_without_a_log_gets_the_whole(self, desk, ca, tmp_path):
        """As `db upgrade` leaves a database of release 0.3, before the first start."""
        with desk.store.write() as tx:
            for table in ("log_leaves", "log_head"):
                tx.connection.execute(schema.metadata.tables[table].delete())
        make_backup(ca, desk.store, tmp_path / "backup", desk.world.time)
        store = bring_back(desk, ca, tmp_path / "backup")
        with store.read() as tx:
            assert not list(tx.log.unlogged_certificates())
            assert not list(tx.log.unlogged_decisions())
        assert not audit_ca(ca, store).findings

    def test_a_start_logs_what_is_missing(self, desk, ca):
        with desk.store.write() as tx:
            for table in ("log_leaves", "log_head"):
                tx.connection.execute(schema.metadata.tables[table].delete())
            Log(ca.log.origin, ca.log_key).append(
                tx, [restore_leaf(1, desk.world.time, None)], desk.world.time
            )
        desk.world.enroller(desk.store).recover()
        with desk.store.read() as tx:
            assert not list(tx.log.unlogged_certificates())
            assert not list(tx.log.unlogged_decisions())

    def test_a_certificate_without_its_leaf_is_the_ca_s_fault(self, desk):
        """Not a 404: the client has named nothing that could be wrong."""
        tpm, boot = w.SoftTpm(), w.Boot(resource="default/vtpm/new", secret=bytes(32))
        enroller = desk.world.enroller(desk.store)
        w.issue(desk.world, enroller, tpm, boot)
        with desk.store.write() as tx:
            leaves = schema.log_leaves
            tx.connection.execute(leaves.delete().where(leaves.c.kind == "certificate"))
        desk.world.later(seconds=5)
        with pytest.raises(Unavailable) as error:
            w.issue(desk.world, enroller, tpm, replace(boot, counter=2))
        assert error.value.code == "log"


class TestPostgresql:
    """From SQLite to PostgreSQL and back: a backup fits both."""

    def test_there_and_back(self, desk, ca, file, postgres, tmp_path):
        serial = serial_of(desk)
        desk("cert-revoke", serial=serial, yes=True)
        sqlite = desk.world.url
        server = postgres.url(postgres.new_database())
        keep_state(ca, desk.store)
        store = bring_back(desk, ca, file, server)
        assert desk("cert-show", serial=serial)["state"] == "revoked"
        with store.write() as tx:
            # The numbers that the server gives go on above those that were copied.
            tx.alarms.add("clone", "d", "{}", desk.world.time)
        again = tmp_path / "again.sqlite3"
        make_backup(ca, store, again, desk.world.time)
        copy = Store(f"sqlite:///{again}")
        assert rows(copy) == rows(store)
        copy.close()
        before = rows(store)
        store = bring_back(desk, ca, again, server)
        assert rows(store)["certificates"] == before["certificates"]
        assert not audit_ca(ca, store).findings
        store = bring_back(desk, ca, again, sqlite)
        with store.read() as tx:
            assert tx.epochs.current().number == 4

    def test_the_ca_s_own_database_counts_while_it_moves(self, desk, ca, file, postgres):
        desk.world.apply(desk.store, desk.world.policy(status="suspended"))
        with desk.store.write() as tx:
            tx.blocked_keys.add(BlockedKeyRow("ab" * 32, desk.world.time, "alice", "stolen"))
        server = postgres.url(postgres.new_database())
        losses = plan_restore(ca, server, file)
        own = Path(desk.world.url.removeprefix("sqlite:///"))
        assert (losses.own_database, losses.present_readable, losses.policy_lost) == (own, True, False)
        with bring_back(desk, ca, file, server).read() as tx:
            assert tx.policies.in_force(desk.world.time).version == 2
            assert tx.blocked_keys.among(["ab" * 32])

    def test_rows_are_cleared_in_one_statement_that_takes_its_time(self, postgres):
        """To delete them would look for what refers to each, without an index: some ten thousand took minutes."""
        store = create_store(postgres.url(postgres.new_database()))
        at = "'2026-01-01T00:00:00Z'"
        with store.write() as tx:
            for table, values in (
                ("evidence", f"'d'||i, '\\x00', {at}"),
                ("decisions", f"'x'||i, {at}, '', 1, '', '', 1, '', 'd'||i, 'k', 'r'"),
                ("submissions", f"'n'||i, '', {at}, 'x'||i, 201, '\\x00'"),
                ("enrollments", f"'e'||i, 'n'||i, 'issued', {at}, 'x'||i, 1, 'd'||i"),
            ):
                tx.connection.exec_driver_sql(
                    f"INSERT INTO {table} SELECT {values} FROM generate_series(1, 10000) i"  # noqa: S608 - constants
                )
        with store.write() as tx:
            # A quadratic one takes longer than this by far.
            tx.connection.exec_driver_sql("SET LOCAL statement_timeout = '3s'")
            clear_rows(tx)
        with store.write() as tx:
            assert tx.connection.exec_driver_sql("SHOW statement_timeout").scalar() == "1min"
            take_time(tx)
            assert tx.connection.exec_driver_sql("SHOW statement_timeout").scalar() == "0"
        assert not any(rows(store)[name] for name in ("evidence", "decisions", "submissions", "enrollments"))
        store.close()

    def test_an_empty_one_is_not_upgraded_to_a_ca_s(self, ca, postgres):
        server = postgres.url(postgres.new_database())
        with pytest.raises(Unavailable) as error:
            upgrade_database(ca, server)
        assert error.value.code == "empty"
        store = Store(server)
        assert store.revision() is None
        store.close()

    def test_not_while_another_node_is_at_work(self, desk, ca, file, postgres, monkeypatch):
        """It would be told that its revocation is kept, and the restore would not know of it."""
        monkeypatch.setattr("ca_service.operations.databases._PATIENCE_S", 0.2)
        server = postgres.url(postgres.new_database())
        node = bring_back(desk, ca, file, server)
        before = rows(node)
        once_more = partial(
            restore, ca, server, file, at=desk.world.time, entropy=os.urandom, limits=Limits()
        )
        for doing in (once_more, partial(upgrade_database, ca, server)):
            with pytest.raises(Unavailable, match="others still work on the database") as error:
                doing()
            assert error.value.code == "busy"
        assert rows(node) == before
        node.close()
        monkeypatch.undo()
        upgrade_database(ca, server)
        bring_back(desk, ca, file, server)

    @pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
    def test_one_that_cannot_hold_every_text_is_refused(self, desk, ca, file, postgres, encoding):
        """As `createdb` makes one where the server's locale was not set."""
        name = f"in_{encoding.lower()}"
        postgres.admin(f"CREATE DATABASE {name} OWNER {ROLE} ENCODING '{encoding}' TEMPLATE template0")
        try:
            for doing in (
                plan_restore,
                partial(restore, at=desk.world.time, entropy=os.urandom, limits=Limits()),
            ):
                with pytest.raises(Unavailable, match=encoding) as error:
                    doing(ca, postgres.url(name), file)
                assert error.value.code == "encoding"
                assert "--encoding=UTF8" in error.value.remedy
            store = Store(postgres.url(name))
            assert store.revision() is None
            store.close()
        finally:
            postgres.drop_database(name)

    def test_a_failure_changes_nothing(self, desk, ca, file, postgres, monkeypatch):
        server = postgres.url(postgres.new_database())
        target = create_store(server)
        before = rows(target)
        target.close()
        monkeypatch.setattr("ca_service.operations.survivors.publish_every", _fail)
        with pytest.raises(RuntimeError):
            restore(ca, server, file, at=desk.world.time, entropy=os.urandom, limits=Limits())
        target = Store(server)
        assert rows(target) == before
        target.close()


class TestRolledBack:
    def test_a_file_that_was_copied_back_is_refused(self, desk, ca, file, tmp_path):
        path = Path(desk.world.url.removeprefix("sqlite:///"))
        desk.store.close()
        shutil.copyfile(path, tmp_path / "old")
        store = open_database(desk.world.url)
        desk.context = replace(desk.context, store=store)
        desk("cert-revoke", serial=serial_of(desk), yes=True)
        keep_state(ca, store)
        store.close()
        shutil.copyfile(tmp_path / "old", path)
        store = open_database(desk.world.url)
        for attempt in (check_not_rolled_back, keep_state):
            with pytest.raises(Unavailable) as error:
                attempt(ca, store)
            assert error.value.code == "rolled-back"
        desk.store = store
        check_not_rolled_back(ca, bring_back(desk, ca, file))

    def test_the_refusal_of_many_lists_can_be_read(self, desk, ca, monkeypatch):
        lists = [f"its list of {number} is number 1, 3 was published" for number in range(96)]
        monkeypatch.setattr("ca_service.operations.kept._behind", lambda *_: lists)
        for attempt in (check_not_rolled_back, keep_state):
            with pytest.raises(Unavailable, match="and 93 more") as error:
                attempt(ca, desk.store)
            assert len(error.value.detail) < 300
            assert "db restore" in error.value.remedy

    def test_one_that_has_grown_since_it_was_copied_back_is_refused(self, desk, ca, tmp_path):
        """Its log is as long again, but its beginning is another one."""

        def refuse_one(enroller) -> None:
            with pytest.raises(Refused):
                enroller.enroll(
                    desk.world.body(enroller.new_nonce().nonce, w.SoftTpm(), w.Boot(certify=False))
                )

        path = Path(desk.world.url.removeprefix("sqlite:///"))
        desk.store.close()
        shutil.copyfile(path, tmp_path / "old")
        store = open_database(desk.world.url)
        refuse_one(desk.world.enroller(store))
        keep_state(ca, store)
        store.close()
        shutil.copyfile(tmp_path / "old", path)
        store = open_database(desk.world.url)
        for _ in range(2):
            refuse_one(desk.world.enroller(store))
        with pytest.raises(Unavailable, match="goes on from others"):
            check_not_rolled_back(ca, store)
        store.close()

    def test_one_from_before_a_restore_is_refused(self, desk, ca, file, tmp_path):
        path = Path(desk.world.url.removeprefix("sqlite:///"))
        desk.store.close()
        shutil.copyfile(path, tmp_path / "old")
        bring_back(desk, ca, file).close()
        shutil.copyfile(tmp_path / "old", path)
        store = open_database(desk.world.url)
        with pytest.raises(Unavailable, match="epoch is 1, 2 was seen"):
            check_not_rolled_back(ca, store)
        store.close()

    def test_that_of_another_ca_is_named(self, desk, ca):
        """Two CAs on one machine, and one environment variable."""
        other = replace(ca, log=replace(ca.log, origin="another/log"))
        store = create_store(f"sqlite:///{ca.directory / 'other'}")
        with store.write() as tx:
            Log(other.log.origin, other.log_key).catch_up(tx, desk.world.time)
        for attempt in (check_not_rolled_back, keep_state):
            with pytest.raises(Unavailable, match="none of this CA's log") as error:
                attempt(ca, store)
            assert (error.value.code, "VTPM_CA_DATABASE" in error.value.remedy) == ("log", True)
        store.close()

    def test_a_present_one_is_taken_and_remembered(self, desk, ca):
        check_not_rolled_back(ca, desk.store)
        kept = keep_state(ca, desk.store)
        assert read_state(ca) == kept
        assert kept.log_size > 0
        folder = ca.directory / FOLDER
        assert folder.stat().st_mode & 0o777 == 0o700
        times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
        keep_state(ca, desk.store)
        assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == times

    @pytest.mark.parametrize("write", range(1, 6))
    def test_a_full_disk_at_the_first_time_locks_nobody_out(self, desk, ca, write, monkeypatch):
        ca = replace(ca, state_kept=False)
        shutil.rmtree(ca.directory / FOLDER)
        real, writes = files.write_new, []

        def full(*arguments: object) -> None:
            writes.append(1)
            if len(writes) == write:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(*arguments)

        monkeypatch.setattr(files, "write_new", full)
        if write <= 1 + len(ca.issuers):
            with pytest.raises(Unavailable, match="cannot be written") as error:
                keep_state(ca, desk.store)
            assert error.value.code == "kept-state"
            check_not_rolled_back(ca, desk.store)
        kept = keep_state(ca, desk.store)
        assert read_state(ca) == kept
        assert not (ca.directory / ".state.new").exists()

    def test_root_makes_it_for_the_owner_of_the_directory(self, desk, ca):
        if os.geteuid() != 0:
            pytest.skip("only root can give something away")
        ca = replace(ca, state_kept=False)
        shutil.rmtree(ca.directory / FOLDER)
        os.chown(ca.directory, 65534, 65534)
        keep_state(ca, desk.store)
        folder = ca.directory / FOLDER
        assert {path.stat().st_uid for path in (folder, *folder.iterdir())} == {65534}

    def test_another_list_with_the_same_number_is_refused(self, desk, ca):
        """Two nodes: one had published what the database of the other one, restored since, knows nothing of."""
        kept = keep_state(ca, desk.store)
        with desk.store.write() as tx:
            row = tx.crls.latest(ca.issuers[0].skid)
            signed = build_crl(ca.issuers[0], [], row.number, row.this_update, row.next_update)
            tx.connection.execute(
                schema.crls.update().where(schema.crls.c.issuer == row.issuer), {"der": signed}
            )
        assert signed != kept.crls[row.key]
        with pytest.raises(Unavailable, match="is another than the one that was published"):
            check_not_rolled_back(ca, desk.store)

    @pytest.mark.parametrize("damage", ["facts", "note", "list", "foreign", "gone"])
    def test_a_memory_that_cannot_be_read_stops_the_ca(self, desk, ca, damage):
        keep_state(ca, desk.store)
        facts = ca.directory / FOLDER / "kept.json"
        one = next((ca.directory / FOLDER).glob("crl-*.der"))
        if damage == "facts":
            facts.write_text('{"v": 2}')
        elif damage == "note":
            facts.write_text(json.dumps({**json.loads(facts.read_text()), "checkpoint": "note"}))
        elif damage == "list":
            one.write_bytes(one.read_bytes()[:-1] + b"\x00")
        elif damage == "foreign":
            one.rename(one.with_name(f"crl-{'00' * 20}.der"))
        else:
            facts.unlink()
        for attempt in (check_not_rolled_back, keep_state):
            with pytest.raises(Unavailable) as error:
                attempt(ca, desk.store)
            assert error.value.code == "kept-state"


class TestCompare:
    @pytest.fixture
    def now(self, desk, ca) -> KeptState:
        return keep_state(ca, desk.store)

    def test_the_same_and_the_newer_pass(self, now):
        for present in (now, replace(now, log_size=now.log_size + 1, log_root="00"), replace(now, epoch=2)):
            assert compare(now, present) == []
        assert compare(KeptState(), KeptState()) == []
        assert compare(KeptState(), now) == []
        # `init` remembers an epoch and no log; the first start opens the log, with a root although it is empty.
        begun = replace(now, log_size=0, log_root="e3")
        assert compare(replace(begun, log_root="", checkpoint=""), begun) == []

    def test_a_restore_elsewhere_may_have_a_shorter_log(self, now):
        assert compare(now, replace(now, epoch=now.epoch + 1, log_size=0, log_root="")) == []

    @pytest.mark.parametrize(
        "change",
        [{"epoch": 0}, {"log_size": 0}, {"log_root": "00" * 32}, {"crls": {}}, {"epoch": 2, "crls": {}}],
    )
    def test_what_is_behind_is_named(self, now, change):
        assert compare(now, replace(now, **change))


def kept_beside(desk) -> list[Path]:
    folder = Path(desk.world.url.removeprefix("sqlite:///")).parent
    return [path for path in folder.glob("ca.sqlite3.2*") if not path.name.endswith(("-wal", "-shm"))]


def _wrong(desk) -> bytes:
    """A request that is refused, which is a decision."""
    world = desk.world
    nonce = world.enroller(desk.store).new_nonce().nonce
    return world.body(nonce, w.SoftTpm(), w.Boot(resource="elsewhere/vtpm/x"))


def _on(der: bytes, serial: str) -> bool:
    crl = x509.load_der_x509_crl(der)
    return crl.get_revoked_certificate_by_serial_number(int(serial, 16)) is not None


def _fail(*_arguments: object, **_named: object) -> None:
    raise RuntimeError("the power went")


def test_without_its_memory_a_ca_opens_no_database(new_ca, tmp_path):
    """Else whoever can take a folder away could bring an old database back."""
    directory = tmp_path / "ca"
    shutil.copytree(new_ca.directory / "ca", directory)
    public, store = load_public(directory), open_database(f"sqlite:///{directory / 'ca.sqlite3'}")
    check_not_rolled_back(public, store)
    shutil.move(directory / "state", tmp_path / "elsewhere")
    for attempt in (check_not_rolled_back, keep_state):
        with pytest.raises(Unavailable) as error:
            attempt(public, store)
        assert error.value.code == "kept-state"
    assert not (directory / "state").exists()
    shutil.move(tmp_path / "elsewhere", directory / "state")
    check_not_rolled_back(public, store)
    store.close()
