"""Each rule of a policy: what it admits, what it refuses, and that nothing else refuses with it."""

import inspect
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from ca_service.evidence.ear import EAR_CHECKS, EarEvidence
from ca_service.judgment import Verdict, failed, judge_all, judge_until_failure
from ca_service.policy import PolicyFacts, checks, kbs_for, launch_checks, load, with_given_up
from ca_service.policy.judging.selection import PROFILE_CAPABILITIES
from vtpm.wire.report import pack_report

ALL_KBS_RULES = ["kbs.listed", "kbs.status", "kbs.valid", "kbs.resource", "kbs.origin", "kbs.release-policy"]


def test_what_the_document_names_is_admitted(content, facts, refusals):
    assert refusals(content, facts) == []
    genuine = replace(facts, launch=replace(facts.launch, simulated=False))
    assert refusals(content, genuine, "production") == []


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        ({"profile": "svsm-vtpm-session:1"}, ["profile.admitted", "launch.capabilities"]),
        ({"profile": "amd-svsm-services"}, ["profile.admitted", "launch.capabilities"]),
        ({"profile": ""}, ["profile.admitted", "launch.capabilities"]),
        ({"kbs_thumbprint": "nobody"}, ALL_KBS_RULES),
        ({"kbs_thumbprint": ""}, ALL_KBS_RULES),
        ({"resource": "default/other/vm-1"}, ["kbs.resource"]),
        ({"resource": "default/vtpm"}, ["kbs.resource"]),
        ({"resource": "default/vtpm/vm-1/more"}, ["kbs.resource"]),
        ({"resource": "default/vtpmx/vm-1"}, ["kbs.resource"]),
        ({"resource": ""}, ["kbs.resource"]),
        ({"origin": "provisioned"}, ["kbs.origin"]),
        ({"origin": ""}, ["kbs.origin"]),
        ({"release_policy": "ef" * 32}, ["kbs.release-policy"]),
        ({"release_policy": ""}, ["kbs.release-policy"]),
        ({"store_mode": "volatile", "store_format": "none"}, ["store.persistent", "store.format"]),
        ({"store_mode": "volatile"}, ["store.persistent"]),
        ({"store_mode": ""}, ["store.persistent"]),
        ({"store_format": "cocoonfs/2"}, ["store.format"]),
        ({"ek_templates": ("L-2",)}, ["tpm.template-allowed"]),
        ({"ek_templates": ("L-1", "L-2")}, ["tpm.template-allowed"]),
        ({"ek_templates": ()}, ["tpm.template-allowed"]),
        ({"iak_template": "H-2"}, ["tpm.template-allowed"]),
        ({"idevid_template": "L-1"}, ["tpm.template-allowed"]),
    ],
)
def test_what_it_does_not_name_is_refused(content, facts, refusals, change, rules):
    assert refusals(content, replace(facts, **change)) == rules


@pytest.mark.parametrize(
    ("age", "rules"), [(3600, []), (3601, ["grant.age"]), (0, []), (10**12, ["grant.age"])]
)
def test_the_age_of_a_grant(content, facts, refusals, age, rules):
    assert refusals(content, replace(facts, grant_iat=int(facts.at.timestamp()) - age)) == rules


@pytest.mark.parametrize(
    ("at", "rules"),
    [
        (datetime(2026, 1, 1, tzinfo=UTC), []),
        (datetime(2025, 12, 31, 23, 59, 59, tzinfo=UTC), ["kbs.valid"]),
        (datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC), []),
        (datetime(2027, 1, 1, tzinfo=UTC), ["kbs.valid"]),
    ],
)
def test_a_kbs_is_valid_from_a_moment_until_before_another(content, facts, refusals, at, rules):
    # No floor and no CRL shall have a say in this.
    del content["platform"][0]["tcb"][2]
    launch = replace(facts.launch, at=at, crl_issued_at=at)
    assert refusals(content, replace(facts, launch=launch, grant_iat=int(at.timestamp()))) == rules


