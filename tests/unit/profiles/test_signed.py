"""Whether the CA has signed something, over the octets as they stand."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from ca_service.profiles import assemble
from ca_service.profiles.signed import is_signed_by
from ca_service.profiles.structures import take_apart

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP384R1())


def signed(key, digest):
    builder = x509.CertificateRevocationListBuilder(x509.Name([]), NOW, NOW + timedelta(days=1))
    return builder.sign(key, digest).public_bytes(Encoding.DER)


def test_it_is_the_key_and_every_octet():
    der = signed(KEY, hashes.SHA384())
    assert is_signed_by(der, KEY.public_key())
    assert assemble(*take_apart(der)) == der
    assert not is_signed_by(der, ec.generate_private_key(ec.SECP384R1()).public_key())
    for bit in range(8 * len(der)):
        wrong = bytearray(der)
        wrong[bit // 8] ^= 1 << bit % 8
        assert not is_signed_by(bytes(wrong), KEY.public_key()), bit


def test_nothing_else_is_a_signature_of_this_ca():
    other = rsa.generate_private_key(65537, 2048)
    for der, key in (
        (signed(KEY, hashes.SHA256()), KEY),
        (signed(other, hashes.SHA384()), other),
        (signed(KEY, hashes.SHA384()), other),
        (signed(KEY, hashes.SHA384()) + b"\x00", KEY),
        (b"", KEY),
        (b"\x30\x00", KEY),
    ):
        assert not is_signed_by(der, key.public_key())


@pytest.mark.parametrize("der", [b"", b"\x30", b"\x30\x00", bytes(100)])
def test_what_is_no_signed_object_comes_not_apart(der):
    with pytest.raises(ValueError):
        take_apart(der)
