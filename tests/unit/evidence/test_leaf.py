import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from ca_service.evidence.snp import amd_roots, load_leaf
from ca_service.evidence.snp.leaf import Leaf, _ia5string, _integer
from vtpm.snp import Platform
from vtpm.wire.certtable import CertKind
from vtpm.wire.report import Product

DER = Platform.made(b"\x03" * 32).vcek_certificate
PEM = x509.load_der_x509_certificate(DER).public_bytes(Encoding.PEM)


@pytest.mark.parametrize("content", [DER, PEM, PEM + b"\n"], ids=["der", "pem", "pem-newline"])
@pytest.mark.parametrize("kind", [CertKind.VCEK, CertKind.VLEK])
def test_der_and_pem(content, kind):
    assert load_leaf({kind: content}).public_bytes(Encoding.DER) == DER


@pytest.mark.parametrize(
    "content",
    [b"", b"x", DER[:-1], DER + b"\0", PEM + PEM, PEM + b"x", b"x" + PEM, PEM[:-30], b"\x30\x80"],
    ids=["empty", "one", "cut", "tail", "two", "pem-tail", "pem-head", "pem-cut", "indefinite"],
)
def test_what_is_no_single_certificate(content):
    assert load_leaf({CertKind.VCEK: content}) is None


def test_no_entry_or_only_others():
    assert load_leaf({}) is None
    assert load_leaf({CertKind.ASK: DER, CertKind.ARK: DER, CertKind.CRL: DER}) is None


def test_the_vcek_goes_first():
    ark = amd_roots()[0].ark.public_bytes(Encoding.DER)
    assert load_leaf({CertKind.VLEK: ark, CertKind.VCEK: DER}).public_bytes(Encoding.DER) == DER


@given(st.binary(max_size=200))
def test_loading_never_raises(content):
    assert load_leaf({CertKind.VCEK: content}) is None


def test_integer_has_one_encoding():
    for value in range(256):
        short, long = bytes([2, 1, value]), bytes([2, 2, 0, value])
        right, wrong = (short, long) if value < 128 else (long, short)
        assert _integer(right) == value
        assert _integer(wrong) is None


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x02",
        b"\x02\x01",
        b"\x02\x01\x01\x00",
        b"\x02\x02\x01\xdb",
        b"\x02\x81\x01\x01",
        b"\x0a\x01\x01",
    ],
)
def test_integer_malformed(value):
    assert _integer(value) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"\x16\x05Milan", "Milan"),
        (b"\x16\x00", ""),
        (b"\x16\x06Milan", None),
        (b"\x16\x04Milan", None),
        (b"\x13\x05Milan", None),
        (b"\x16\x02\x80a", None),
        (b"\x16\x02\na", None),
        (b"", None),
        (b"\x16", None),
        (b"\x16\x80" + b"a" * 128, None),
    ],
)
def test_ia5string(value, text):
    assert _ia5string(value) == text


def test_fields():
    leaf = Leaf.read(load_leaf({CertKind.VCEK: DER}))
    platform = Platform.made(b"\x03" * 32)
    assert leaf.common_name == "SEV-VCEK"
    assert leaf.product_name == "Milan-B0"
    assert leaf.hwid == platform.chip_id
    assert leaf.tcb(Product.MILAN) == platform.tcb
    assert leaf.public_key == platform.vcek_key().public_key()
    assert leaf.pss
    assert not leaf.has_csp_id
    assert leaf.critical == ()


def _certificate(*, names, pss_hash=None, extra=()):
    key = rsa.generate_private_key(65537, 2048)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name) for name in names]))
        .issuer_name(amd_roots()[0].ask.subject)
        .public_key(ec.generate_private_key(ec.SECP384R1()).public_key())
        .serial_number(1)
        .not_valid_before(amd_roots()[0].ask.not_valid_before_utc)
        .not_valid_after(amd_roots()[0].ask.not_valid_after_utc)
    )
    for extension, critical in extra:
        builder = builder.add_extension(extension, critical=critical)
    if pss_hash is None:
        return builder.sign(key, hashes.SHA384())
    pss = padding.PSS(padding.MGF1(pss_hash), 32)
    return builder.sign(key, pss_hash, rsa_padding=pss)


@pytest.mark.parametrize("names", [[], ["SEV-VCEK", "SEV-VCEK"]])
def test_common_name_must_be_single(names):
    assert Leaf.read(_certificate(names=names)).common_name == ""


@pytest.mark.parametrize("pss_hash", [None, hashes.SHA256(), hashes.SHA512()])
def test_other_signature_algorithms_are_told_apart(pss_hash):
    assert not Leaf.read(_certificate(names=["SEV-VCEK"], pss_hash=pss_hash)).pss


def test_critical_extensions_are_listed():
    constraints = x509.BasicConstraints(ca=True, path_length=None)
    leaf = Leaf.read(_certificate(names=["SEV-VCEK"], extra=[(constraints, True)]))
    assert leaf.critical == ("2.5.29.19",)


def test_extension_twice_makes_the_leaf_unreadable():
    # productName's OID ends in 2; made to end in 1 it repeats structVersion's.
    arc = bytes.fromhex("06092b060104019c7801")
    assert DER.count(arc + b"\x02") == 1
    doubled = load_leaf({CertKind.VCEK: DER.replace(arc + b"\x02", arc + b"\x01")})
    assert doubled is not None
    assert Leaf.read(doubled) is None
