"""Every operation, against the database that a real ceremony and a real enrolment left."""

import contextlib
import json

import pytest
import sqlalchemy as sa
from cryptography import x509

from ca_service.judgment import BadRequest, Conflict, NotFound, Unavailable
from ca_service.operations import MAX_POLICY, MAX_REQUEST, OPERATIONS, open_database, perform
from ca_service.store import CertificateState, Taken

RESOURCE = "default/vtpm/guest-a"
PROFILES = ("ek", "iak", "idevid")


def crl_of(desk, role: str) -> x509.CertificateRevocationList:
    with desk.store.read() as tx:
        return x509.load_der_x509_crl(tx.crls.latest(desk.world.authority.issuer(role).skid).der)


def serials(desk, **arguments) -> dict[str, str]:
    return {row["profile"]: row["serial"] for row in desk("cert-list", **arguments)}


class TestAsking:
    def test_an_unknown_operation(self, empty):
        with pytest.raises(BadRequest) as error:
            empty("format-disk")
        assert error.value.code == "operation"

    @pytest.mark.parametrize("name", sorted(OPERATIONS))
    def test_each_reads_its_arguments_strictly(self, desk, name):
        given = {
            "policy-apply": {"text": "schema = 1"},
            "policy-rollback": {"version": 1},
            "policy-approve": {"version": 1},
            "policy-withdraw": {"version": 1},
            "policy-diff": {"new": 1},
            "policy-test": {"text": "schema = 1"},
            "kbs-show": {"id": "org-kbs"},
            "instance-show": {"kbs": "org-kbs", "resource": RESOURCE},
            "instance-reset": {"kbs": "org-kbs", "resource": RESOURCE},
            "cert-show": {"serial": serials(desk)["ek"]},
            "cert-revoke": {"serial": serials(desk)["ek"]},
            "revoke": {"serial": serials(desk)["ek"]},
            "policy-revoke": {"text": "schema = 1", "tpms": [1]},
            "key-block": {"digest": "ab" * 32, "cause": "known"},
            "key-unblock": {"digest": "cd" * 32},
            "decision-show": {"id": desk("decision-list")[0]["id"]},
            "decision-record": {"id": desk("decision-list")[0]["id"]},
            "issuer-announce": {"skids": [desk("issuer-list")[0]["skid"]]},
        }.get(name, {})
        desk("key-block", digest="cd" * 32, cause="known")
        with pytest.raises(BadRequest, match="surprise: is no member"):
            desk(name, **given, surprise=True)
        # Any one of several members does for a revocation by cause.
        for member in given if name not in ("revoke", "policy-diff") else ():
            with pytest.raises(BadRequest, match=f"{member}: is missing"):
                desk(name, **{key: value for key, value in given.items() if key != member})
        with pytest.raises(BadRequest, match="must be a JSON object"):
            perform(desk.context, name, [])
        with contextlib.suppress(Conflict):  # no issuing CA is in the state that the operation wants
            assert json.dumps(desk(name, **given))

    def test_a_database_that_fails_is_an_unavailable_ca(self, desk, monkeypatch):
        def break_down():
            raise sa.exc.DatabaseError("SELECT", {}, Exception("malformed"))

        monkeypatch.setattr(desk.store, "read", break_down)
        with pytest.raises(Unavailable):
            desk("cert-list")

    def test_who_is_too_late_may_try_again(self, desk, monkeypatch):
        def too_late():
            raise Taken("another was faster")

        monkeypatch.setattr(desk.store, "write", too_late)
        with pytest.raises(Unavailable, match="try again"):
            desk("crl-publish")


