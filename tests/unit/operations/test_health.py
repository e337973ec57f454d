"""Each check of the CA's health: well when all is well, and what makes it say something else."""

import contextlib
import json
import os
import re
import sqlite3
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ca_service.collateral import CollateralFolder
from ca_service.enrollment import Limits, publish_all, publish_due
from ca_service.enrollment.responders import ensure_responders
from ca_service.evidence.snp import Collateral
from ca_service.evidence.snp.crl import read_crl
from ca_service.judgment import BadRequest, Unavailable
from ca_service.operations.backup import make_backup
from ca_service.operations.health import CHECKS, SERVER, choose, examine, worst
from ca_service.operations.health_model import (
    ORDER,
    HealthCheck,
    HealthContext,
    Seen,
    Status,
    Threshold,
    Unit,
    shown,
)
from ca_service.policy import load
from ca_service.store import IntentRow, IntentState, IssuerState, PolicyRow, open_store, schema
from vtpm.wire.message_fields import time_text

AMD_LIST = read_crl(
    (Path(__file__).parents[2] / "vectors" / "snp-evidence" / "crl" / "ark-milan-2025-05-06.der").read_bytes()
)
OK, NOTICE, WARNING = Status.OK, Status.NOTICE, Status.WARNING
UNKNOWN, CRITICAL = Status.UNKNOWN, Status.CRITICAL


@pytest.fixture
def ask(desk):
    """What one check says; `change` replaces members of what it looks at."""

    def run(name: str, *settings: str, **change: object) -> tuple[Status, str]:
        (result,) = examine(replace(context(desk), **change), choose([name], settings))
        assert (result.to_json()["remedy"] == "") == (result.status is OK)
        return result.status, result.detail

    return run


def context(desk) -> HealthContext:
    public = desk.world.authority
    return HealthContext(
        public,
        lambda: public,
        lambda: desk.store,
        desk.world.time,
        CollateralFolder(public.directory / "collateral").readable,
        desk.world.url,
    )


def test_all_is_well_with_a_ca_that_works_and_has_a_backup(desk, tmp_path):
    make_backup(desk.world.authority, desk.store, tmp_path / "backup", desk.world.time)
    found = {result.check.id: result for result in examine(context(desk), choose())}
    assert list(found) == [name for name in CHECKS if name != SERVER]
    assert found.pop("alarms").status is WARNING
    assert {name: result.detail for name, result in found.items() if result.status is not OK} == {}


def test_over_the_operation_it_is_the_same(desk):
    rows = desk("health", only=["policy", "crl"], settings=["crl=30d,1d"])
    assert [(row["check"], row["status"]) for row in rows] == [("crl", "warning"), ("policy", "ok")]
    assert rows[0]["threshold"] == "warning below 30d, critical below 24h"
    for wrong in ({"only": ["nothing"]}, {"settings": ["crl"]}, {"only": "crl"}, {"only": [1]}):
        with pytest.raises(BadRequest):
            desk("health", **wrong)


