"""What a real TPM signed, honestly and otherwise: every rule that should refuse does, and no other."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ca_service.residency import CERTIFY_CHECKS, names
from vtpm.wire.templates import name

_NAMES = sorted(
    json.loads((Path(__file__).parents[2] / "vectors" / "residency" / "vectors.json").read_text())
)


@pytest.mark.parametrize("case", _NAMES)
def test_exactly_the_named_rules_refuse(vectors, refusals, case):
    evidence, refused_by = vectors[case]
    assert refusals(evidence) == refused_by


def test_there_are_honest_and_dishonest_cases_of_every_kind(vectors):
    honest = {case for case, (_, refused_by) in vectors.items() if not refused_by}
    assert {"default", "all-rsa-2048", "all-rsa-3072", "mixed-sha384-sha256", "four-eks"} <= honest
    assert len(vectors) - len(honest) >= 13


@pytest.mark.parametrize("case", ["default", "all-rsa-2048", "mixed-sha384-sha256", "all-p521"])
@pytest.mark.parametrize("part", ["attest", "signature"])
def test_no_single_bit_can_be_flipped(vectors, refusals, case, part):
    evidence, _ = vectors[case]
    original = getattr(evidence, part)
    # Every bit of the first and last 48 bytes, one bit of each byte in between: all fields of both structures.
    bits = [
        bit
        for byte in range(len(original))
        for bit in range(byte * 8, byte * 8 + 8)
        if byte < 48 or byte >= len(original) - 48 or bit % 8 == byte % 8
    ]
    for bit in bits:
        flipped = bytearray(original)
        flipped[bit // 8] ^= 1 << (bit % 8)
        changed = replace(evidence, **{part: bytes(flipped)})
        assert refusals(changed, CERTIFY_CHECKS), f"bit {bit} of {part} may be flipped"


@pytest.mark.parametrize("part", ["attest", "signature"])
def test_no_byte_may_be_missing_or_added(vectors, refusals, part):
    evidence, _ = vectors["default"]
    original = getattr(evidence, part)
    for end in range(len(original)):
        assert "certify.form" in refusals(replace(evidence, **{part: original[:end]}), CERTIFY_CHECKS)
    for tail in (b"\0", b"\0\0", original):
        assert "certify.form" in refusals(replace(evidence, **{part: original + tail}), CERTIFY_CHECKS)


def test_proofs_of_two_tpms_cannot_be_mixed(vectors, refusals):
    one, _ = vectors["default"]
    other, _ = vectors["four-eks"]
    assert one.statement.iak == other.statement.iak
    foreign = vectors["iak-of-another-tpm"][0].statement.iak
    assert refusals(replace(one, statement=replace(one.statement, iak=foreign)), CERTIFY_CHECKS) == [
        "certify.signature",
        "certify.signer",
    ]


def test_the_names_are_those_of_the_keys(vectors):
    statement = vectors["four-eks"][0].statement
    found = names(statement)
    assert found.eks == tuple(name(ek.public) for ek in statement.eks)
    assert len(found.eks) == 4
    assert (found.iak, found.idevid) == (name(statement.iak.public), name(statement.idevid.public))
