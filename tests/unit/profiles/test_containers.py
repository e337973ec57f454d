"""DER containers as the second reader opens them."""

import pytest
from asn1crypto import core
from hypothesis import given
from hypothesis import strategies as st

from ca_service.profiles.containers import elements, inside, values

OCTETS, UTF8 = 0x04, 0x0C

VALUES = st.one_of(
    st.binary(max_size=300).map(lambda data: core.OctetString(data).dump()),
    st.text(max_size=5).map(lambda text: core.UTF8String(text).dump()),
    st.lists(st.integers(-(2**70), 2**70), max_size=3).map(
        lambda found: core.SequenceOf(found, spec=core.Integer).dump()
    ),
)


@given(st.lists(VALUES, max_size=6))
def test_opened_values_are_the_elements(ders):
    contents = b"".join(ders)
    found = values(contents)
    assert [value.der for value in found] == elements(contents) == ders
    assert [value.inside(der[0]) for value, der in zip(found, ders, strict=True)] == [
        inside(der, der[0]) for der in ders
    ]


@given(st.binary(max_size=40))
def test_both_refuse_the_same_bytes(contents):
    assert outcome(values, contents) == outcome(elements, contents)


def outcome(read, contents):
    try:
        return [getattr(value, "der", value) for value in read(contents)]
    except ValueError:
        return "refused"


def test_another_value_than_the_wanted_one_is_refused():
    (value,) = values(core.OctetString(b"x").dump())
    assert value.inside(OCTETS) == b"x"
    with pytest.raises(ValueError, match="04 in the place of 0c"):
        value.inside(UTF8)
