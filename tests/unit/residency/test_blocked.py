"""The block list as the judge sees it: digests in, a finding out."""

import hashlib
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca_service.judgment import Verdict
from ca_service.residency import BLOCK_CHECKS, KEY_NOT_BLOCKED, KeyBlocks, spki_digests
from vtpm.wire.errors import WireError
from vtpm.wire.runtime_data import KeyStatement
from vtpm.wire.templates import parse_public

(CHECK,) = BLOCK_CHECKS


@pytest.fixture
def statement(soft_tpm):
    return soft_tpm(eks=("H-3", "L-1")).evidence().statement


def test_every_key_has_the_digest_of_its_spki(statement):
    digests = spki_digests(statement)
    assert list(digests) == ["ek[0]", "ek[1]", "iak", "idevid"]
    keys = dict(zip(digests, (*statement.eks, statement.iak, statement.idevid), strict=True))
    for at, key in keys.items():
        spki = (
            parse_public(key.public)
            .public_key()
            .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        )
        assert digests[at] == hashlib.sha256(spki).hexdigest()
    assert len(set(digests.values())) == 4


def test_what_is_not_listed_passes(statement):
    digests = spki_digests(statement)
    for blocked in (frozenset(), frozenset({"00" * 32})):
        finding = CHECK.judge(KeyBlocks(digests, blocked))
        assert (finding.rule, finding.verdict) == (KEY_NOT_BLOCKED, Verdict.PASSED)


@pytest.mark.parametrize("at", ["ek[0]", "ek[1]", "iak", "idevid"])
def test_one_listed_key_is_enough(statement, at):
    digests = spki_digests(statement)
    finding = CHECK.judge(KeyBlocks(digests, frozenset({digests[at]})))
    assert finding.verdict is Verdict.FAILED
    assert finding.reason.endswith(f": {at}")
    assert finding.actual == f"{at}: {digests[at]}"


def test_all_that_are_listed_are_named(statement):
    digests = spki_digests(statement)
    finding = CHECK.judge(KeyBlocks(digests, frozenset(digests.values())))
    assert finding.reason.endswith(": ek[0], ek[1], iak, idevid")


def test_no_key_at_all_is_refused():
    assert CHECK.judge(KeyBlocks({}, frozenset())).verdict is Verdict.FAILED


def test_another_statement_of_the_same_key_does_not_hide_it(statement):
    """Attributes make another Name, and no other key."""
    area = parse_public(statement.iak.public)
    from vtpm.wire.public_area import pack_public  # noqa: PLC0415

    turned = KeyStatement(
        statement.iak.template, pack_public(replace(area, attributes=area.attributes ^ 0x40))
    )
    other = replace(statement, iak=turned)
    assert spki_digests(other)["iak"] == spki_digests(statement)["iak"]


def test_a_malformed_key_is_an_error_with_its_place(statement):
    broken = replace(statement, iak=KeyStatement("H-3", b"\0"))
    with pytest.raises(WireError) as caught:
        spki_digests(broken)
    assert caught.value.path.startswith("tpm.iak.pub")
