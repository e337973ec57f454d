"""The stated keys: instances of their templates, fit for their roles, real keys, and all different."""

import base64
import math
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from ca_service.judgment import judge_all
from ca_service.residency import KEY_CHECKS
from ca_service.residency.sanity import _close_factors, weakness
from vtpm.wire.public_area import Scheme, Symmetric, pack_public, parse_public
from vtpm.wire.runtime_data import KeyStatement
from vtpm.wire.templates import Role, template, templates

ALL = [(role, chosen.id) for role in Role for chosen in templates(role)]


def changed(key, **other):
    return KeyStatement(key.template, pack_public(replace(parse_public(key.public), **other)))


def with_key(evidence, role, key):
    statement = evidence.statement
    if role is Role.EK:
        return replace(evidence, statement=replace(statement, eks=(key, *statement.eks[1:])))
    return replace(evidence, statement=replace(statement, **{role.value: key}))


def key_of(evidence, role):
    statement = evidence.statement
    return {Role.EK: statement.eks[0], Role.IAK: statement.iak, Role.IDEVID: statement.idevid}[role]


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"policy": bytes(48)}, "authPolicy"),
        ({"policy": b""}, "authPolicy"),
        ({"name_alg": "sha512"}, "nameAlg"),
        ({"kdf": Scheme(0x0020, 0x000C)}, "kdf"),
        ({"symmetric": Symmetric(0x0006, 192, 0x0043)}, "symmetric"),
        ({"scheme": Scheme(0x0018, 0x000D)}, "scheme"),
    ],
)
def test_a_field_that_differs_from_the_template_is_named(soft_tpm, role, change, field):
    evidence = soft_tpm(eks=("H-3",)).evidence()
    key = changed(key_of(evidence, role), **change)
    finding = judge_all(KEY_CHECKS, with_key(evidence, role, key)).refusal
    assert finding.rule == f"tpm.{role.value}-template"
    assert field in finding.reason


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("bit", range(32))
def test_every_attribute_bit_counts(soft_tpm, refusals, role, bit):
    evidence = soft_tpm(eks=("H-3",)).evidence()
    key = key_of(evidence, role)
    flipped = changed(key, attributes=parse_public(key.public).attributes ^ (1 << bit))
    found = refusals(with_key(evidence, role, flipped), KEY_CHECKS)
    assert f"tpm.{role.value}-template" in found
    decisive = {
        Role.EK: {1, 2, 4, 5, 7, 11, 16, 17, 18},
        Role.IAK: {1, 2, 4, 5, 11, 16, 17, 18},
        Role.IDEVID: {1, 2, 4, 5, 11, 16, 17, 18},
    }
    assert (f"tpm.{role.value}-attributes" in found) == (bit in decisive[role])


def test_the_reason_names_the_attribute(soft_tpm):
    evidence = soft_tpm().evidence()
    key = evidence.statement.iak
    free = changed(key, attributes=parse_public(key.public).attributes ^ 0x00010000)
    findings = judge_all(KEY_CHECKS, with_key(evidence, Role.IAK, free)).findings
    (found,) = [f for f in findings if f.rule == "tpm.iak-attributes"]
    assert found.reason == "iak lacks the attribute restricted"


@pytest.mark.parametrize(("role", "template_id"), ALL)
def test_a_template_is_not_an_instance_of_itself(soft_tpm, refusals, role, template_id):
    # Its `unique` is a label or zeros, which is no key.
    evidence = soft_tpm().evidence()
    key = KeyStatement(template_id, template(role, template_id).public)
    assert f"tpm.{role.value}-key" in refusals(with_key(evidence, role, key), KEY_CHECKS)


def test_a_key_of_one_template_does_not_pass_for_another(soft_tpm, refusals):
    evidence = soft_tpm(eks=("L-2",)).evidence()
    key = replace(evidence.statement.eks[0], template="H-2")
    assert refusals(with_key(evidence, Role.EK, key), KEY_CHECKS) == ["tpm.ek-template"]


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize(
    "key",
    [KeyStatement("H-3", b""), KeyStatement("H-3", b"\x00\x23" * 40), KeyStatement("no-such", b"\x00\x01")],
)
def test_what_no_parser_would_have_let_in_is_refused_all_the_same(soft_tpm, refusals, role, key):
    found = refusals(with_key(soft_tpm().evidence(), role, key))
    assert {f"tpm.{role.value}-{rule}" for rule in ("template", "attributes", "key")} <= set(found)


