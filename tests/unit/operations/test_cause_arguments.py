"""`revoke` on what a real ceremony and a real enrolment left: what may be asked, and what a dry run does."""

import hashlib
import json

import pytest
from cryptography import x509

from ca_service.judgment import BadRequest, NotFound, Unavailable
from ca_service.operations.kept import keep_state, read_state
from ca_service.operations.revocation import ADVICE
from ca_service.policy import load
from ca_service.store import PolicyRow
from vtpm.wire.encoding import b64url
from vtpm.wire.jwk import EcJwk

RESOURCE = "default/vtpm/guest-a"
INSTANCE = {"kbs": "org-kbs", "resource": RESOURCE}
NOTHING = {"decisions": 0, "unknown": 0, "tpms": 0, "certificates": 0, "being_issued": 0, "beside": 0}


@pytest.fixture
def facts(desk):
    """What the evidence of the one admission says."""
    with desk.store.read() as tx:
        query = (
            "SELECT e.* FROM evidence e JOIN decisions d ON d.evidence_digest = e.digest WHERE d.admitted = 1"
        )
        return dict(tx.connection.exec_driver_sql(query).mappings().one())


def hit(desk, **asked) -> int:
    return desk("revoke", **asked)["counts"]["certificates"]


def snapshot(desk) -> dict[str, str]:
    """Digests of all files of the CA; the database's as a reader without its log would find it."""
    desk.store.close()
    folder = desk.context.public.directory
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_dry_run_writes_nothing_and_needs_no_key(desk, facts):
    # What was not remembered yet of the database is remembered now, as after any such operation.
    keep_state(desk.context.public, desk.store)
    before = snapshot(desk)
    plan = desk("revoke", measurement=facts["measurement"], cause="looked at", reason="keyCompromise")
    assert plan["counts"]["certificates"] == 3
    assert snapshot(desk) == before
    assert desk.unlocked == 0


def test_the_plan_says_what_and_why(desk, facts):
    plan = desk("revoke", measurement=facts["measurement"])
    assert (plan["done"], plan["more"], plan["omitted"]) == (False, False, 0)
    assert plan["counts"] == {**NOTHING, "decisions": 1, "tpms": 1, "certificates": 3}
    listed = {row["serial"]: row for row in desk("cert-list")}
    (admission,) = [row for row in desk("decision-list") if row["verdict"] == "admitted"]
    for row in plan["certificates"]:
        assert {name: row[name] for name in ("profile", "issuer", "state")} == {
            name: listed[row["serial"]][name] for name in ("profile", "issuer", "state")
        }
        assert (row["kbs"], row["resource"], row["salt"], row["live"]) == ("org-kbs", RESOURCE, "", True)
        assert (row["decision"], row["decided_at"]) == (admission["id"], admission["at"])
        assert row["why"] == f"measurement {facts['measurement'][:16]}..."
    assert {row["serial"] for row in plan["certificates"]} == set(listed)
    assert plan["advice"] == list(ADVICE)
    json.dumps(plan)


def test_doing_it(desk, facts):
    plan = desk("revoke", chip=facts["chip_id"])
    done = desk("revoke", chip=facts["chip_id"], yes=True, reason="keyCompromise", cause="opened")
    assert (done["done"], done["more"]) == (True, False)
    assert done["counts"] == {"tpms": 1, "certificates": 3, "being_issued": 0, "beside": 0}
    before, after = ({row["serial"]: row for row in result["certificates"]} for result in (plan, done))
    assert after == {serial: {**row, "state": "revoked"} for serial, row in before.items()}
    assert desk("cert-list") == []
    # It is not forgotten with the database, and on record with who and why.
    kept = read_state(desk.context.public)
    for serial, row in after.items():
        with desk.store.read() as tx:
            revocation = tx.revocations.get(row["issuer"], serial)
            crl = x509.load_der_x509_crl(tx.crls.latest(row["issuer"]).der)
        assert (revocation.reason, revocation.cause) == ("keyCompromise", "revoked by alice: opened")
        assert crl.get_revoked_certificate_by_serial_number(int(serial, 16)) is not None
        assert x509.load_der_x509_crl(kept.crls[row["issuer"], 0]) == crl
    # The TPM stays where it is, and nothing is left to be done: no key is asked for.
    assert desk("instance-list")[0]["occupied"]
    unlocked = desk.unlocked
    again = desk("revoke", chip=facts["chip_id"], yes=True)
    assert (again["done"], again["certificates"], again["advice"]) == (True, [], [])
    assert desk.unlocked == unlocked


