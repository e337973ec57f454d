"""What a CA's subject says, read back."""

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from ca_service.profiles import CaTitle, ca_name, read_ca_name

MODES = st.sampled_from(["production", "simulation"])
PAIRS = st.just("default") | st.from_regex(r"[a-z0-9][a-z0-9-]{0,23}", fullmatch=True)


@given(MODES, st.sampled_from(["ek", "devid", "ephemeral"]), PAIRS, st.integers(1, 999))
def test_a_name_is_read_back(mode, role, pair, generation):
    name = ca_name("Org", mode, role, pair, generation)
    assert read_ca_name("Org", mode, name) == CaTitle(role, pair, generation)


@given(MODES, st.text("vTPMEKCAG 01ab", max_size=30))
def test_whatever_is_read_gives_the_name(mode, text):
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Org"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"vTPM EK CA{text}"),
        ]
    )
    title = read_ca_name("Org", mode, name)
    assert title is None or ca_name("Org", mode, title.role, title.pair, title.generation) == name


@pytest.mark.parametrize(
    "name",
    [
        x509.Name([]),
        ca_name("Org", "production", "root", ""),
        ca_name("Another", "production", "ek", "default"),
        ca_name("Org", "simulation", "ek", "default"),
        ca_name("Org", "production", "ek", "a b"),
    ],
)
def test_other_names_are_none(name):
    assert read_ca_name("Org", "production", name) is None
