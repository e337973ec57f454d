"""Which certificates may issue others."""

import dataclasses

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from ca_service.evidence.snp import amd_roots, read_authority
from vtpm.snp.authority import authority_certificate
from vtpm.wire.certtable import CertKind
from vtpm.wire.report import Product

PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)
USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
CA = x509.BasicConstraints(ca=True, path_length=0)
DER = amd_roots()[0].authorities[0].der


def made(chain, extensions, *, pss=PSS, hashed=None):
    """An intermediate with these extensions under the chain's ARK."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(chain.ask.subject)
        .issuer_name(chain.ark.subject)
        .public_key(chain.ask.public_key())
        .serial_number(7)
        .not_valid_before(chain.ark.not_valid_before_utc)
        .not_valid_after(chain.ark.not_valid_after_utc)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    certificate = builder.sign(chain.ark_key, hashed or hashes.SHA384(), rsa_padding=pss)
    return read_authority(certificate.public_bytes(Encoding.DER))


def test_fields():
    for root in amd_roots():
        for authority in (root.ark, *root.authorities):
            read = read_authority(authority.der)
            assert read == authority
            assert read.serial == authority.certificate.serial_number
            assert read.issuer == root.ark.certificate.subject
            assert read.not_after == read.not_before.replace(year=read.not_before.year + 25)


@pytest.mark.parametrize(
    ("name", "issues"),
    [
        ("SEV-Milan", CertKind.VCEK),
        ("SEV-VLEK-Milan", CertKind.VLEK),
        ("ARK-Milan", None),
        ("SEV", None),
        ("XSEV-Milan", None),
    ],
)
def test_its_name_says_what_it_issues(name, issues, chains):
    chain = chains[Product.MILAN]
    certificate = authority_certificate(
        name, chain.ask.public_key(), "ARK-Test-Milan", chain.ark_key, 5, chain.ark.not_valid_before_utc
    )
    assert read_authority(certificate.public_bytes(Encoding.DER)).issues is issues


def test_right_extensions_in_any_order_critical_or_not(chains):
    for critical in (True, False):
        assert made(chains[Product.MILAN], [(USAGE, critical), (CA, critical)]) is not None


def test_an_authority_need_not_say_what_its_key_is_for(chains):
    assert made(chains[Product.MILAN], [(CA, True)]) is not None


def without_cert_sign():
    flags = {name.removeprefix("_"): value for name, value in vars(USAGE).items()}
    return x509.KeyUsage(**flags | {"key_cert_sign": False, "crl_sign": True})


@pytest.mark.parametrize(
    "extensions",
    [
        [],
        [(USAGE, True)],
        [(x509.BasicConstraints(ca=False, path_length=None), True), (USAGE, True)],
        [(CA, True), (without_cert_sign(), True)],
        [(CA, True), (USAGE, True), (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"x"), True)],
        [(CA, True), (USAGE, True), (x509.ExtendedKeyUsage([x509.ObjectIdentifier("1.2.3")]), True)],
    ],
    ids=[
        "none",
        "no-constraints",
        "no-ca",
        "no-cert-sign",
        "unknown-critical",
        "critical-purpose",
    ],
)
def test_what_is_no_authority(extensions, chains):
    assert made(chains[Product.MILAN], extensions) is None


def test_an_extension_that_is_not_critical_may_be_unknown(chains):
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"x")
    assert made(chains[Product.MILAN], [(CA, True), (USAGE, True), (unknown, False)]) is not None


@pytest.mark.parametrize(
    ("pss", "hashed"),
    [
        (padding.PKCS1v15(), hashes.SHA384()),
        (padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256()),
        (padding.PSS(padding.MGF1(hashes.SHA384()), 32), hashes.SHA384()),
        (padding.PSS(padding.MGF1(hashes.SHA256()), 48), hashes.SHA384()),
    ],
    ids=["pkcs1", "sha256", "short-salt", "mgf1-sha256"],
)
def test_one_that_is_not_signed_like_amds(pss, hashed, chains):
    assert made(chains[Product.MILAN], [(CA, True), (USAGE, True)], pss=pss, hashed=hashed) is None


def test_a_leaf_is_none(simulated):
    assert read_authority(simulated().leaf.der) is None
    assert read_authority(simulated(kind=CertKind.VLEK).leaf.der) is None


def test_a_broken_issuer_makes_it_unreadable():
    issuer = amd_roots()[0].ark.certificate.subject.public_bytes()
    # No UTF-8: the library decodes the name only when it is asked for it.
    broken = issuer.replace(b"Engineering", b"\xffngineering")
    assert DER.count(issuer) == 1
    assert read_authority(DER.replace(issuer, broken)) is None


@given(st.binary(max_size=200))
def test_reading_never_raises(content):
    assert read_authority(content) is None


@given(st.data())
def test_reading_an_altered_one_never_raises(data):
    content = bytearray(DER)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    read = read_authority(bytes(content))
    if read is not None:
        assert isinstance(read.self_issued, bool)
        assert isinstance(read.serial, int)
        assert dataclasses.replace(read, der=DER)
