import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from ca_service.evidence.snp import read_leaf
from ca_service.evidence.snp.leaf import _chip_id, _ia5string, _integer
from vtpm.snp import LeafForm, Platform, SimulatedChain
from vtpm.snp import der as d
from vtpm.snp.firmware import default_tcb
from vtpm.wire.certtable import CertKind
from vtpm.wire.report import Product

PLATFORM = Platform.made(b"\x03" * 32)
DER = PLATFORM.vcek_certificate
ARC = "1.3.6.1.4.1.3704.1."


def leaf_of(chain, *, kind=CertKind.VCEK, key=None, **changes):
    key = key or ec.generate_private_key(ec.SECP384R1())
    arguments = {"tcb": default_tcb(chain.product), "not_before": chain.ark.not_valid_before_utc}
    if kind is CertKind.VLEK:
        return read_leaf(chain.issue_vlek(key.public_key(), **arguments | changes))
    size = 8 if chain.product is Product.TURIN else 64
    return read_leaf(chain.issue_vcek(key.public_key(), hwid=b"\x55" * size, **arguments | changes))


@given(st.binary(max_size=200))
def test_reading_never_raises(content):
    assert read_leaf(content) is None


@given(st.data())
def test_reading_an_altered_leaf_never_raises(data):
    content = bytearray(DER)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    leaf = read_leaf(bytes(content))
    if leaf is None:
        return
    for product in Product:
        assert leaf.tcb(product) is None or len(leaf.tcb(product)) == 8
    assert leaf.kind in {None, *CertKind}
    assert isinstance(leaf.key_id() + (leaf.hwid or b""), bytes)
    assert isinstance(leaf.issuer.rfc4514_string() + (leaf.product_name or "") + (leaf.csp_id or ""), str)
    assert (leaf.struct_version or 0) in range(256)


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


@given(st.binary(max_size=6))
def test_an_integer_that_is_read_stands_there_in_its_one_encoding(value):
    number = _integer(value)
    assert number is None or d.integer(number) == value


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
        (b"\x16\x7f" + b"a" * 127, "a" * 127),
    ],
)
def test_ia5string(value, text):
    assert _ia5string(value) == text


@pytest.mark.parametrize("size", [8, 64])
@pytest.mark.parametrize("start", [b"\x04\x40", b"\x04\x08", b"\x02\x01", b"\x04\x3e", b"\x04\x06"])
def test_a_chip_id_is_told_from_a_wrapped_one_by_its_length(size, start):
    raw = start.ljust(size, b"\x07")
    assert _chip_id(raw) == raw
    assert _chip_id(d.octet_string(raw)) == raw


@pytest.mark.parametrize(
    "value",
    [
        b"\x04\x40" + b"\x01" * 63,
        b"\x04\x40" + b"\x01" * 65,
        b"\x04\x08" + b"\x01" * 64,
        b"\x03\x40" + b"\x01" * 64,
        b"\x04\x81\x40" + b"\x01" * 64,
        b"\x04\x07" + b"\x01" * 7,
        b"",
    ],
)
def test_what_is_no_wrapped_chip_id_stays_as_it_is(value):
    assert _chip_id(value) == value


def test_fields_of_a_vcek():
    leaf = read_leaf(DER)
    assert leaf.der == DER
    assert (leaf.common_name, leaf.kind) == ("SEV-VCEK", CertKind.VCEK)
    assert (leaf.product_name, leaf.struct_version) == ("Milan-B0", 0)
    assert leaf.hwid == PLATFORM.chip_id
    assert leaf.tcb(Product.MILAN) == leaf.tcb(Product.GENOA) == PLATFORM.tcb
    assert leaf.tcb(Product.TURIN) is None
    assert leaf.public_key == PLATFORM.vcek_key().public_key()
    assert leaf.issuer == PLATFORM.chain.ask.subject
    assert (leaf.has_csp_id, leaf.csp_id, leaf.critical) == (False, None, ())
    assert leaf.certificate.serial_number == 0


