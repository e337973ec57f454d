from datetime import UTC, datetime

import pytest
from asn1crypto import core
from asn1crypto import x509 as asn1_x509
from hypothesis import given
from hypothesis import strategies as st

from vtpm.snp import der

ARCS = st.lists(st.integers(0, 1 << 40), max_size=8)


@given(st.integers(0, 1 << 600))
def test_integer(number):
    assert der.integer(number) == core.Integer(number).dump()


@given(st.integers(0, 2), st.integers(0, 39), ARCS)
def test_object_identifier(first, second, others):
    dotted = ".".join(str(arc) for arc in (first, second, *others))
    assert der.object_identifier(dotted) == core.ObjectIdentifier(dotted).dump()


@given(st.binary(max_size=70_000))
def test_strings_of_every_length(content):
    assert der.octet_string(content) == core.OctetString(content).dump()
    assert core.OctetBitString.load(der.bit_string(content), strict=True).native == content


@pytest.mark.parametrize("size", [0, 0x7F, 0x80, 0xFF, 0x100, 0xFFFF, 0x10000])
def test_lengths_at_their_limits(size):
    assert der.octet_string(bytes(size)) == core.OctetString(bytes(size)).dump()


def test_sequence_and_ia5_string():
    assert der.sequence(der.integer(1), der.ia5_string("Milan")) == bytes.fromhex("300a02010116054d696c616e")
    with pytest.raises(ValueError, match="ascii"):
        der.ia5_string("Mailänd")


@pytest.mark.parametrize("year", [1999, 2049, 2050, 2099])
def test_time(year):
    moment = datetime(year, 12, 31, 23, 59, 58, tzinfo=UTC)
    encoded = der.time(moment)
    read = asn1_x509.Time.load(encoded, strict=True)
    assert read.native == moment
    assert read.name == ("utc_time" if year < 2050 else "general_time")