def test_a_time_without_a_zone_is_a_mistake_of_the_caller(launch):
    naive = datetime(2026, 1, 1)  # noqa: DTZ001 - that is the point
    with pytest.raises(ValueError, match="decision needs a time zone"):
        replace(launch, at=naive)
    with pytest.raises(ValueError, match="CRL needs a time zone"):
        replace(launch, crl_issued_at=naive)


@pytest.mark.parametrize("status", ["suspended", "compromised"])
def test_a_kbs_that_is_not_trusted_is_refused(content, facts, refusals, status):
    content["kbs"][0]["status"] = status
    if status == "compromised":
        content["kbs"][0]["compromised_since"] = facts.at + timedelta(days=1)
    assert refusals(content, facts) == ["kbs.status"]


def test_every_key_of_a_kbs_counts_and_leads_to_the_same_entry(content, facts, refusals, keys, toml):
    assert refusals(content, replace(facts, kbs_thumbprint=keys[2].thumbprint())) == []
    policy = load(toml(content))
    assert kbs_for(policy, keys[0].thumbprint()) is kbs_for(policy, keys[2].thumbprint())
    assert kbs_for(policy, keys[1].thumbprint()).id == "second-kbs"
    assert kbs_for(policy, "nobody") is None


def test_one_kbs_does_not_vouch_under_anothers_rules(content, facts, refusals, keys):
    second = replace(facts, kbs_thumbprint=keys[1].thumbprint(), release_policy="00" * 32)
    assert refusals(content, second) == []
    assert refusals(content, replace(second, origin="provisioned")) == []
    assert refusals(content, replace(second, resource="default/pool/vm-1")) == ["kbs.resource"]


def test_shared_is_told_per_resource(content, keys, toml):
    kbs = kbs_for(load(toml(content)), keys[0].thumbprint())
    assert kbs.shares("default/pool/a")
    assert not kbs.shares("default/vtpm/a")
    assert not kbs.shares("elsewhere/pool/a")


def test_no_policy_denies_everything(facts, launch):
    for mode in ("simulation", "production"):
        assert judge_all(checks(None, mode), facts).refusal.rule == "policy.in-force"
        assert judge_all(launch_checks(None, mode), launch).refusal.rule == "policy.in-force"


def test_an_empty_document_denies_under_every_rule(facts, refusals):
    allowed_anyway = {"store.persistent", "profile.admitted", "policy.mode", "launch.simulated"}
    policy = load("schema = 1")
    everything = {check.id for check in (*launch_checks(policy, "simulation"), *checks(policy, "simulation"))}
    assert set(refusals(policy, facts)) == everything - allowed_anyway


@pytest.mark.parametrize("mode", ["production", "", "Simulation", "simulation "])
def test_only_a_simulation_ca_serves_simulated_platforms(content, facts, refusals, mode):
    assert refusals(content, facts, mode) == ["launch.simulated"]


def test_checks_are_made_once_for_a_policy_and_remember_no_verdict(content, launch, launched, toml):
    policy = load(toml(content))
    rules = launch_checks(policy, "simulation")
    assert launch_checks(policy, "simulation") is rules
    assert launch_checks(policy, "production") is not rules
    assert launch_checks(load(toml(content)), "simulation") is not rules
    other = launched(measurement=bytes(48))
    for _ in range(2):
        assert judge_all(rules, other).refusal.rule == "launch.measurement"
        assert judge_all(rules, launch).admitted


def test_every_rule_has_one_finding_and_its_own_id(content, facts, toml, judge):
    policy = load(toml(content))
    rules = (*launch_checks(policy, "simulation"), *checks(policy, "simulation"))
    assert [f.rule for f in judge(policy, facts).findings] == [check.id for check in rules]
    assert len({check.id for check in rules}) == len(rules)


