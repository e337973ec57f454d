"""What a document says of a key broker's grants, of certificates and of limits; and that it is told in short."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ca_service.judgment import BadRequest, Verdict
from ca_service.policy import LimitTerms, in_words, kbs_for, load, load_complete, summary
from vtpm.wire.templates import Role

AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def finding(judge, policy, facts, rule):
    (found,) = [each for each in judge(policy, facts).findings if each.rule == rule]
    return found


# -- how old a grant may be ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("general", "own", "age", "verdict", "expected"),
    [
        (900, None, 900, Verdict.PASSED, "at most 900 s"),
        (900, None, 901, Verdict.FAILED, "at most 900 s"),
        (900, 60, 61, Verdict.FAILED, "at most 60 s, by the entry org-kbs"),
        (900, 60, 60, Verdict.PASSED, "at most 60 s, by the entry org-kbs"),
        (900, 3600, 3600, Verdict.PASSED, "at most 3600 s, by the entry org-kbs"),
        (None, 60, 60, Verdict.PASSED, "at most 60 s, by the entry org-kbs"),
        (None, 60, 61, Verdict.FAILED, "at most 60 s, by the entry org-kbs"),
        (None, None, 0, Verdict.FAILED, "nothing"),
    ],
)
def test_the_number_of_the_entry_goes_before_the_general_one(
    content, toml, facts, judge, general, own, age, verdict, expected
):
    content["grant"] = {"max_age_s": general}
    if general is None:
        del content["grant"]
    if own is not None:
        content["kbs"][0]["grant_max_age_s"] = own
    asked = replace(facts, grant_iat=int(facts.at.timestamp()) - age)
    found = finding(judge, toml(content), asked, "grant.age")
    assert (found.verdict, found.expected, found.actual) == (verdict, expected, f"{age} s")


def test_it_is_the_number_of_the_broker_whose_key_signed(content, toml, facts, judge, keys):
    content["kbs"][1]["grant_max_age_s"] = 5
    asked = replace(facts, grant_iat=int(facts.at.timestamp()) - 60)
    assert finding(judge, toml(content), asked, "grant.age").verdict is Verdict.PASSED
    asked = replace(asked, kbs_thumbprint=keys[1].thumbprint())
    assert finding(judge, toml(content), asked, "grant.age").verdict is Verdict.FAILED


def test_an_unlisted_broker_is_held_to_the_general_number(content, toml, facts, judge):
    content["unsafe"] = [{"name": "UnsafeAllowAnyKbs", "gives_up": "who vouches"}]
    content["kbs"][0]["grant_max_age_s"] = 5
    policy = load(toml(content))
    asked = replace(facts, kbs_thumbprint="nobody", grant_iat=int(facts.at.timestamp()) - 60)
    assert kbs_for(policy, "nobody").grant_max_age is None
    assert finding(judge, policy, asked, "grant.age").verdict is Verdict.PASSED


@pytest.mark.parametrize(
    ("own", "general", "most"), [(5, 900, 900), (900, 5, 900), (5, None, 5), (None, 900, 900)]
)
def test_where_any_broker_is_admitted_the_larger_number_counts(
    content, toml, facts, judge, own, general, most
):
    """A broker that is struck off the list is held to the general number; that must not let more in."""
    content["unsafe"] = [{"name": "UnsafeAllowAnyKbs", "gives_up": "who vouches"}]
    content["kbs"][0]["grant_max_age_s"] = own
    content["grant"] = {"max_age_s": general}
    if own is None:
        del content["kbs"][0]["grant_max_age_s"]
    if general is None:
        del content["grant"]
    for age, verdict in ((most, Verdict.PASSED), (most + 1, Verdict.FAILED)):
        asked = replace(facts, grant_iat=int(facts.at.timestamp()) - age)
        assert finding(judge, toml(content), asked, "grant.age").verdict is verdict


# -- which release policies ---------------------------------------------------------------------------------------


def test_silence_about_release_policies_is_an_open_question(content, toml):
    content["kbs"][1]["unconstrained"] = []
    with pytest.raises(BadRequest) as caught:
        load_complete(toml(content))
    assert caught.value.code == "policy-unstated"
    assert caught.value.path == "kbs[1].release_policies"
    assert caught.value.detail == (
        'kbs[1].release_policies: must be stated, or "release-policy" named in unconstrained (entry "second-kbs")'
    )


def test_a_version_in_force_goes_on_judging_as_it_did(content, toml, facts, judge, keys):
    """Releases before 0.5 took silence for any release policy; their decisions must come out the same again."""
    asked = replace(facts, kbs_thumbprint=keys[1].thumbprint(), resource="x/vtpm/a", release_policy="00" * 32)
    now = finding(judge, toml(content), asked, "kbs.release-policy")
    assert (now.verdict, now.expected) == (Verdict.PASSED, "unconstrained")
    del content["kbs"][1]["unconstrained"]
    policy = load(toml(content))
    before = finding(judge, policy, asked, "kbs.release-policy")
    assert (before.verdict, before.expected) == (Verdict.PASSED, "any")
    (question,) = policy.unstated
    assert not question.denies


@pytest.mark.parametrize("name", ["UnsafeAllowAnyReleasePolicy", "UnsafeAllowAnyKbs"])
def test_a_permissive_entry_answers_it(content, toml, name):
    content["kbs"][1]["unconstrained"] = []
    content["unsafe"] = [{"name": name, "gives_up": "under which policy a key was released"}]
    load_complete(toml(content))


# -- certificates and limits --------------------------------------------------------------------------------------


def test_days_count_where_a_validity_is_bounded(content, toml):
    assert load(toml(content)).certificate_days == {}
    content["certificates"] = {
        "ek": {"validity": "device-lifetime"},
        "idevid": {"validity": "bounded", "days": 30},
    }
    assert load(toml(content)).certificate_days == {Role.IDEVID: 30}


def test_limits_are_what_the_document_says(content, toml):
    assert load(toml(content)).limits == LimitTerms()
    content["limits"] = {"instance_window_s": 60, "launch_refusals_per_hour": 7}
    assert load(toml(content)).limits == LimitTerms(None, 60, 7)


# -- in short -----------------------------------------------------------------------------------------------------


@pytest.fixture
def full(content):
    content["kbs"][0] |= {"tenant": "payments", "grant_max_age_s": 60}
    content["certificates"] = {"iak": {"validity": "bounded", "days": 30}}
    content["limits"] = {"instance_enrolments": 5}
    content["ephemeral"] = {"days": 2, "volatile_stores": True}
    content["approval"] = {"widening": "two"}
    content["test"] = [{"name": "guests", "evidence": "guests.json", "expect": "admitted"}]
    return content


def test_the_summary_has_all_that_a_document_decides(full, toml):
    policy = load(toml(full))
    assert summary(policy, AT) == {
        "digest": policy.digest,
        "kbs": ["org-kbs", "second-kbs"],
        "tenants": {"payments": ["org-kbs"]},
        "launch": ["oracle", "signed", "standard"],
        "platform": ["fleet"],
        "grant_max_age_s": 3600,
        "kbs_grant_max_age_s": {"org-kbs": 60},
        "templates": {"ek": ["H-3", "L-1"], "iak": ["H-3"], "idevid": ["H-2", "H-3"]},
        "iak_profile": "iak",
        "certificate_days": {"ek": None, "iak": 30, "idevid": None},
        "store_formats": ["cocoonfs/1"],
        "ephemeral": {"days": 2, "profiles": [], "volatile_stores": True},
        "limits": {"instance_enrolments": 5, "instance_window_s": 3600, "launch_refusals_per_hour": 200},
        "approval": "two",
        "unsafe": [],
        "test": ["guests"],
        "warnings": policy.warnings(AT),
    }


def test_people_read_the_same(full, toml):
    assert in_words(load(toml(full))) | {"digest": ""} == {
        "kbs": "org-kbs, second-kbs",
        "tenants": "payments: org-kbs",
        "launch": "oracle, signed, standard",
        "platform": "fleet",
        "grant age": "at most 3600 s; org-kbs: at most 60 s",
        "templates": "ek: H-3, L-1; iak: H-3; idevid: H-2, H-3",
        "iak profile": "iak",
        "certificates": "ek: as the key ceremony says; iak: at most 30 days; idevid: as the key ceremony says",
        "stores": "cocoonfs/1",
        "ephemeral": "volatile stores, for 2 days",
        "limits": "5 enrolments of an instance in 3600 s, 200 refusals of a launch in an hour",
        "operators to widen": "two",
        "unsafe": "none",
        "tests": "guests",
        "digest": "",
    }


def test_an_empty_document_admits_nothing_and_says_so(toml):
    words = in_words(load("schema = 1\n"))
    assert words["grant age"] == "every grant is too old"
    assert words["templates"] == "ek: none; iak: none; idevid: none"
    assert (words["tenants"], words["ephemeral"]) == ("none", "nothing")


# -- what time has made of it -------------------------------------------------------------------------------------


def test_an_entry_whose_time_is_over_is_pointed_out_by_whoever_knows_the_time(content, toml):
    policy = load(toml(content))
    end = content["kbs"][0]["valid_to"]
    past = "kbs org-kbs is past its valid_to: no grant of it is admitted any more"
    assert past in policy.warnings(end)
    assert past not in policy.warnings(end - timedelta(seconds=1))
    assert past not in policy.warnings()


def test_a_compromise_that_is_yet_to_come_is_pointed_out(content, toml):
    content["kbs"][0] |= {"status": "compromised", "compromised_since": AT}
    policy = load(toml(content))
    early = "kbs org-kbs has a compromised_since that is yet to come: its grants are refused at once"
    assert early in policy.warnings(AT - timedelta(seconds=1))
    assert early not in policy.warnings(AT)


def test_one_key_for_grants_and_tokens_is_pointed_out(content, toml, keys):
    def said():
        return [warning for warning in load(toml(content)).warnings() if "tokens" in warning]

    assert said() == []
    content["kbs"][1]["ear"] = {"max_age_s": 60, "key": [{"jwk": keys[2].members()}]}
    assert said() == [
        "kbs second-kbs takes attestation tokens that are signed by a key of org-kbs for grants"
    ]