class TestDatabase:
    def test_another_schema(self, desk, ask):
        with desk.store.write() as tx:
            tx.connection.exec_driver_sql("DELETE FROM alembic_version")
        assert ask("schema")[0] is CRITICAL

    def test_one_that_cannot_be_opened(self, ask):
        def gone():
            raise Unavailable("the database is missing")

        assert ask("schema", open=gone) == (CRITICAL, "the database is missing")
        for name in ("database", "rollback", "log", "clock", "intents", "alarms", "crl", "issuers", "policy"):
            assert ask(name, open=gone) == (UNKNOWN, "the database is missing")

    def test_no_write(self, desk, ask, monkeypatch):
        def full():
            raise Unavailable("its disk is full")

        monkeypatch.setattr(desk.store, "check_writable", full)
        assert ask("database") == (CRITICAL, "its disk is full")

    def test_a_damaged_file(self, desk, ask, tmp_path):
        path = tmp_path / "damaged.sqlite3"
        with contextlib.closing(sqlite3.connect(desk.world.url.removeprefix("sqlite:///"))) as connection:
            connection.execute("VACUUM INTO ?", (str(path),))
        url = f"sqlite:///{path}"
        assert ask("integrity", url=url)[0] is OK
        content = bytearray(path.read_bytes())
        content[8192:] = bytes(b ^ 0x5A for b in content[8192:])
        path.write_bytes(content)
        assert ask("integrity", url=url)[0] is CRITICAL
        path.write_bytes(b"no database at all" * 1000)
        assert ask("integrity", url=url)[0] is CRITICAL
        path.unlink()
        assert ask("integrity", url=url)[0] is UNKNOWN

    def test_a_look_that_takes_too_long_ends(self, ask, monkeypatch):
        monkeypatch.setattr("ca_service.operations.health_database._INTEGRITY_S", -1.0)
        monkeypatch.setattr("ca_service.operations.health_database._STEPS", 1)
        status, detail = ask("integrity")
        assert (status, "the look ended" in detail) == (OK, True)

    def test_who_may_not_open_it_is_not_told_to_restore_it(self, desk, tmp_path):
        def refused():
            raise Unavailable("it is read-only", remedy="See its permissions.")

        changed = replace(context(desk), open=refused, url=f"sqlite:///{tmp_path}/nowhere/ca.sqlite3")
        for result in examine(changed, choose(["schema", "database", "integrity"])):
            assert "ermissions" in result.to_json()["remedy"], result.check.id

    def test_an_old_database(self, desk, ask):
        facts = desk.world.authority.directory / "state" / "kept.json"
        kept = json.loads(facts.read_text())
        facts.write_text(json.dumps(kept | {"epoch": kept["epoch"] + 1}))
        status, detail = ask("rollback")
        assert (status, "older" in detail) == (CRITICAL, True)

    def test_a_log_that_contradicts_itself(self, desk, ask):
        with desk.store.write() as tx:
            tx.connection.exec_driver_sql("UPDATE log_head SET size = size + 1")
        assert ask("log")[0] is CRITICAL

    def test_an_intent_that_nobody_closes(self, desk, ask):
        at = desk.world.time
        with desk.store.write() as tx:
            enrollment, decision, tpm = tx.connection.exec_driver_sql(
                "SELECT enrollment_id, decision_id, tpm_id FROM intents"
            ).first()
            tx.intents.add(
                IntentRow("i", enrollment, tpm, decision, 1, "", "nobody", IntentState.OPEN, at, None)
            )
        for minutes, status in ((9, OK), (10, WARNING), (59, WARNING), (61, CRITICAL)):
            assert ask("intents", at=at + timedelta(minutes=minutes))[0] is status

    def test_alarms_of_a_day(self, desk, ask):
        at = desk.world.time
        assert ask("alarms") == (WARNING, "in the last 24 hours: 1 clone")
        assert ask("alarms", at=at + timedelta(hours=25))[0] is OK
        with desk.store.write() as tx:
            for _ in range(9):
                tx.alarms.add("rollback", "", "{}", at)
        assert ask("alarms") == (CRITICAL, "in the last 24 hours: 1 clone, 9 rollback")
        assert ask("alarms", "alarms=11,100")[0] is OK

    def test_renewals_are_no_alarm_and_hide_none(self, desk, ask):
        at = desk.world.time
        with desk.store.write() as tx:
            tx.connection.exec_driver_sql("DELETE FROM alarms")
            tx.alarms.add("clone", "", "{}", at - timedelta(minutes=1))
            row = {"kind": "renewed", "decision_id": "", "detail": "{}", "at": at}
            tx.connection.execute(schema.alarms.insert(), [row] * 2000)
        assert ask("alarms") == (WARNING, "in the last 24 hours: 1 clone")
        with desk.store.write() as tx:
            tx.connection.exec_driver_sql("DELETE FROM alarms WHERE kind = 'clone'")
        status, detail = ask("alarms")
        assert (status, "2000 TPMs" in detail) == (NOTICE, True)

    def test_a_disk_that_gets_full(self, ask):
        for setting, status in (
            ("1KiB,1KiB", OK),
            ("999999GiB,1KiB", WARNING),
            ("999999GiB,999999GiB", CRITICAL),
        ):
            assert ask("disk", f"disk={setting}")[0] is status

    def test_backups(self, desk, ask, tmp_path):
        at, began = desk.world.time, desk.world.authority.root.not_valid_before_utc
        for days, status in ((1, NOTICE), (3, WARNING), (400, WARNING)):
            assert ask("backup", at=began + timedelta(days=days))[0] is status
        make_backup(desk.world.authority, desk.store, tmp_path / "backup", at)
        for hours, status in ((-1, WARNING), (0, OK), (47, OK), (49, WARNING), (24 * 8, CRITICAL)):
            assert ask("backup", at=at + timedelta(hours=hours))[0] is status
        (desk.world.authority.directory / "run" / "last-backup").write_text("no time")
        assert ask("backup", at=began + timedelta(days=3))[0] is WARNING
        (desk.world.authority.directory / "run" / "last-backup").unlink()
        (desk.world.authority.directory / "run" / "last-backup").mkdir()
        assert ask("backup")[0] is UNKNOWN


