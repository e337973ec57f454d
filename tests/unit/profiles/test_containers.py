"""DER containers as the second reader opens them."""

import pytest
from asn1crypto import core
from hypothesis import given
from hypothesis import strategies as st

from ca_service.profiles.containers import elements, fields, inside, series

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


@given(st.lists(VALUES, min_size=1, max_size=4))
def test_there_are_as_many_fields_as_heads(ders):
    contents, heads = b"".join(ders), [der[0] for der in ders]
    with pytest.raises(ValueError, match="has more values"):
        fields(contents, *heads[:-1])
    with pytest.raises(ValueError, match="Insufficient data"):
        fields(contents, *heads, OCTETS)
    with pytest.raises(ValueError, match="Insufficient data"):
        fields(contents[:-1], *heads)


@given(st.binary(max_size=40))
def test_fields_and_elements_refuse_the_same_bytes(contents):
    try:
        found = elements(contents)
    except ValueError:
        return
    assert len(fields(contents, *(der[0] for der in found))) == len(found)


def test_another_value_than_the_wanted_one_is_refused():
    octets = core.OctetString(b"x").dump()
    assert fields(octets, OCTETS) == [b"x"]
    for asked in (fields, inside):
        with pytest.raises(ValueError, match="04 in the place of 0c"):
            asked(octets, UTF8)


@given(st.lists(VALUES, max_size=6))
def test_a_series_is_fields_of_one_head(ders):
    alike = [der for der in ders if der[0] == SEQUENCE]
    assert series(b"".join(alike), SEQUENCE) == [inside(der, SEQUENCE) for der in alike]
    if alike != ders:
        with pytest.raises(ValueError, match="in the place of 30"):
            series(b"".join(ders), SEQUENCE)


@given(st.binary(max_size=40))
def test_a_series_and_elements_refuse_the_same_bytes(contents):
    try:
        heads = {der[0] for der in elements(contents)}
    except ValueError:
        heads = {contents[0]}
    for head in heads:
        try:
            found = series(contents, head)
        except ValueError:
            continue
        assert found == fields(contents, *(head,) * len(found))
        assert len(found) == len(elements(contents))


def test_inside_goes_as_deep_as_it_is_asked_to():
    nested = core.SequenceOf([b"x"], spec=core.OctetString).dump()
    assert inside(nested, SEQUENCE, OCTETS) == b"x"
    two = core.SequenceOf([b"x", b"y"], spec=core.OctetString).dump()
    for der in (two, nested + nested):
        with pytest.raises(ValueError, match="Extra data"):
            inside(der, SEQUENCE, OCTETS)
