"""What `decision show` explains of real decisions: a proposal that is pasted into the document admits the same VM."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric import ec

from ca_service.judgment import Refused
from ca_service.store import Store
from vtpm.wire.enrollment import ActivationRequest

KEY = ec.derive_private_key(0xBAD, ec.SECP384R1())
ELSEWHERE = "default/vtpm/guest-b"


@pytest.fixture
def refused(world, enroller, store, helpers):
    """Has a boot refused, and gives the decision as it is shown."""

    def enrol(tpm, **boot):
        with pytest.raises(Refused) as error:
            enroller.enroll(world.body(enroller.new_nonce().nonce, tpm, helpers.Boot(**boot)))
        return helpers.operate(world, store, "decision-show", id=error.value.decision_id)

    return enrol


@pytest.fixture
def others(world):
    """Another build of the SVSM on the same platform."""
    return lambda first: world.platform.launch([(0x1000 * i, bytes([first + i]) * 4096) for i in range(2)])


def rules(edits):
    return [edit["rules"] for edit in edits]


def test_a_new_key_broker_is_admitted_by_what_is_proposed(world, store, enroller, helpers, tpms, refused):
    boot = {"resource": ELSEWHERE, "kbs": KEY}
    remedy = refused(tpms(0), **boot)["remedy"]
    assert (remedy["admits"], remedy["effect"], remedy["left"]) == (True, "widens", [])
    (edit,) = remedy["edits"]
    assert edit["rules"] == ["kbs.listed"]
    assert edit["places"][0]["path"] == "kbs[1]"
    world.apply(store, f"{world.policy()}\n{edit['toml']}\n")
    helpers.issue(world, enroller, tpms(0), helpers.Boot(**boot))


def test_a_new_build_is_admitted_by_what_is_proposed(world, store, enroller, helpers, tpms, refused, others):
    before = world.policy()
    world.launch = others(0x70)
    (edit,) = refused(tpms(0))["remedy"]["edits"]
    assert edit["rules"] == ["launch.measurement"]
    world.apply(store, f"{before}\n{edit['toml']}\n")
    helpers.issue(world, enroller, tpms(0))


def test_a_key_broker_with_a_new_key_keeps_its_instances(world, store, enroller, helpers, tpms, refused):
    helpers.issue(world, enroller, tpms(0))
    shown = refused(tpms(0), kbs=KEY, counter=2)
    assert {f["rule"] for f in shown["trace"] if f["verdict"] == "failed"} >= {
        "kbs.listed",
        "ledger.key-unique",
    }
    (edit,) = shown["remedy"]["edits"]
    assert edit["entries"] == ["kbs org-kbs"]
    assert shown["remedy"]["admits"]


def test_what_was_revoked_meanwhile_stays_revoked(world, store, enroller, helpers, tpms, refused):
    helpers.issue(world, enroller, tpms(0))
    serial = helpers.operate(world, store, "cert-list")[0]["serial"]
    helpers.operate(world, store, "cert-revoke", serial=serial, yes=True)
    remedy = refused(tpms(0), kbs=KEY, counter=2)["remedy"]
    assert [left["rule"] for left in remedy["left"]] == ["ledger.not-revoked"]
    assert [edit["entries"] for edit in remedy["edits"]] == [["kbs org-kbs"]]


def test_a_key_broker_with_a_new_key_has_its_instances_full(world, enroller, helpers, tpms, refused):
    helpers.issue(world, enroller, tpms(0))
    remedy = refused(tpms(1), kbs=KEY, secret=bytes(range(1, 33)))["remedy"]
    assert [edit["entries"] for edit in remedy["edits"]] == [["kbs new-kbs"]]
    # As the new key of the listed KBS it would meet the TPM that lives there.
    assert remedy["alternatives"] == []


def test_another_tpm_in_an_instance_is_no_matter_of_the_policy(world, enroller, helpers, tpms, refused):
    helpers.issue(world, enroller, tpms(0))
    remedy = refused(tpms(1), secret=bytes(range(1, 33)), origin="provisioned")["remedy"]
    assert not remedy["admits"]
    (left,) = remedy["left"]
    assert left["rule"] == "ledger.instance-occupied"
    assert "vtpm-ca instance reset" in left["advice"]
    assert rules(remedy["edits"]) == [["kbs.origin"]]


def test_a_report_of_the_guest_is_no_matter_of_the_policy(tpms, refused):
    remedy = refused(tpms(0), vmpl=1)["remedy"]
    assert [left["rule"] for left in remedy["left"]] == ["snp.vmpl", "launch.measurement"]
    assert "VMPL 0" in remedy["left"][1]["advice"]
    assert remedy["edits"] == []


def test_an_old_grant_is_better_answered_by_a_boot(world, tpms, refused):
    remedy = refused(tpms(0), change_claims=lambda claims: _older(claims, 5000))["remedy"]
    assert "fresh grant" in remedy["without_change"][0]
    assert rules(remedy["edits"]) == [["grant.age"]]


def _older(claims, seconds):
    return replace(claims, iat=claims.iat - seconds, exp=claims.exp - seconds)


def test_a_wrong_answer_of_the_tpm_is_no_matter_of_the_policy(world, store, enroller, helpers, tpms):
    reply = enroller.enroll(world.body(enroller.new_nonce().nonce, tpms(0)))
    enrollment_id, _ = helpers.answer(tpms(0), reply.body)
    with pytest.raises(Refused) as error:
        enroller.activate(enrollment_id, helpers.encode(ActivationRequest((bytes(32),))))
    shown = helpers.operate(world, store, "decision-show", id=error.value.decision_id)
    assert [left["rule"] for left in shown["remedy"]["left"]] == ["activation.secret"]
    assert shown["remedy"]["edits"] == []


def test_what_is_in_force_now_is_said_too(world, store, tpms, refused, helpers):
    shown = refused(tpms(0), resource="x/y/z")
    assert shown["remedy"]["in_force"] is None
    world.apply(store, world.policy().replace('"default/vtpm/*"', '"x/y/z"'))
    again = helpers.operate(world, store, "decision-show", id=shown["id"])["remedy"]
    assert again["in_force"] == {"version": 2, "verdict": "admitted", "rule": ""}
    assert again["edits"] == shown["remedy"]["edits"]


def test_an_admission_says_what_it_rests_on(world, store, enroller, helpers, tpms):
    floor = world.policy().replace(
        '[[platform.tcb]]\nproduct = "Genoa"',
        '[[platform.tcb]]\nproduct = "Milan"\nfrom = 2027-01-01T00:00:00Z\nfirmware = "1.55.29"\n'
        "reported = { bootloader = 4, tee = 0, snp = 28, microcode = 219 }\n"
        "committed = { bootloader = 4, tee = 0, snp = 27, microcode = 219 }\n"
        "launch = { bootloader = 4, tee = 0, snp = 27, microcode = 219 }\n"
        '[[platform.tcb]]\nproduct = "Genoa"',
    )
    world.apply(store, floor)
    helpers.issue(world, enroller, tpms(0))
    (first, *_) = helpers.operate(world, store, "decision-list")
    shown = helpers.operate(world, store, "decision-show", id=first["id"])
    assert shown["remedy"] is None
    assert shown["rests_on"] == {
        "kbs": "org-kbs",
        "kbs_label": "the organisation's",
        "launch": "simulated",
        "platform": "simulated",
        "grant_age_s": 1,
        "grant_age_demanded": "at most 3600 s",
        "floor": {
            "product": "Milan",
            "since": None,
            "reported_above": {"bootloader": 0, "tee": 0, "snp": 0, "microcode": 0},
            "misses_from": "2027-01-01T00:00:00Z",
        },
        "given_up": [],
    }


def test_what_was_given_up_is_part_of_what_it_rests_on(world, store, enroller, helpers, tpms):
    extra = '[[unsafe]]\nname = "UnsafeAllowAnyKbs"\ngives_up = "x"'
    world.apply(store, world.policy(extra=extra))
    helpers.issue(world, enroller, tpms(0), helpers.Boot(kbs=KEY))
    (first, *_) = helpers.operate(world, store, "decision-list")
    found = helpers.operate(world, store, "decision-show", id=first["id"])["rests_on"]
    assert "kbs.listed" in found["given_up"]
    assert found["kbs"].startswith("unlisted:")


def test_a_decision_of_an_earlier_release_says_that_it_kept_nothing(world, store, tpms, refused, helpers):
    shown = refused(tpms(0), resource="x/y/z")
    with sa.create_engine(world.url).begin() as connection:
        connection.execute(sa.text("UPDATE decisions SET trace = :t"), {"t": json.dumps(shown["trace"])})
    again = helpers.operate(world, store, "decision-show", id=shown["id"])
    assert again["trace"] == shown["trace"]
    assert (again["remedy"], again["rests_on"]) == (None, None)
    assert "before 0.5" in again["unexplained"]


def test_without_a_policy_there_is_nothing_to_change(world, helpers, tpms, empty_database):
    shutil.copyfile(empty_database, world.directory / "ca.sqlite3")
    store = world.open_store()
    enroller = world.enroller(store)
    with pytest.raises(Refused) as error:
        enroller.enroll(world.body(enroller.new_nonce().nonce, tpms(0)))
    shown = helpers.operate(world, store, "decision-show", id=error.value.decision_id)
    store.close()
    assert "policy apply" in shown["unexplained"]


def test_the_document_names_every_member(tpms, refused):
    text = (Path(__file__).parents[3] / "docs" / "decisions.md").read_text(encoding="utf-8")
    remedy = refused(tpms(0), resource="x/y/z")["remedy"]
    assert [name for name in (*remedy, *remedy["edits"][0]) if f"`{name}`" not in text] == []


def test_nothing_is_written_by_it(world, store, tpms, refused, helpers, monkeypatch):
    shown = refused(tpms(0), resource="x/y/z")
    monkeypatch.setattr(Store, "write", lambda *_, **_how: pytest.fail("it wrote"))
    assert helpers.operate(world, store, "decision-show", id=shown["id"]) == shown