def test_on_both_databases(new_ca, database):
    """An empty database of either kind: what there is to see is seen, and what is missing is named."""
    public, store = new_ca.authority, open_store(database)
    seen = HealthContext(public, lambda: public, lambda: store, new_ca.time, Collateral, database)
    found = {result.check.id: result for result in examine(seen, choose())}
    store.close()
    well = (
        "schema",
        "database",
        "integrity",
        "clock",
        "intents",
        "alarms",
        "keys",
        "permissions",
        "tcb-floors",
    )
    assert {name: found[name].status for name in well} == dict.fromkeys(well, OK)
    if not database.startswith("sqlite"):
        assert "PostgreSQL" in found["integrity"].detail
        assert "the CA's directory" in found["disk"].detail
    bad = ("log", "rollback", "issuers", "policy")
    assert {name: found[name].status for name in bad} == dict.fromkeys(bad, CRITICAL)


class TestClock:
    def test_back_by_a_day(self, desk, ask):
        # From the checkpoint on: the CA that the tests copy may have been made minutes before this test.
        signed = context(desk).gauges.log_at
        at = signed - timedelta(days=1)
        status, detail = ask("clock", at=at)
        assert (status, "24h behind the log's last checkpoint" in detail) == (CRITICAL, True)
        status, detail = ask("crl", at=at)
        assert (status, "yet to come" in detail) == (CRITICAL, True)
        status, detail = ask("issuers", at=at)
        assert (status, "not valid before" in detail) == (CRITICAL, True)
        assert ask("clock", at=signed - timedelta(seconds=30))[0] is WARNING

    def test_forward_by_a_year(self, desk, ask):
        """A list is stale if nobody renews it; nothing crashes."""
        at = desk.world.time + timedelta(days=366)
        status, detail = ask("crl", at=at)
        assert (status, "has ended" in detail) == (CRITICAL, True)
        assert ask("root-crl", at=at)[0] is CRITICAL
        assert ask("clock", at=at)[0] is OK

    @settings(max_examples=25)
    @given(days=st.integers(-400_000, 2_900_000))
    def test_no_time_makes_a_check_fail_in_itself(self, worked_ca, days):
        """Checks that need no database of the test's own, and all times that a clock can show."""
        public = worked_ca.authority
        at = worked_ca.time + timedelta(days=days)
        store = open_store(worked_ca.url)
        try:
            seen = HealthContext(public, lambda: public, lambda: store, at, Collateral, worked_ca.url)
            names = [
                "clock",
                "crl",
                "root-crl",
                "issuers",
                "root",
                "intents",
                "alarms",
                "tcb-floors",
                "collateral",
            ]
            for result in examine(seen, choose(names)):
                assert result.status is not UNKNOWN, result
        finally:
            store.close()