def test_each_selector_finds_it(desk, facts):
    key = EcJwk.from_key(desk.world.kbs.public_key()).thumbprint()
    past, future = "2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z"
    for asked in (
        {"measurement": facts["measurement"]},
        {"chip": facts["chip_id"]},
        {"kbs_key": key, "all": True},
        {"kbs_key": key, "compromised_since": past},
        {"kbs": "org-kbs", "all": True},
        {"kbs": "org-kbs", "compromised_since": past},
        {"tcb_below": ["Milan:microcode=255"]},
        {"tcb_below": ["turin:fmc=9", "milan:bootloader=0,snp=255"]},
        {"policy_version": 1},
        {"instance": INSTANCE},
        {"instance": {**INSTANCE, "salt": ""}},
    ):
        assert hit(desk, **asked) == 3, asked
    for asked in (
        {"measurement": "ab" * 48},
        {"chip": "ab" * 64},
        {"chip": "ab" * 8},
        {"kbs_key": key, "compromised_since": future},
        {"kbs": "other", "all": True},
        {"tcb_below": ["Milan:microcode=0"]},
        {"tcb_below": ["Genoa:microcode=255"]},
    ):
        plan = desk("revoke", **asked)
        assert (plan["counts"], plan["certificates"], plan["advice"]) == (NOTHING, [], []), asked
    for row in desk("cert-list"):
        assert hit(desk, serial=row["serial"].upper()) == 1


def test_all_selectors_together_narrow(desk, facts):
    serial = desk("cert-list")[0]["serial"]
    asked = {
        "serial": serial,
        "instance": INSTANCE,
        "measurement": facts["measurement"],
        "chip": facts["chip_id"],
        "kbs": "org-kbs",
        "all": True,
        "tcb_below": ["Milan:snp=255"],
        "policy_version": 1,
    }
    (row,) = desk("revoke", **asked)["certificates"]
    assert row["serial"] == serial
    assert [part.split()[0] for part in row["why"].split(", ")] == [
        "serial",
        "instance",
        "measurement",
        "chip",
        "KBS",
        "Milan",
        "tee",
        "snp",
        "microcode",
        "policy",
    ]
    for other in ({"measurement": "ab" * 48}, {"chip": "ab" * 64}, {"tcb_below": ["Milan:snp=0"]}):
        assert hit(desk, **{**asked, **other}) == 0