def test_the_requester_never_learns_what_is_on_the_list(content, facts, judge, report, keys):
    # The operator's columns may name entries; the sentence for the requester may not.
    wrong = PolicyFacts(
        launch=replace(
            facts.launch,
            report=report(
                version=2,
                vmpl=1,
                policy=1 << 17,
                platform_info=0,
                guest_svn=0,
                host_data=bytes(32),
                family_id=bytes(16),
                image_id=bytes(16),
                id_key_digest=bytes(48),
                chip_id=b"\1" * 64,
                current_tcb=bytes(8),
                reported_tcb=bytes(8),
                committed_tcb=b"\1" * 8,
                launch_tcb=bytes(8),
                current_firmware=(0, 0, 0),
                launch_mit_vector=0,
                current_mit_vector=0,
            ),
            crl_issued_at=None,
            at=facts.at + timedelta(days=1000),
        ),
        kbs_thumbprint=keys[0].thumbprint(),
        resource="x/y/z",
        origin="?",
        release_policy="?",
        grant_iat=0,
        store_mode="volatile",
        store_format="?",
        ek_templates=("L-2",),
        iak_template="H-1",
        idevid_template="H-1",
        profile="?",
    )
    words = (
        "org-kbs second-kbs standard fleet default/vtpm cocoonfs L-1 H-3 VCEK 1.51 1.55 219 bootloader 0x5 0x6 "
        "page-swap ecc alias ID_KEY"
    )
    secrets = [*words.split(), "11" * 48, "ab" * 32, "5a" * 8, "d0" * 8, "fa" * 8, "1a" * 8, "00010203", " 3"]
    trace = judge(content, wrong, "production")
    failed = [finding for finding in trace.findings if finding.verdict is Verdict.FAILED]
    assert len(failed) >= 30
    for finding in failed:
        assert finding.reason
        assert not any(secret in finding.reason for secret in secrets), finding.rule


def test_what_a_launch_must_be_able_to_do_for_each_profile():
    assert dict(PROFILE_CAPABILITIES) == {
        "svsm-vtpm-ca:1": {"verifies-grants", "reports-state"},
        "amd-svsm-services": {"oracle-free", "verifies-grants"},
        "amd-svsm-vtpm:0": {"oracle-free"},
    }


REPORT_FIELDS = set(inspect.signature(pack_report).parameters)

# -- permissive entries ---------------------------------------------------------------------------------------

UNSAFE = [
    ("UnsafeAllowAnyMeasurement", {"measurement": b"\x33" * 48, "id_key_digest": bytes(48)}),
    ("UnsafeAllowMissingCapabilities", {"measurement": b"\x22" * 48, "id_key_digest": bytes(48)}),
    ("UnsafeAllowAnyPlatform", {"version": 2, "platform_info": 0, "chip_id": bytes(64)}),
    ("UnsafeAllowAnyKbs", {"kbs_thumbprint": "nobody"}),
    ("UnsafeAllowAnyResource", {"resource": "a/b/c"}),
    ("UnsafeAllowAnyOrigin", {"origin": "provisioned"}),
    ("UnsafeAllowAnyReleasePolicy", {"release_policy": "00" * 32}),
    ("UnsafeAllowAnyGrantAge", {"grant_iat": 0}),
    ("UnsafeAllowVolatileStore", {"store_mode": "volatile", "store_format": "none"}),
]


def unsafe(content, *names):
    return content | {"unsafe": [{"name": name, "gives_up": "everything it stands for"} for name in names]}


@pytest.fixture
def changed(facts, launched):
    """The facts with something changed, in the report or beside it."""

    def made(change, **more):
        if change.keys() <= REPORT_FIELDS:
            return replace(facts, launch=replace(launched(**change), **more))
        return replace(facts, **change, launch=replace(facts.launch, **more))

    return made