class TestAuthority:
    def test_lists(self, desk, ask):
        at = desk.world.time
        for days, status in ((3, OK), (5, WARNING), (6.5, CRITICAL), (8, CRITICAL)):
            assert ask("crl", at=at + timedelta(days=days))[0] is status, days
        # A clock that ran ahead has left a list of the future behind, and a right one has followed.
        for when in (at + timedelta(days=400), at):
            publish_all(desk.store, desk.world.authority, when, Limits())
        assert ask("crl")[0] is OK
        with desk.store.write() as tx:
            tx.connection.exec_driver_sql("DELETE FROM crls")
        status, detail = ask("crl")
        assert (status, "has published no list" in detail) == (CRITICAL, True)
        with desk.store.write() as tx:
            for row in tx.issuers.all():
                tx.issuers.move(row.skid, IssuerState.RETIRED, at)
        assert ask("crl")[0] is OK
        assert ask("issuers") == (CRITICAL, "no issuing CA signs")

    def test_each_of_several_lists_must_be_there(self, desk, ask):
        """By what ca.toml says, and by the lists themselves where another node began more of them."""
        public = desk.world.authority
        ek = public.issuer("ek")
        wanted = replace(
            public, issuers=[replace(ca, info=replace(ca.info, shards=4)) for ca in public.issuers]
        )
        status, detail = ask("crl", public=wanted)
        assert (status, "has not published 3 of its lists: 1, 2, 3" in detail) == (CRITICAL, True)
        publish_all(desk.store, wanted, desk.world.time, Limits())
        assert ask("crl", public=wanted)[0] is OK
        with desk.store.write() as tx:
            tx.connection.execute(schema.crls.delete().where(schema.crls.c.shard == 2))
        for seen in (public, wanted):
            status, detail = ask("crl", public=seen)
            assert (status, f"{ek.skid[:8]}, active) has not published 1 of its lists: 2" in detail) == (
                CRITICAL,
                True,
            )
        publish_due(desk.store, wanted, desk.world.time, Limits())
        assert ask("crl", public=wanted)[0] is OK

    def test_responders(self, desk, ask):
        at, public = desk.world.time, desk.world.authority
        assert ask("ocsp") == (OK, "this CA does not answer OCSP requests")
        answers = replace(public, publication=public.publication.model_copy(update={"ocsp": True}))
        status, detail = ask("ocsp", public=answers)
        assert (status, "is missing" in detail) == (CRITICAL, True)
        made = desk.world.enroller(desk.store).desk
        assert len(ensure_responders(made)) == len(public.issuers)
        for days, status in ((0, OK), (8, OK), (9.5, WARNING), (13.5, CRITICAL), (15, CRITICAL)):
            assert ask("ocsp", public=answers, at=at + timedelta(days=days))[0] is status, days
        status, detail = ask("ocsp", public=answers, at=at - timedelta(days=1))
        assert (status, "is missing" in detail) == (CRITICAL, True)
        ek = public.issuer("ek")
        with desk.store.write() as tx:
            tx.connection.execute(schema.responders.delete().where(schema.responders.c.issuer == ek.skid))
        status, detail = ask("ocsp", public=answers)
        assert (status, f"{ek.skid[:8]}, active) is missing" in detail) == (CRITICAL, True)
        with desk.store.write() as tx:
            tx.issuers.move(ek.skid, IssuerState.RETIRED, at)
        assert ask("ocsp", public=answers)[0] is OK

    def test_the_root_s_list(self, desk, ask):
        at, directory = desk.world.time, desk.world.authority.directory
        for days, status in ((300, OK), (310, WARNING), (360, CRITICAL)):
            assert ask("root-crl", at=at + timedelta(days=days))[0] is status, days
        (directory / "crl" / "root.crl").write_bytes(b"no list")
        (directory / "certs" / "root.crl").write_bytes(b"no list")
        assert ask("root-crl")[0] is CRITICAL
        (directory / "crl" / "root.crl").unlink()
        (directory / "certs" / "root.crl").unlink()
        status, detail = ask("root-crl")
        assert (status, "missing" in detail) == (CRITICAL, True)

    def test_certificates_that_end(self, desk, ask, monkeypatch):
        # They hold to the year 9999; the day before its end is as any other.
        end = desk.world.authority.root.not_valid_after_utc
        for name, warning, critical in (("issuers", 90, 30), ("root", 365, 90)):
            for days, status in ((warning + 1, OK), (warning - 1, WARNING), (critical - 1, CRITICAL)):
                assert ask(name, at=end - timedelta(days=days))[0] is status, (name, days)

    def test_the_root_s_key_belongs_into_a_safe(self, desk, ask):
        assert ask("root-key")[0] is OK, "a simulation's may stay"
        production = replace(desk.world.authority, mode="production")
        status, detail = ask("root-key", public=production)
        assert (status, "on the machine that serves" in detail) == (NOTICE, True)
        (production.directory / "offline" / "root.sealed").unlink()
        assert ask("root-key", public=production)[0] is OK

    def test_a_key_that_is_not_here(self, desk, ask):
        public = desk.world.authority
        ek = public.issuer("ek")
        others = replace(public, issuers=tuple(ca for ca in public.issuers if ca is not ek))
        status, detail = ask("keys", unlock=lambda: others)
        assert (status, ek.skid[:8] in detail, "not on this machine" in detail) == (CRITICAL, True, True)

    def test_without_a_passphrase_the_files_are_looked_for(self, desk, ask):
        def locked():
            raise BadRequest("", "no passphrase", code="passphrase-missing")

        status, detail = ask("keys", unlock=locked)
        assert (status, "not tried" in detail) == (OK, True)
        (desk.world.authority.directory / "private" / "ek-default.sealed").unlink()
        status, detail = ask("keys", unlock=locked)
        assert (status, "the ek CA" in detail) == (CRITICAL, True)

    def test_keys_that_cannot_be_opened(self, ask):
        def wrong():
            raise BadRequest("passphrase", "is wrong", code="passphrase")

        assert ask("keys", unlock=wrong)[0] is UNKNOWN

    def test_a_key_that_does_not_sign(self, desk, ask, monkeypatch):
        signer = type(desk.world.authority.issuer("ek").signer)
        monkeypatch.setattr(signer, "sign", lambda _self, _data: b"no signature")
        assert ask("keys")[0] is CRITICAL

    @pytest.mark.parametrize("path", ["private", "private/ek-default.sealed", "state/kept.json", "run"])
    def test_files_that_others_may_read(self, desk, ask, path):
        assert ask("permissions")[0] is OK
        place = desk.world.authority.directory / path
        place.chmod(place.stat().st_mode | 0o040)
        status, detail = ask("permissions")
        assert (status, detail) == (CRITICAL, f"{path} may be accessed by others than its owner")

    def test_who_may_not_look_does_not_say_that_all_is_well(self, desk, ask, monkeypatch):
        real = os.scandir

        def scandir(path):
            if Path(path).name == "private":
                raise PermissionError
            return real(path)

        monkeypatch.setattr(os, "scandir", scandir)
        assert ask("permissions")[0] is UNKNOWN

    def test_a_link_among_the_keys(self, desk, ask):
        (desk.world.authority.directory / "private" / "x").symlink_to("/etc/hostname")
        assert ask("permissions") == (CRITICAL, "private/x is a link")

    def test_files_of_another_user(self, desk, ask):
        if os.geteuid() != 0:
            pytest.skip("only root may give files away")
        os.chown(desk.world.authority.directory / "private" / "ek-default.sealed", 12345, -1)
        assert ask("permissions")[0] is WARNING