def test_an_unknown_template_is_refused(soft_tpm, refusals):
    evidence = soft_tpm().evidence()
    key = replace(evidence.statement.iak, template="L-1")
    assert refusals(with_key(evidence, Role.IAK, key), KEY_CHECKS) == ["tpm.iak-template"]


def test_a_second_ek_is_judged_like_the_first(soft_tpm, refusals):
    evidence = soft_tpm(eks=("L-2", "H-3")).evidence()
    assert refusals(evidence) == []
    first, second = evidence.statement.eks
    bad = changed(second, policy=b"")
    statement = replace(evidence.statement, eks=(first, bad))
    finding = judge_all(KEY_CHECKS, replace(evidence, statement=statement)).refusal
    assert finding.reason == "ek[1] differs from template H-3 in authPolicy"


def test_no_ek_at_all_is_refused(soft_tpm, refusals):
    evidence = soft_tpm().evidence()
    found = refusals(replace(evidence, statement=replace(evidence.statement, eks=())), KEY_CHECKS)
    assert found == ["tpm.ek-attributes", "tpm.ek-key", "tpm.ek-template"]


def test_the_same_key_in_two_roles_is_refused_whatever_its_attributes_say(soft_tpm, refusals):
    evidence = soft_tpm(iak="H-3", idevid="H-3").evidence()
    iak = parse_public(evidence.statement.iak.public)
    twin = changed(evidence.statement.idevid, unique=iak.unique)
    assert refusals(with_key(evidence, Role.IDEVID, twin), KEY_CHECKS) == ["tpm.keys-distinct"]


def test_two_eks_of_one_template_are_refused(soft_tpm, refusals):
    evidence = soft_tpm(eks=("H-3",), iak="H-3").evidence()
    other = changed(evidence.statement.eks[0], unique=parse_public(evidence.statement.iak.public).unique)
    statement = replace(evidence.statement, eks=(evidence.statement.eks[0], other))
    finding = judge_all(KEY_CHECKS, replace(evidence, statement=statement)).refusal
    assert (finding.rule, finding.reason) == ("tpm.keys-distinct", "ek[1] is the same as ek[0]")


# -- key sanity -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def area():
    key = rsa.generate_private_key(65537, 2048).public_key()
    modulus = key.public_numbers().n.to_bytes(256, "big")
    return replace(parse_public(template(Role.EK, "L-1").public), unique=(modulus,))


def rsa_area(area, modulus, size=256):
    return replace(area, unique=(modulus.to_bytes(size, "big"),))


def modulus_of(area):
    return int.from_bytes(area.unique[0], "big")