class TestPolicies:
    def test_versions_count_up_and_the_same_content_changes_nothing(self, empty):
        assert empty("policy-log") == []
        with pytest.raises(NotFound) as error:
            empty("policy-show")
        assert "policy apply" in error.value.remedy
        first = empty("policy-apply", text="schema = 1\n")
        assert (first["version"], first["changed"], first["applied_by"]) == (1, True, "alice")
        again = empty("policy-apply", text="# only a comment\nschema = 1\n")
        assert (again["version"], again["changed"]) == (1, False)
        second = empty("policy-apply", text="schema = 1\n[grant]\nmax_age_s = 60\n")
        assert second["version"] == 2
        assert [row["version"] for row in empty("policy-log")] == [1, 2]
        assert empty("policy-show", version=1)["text"] == "schema = 1\n"
        assert "max_age_s" in empty("policy-show")["text"]
        with pytest.raises(NotFound, match="version 3"):
            empty("policy-show", version=3)

    def test_what_a_version_changes_is_told(self, empty):
        assert empty("policy-apply", text="schema = 1\n")["effect"] == "widens"
        with pytest.raises(BadRequest):
            empty("policy-diff")
        text = "schema = 1\n[grant]\nmax_age_s = 60\n"
        told = empty("policy-diff", text=text)
        assert (told["old"], told["new"], told["effect"]) == (1, None, "widens")
        assert empty("policy-apply", text=text)["changes"] == told["changes"]
        assert empty("policy-diff", old=2, new=1)["effect"] == "narrows"
        assert empty("policy-diff", old=2, new=2)["changes"] == []
        with pytest.raises(NotFound):
            empty("policy-diff", old=3, new=1)

    def test_back_to_an_earlier_version(self, empty):
        for text in ("schema = 1\n", "schema = 1\n[grant]\nmax_age_s = 60\n"):
            empty("policy-apply", text=text)
        back = empty("policy-rollback", version=1)
        assert (back["version"], back["effect"]) == (3, "narrows")
        assert empty("policy-show")["text"] == "schema = 1\n"
        assert empty("policy-rollback", version=3)["changed"] is False
        with pytest.raises(NotFound):
            empty("policy-rollback", version=9)

    def test_two_operators_do_not_undo_each_others_work(self, empty):
        text = "schema = 1\n[grant]\nmax_age_s = {}\n"
        assert empty("policy-apply", text=text.format(60), base=0)["version"] == 1
        for base in (0, 2):
            with pytest.raises(Conflict, match="version 1 is in force"):
                empty("policy-apply", text=text.format(61), base=base)
        with pytest.raises(Conflict):
            empty("policy-rollback", version=1, base=2)
        assert empty("policy-apply", text=text.format(61), base=1)["version"] == 2

    def test_a_version_that_cannot_be_read_any_more_is_replaced(self, empty):
        with empty.store.write() as tx:
            tx.policies.append("0" * 64, "nonsense", empty.world.time, "alice")
        told = empty("policy-apply", text="schema = 1\n")
        assert (told["effect"], [change["subject"] for change in told["changes"]]) == ("widens", ["policy"])

    @pytest.mark.parametrize("text", ["schema = 2", "schema = ", "schema = 1\nnothing = 1", "", "\ud800"])
    def test_what_is_no_policy_changes_nothing(self, empty, text):
        with pytest.raises(BadRequest):
            empty("policy-apply", text=text)
        assert empty("policy-log") == []

    def test_length_is_bounded_in_bytes(self, empty):
        with pytest.raises(BadRequest, match="bytes"):
            empty("policy-apply", text="# " + "\N{EURO SIGN}" * (MAX_POLICY // 3))
        longest = "schema = 1\n#" + "\N{EURO SIGN}" * ((MAX_POLICY - 12) // 3)
        assert len(json.dumps({"text": longest})) <= MAX_REQUEST
        assert empty("policy-apply", text=longest)["changed"]

    def test_a_document_that_leaves_a_question_open_is_not_put_in_force(self, empty):
        text = (
            f'schema = 1\n[[launch]]\nname = "old"\nmeasurement = "{"11" * 48}"\n'
            'capabilities = []\nproducts = ["Milan"]\n'
        )
        with pytest.raises(BadRequest) as error:
            empty("policy-apply", text=text)
        assert (error.value.code, error.value.path) == ("policy-unstated", "launch[0].id_keys")
        assert empty("policy-log") == []

    def test_production_takes_nothing_unsafe(self, empty):
        text = 'schema = 1\n[[unsafe]]\nname = "UnsafeAllowAnyKbs"\ngives_up = "all"\n'
        assert empty("policy-apply", text=text)["changed"]
        object.__setattr__(empty.context, "public", type("Public", (), {"mode": "production"}))
        with pytest.raises(BadRequest) as error:
            empty("policy-apply", text=text)
        assert error.value.code == "policy-unsafe"


class TestEmptyCa:
    @pytest.mark.parametrize("name", ["instance-list", "cert-list", "decision-list", "alarm-list"])
    def test_lists_are_empty(self, empty, name):
        assert empty(name) == []

    def test_the_ceremony_published_crls(self, empty):
        assert {crl_of(empty, role).next_update_utc for role in ("ek", "devid", "ephemeral")}
        rows = empty("crl-publish")
        assert [row["number"] for row in rows] == [2, 2, 2]
        assert empty.unlocked == 1

    @pytest.mark.parametrize(
        ("name", "arguments"),
        [
            ("cert-show", {"serial": "00"}),
            ("cert-revoke", {"serial": "00"}),
            ("decision-show", {"id": "00"}),
            ("decision-record", {"id": "00"}),
            ("instance-show", {"kbs": "org-kbs", "resource": RESOURCE}),
            ("instance-reset", {"kbs": "org-kbs", "resource": RESOURCE, "yes": True}),
        ],
    )
    def test_nothing_is_found(self, empty, name, arguments):
        with pytest.raises(NotFound):
            empty(name, **arguments)
        assert empty.unlocked == 0


class TestTenants:
    @pytest.fixture
    def of_payments(self, desk):
        text = desk("policy-show")["text"]
        desk("policy-apply", text=text.replace('id = "org-kbs"\n', 'id = "org-kbs"\ntenant = "payments"\n'))
        return desk

    def test_nobody_has_said_whose_it_is(self, desk):
        assert [row["tenant"] for row in desk("instance-list")] == [None]

    def test_the_policy_in_force_says_whose_instances_and_decisions_they_are(self, of_payments):
        (row,) = of_payments("instance-list")
        assert row["tenant"] == "payments"
        assert of_payments("instance-show", kbs="org-kbs", resource=RESOURCE)["tenant"] == "payments"
        decisions = of_payments("decision-list")
        assert {decision["tenant"] for decision in decisions} == {"payments"}
        assert of_payments("decision-show", id=decisions[0]["id"])["tenant"] == "payments"

    def test_instances_are_listed_by_tenant(self, of_payments):
        assert len(of_payments("instance-list", tenant="payments")) == 1
        with pytest.raises(NotFound, match="has this tenant"):
            of_payments("instance-list", tenant="payment")

    def test_those_of_others_are_left_out(self, of_payments):
        text = of_payments("policy-show")["text"]
        renamed = text.replace('id = "org-kbs"', 'id = "other-kbs"')
        of_payments("policy-apply", text=renamed)
        assert of_payments("instance-list", tenant="payments") == []
        assert [row["tenant"] for row in of_payments("instance-list")] == [None]

    def test_a_policy_that_cannot_be_read_names_none(self, of_payments):
        with of_payments.store.write() as tx:
            tx.policies.append("0" * 64, "nonsense", of_payments.world.time, "alice")
        assert [row["tenant"] for row in of_payments("instance-list")] == [None]


class TestInstances:
    def test_list_and_show(self, desk):
        (row,) = desk("instance-list")
        assert (row["kbs"], row["resource"], row["salt"], row["occupied"]) == ("org-kbs", RESOURCE, "", True)
        shown = desk("instance-show", kbs="org-kbs", resource=RESOURCE)
        assert sorted(c["profile"] for c in shown["certificates"]) == list(PROFILES)
        assert sorted(k["role"] for k in shown["keys"]) == list(PROFILES)
        assert [t["live"] for t in shown["tpms"]] == [True]

    def test_reset_is_a_dry_run_until_told(self, desk):
        given = {"kbs": "org-kbs", "resource": RESOURCE}
        before = desk("instance-show", **given)
        plan = desk("instance-reset", **given)
        assert (plan["done"], len(plan["revoked"])) == (False, 3)
        assert desk("instance-show", **given) == before
        assert desk.unlocked == 0
        done = desk("instance-reset", **given, yes=True, cause="moved")
        assert (done["done"], {row["state"] for row in done["revoked"]}) == (True, {"revoked"})
        assert not desk("instance-list")[0]["occupied"]
        assert desk("cert-list") == []
        for role, count in (("ek", 1), ("devid", 2), ("ephemeral", 0)):
            assert len(crl_of(desk, role)) == count
        with pytest.raises(NotFound):
            desk("instance-reset", **given)
        with desk.store.read() as tx:
            (revocation,) = tx.revocations.of_issuer(desk.world.authority.issuer("ek").skid)
        assert revocation.cause == "instance reset by alice: moved"

    def test_a_resource_must_be_one(self, desk):
        with pytest.raises(BadRequest, match="resource"):
            desk("instance-show", kbs="org-kbs", resource="default")


class TestCertificates:
    def test_list_and_show(self, desk):
        rows = desk("cert-list")
        assert sorted(row["profile"] for row in rows) == list(PROFILES)
        assert len(desk("cert-list", limit=1)) == 1
        for row in rows:
            shown = desk("cert-show", serial=row["serial"])
            certificate = x509.load_pem_x509_certificate(shown["pem"].encode())
            assert f"{certificate.serial_number:034x}" == row["serial"]
            assert (shown["revoked_at"], shown["reason"]) == (None, None)

    def test_a_serial_number_as_openssl_writes_it(self, desk):
        serial = serials(desk)["iak"]
        colons = ":".join(serial[i : i + 2] for i in range(0, len(serial), 2)).upper()
        for spelling in (serial.upper(), colons, "0x" + serial, serial.lstrip("0")):
            assert desk("cert-show", serial=spelling)["serial"] == serial
        for none in ("xyz", "-1", "f" * 128, ":"):
            with pytest.raises(BadRequest, match="serial"):
                desk("cert-show", serial=none)

    def test_revoke_is_a_dry_run_until_told(self, desk):
        serial = serials(desk)["iak"]
        number = crl_of(desk, "devid").extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        plan = desk("cert-revoke", serial=serial)
        assert (plan["done"], [row["state"] for row in plan["revoked"]]) == (False, ["issued"])
        assert (desk.unlocked, len(crl_of(desk, "devid"))) == (0, 0)
        done = desk("cert-revoke", serial=serial, reason="keyCompromise", cause="stolen", yes=True)
        assert (done["done"], [row["state"] for row in done["revoked"]]) == (True, ["revoked"])
        crl = crl_of(desk, "devid")
        entry = crl.get_revoked_certificate_by_serial_number(int(serial, 16))
        assert entry.extensions.get_extension_for_class(x509.CRLReason).value.reason.value == "keyCompromise"
        assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == number + 1
        assert desk("cert-show", serial=serial)["reason"] == "keyCompromise"
        assert serial not in serials(desk).values()
        assert serial in serials(desk, all=True).values()

    def test_a_revoked_certificate_is_not_revoked_again(self, desk):
        serial = serials(desk)["ek"]
        desk("cert-revoke", serial=serial, yes=True)
        before = crl_of(desk, "ek").extensions.get_extension_for_class(x509.CRLNumber)
        assert desk("cert-revoke", serial=serial, yes=True) == {"done": True, "revoked": []}
        assert crl_of(desk, "ek").extensions.get_extension_for_class(x509.CRLNumber) == before
        assert desk.unlocked == 1

    def test_reasons_and_causes_are_bounded(self, desk):
        serial = serials(desk)["ek"]
        for wrong in ({"reason": "certificateHold"}, {"cause": "x" * 161}, {"cause": "a\nb"}, {"yes": "yes"}):
            with pytest.raises(BadRequest):
                desk("cert-revoke", serial=serial, **wrong)
        assert desk("cert-show", serial=serial)["state"] == CertificateState.ISSUED


class TestRecords:
    def test_decisions(self, desk):
        rows = desk("decision-list")
        assert sorted(row["verdict"] for row in rows) == ["admitted", "refused"]
        assert len(desk("decision-list", limit=1)) == 1
        assert {row["mode"] for row in [*rows, desk("decision-show", id=rows[0]["id"])]} == {"simulation"}
        refused = next(row for row in rows if row["verdict"] == "refused")
        shown = desk("decision-show", id=refused["id"])
        assert shown["rule"] == refused["rule"]
        failed = [f["rule"] for f in shown["trace"] if f["verdict"] == "failed"]
        assert failed[0] == refused["rule"]
        assert len(shown["trace"]) > len(failed)

    def test_alarms(self, desk):
        (row,) = desk("alarm-list")
        assert (row["kind"], row["detail"]["rule"]) == ("clone", "ledger.counter")
        with desk.context.store.write() as tx:
            tx.alarms.add("renewed", "x", "{}", desk.context.clock())
        assert desk("alarm-list", kind="clone", limit=1) == [row]
        assert [one["kind"] for one in desk("alarm-list", kind="renewed")] == ["renewed"]
        assert len(desk("alarm-list")) == 2
        with pytest.raises(BadRequest, match="clone, rollback, renewed"):
            desk("alarm-list", kind="clones")


class TestDatabase:
    def test_it_is_never_made_in_passing(self, tmp_path):
        with pytest.raises(Unavailable, match="missing"):
            open_database(f"sqlite:///{tmp_path}/ca.sqlite3")
        assert list(tmp_path.iterdir()) == []

    def test_what_is_none(self, tmp_path):
        path = tmp_path / "ca.sqlite3"
        path.write_bytes(b"this is no database, not even a short one" * 100)
        with pytest.raises(Unavailable, match="damaged"):
            open_database(f"sqlite:///{path}")
        path.write_bytes(b"")
        with pytest.raises(Unavailable, match="schema"):
            open_database(f"sqlite:///{path}")

    @pytest.mark.parametrize("url", ["", "nonsense", "nosuch://u:hush@h/d", "mysql+pymysql://u:hush@h/d"])
    def test_what_is_no_url(self, url):
        with pytest.raises(BadRequest) as error:
            open_database(url)
        assert "hush" not in error.value.diagnostics()