class TestPolicy:
    def test_none(self, empty):
        results = {
            r.check.id: r for r in examine(context(empty), choose(["policy", "tcb-floors", "collateral"]))
        }
        assert [results[name].status for name in ("policy", "tcb-floors", "collateral")] == [CRITICAL, OK, OK]

    def test_one_that_was_altered(self, desk, ask):
        with desk.store.write() as tx:
            tx.policies.append("00" * 32, desk.world.policy(), desk.world.time, "t")
        assert ask("policy") == (CRITICAL, "version 2, which is in force, is not what was applied")

    def test_versions_that_wait_or_are_to_come(self, desk, ask):
        assert ask("policy-versions")[0] is OK
        at, text = desk.world.time, desk.world.policy(status="suspended")
        desk("policy-apply", text=text, at=time_text(at + timedelta(days=3)))
        status, told = ask("policy-versions")
        assert (status, told.startswith("version 2 comes in force at ")) == (NOTICE, True)
        with desk.store.write() as tx:
            tx.policies.add(PolicyRow(3, "00" * 32, "", at, "CN=alice", 1))
        assert ask("policy-versions")[0] is NOTICE
        assert ask("policy-versions", at=at + timedelta(hours=24, seconds=-1))[0] is NOTICE
        status, told = ask("policy-versions", at=at + timedelta(hours=24))
        assert (status, told) == (WARNING, "version 3 has waited 24h for approval")
        assert ask("policy-versions", "policy-versions=1h", at=at + timedelta(hours=1))[0] is WARNING
        # What was to be followed is not in force any more.
        assert ask("policy-versions", at=at + timedelta(days=3))[0] is OK

    def test_one_that_leaves_something_open(self, desk, ask):
        text = desk.world.policy()
        with desk.store.write() as tx:
            tx.policies.append(
                "00", re.sub(r"min_guest_svn.*\n|unconstrained.*\n", "", text), desk.world.time, "t"
            )
        assert ask("policy")[0] is CRITICAL

    def test_one_of_an_earlier_release_is_no_alarm_but_wants_a_word(self, desk, ask):
        """Silence about release policies meant any of them, and does so still."""
        text = desk.world.policy().replace('unconstrained = ["release-policy"]\n', "")
        with desk.store.write() as tx:
            tx.policies.append(load(text).digest, text, desk.world.time, "t")
        status, detail = ask("policy")
        assert (status, "kbs[0].release_policies: must be stated" in detail) == (WARNING, True)

    def test_floors_that_rise(self, desk, ask):
        at, text = desk.world.time, desk.world.policy()
        (first, *_) = re.findall(r"\[\[platform\.tcb\]\]\n(?:(?!\[).+\n)+", text)
        since = (at + timedelta(days=20)).strftime("%Y-%m-%dT%H:%M:%SZ")
        later = first.replace("[[platform.tcb]]\n", f"[[platform.tcb]]\nfrom = {since}\n")
        desk.world.apply(desk.store, text.replace(first, first + "\n" + later))
        assert ask("policy")[0] is OK
        for days, status in ((0, OK), (5, OK), (7, WARNING), (19, WARNING), (21, OK)):
            assert ask("tcb-floors", at=at + timedelta(days=days))[0] is status, days

    def test_lists_of_amd(self, desk, ask):
        crl = AMD_LIST
        held = lambda: Collateral(crls=(crl,))  # noqa: E731
        issued, end = crl.this_update, crl.next_update
        for at, status in (
            (issued + timedelta(days=1), OK),
            (end - timedelta(days=3), WARNING),
            (end + timedelta(days=1), CRITICAL),
            (issued - timedelta(days=1), CRITICAL),
        ):
            assert ask("collateral", at=at, collateral=held)[0] is status, at
        production = replace(desk.world.authority, mode="production")
        assert ask("collateral", public=production, collateral=Collateral)[0] is WARNING
        assert ask("collateral", collateral=Collateral)[0] is OK