@pytest.mark.parametrize("product", list(Product))
def test_fields_of_a_vlek(product, chains):
    leaf = leaf_of(chains[product], kind=CertKind.VLEK, csp_id="CN=cc.example")
    assert (leaf.common_name, leaf.kind) == ("SEV-VLEK", CertKind.VLEK)
    assert leaf.product_name == product.value
    assert leaf.struct_version == (1 if product is Product.TURIN else 0)
    assert leaf.hwid is None
    assert leaf.tcb(product) == default_tcb(product)
    assert (leaf.has_csp_id, leaf.csp_id) == (True, "CN=cc.example")
    assert leaf.not_after - leaf.not_before < leaf_of(chains[product]).not_after - leaf.not_before


@pytest.mark.parametrize("value", [b"\x16\x00", b"\x0c\x02AB", b"AB", b"\x16\x01\n"])
def test_a_malformed_provider_is_there_but_not_named(value, chains):
    leaf = leaf_of(chains[Product.MILAN], kind=CertKind.VLEK, replaced={ARC + "5": value})
    assert (leaf.has_csp_id, leaf.csp_id) == (True, None)


def test_each_byte_of_the_tcb_is_certified_by_its_own_extension(chains):
    order = {
        Product.MILAN: "3.1 3.2 3.4 3.5 3.6 3.7 3.3 3.8",
        Product.GENOA: "3.1 3.2 3.4 3.5 3.6 3.7 3.3 3.8",
        Product.TURIN: "3.9 3.1 3.2 3.3 3.5 3.6 3.7 3.8",
    }
    for product, chain in chains.items():
        values = {ARC + oid: d.integer(0x7C + n) for n, oid in enumerate(order[product].split())}
        assert leaf_of(chain, replaced=values).tcb(product) == bytes(range(0x7C, 0x84))
        for oid in values:
            assert leaf_of(chain, replaced=values | {oid: b""}).tcb(product) is None


@pytest.mark.parametrize("names", ["VCEK", "SEV-VCEK ", "sev-vcek", "SEV-Milan", "SEV-VLEK-Milan"])
def test_other_names_are_of_no_kind(names, chains):
    leaf = leaf_of(chains[Product.MILAN], common_name=names)
    assert leaf.common_name == names
    assert leaf.kind is None


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP256R1()), SimulatedChain.shipped().ask_key])
def test_a_key_that_is_not_on_p384_is_none(key, chains):
    leaf = leaf_of(chains[Product.MILAN], key=key)
    assert leaf.public_key is None
    assert leaf.key_id() == b""


def test_a_key_is_the_same_in_a_later_certificate(chains):
    key = ec.generate_private_key(ec.SECP384R1())
    first, later = (leaf_of(chains[Product.MILAN], key=key) for _ in range(2))
    assert first.der != later.der
    assert first.key_id() == later.key_id()
    assert leaf_of(chains[Product.MILAN]).key_id() != first.key_id()


def test_critical_extensions_are_listed(chains):
    form = LeafForm(critical=frozenset({ARC + "2"}))
    assert leaf_of(chains[Product.MILAN], form=form).critical == (ARC + "2",)


@pytest.mark.parametrize("oid", ["1", "2", "3.1", "3.8", "4"])
def test_extension_twice_makes_the_leaf_unreadable(oid, chains):
    form = LeafForm(added=((ARC + oid, b"\x02\x01\x00"),))
    assert leaf_of(chains[Product.MILAN], form=form) is None


def test_a_broken_issuer_makes_the_leaf_unreadable():
    issuer = PLATFORM.chain.ask.subject.public_bytes()
    # No UTF-8: the library decodes the name only when it is asked for it.
    broken = issuer.replace(b"SIMULATED", b"\xffIMULATED")
    assert broken != issuer
    assert read_leaf(DER.replace(issuer, broken)) is None
