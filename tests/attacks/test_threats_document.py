"""docs/threats.md says what is so: the same attacks and rules as the code, and tests that exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from ca_service.enrollment import judge, ledger_checks, nonces
from ca_service.evidence.ear import EAR_CHECKS
from ca_service.evidence.grant import GRANT_CHECKS
from ca_service.evidence.profiles import profile_checks
from ca_service.evidence.snp import AUTHENTICITY, CONFIGURATION
from ca_service.export import quote, relying
from ca_service.policy import checks, launch_checks, load
from ca_service.residency import CERTIFY_CHECKS, KEY_CHECKS
from vtpm.lab.attacks import ATTACKS
from vtpm.wire.enrollment import EVIDENCE_PROFILES

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "threats.md").read_text(encoding="utf-8")
DEVICE_ROOMS = ("svsm", "kbs", "volume", "tpm")
_ROW = re.compile(r"^\| (?P<id>[a-z0-9-]+) \|(?P<rest>.*)\|$", re.MULTILINE)
_RULE = re.compile(r"`([a-z]+\.[a-z-]+)`")
_TEST = re.compile(r"`(tests/[^`]+\.py)::(\w+)`")
_HEADS = {"id", "---"}


def _rows():
    return {match["id"]: match["rest"] for match in _ROW.finditer(TEXT) if match["id"] not in _HEADS}


@cache
def _ca_rules():
    policy = load(
        'schema = 1\n[grant]\nmax_age_s = 60\n[tpm]\nek = ["L-2"]\niak = ["H-3"]\nidevid = ["H-3"]\n'
        '[store]\nformats = ["cocoonfs/1"]\n'
    )
    registered = (
        *nonces.NONCE_CHECKS,
        *judge.BINDING_CHECKS,
        *judge.ACTIVATION_CHECKS,
        *ledger_checks.LEDGER_CHECKS,
        *GRANT_CHECKS,
        *EAR_CHECKS,
        *(check for profile in EVIDENCE_PROFILES for check in profile_checks(profile)),
        *AUTHENTICITY,
        *CONFIGURATION,
        *launch_checks(policy, "production"),
        *checks(policy, "production"),
        *CERTIFY_CHECKS,
        *KEY_CHECKS,
    )
    return {check.id for check in registered}


_RELYING_RULES = {*quote.CHECKS, *relying.CHECKS}


@cache
def _device_rules():
    """Rules of the SVSM, its volume and TPM, and of the key broker: the strings in their sources that look like one."""
    found = set()
    for room in DEVICE_ROOMS:
        for path in (ROOT / "vtpm" / room).rglob("*.py"):
            strings = (n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant))
            found |= {s for s in strings if isinstance(s, str) and _RULE.fullmatch(f"`{s}`")}
    return found


@cache
def _tests(path):
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_attack_has_its_row_and_every_row_its_attack():
    assert set(_rows()) == set(ATTACKS)


@pytest.mark.parametrize("name", [name for name, attack in ATTACKS.items() if attack.rules])
def test_a_row_names_the_attacks_rules_in_their_order(name):
    assert tuple(_RULE.findall(_rows()[name])) == ATTACKS[name].rules
    assert _TEST.search(_rows()[name])


@pytest.mark.parametrize("rule", sorted(set(_RULE.findall(TEXT))))
def test_every_rule_exists(rule):
    assert rule in _ca_rules() | _device_rules() | _RELYING_RULES


@pytest.mark.parametrize(("path", "name"), sorted(set(_TEST.findall(TEXT))))
def test_every_test_exists(path, name):
    assert name in _tests(path)


def test_the_searches_find_what_they_should():
    assert len(_rows()) == len(ATTACKS)
    assert "kbs.listed" in _ca_rules()
    assert "svsm.epk" in _device_rules()
    assert "svsm.made-up" not in _ca_rules() | _device_rules()
    assert "test_every_test_exists" in _tests("tests/attacks/test_threats_document.py")


def test_the_protocol_page_tells_every_rule_of_the_ca():
    page = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    rules = page[page.index("## 9 Rules") : page.index("## 10 ")]
    assert _ca_rules() - set(_RULE.findall(rules)) == set()