class TestModel:
    def test_grades(self):
        rising, falling = Threshold(Unit.COUNT, 5, 10), Threshold(Unit.COUNT, 10, 5, falling=True)
        assert [rising.grade(n) for n in (4, 5, 9, 10)] == [OK, WARNING, WARNING, CRITICAL]
        assert [falling.grade(n) for n in (10, 9, 5, 4)] == [OK, WARNING, WARNING, CRITICAL]
        assert Threshold(Unit.COUNT, None).grade(1e9) is OK

    def test_other_thresholds(self):
        time = Threshold(Unit.SECONDS, 10, 20)
        assert time.reset("1m,2h", "x") == Threshold(Unit.SECONDS, 60, 7200)
        assert time.reset("15", "x") == Threshold(Unit.SECONDS, 15, 20)
        assert time.reset(",1d", "x") == Threshold(Unit.SECONDS, 10, 86_400)
        assert Threshold(Unit.BYTES, 2, 1, falling=True).reset("1GiB,1MiB", "x").warning == 2**30
        for wrong in ("", ",", "x", "-1", "1x", "1GiB", "1m,", "30", "30,20", "1,2,3", "9" * 30, "\u0661"):
            with pytest.raises(BadRequest, match="x"):
                time.reset(wrong, "x")
        with pytest.raises(BadRequest, match="behind"):
            Threshold(Unit.COUNT, 9, 1, falling=True).reset("0", "x")

    @given(st.text(max_size=30))
    def test_any_text_is_a_threshold_or_refused(self, text):
        try:
            found = Threshold(Unit.SECONDS, 10, 20).reset(text, "x")
        except BadRequest:
            return
        assert 0 <= found.warning <= found.critical

    def test_what_people_read(self):
        assert [shown(n, Unit.SECONDS) for n in (0, 59, 120, 3600, 7200, 86_400 * 3)] == [
            "0s", "59s", "2m", "60m", "2h", "3d",
        ]  # fmt: skip
        assert [shown(n, Unit.BYTES) for n in (5, 2**31, 3 * 2**20)] == ["5", "2GiB", "3MiB"]
        assert str(Threshold(Unit.COUNT, 1, 10)) == "warning from 1, critical from 10"

    def test_the_worst_counts(self):
        pairs = ([], [OK, NOTICE], [NOTICE, WARNING], [WARNING, UNKNOWN], [UNKNOWN, CRITICAL])
        assert [worst(pair) for pair in pairs] == [OK, NOTICE, WARNING, UNKNOWN, CRITICAL]
        assert ORDER == (OK, NOTICE, WARNING, UNKNOWN, CRITICAL)

    @pytest.mark.parametrize("error", [OSError("x"), ValueError("x"), Unavailable("x"), KeyError("x")])
    def test_a_check_that_cannot_look_is_unknown(self, error):
        def look(_context, _threshold):
            raise error

        check = HealthCheck("x", "x", "do this", look)
        result = check.examine(None)
        assert (result.status, result.to_json()["remedy"]) == (UNKNOWN, "do this")

    def test_the_worst_of_a_look_is_what_is_told(self):
        seen = [Seen(OK, "a"), Seen(WARNING, "b"), Seen(WARNING, "c")]
        check = HealthCheck("x", "x", "do this", lambda _c, _t: seen)
        assert check.examine(None).detail == "b; c"

    def test_checks_are_named_and_explained(self):
        for name, check in CHECKS.items():
            assert re.fullmatch(r"[a-z][a-z-]{1,15}", name)
            assert check.looks_at
            assert check.remedy
            assert check.threshold is None or check.threshold.warning is not None


def test_a_ca_that_has_not_served_yet_misses_its_policy_alone(empty):
    found = {result.check.id: result for result in examine(context(empty), choose())}
    assert {name for name, result in found.items() if result.status is CRITICAL} == {"policy"}
