"""Loading, splitting PEM, and the one kind of signature that AMD makes."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from ca_service.evidence.snp.certificates import (
    MAX_CERTIFICATE,
    common_name,
    issued,
    load,
    signed_like_amd,
    split_pem,
)
from vtpm.snp import LeafForm, Platform, SignatureForm
from vtpm.wire.report import Product

DER = Platform.made(b"\x03" * 32).vcek_certificate
PEM = x509.load_der_x509_certificate(DER).public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    ("content", "count"),
    [
        (DER, 1),
        (PEM, 1),
        (PEM.replace(b"\n", b"\r\n"), 1),
        (b"who it is for:\n" + PEM + b"and text behind", 1),
        (PEM + PEM.replace(b"CERTIFICATE", b"X509 CRL"), 1),
        (PEM + b"text between\n" + PEM, 2),
        (PEM * 3, 3),
    ],
    ids=["der", "pem", "crlf", "text", "other-block", "two", "three"],
)
def test_der_and_runs_of_pem(content, count):
    assert split_pem(content) == [DER] * count


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        DER[:-1],
        DER + b"\0",
        DER + DER,
        PEM[:-30],
        PEM + PEM[:-30],
        PEM.replace(b"CERTIFICATE", b"X509 CRL"),
        PEM[:40] + b"!" + PEM[41:],
        PEM + PEM[:40] + b"!" + PEM[41:],
        b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"\x30\x80",
    ],
)
def test_what_is_neither(content):
    assert split_pem(content) is None


@given(st.binary(max_size=200))
def test_splitting_never_raises(content):
    assert split_pem(content) is None
    assert load(content) is None


@given(st.binary(max_size=60))
def test_splitting_what_stands_between_markers_never_raises(content):
    block = b"-----BEGIN CERTIFICATE-----\n" + content + b"\n-----END CERTIFICATE-----\n"
    assert split_pem(block) is None
    assert split_pem(PEM + block) is None


def leaf_of(chain, **changes):
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    start = chain.ark.not_valid_before_utc
    return chain.issue_vcek(key, **{"hwid": b"\x01" * 64, "tcb": bytes(8), "not_before": start} | changes)


def test_a_certificate_that_is_too_long_is_not_read(chains):
    arc = "1.3.6.1.4.1.3704.1.99"
    around = len(leaf_of(chains[Product.MILAN], form=LeafForm(added=((arc, bytes(0x4000 - 4000)),)))) - 0x4000
    fits = leaf_of(chains[Product.MILAN], form=LeafForm(added=((arc, bytes(0x4000 - 4000 - around)),)))
    over = leaf_of(chains[Product.MILAN], form=LeafForm(added=((arc, bytes(0x4000 - 3999 - around)),)))
    assert (len(fits), len(over)) == (MAX_CERTIFICATE, MAX_CERTIFICATE + 1)
    assert load(fits) is not None
    assert load(over) is None


@pytest.mark.parametrize("form", list(SignatureForm))
def test_only_amds_kind_of_signature_counts(form, chains):
    chain = chains[Product.MILAN]
    der = leaf_of(chain, form=LeafForm(signature=form))
    load(der).verify_directly_issued_by(chain.ask)
    right = form is SignatureForm.PSS_SHA384
    assert signed_like_amd(load(der)) is right
    assert issued(der, chain.ask.public_bytes(Encoding.DER)) is right


def test_a_signature_by_an_elliptic_curve_is_not_amds(chains):
    signer = ec.generate_private_key(ec.SECP384R1())
    assert not signed_like_amd(load(leaf_of(chains[Product.MILAN], form=LeafForm(signer=signer))))


def test_issued_needs_both_name_and_signature(chains):
    chain = chains[Product.MILAN]
    ask, ark = (c.public_bytes(Encoding.DER) for c in (chain.ask, chain.ark))
    other = chain.issue_intermediate(serial=9, bits=1024).ask.public_bytes(Encoding.DER)
    renamed = chain.issue_intermediate(serial=9, common_name="SEV-Else", bits=1024).ask.public_bytes(
        Encoding.DER
    )
    der = leaf_of(chain)
    assert issued(der, ask)
    assert not issued(der, ark)
    assert not issued(der, other)
    assert not issued(der, renamed)
    assert not issued(ask, der)
    assert not issued(leaf_of(chain, form=LeafForm(self_issued=True)), ask)
    assert not issued(b"", ask)
    assert not issued(der, b"")


@pytest.mark.parametrize("names", [[], ["SEV-VCEK", "SEV-VCEK"]])
def test_common_name_must_be_single(names):
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name) for name in names])
    assert common_name(name) == ""