@pytest.mark.parametrize("bits", [2048, 3072])
def test_real_rsa_keys_are_sane(bits):
    chosen = next(t for t in templates(Role.EK) if t.bits == bits)
    for _ in range(3):
        numbers = rsa.generate_private_key(65537, bits).public_key().public_numbers()
        area = replace(parse_public(chosen.public), unique=(numbers.n.to_bytes(bits // 8, "big"),))
        assert weakness(area) is None


def test_a_modulus_has_exactly_the_stated_length(area):
    assert "not exactly 2048" in weakness(rsa_area(area, modulus_of(area) >> 1 | 1))
    assert "not exactly 2048" in weakness(rsa_area(area, modulus_of(area) >> 8, 255))
    assert "not exactly 2048" in weakness(replace(area, unique=(b"",)))
    assert "not exactly 2048" in weakness(replace(area, unique=(bytes(256),)))


def test_an_even_modulus_is_refused(area):
    assert "even" in weakness(rsa_area(area, modulus_of(area) ^ 1))


@pytest.mark.parametrize("exponent", [1, 2, 3, 17, 65539, 0xFFFFFFFF])
def test_only_the_usual_exponent_is_taken(area, exponent):
    assert "exponent" in weakness(replace(area, exponent=exponent))


@pytest.mark.parametrize("exponent", [0, 65537])
def test_both_spellings_of_the_usual_exponent_are_taken(area, exponent):
    assert weakness(replace(area, exponent=exponent)) is None


@pytest.mark.parametrize("factor", [3, 5, 251, 743, 751])
def test_a_small_factor_is_found(area, factor):
    modulus = modulus_of(area) // factor * factor
    modulus += 0 if modulus % 2 else factor
    assert modulus % factor == 0
    assert modulus % 2 == 1
    assert "small factor" in weakness(rsa_area(area, modulus))


SMALL_PRIMES = [p for p in range(2, 752) if all(p % d for d in range(2, math.isqrt(p) + 1))]


def _coprime_to_small(start):
    product = math.prod(SMALL_PRIMES)
    n = start | 1
    while math.gcd(product, n) != 1:
        n += 2
    return n


def test_close_factors_are_found(area):
    first = _coprime_to_small(3 << 1022)
    second = _coprime_to_small(first + 2)
    assert "close factors" in weakness(rsa_area(area, first * second))
    assert "close factors" in weakness(rsa_area(area, first * first))


@pytest.mark.parametrize(("steps", "found"), [(0, True), (1, True), (109, True), (110, False)])
def test_how_far_the_search_for_close_factors_goes(area, steps, found):
    """Factors middle - d and middle + d are found when the middle lies at most 109 above the modulus' root."""
    middle = (3 << 1022) + 1
    while True:
        # The root lies d^2 / (2 middle) below the middle: half a step more than wanted, and it is rounded up.
        distance = math.isqrt((2 * steps + 1) * middle)
        modulus = (middle - distance) * (middle + distance)
        if math.gcd(math.prod(SMALL_PRIMES), modulus) == 1:
            break
        middle += 1
    assert middle - (math.isqrt(modulus - 1) + 1) == steps
    assert weakness(rsa_area(area, modulus)) == ("has a modulus of two close factors" if found else None)


def plain_fermat(modulus):
    """Fermat's method without a sieve, as it is written in books."""
    first = math.isqrt(modulus - 1) + 1
    rests = (middle * middle - modulus for middle in range(first, first + 110))
    return any(math.isqrt(rest) ** 2 == rest for rest in rests)


@given(st.integers(2, 2**512), st.integers(0, 2**20), st.integers(0, 2**258))
def test_the_sieve_leaves_out_no_round_that_counts(factor, few, many):
    for distance in (few, many):
        modulus = factor * (factor + distance)
        assert _close_factors(modulus) == plain_fermat(modulus)
        assert _close_factors(modulus + 1) == plain_fermat(modulus + 1)


def _modulus(text):
    return int.from_bytes(base64.b64decode(text), "big")


# Moduli of keys that Infineon's generator made, as they were published to check detectors of CVE-2017-15361 with.
REAL_ROCA = (
    (
        "lze9c7qGdjDLVR/ntk+4ZkfMcYsAnmfTFHfe3Xv7jRQqPCXCULtr0y0jG3aRJmEenoXO9uDveqr43gFB9yvAdLEhu0aJqpB7lNZ+yXsvfVp/96dk"
        "SN8oWYL/dd9Z7GQOvVniHUY3Xsd7zdw2eYOyHSXhhA2Ttwnj3c1jEYfC0y9q1cU99aL0ogGDqolcOvlkJu+mGb+6+WyboFa1gwRukYxBHZWKiHCt"
        "/eihvXsPTzTlXmTXWdGJtA1xZDnCBWuZ90b5R0agXVIESTl0cCyHaQM/tLZmktJIU+Eu7ALBXemPg9kh3SCnYd3/YvDGCtYSXOWthHwlP5CImRBc"
        "QaNncQ=="
    ),
    (
        "nDSwGO+LetuWIPxBrWIVEZhfr8VB7tnXBnFaNev61bT1lViBUAN8rmMBw2rd/a6Lw4SjDi+3Fc7hpQtccMyrz3Z52VVsuS1Df94/2GJ2J+B8qw0d"
        "THQoVjPGaOrRads5cjrI1fvgcKNhfwXHd8jh6fCHwVIruU8E2wgTu91ceTzAODzCe1aWbE0QMYTV11E0t2+vt808AWsYMDOWMIOa0sFZD1DzQSw1"
        "YC74YV92yDGsHA4JNZVl6JB0H21lxENKrkOF9MJx+doXHiEEfwNC3F7kf2QDd+3oyRcrrGZt9rhfRPQckUnYM495nfaQcHzTXyIySnY0s6PkwbgL"
        "4B44dQ=="
    ),
)
REAL_GOOD = (
    "tA+5PaMwafUZVIU0kXo+u3EbF45Sw+11yOuYReWxp5dGLCmqk6Ukq+PvZ9Ygq7xrOQzuUx/dY1rFqB0tz3Z4KurqpK/aVwj+nEhRckEAtbls9qeG"
    "cMxdTgPvf8KJbjR6gw0jXdQKeLTIojXNtUSFPpOm0tsAT0SAqGHZF9jFzBOHlpyyhiWvtZpZaUQMXRQwoptaHug7tPBjZHm3n+baJH8TVua9Kx8z"
    "VsrGBzZnGh7Ybap9ZxvNg2m0BMi/jMhoNr7c3eQBrrkcxqrb0GIdHbg94w9W7Ds3v01FPb6qjKbW8Z2ZAm1lGM/3imodT8z3hLXYDUGWXUTGuaRW"
    "WKr8+Q=="
)


@pytest.mark.parametrize("text", REAL_ROCA)
def test_real_keys_of_the_weak_generator_are_found(area, text):
    assert "ROCA" in weakness(rsa_area(area, _modulus(text)))


def test_a_real_key_of_another_generator_is_sane(area):
    assert weakness(rsa_area(area, _modulus(REAL_GOOD))) is None


def test_the_roca_mark_is_found(area):
    # Such a generator makes primes k * M + (65537^a mod M), where M is the product of the first primes.
    primes = [p for p in range(2, 702) if all(p % d for d in range(2, math.isqrt(p) + 1))]
    product = math.prod(primes)
    modulus = 1
    for exponent, start in ((123457, 3 << 1022), (987651, 7 << 1021)):
        base = pow(65537, exponent, product)
        factor = (start // product) * product + base
        while math.gcd(factor, math.prod(SMALL_PRIMES)) != 1:
            factor += product
        modulus *= factor
    assert modulus.bit_length() == 2048
    assert "ROCA" in weakness(rsa_area(area, modulus))


def test_a_point_must_be_on_its_curve_and_written_in_full(soft_tpm):
    area = parse_public(soft_tpm().statement.iak.public)
    x, y = area.unique
    assert weakness(area) is None
    assert "not on its curve" in weakness(replace(area, unique=(x, bytes(48))))
    assert "not on its curve" in weakness(replace(area, unique=(bytes(48), bytes(48))))
    assert "48 bytes" in weakness(replace(area, unique=(x[:-1], y)))
    assert "48 bytes" in weakness(replace(area, unique=(x, b"\x00" + y)))
    assert "48 bytes" in weakness(replace(area, unique=(b"", b"")))
    other = parse_public(soft_tpm(iak="H-2").statement.iak.public)
    assert weakness(replace(other, unique=(other.unique[0], area.unique[1][:32]))) is not None


FIELDS = {
    "H-2": (
        2**256 - 2**224 + 2**192 + 2**96 - 1,
        0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
    ),
    "H-4": (
        2**521 - 1,
        0x51953EB9618E1C9A1F929A21A0B68540EEA2DA725B99B315F3B8B489918EF109E156193951EC7E937B1652C0BD3BB1BF073573DF883D2C34F1EF451FD46B503F00,
    ),
}


@pytest.mark.parametrize("template_id", FIELDS)
def test_a_coordinate_beyond_the_field_is_no_other_name_of_a_point(soft_tpm, template_id):
    """(x + p, y) satisfies the equation as (x, y) does; P-384 and P-256 leave room for it in few points only."""
    prime, b = FIELDS[template_id]
    area = parse_public(soft_tpm(iak=template_id).statement.iak.public)
    size = len(area.unique[0])
    x = 1
    while True:
        square = (x**3 - 3 * x + b) % prime
        y = pow(square, (prime + 1) // 4, prime)
        if y * y % prime == square:
            break
        x += 1
    good = replace(area, unique=(x.to_bytes(size, "big"), y.to_bytes(size, "big")))
    assert weakness(good) is None
    beyond = replace(area, unique=((x + prime).to_bytes(size, "big"), y.to_bytes(size, "big")))
    assert "outside the field" in weakness(beyond)
    edge = replace(area, unique=(prime.to_bytes(size, "big"), y.to_bytes(size, "big")))
    assert "outside the field" in weakness(edge)


@pytest.mark.parametrize("role", list(Role))
def test_every_role_gets_the_sanity_check(soft_tpm, refusals, role):
    evidence = soft_tpm(eks=("H-3",)).evidence()
    key = changed(key_of(evidence, role), unique=(bytes(48), bytes(48)))
    assert refusals(with_key(evidence, role, key), KEY_CHECKS) == [f"tpm.{role.value}-key"]
