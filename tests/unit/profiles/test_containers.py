"""DER containers as the second reader opens them."""

import pytest
from asn1crypto import core
from hypothesis import given
from hypothesis import strategies as st

from ca_service.profiles.containers import elements, fields, inside

OCTETS, UTF8, SEQUENCE = 0x04, 0x0C, 0x30

VALUES = st.one_of(
    st.binary(max_size=300).map(lambda data: core.OctetString(data).dump()),
    st.text(max_size=5).map(lambda text: core.UTF8String(text).dump()),
    st.lists(st.integers(-(2**70), 2**70), max_size=3).map(
        lambda found: core.SequenceOf(found, spec=core.Integer).dump()
    ),
)


@given(st.lists(VALUES, max_size=6))
def test_fields_are_what_is_inside_the_elements(ders):
    contents = b"".join(ders)
    assert elements(contents) == ders
    assert fields(contents, *(der[0] for der in ders)) == [inside(der, der[0]) for der in ders]


@given(st.binary(max_size=40))
def test_both_refuse_the_same_bytes(contents):
    """Whoever asks for the very heads that stand there gets the fields exactly if there are such elements."""
    try:
        heads = [der[0] for der in elements(contents)]
    except ValueError:
        return
    assert len(fields(contents, *heads)) == len(heads)
    for wrong in (heads[:-1], [*heads, OCTETS]):
        if wrong != heads:
            with pytest.raises(ValueError, match=r"has more values|Insufficient data"):
                fields(contents, *wrong)


def test_another_value_than_the_wanted_one_is_refused():
    octets = core.OctetString(b"x").dump()
    assert fields(octets, OCTETS) == [b"x"]
    for asked in (fields, inside):
        with pytest.raises(ValueError, match="04 in the place of 0c"):
            asked(octets, UTF8)


def test_inside_goes_as_deep_as_it_is_asked_to():
    nested = core.SequenceOf([b"x"], spec=core.OctetString).dump()
    assert inside(nested, SEQUENCE, OCTETS) == b"x"
    two = core.SequenceOf([b"x", b"y"], spec=core.OctetString).dump()
    for der in (two, nested + nested):
        with pytest.raises(ValueError, match="Extra data"):
            inside(der, SEQUENCE, OCTETS)
