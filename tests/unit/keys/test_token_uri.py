"""PKCS#11 URIs: what is written reads back, and what is refused is never repeated."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ca_service.keys.uri import TokenUri, is_token_uri

labels = st.text(st.characters(exclude_categories=("C", "Z")) | st.just(" "), max_size=8)


@given(labels.filter(bool), labels, labels, st.binary(max_size=64))
def test_what_is_written_reads_back(token, serial, name, identity):
    uri = TokenUri(token, serial, name, identity)
    text = str(uri)
    assert is_token_uri(text)
    assert TokenUri.parse(text) == uri
    assert text.isascii()
    assert text.isprintable()
    assert " " not in text
    assert '"' not in text


@settings(max_examples=50)
@given(st.text(max_size=80).map("pkcs11:".__add__) | st.text(max_size=80))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(ValueError):
        uri = TokenUri.parse(text)
        assert TokenUri.parse(str(uri)) == uri


def test_the_forms_of_rfc_7512():
    uri = TokenUri.parse("pkcs11:token=The%20Software%20PKCS%2311;id=%01%02;object=my-key;type=private")
    assert uri == TokenUri("The Software PKCS#11", "", "my-key", b"\x01\x02")
    assert uri.names_key
    assert not TokenUri.parse("pkcs11:token=x;serial=12").names_key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "token=x",
        "PKCS11:token=x",
        "pkcs11:",
        "pkcs11:token=",
        "pkcs11:object=x",
        "pkcs11:token=x;",
        "pkcs11:token=x;token=x",
        "pkcs11:token=x;slot-id=1",
        "pkcs11:token=x;type=cert",
        "pkcs11:token=x;object",
        "pkcs11:token=a b",
        "pkcs11:token=%",
        "pkcs11:token=%4",
        "pkcs11:token=%ff",
        "pkcs11:token=%0a",
        "pkcs11:token=" + "x" * 33,
        "pkcs11:token=x;id=" + "%00" * 65,
        "pkcs11:token=x;object=" + "x" * 65,
        "pkcs11:token=x\n",
        "pkcs11:token=x?module-path=/lib/x.so",
        "pkcs11:" + "x" * 600,
    ],
)
def test_other_forms_are_refused(text):
    with pytest.raises(ValueError, match="must"):
        TokenUri.parse(text)


def test_a_pin_in_a_uri_is_refused_and_not_repeated():
    for text in (
        "pkcs11:token=x?pin-value=geheim",
        "pkcs11:token=x;pin-value=geheim",
        "pkcs11:token=x?geheim",
    ):
        with pytest.raises(ValueError, match="must") as caught:
            TokenUri.parse(text)
        assert "geheim" not in str(caught.value)
