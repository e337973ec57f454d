"""Attacks that the policy decides about: a document lets them succeed, on a simulation CA only."""

from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from ca_service.enrollment import Limits
from ca_service.judgment import BadRequest, Verdict, judge_all
from ca_service.operations import OperationContext, perform
from ca_service.policy import UNSAFE_RULES, LaunchFacts, checks, launch_checks, load_complete
from ca_service.policy.judging.unsafe import UnsafeAllowed
from ca_service.store import open_store
from vtpm.lab.attacks import ATTACKS
from vtpm.lab.attacks.scene import allow_list
from vtpm.wire.report import Product, Report

DECISIONS = {name: attack for name, attack in ATTACKS.items() if attack.decision is not None}


def document(scene, attack, off):
    return allow_list(scene.lab, scene.kbs, attack.origins) + attack.decision.document(off)[0]


def test_they_are_those_of_the_design():
    assert set(DECISIONS) == {"k1", "s2", "d1", "b2"}


@pytest.mark.parametrize("name", DECISIONS)
def test_the_document_alone_gives_up_the_rules_of_the_ca(name):
    attack, decision = DECISIONS[name], DECISIONS[name].decision
    text, given_up = decision.document(attack.rules)
    assert set(attack.rules) - set(decision.elsewhere) == given_up
    assert all(
        f'name = "{entry}"' in text and f'"{words}"' in text for entry, words in decision.unsafe.items()
    )
    for rule in attack.rules:
        assert rule not in decision.document([off for off in attack.rules if off != rule])[1]
    assert decision.document([]) == ("", frozenset())


def test_a_production_ca_takes_no_such_document(lab, scene):
    production = replace(lab.ceremony.authority, mode="production")
    with closing(open_store(f"sqlite:///{scene.directory}/ca.sqlite3")) as store:
        context = OperationContext(production, lambda: production, store, scene.clock, "mallory", Limits())
        for attack in DECISIONS.values():
            with pytest.raises(BadRequest) as refused:
                perform(context, "policy-apply", {"text": document(scene, attack, attack.rules)})
            assert refused.value.code == "policy-unsafe"


def test_under_one_that_was_written_into_its_database_it_denies_everything(lab, scene):
    report = Report.parse(lab.launch().report(bytes(64)))
    facts = LaunchFacts(report, Product.MILAN, False, None, datetime.now(UTC))
    for attack in DECISIONS.values():
        policy, plain = (load_complete(document(scene, attack, off)) for off in (attack.rules, ()))
        assert judge_all(launch_checks(policy, "simulation"), facts).admitted
        assert judge_all(launch_checks(plain, "production"), facts).admitted
        denied = judge_all(launch_checks(policy, "production"), facts)
        assert [f.rule for f in denied.findings if f.verdict is Verdict.FAILED] == ["policy.mode"]
        # No entry counts there.
        given_up = {rule for entry in attack.decision.unsafe for rule in UNSAFE_RULES[entry]}
        for mode, wanted in (("simulation", given_up), ("production", set())):
            every = (*launch_checks(policy, mode), *checks(policy, mode))
            assert {check.id for check in every if isinstance(check, UnsafeAllowed)} == wanted