@pytest.mark.parametrize(("name", "change"), UNSAFE)
def test_a_permissive_entry_admits_on_a_simulation_ca_and_the_trace_says_so(
    content, changed, judge, name, change
):
    bad = changed(change)
    strict = judge(content, bad)
    trace = judge(unsafe(content, name), bad)
    assert strict.refusal is not None
    assert trace.admitted
    refused = {f.rule for f in strict.findings if f.verdict is Verdict.FAILED}
    skipped = {f.rule: f for f in trace.findings if f.verdict is Verdict.UNSAFE_SKIPPED}
    assert refused <= set(skipped)
    for finding in skipped.values():
        assert name in finding.expected
        assert finding.expected.endswith("failed" if finding.rule in refused else "passed")
    assert [f.rule for f in trace.findings] == [f.rule for f in strict.findings]


@pytest.mark.parametrize(("name", "change"), UNSAFE)
def test_it_is_traced_even_if_nothing_was_wrong(content, facts, judge, name, change):
    trace = judge(unsafe(content, name), facts)
    assert any(f.verdict is Verdict.UNSAFE_SKIPPED for f in trace.findings)


@pytest.mark.parametrize(("name", "change"), UNSAFE)
def test_on_a_production_ca_it_refuses_everything_and_skips_nothing(
    content, toml, changed, judge, name, change
):
    policy = load(toml(unsafe(content, name)))
    assert list(policy.unsafe) == [name]
    good = judge(policy, changed({}, simulated=False), "production")
    assert good.refusal.rule == "policy.mode"
    bad = judge(policy, changed(change, simulated=False), "production")
    assert len([f for f in bad.findings if f.verdict is Verdict.FAILED]) > 1
    assert not any(f.verdict is Verdict.UNSAFE_SKIPPED for f in good.findings + bad.findings)


@dataclass(frozen=True)
class Elsewhere:
    """A check of another room that never holds."""

    id: str

    def judge(self, subject):
        return failed(self, "no", actual=subject)


@pytest.mark.parametrize("mode", ["simulation", "production", "", "Simulation"])
def test_a_check_of_another_room_is_given_up_on_a_simulation_ca_alone(content, toml, mode):
    policy = load(toml(unsafe(content, "UnsafeAllowAnyKbs", "UnsafeAllowAnyOrigin")))
    others = [Elsewhere("ear.status"), Elsewhere("grant.signature"), Elsewhere("kbs.origin")]
    trace = judge_all(with_given_up(policy, mode, others), "seen")
    assert [(f.rule, f.actual) for f in trace.findings] == [(other.id, "seen") for other in others]
    skipped = [f.rule for f in trace.findings if f.verdict is Verdict.UNSAFE_SKIPPED]
    assert skipped == (["ear.status", "kbs.origin"] if mode == "simulation" else [])
    assert with_given_up(load(toml(content)), mode, others) == tuple(others)


def test_a_token_that_is_given_up_is_looked_at_to_the_end(content, facts, toml):
    # Without a token nothing holds; whoever reads the trace shall see every rule that was given up.
    policy = load(toml(unsafe(content, "UnsafeAllowAnyKbs")))
    subject = EarEvidence(None, (), 60, "", "", facts.at)
    trace = judge_until_failure(with_given_up(policy, "simulation", EAR_CHECKS), subject)
    assert trace.admitted
    assert [f.rule for f in trace.findings] == [check.id for check in EAR_CHECKS]
    assert not judge_until_failure(with_given_up(policy, "production", EAR_CHECKS), subject).admitted


def test_a_kbs_that_nobody_listed_still_has_a_name_of_its_own(content, keys, toml):
    policy = load(toml(unsafe(content, "UnsafeAllowAnyKbs")))
    stranger = kbs_for(policy, "nobody")
    assert stranger.id == "unlisted:nobody"
    assert not stranger.allows("default/vtpm/vm-1")
    assert kbs_for(policy, keys[0].thumbprint()).id == "org-kbs"