def test_what_is_not_listed_is_counted(desk):
    plan = desk("revoke", policy_version=1, limit=1)
    assert (len(plan["certificates"]), plan["omitted"], plan["counts"]["certificates"]) == (1, 2, 3)
    done = desk("revoke", policy_version=1, limit=0, yes=True)
    assert (done["certificates"], done["omitted"], done["counts"]["certificates"]) == ([], 3, 3)
    assert desk("cert-list") == []


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        ({}, ""),
        ({"yes": True, "reason": "keyCompromise"}, ""),
        ({"serial": "xyz"}, "serial"),
        ({"instance": {"kbs": "org-kbs"}}, "instance.resource"),
        ({"instance": {**INSTANCE, "resource": "a"}}, "instance.resource"),
        ({"instance": {**INSTANCE, "more": 1}}, "instance.more"),
        ({"instance": "org-kbs"}, "instance"),
        ({"measurement": "ab" * 47}, "measurement"),
        ({"measurement": "AB" * 48}, "measurement"),
        ({"measurement": 1}, "measurement"),
        ({"chip": "ab" * 63}, "chip"),
        ({"chip": "00" * 64}, "chip"),
        ({"chip": "00" * 8}, "chip"),
        ({"chip": ""}, "chip"),
        ({"kbs_key": "x", "all": True}, "kbs_key"),
        ({"kbs_key": b64url(bytes(31)), "all": True}, "kbs_key"),
        ({"kbs_key": b64url(bytes(32))}, "compromised_since"),
        ({"kbs": "org-kbs"}, "compromised_since"),
        ({"kbs": "org-kbs", "all": False}, "compromised_since"),
        ({"kbs": "org-kbs", "all": True, "compromised_since": "2026-01-01T00:00:00Z"}, "compromised_since"),
        ({"kbs": "org-kbs", "compromised_since": "2026-02-30T00:00:00Z"}, "compromised_since"),
        ({"kbs": "org-kbs", "compromised_since": "yesterday"}, "compromised_since"),
        ({"kbs": "Org KBS", "all": True}, "kbs"),
        ({"policy_version": 1, "all": True}, "all"),
        ({"policy_version": 1, "compromised_since": "2026-01-01T00:00:00Z"}, "compromised_since"),
        ({"policy_version": 0}, "policy_version"),
        ({"policy_version": True}, "policy_version"),
        ({"tcb_below": []}, "tcb_below"),
        ({"tcb_below": "Milan:snp=1"}, "tcb_below"),
        ({"tcb_below": [1]}, "tcb_below[0]"),
        ({"tcb_below": ["snp=1"]}, "tcb_below[0]"),
        ({"tcb_below": ["Rome:snp=1"]}, "tcb_below[0]"),
        ({"tcb_below": ["Milan:fmc=1"]}, "tcb_below[0]"),
        ({"tcb_below": ["Milan:snp=256"]}, "tcb_below[0]"),
        ({"tcb_below": ["Milan:snp=1,snp=2"]}, "tcb_below[0]"),
        ({"tcb_below": ["Milan:snp=1", "milan:tee=2"]}, "tcb_below[1]"),
        ({"tcb_below": ["Milan:snp=1\n"]}, "tcb_below[0]"),
        ({"policy_version": 1, "reason": "certificateHold"}, "reason"),
        ({"policy_version": 1, "cause": "x" * 161}, "cause"),
        ({"policy_version": 1, "yes": "yes"}, "yes"),
        ({"policy_version": 1, "limit": -1}, "limit"),
        ({"policy_version": 1, "limit": 100_001}, "limit"),
    ],
)
def test_what_is_malformed_is_named_and_changes_nothing(desk, asked, path):
    with pytest.raises(BadRequest) as caught:
        desk("revoke", **{"yes": True, **asked})
    assert caught.value.path == path
    assert len(desk("cert-list")) == 3
    assert desk.unlocked == 0


@pytest.mark.parametrize(
    "asked",
    [
        {"serial": "00"},
        {"policy_version": 2},
        {"instance": {**INSTANCE, "resource": "default/vtpm/none"}},
        {"instance": {**INSTANCE, "salt": "5a"}},
    ],
)
def test_what_does_not_exist_is_not_mistaken_for_nothing_to_do(desk, asked):
    with pytest.raises(NotFound):
        desk("revoke", **asked)


@pytest.mark.parametrize("raw", ["zz" * 8, "00", ""])
def test_a_tcb_that_somebody_has_edited_hides_nothing(desk, raw):
    with desk.store.write() as tx:
        tx.connection.exec_driver_sql("UPDATE evidence SET reported_tcb = ?", (raw,))
    with pytest.raises(Unavailable, match="TCB"):
        desk("revoke", tcb_below=["Milan:snp=255"])


def test_every_policy_version_tells_whose_a_key_was(desk):
    """Ephemeral TPMs are a KBS's by its keys; one that it had in an earlier version is still its key."""
    from ca_service.operations.selection import keys_of  # noqa: PLC0415

    key = EcJwk.from_key(desk.world.kbs.public_key()).thumbprint()
    desk("policy-apply", text="schema = 1\n")
    with desk.store.write() as tx:
        tx.policies.append("00" * 32, "of a release that is gone", desk.world.time, "tests")
        # What one operator alone has proposed makes no key another's.
        proposed = desk.world.policy().replace('id = "org-kbs"', 'id = "other"')
        tx.policies.add(PolicyRow(4, load(proposed).digest, proposed, desk.world.time, "mallory", 3))
    with desk.store.read() as tx:
        assert keys_of(tx, "org-kbs") == (key,)
        assert keys_of(tx, "other") == ()
