"""Each attack succeeds without the checks that it names, and fails with all of them and with each of them alone."""

from dataclasses import replace

import pytest

from ca_service.policy import UNSAFE_RULES
from vtpm.lab.attacks import ATTACKS, Verdict, attempt, run

FIRST = {
    "m1": "kbs.listed",
    "m2": "svsm.grant-epk",
    "m3": "svsm.epk",
    "m4": "svsm.grant-signature",
    "s1": "kbs.listed",
    "s2": "kbs.resource",
    "s3": "store.key",
    "d1": "store.missing",
    "b1": "launch.measurement",
    "b2": "profile.admitted",
    "b2-kbs": "kbs.report-data",
    "k1": "kbs.release-policy",
    "r1": "nonce.unexpired",
    "r1-stock": "nonce.genuine",
    "r2": "nonce.audience",
    "x1-ek": "evidence.report-data",
    "x1-iak": "evidence.report-data",
    "x1-idevid": "evidence.report-data",
    "x1-grant": "svsm.grant-epk",
    "t1-reset": "ledger.instance-occupied",
    "t1-foreign": "ledger.key-unique",
    "t2-seen": "ledger.counter",
    "g1": "tpm.identity",
    "g2": "snp.vmpl",
}
"""The rule that is met first when everything is checked."""

NOT_YET = {"t2", "t3"}


@pytest.mark.parametrize("name", FIRST)
def test_the_checks_stop_it(lab, name):
    result = run(ATTACKS[name], lab)
    assert (result.unchecked.verdict, result.unchecked.rule) == (Verdict.SUCCEEDED, ""), result.unchecked
    assert "certificate" in result.unchecked.detail or "TPMs" in result.unchecked.detail
    assert (result.checked.verdict, result.checked.rule) == (Verdict.REFUSED, FIRST[name]), result.checked
    assert set(result.alone) == set(ATTACKS[name].rules)
    for rule, case in result.alone.items():
        assert (case.verdict, case.rule) == (Verdict.REFUSED, rule), case
    assert result.as_promised
    decision = ATTACKS[name].decision
    if decision is not None:
        # What did not count is what the policy says, and nothing else.
        given_up = {rule for entry in decision.unsafe for rule in UNSAFE_RULES[entry]}
        assert set(result.unchecked.skipped) == given_up
        assert (result.checked.skipped, set(result.to_json()["unsafe"])) == ((), set(decision.unsafe))


@pytest.mark.parametrize("name", sorted(NOT_YET))
def test_nothing_stops_it_yet(lab, name):
    result = run(ATTACKS[name], lab)
    assert result.unchecked.verdict is Verdict.SUCCEEDED, result.unchecked
    assert result.checked.verdict is Verdict.NOT_YET, result.checked
    assert "witness" in result.attack.awaits
    assert result.as_promised


def test_no_attack_is_left_out():
    assert set(FIRST) | NOT_YET == set(ATTACKS)


def test_with_all_but_one_of_its_checks_off_it_still_fails_by_that_one(lab):
    partly = replace(ATTACKS["s2"], rules=("kbs.origin",))
    case = attempt(partly, lab, on=())
    assert (case.verdict, case.rule) == (Verdict.OTHERWISE, "kbs.resource")


def test_a_refusal_by_another_rule_is_no_proof(lab):
    elsewhere = replace(ATTACKS["s2"], rules=("nonce.genuine",))
    result = run(elsewhere, lab)
    assert result.checked.verdict is Verdict.OTHERWISE
    assert not result.as_promised
    assert result.to_json()["checked"] == "stopped-otherwise"
