import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from vtpm.snp import SimulatedChain, new_simulated_chain
from vtpm.snp.names import HWID_SIZE
from vtpm.wire.report import Product

NOW = datetime(2026, 6, 1, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP384R1())
ARC = "1.3.6.1.4.1.3704.1."


@pytest.fixture(scope="module")
def chains():
    return {product: new_simulated_chain(product, label="Test", bits=2048) for product in Product}


def issue(chain, **changes):
    arguments = {
        "hwid": bytes(range(1, HWID_SIZE[chain.product] + 1)),
        "tcb": bytes([1, 2, 3, 4, 5, 6, 0x7F, 0x80]),
        "not_before": NOW,
    } | changes
    return chain.issue_vcek(KEY.public_key(), **arguments)


def read(der):
    """What an independent reader makes of a certificate: AMD's extensions by OID behind the arc, in order."""
    certificate = asn1_x509.Certificate.load(der, strict=True)
    tbs = certificate["tbs_certificate"]
    return tbs, {e["extn_id"].dotted.removeprefix(ARC): e["extn_value"].contents for e in tbs["extensions"]}


def test_shipped_chain():
    chain = SimulatedChain.shipped()
    assert chain.product is Product.MILAN
    assert chain.ask_key.key_size == 4096
    assert chain.ark.public_key().key_size == 4096
    assert chain.ark_key is None
    assert chain.ask_key.public_key() == chain.ask.public_key()
    assert chain.ark.subject.rfc4514_string().startswith("CN=ARK-Simulated-Milan,")
    assert chain.ask.subject.rfc4514_string().startswith("CN=SEV-Simulated-Milan,")
    assert "private" not in repr(chain).lower()


@pytest.mark.parametrize("product", list(Product))
def test_openssl_verifies_the_chain(chains, product, tmp_path):
    chain = chains[product]
    for name, pem in (
        ("ark", chain.ark.public_bytes(Encoding.PEM)),
        ("ask", chain.ask.public_bytes(Encoding.PEM)),
        ("vcek", x509.load_der_x509_certificate(issue(chain)).public_bytes(Encoding.PEM)),
    ):
        (tmp_path / name).write_bytes(pem)
    done = subprocess.run(
        [
            "openssl",
            "verify",
            "-attime",
            str(int(NOW.timestamp())),
            "-CAfile",
            "ark",
            "-untrusted",
            "ask",
            "vcek",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "vcek: OK\n", done.stderr


def test_milan_leaf_in_amds_form(chains):
    tbs, extensions = read(issue(chains[Product.MILAN]))
    assert tbs["serial_number"].contents == b"\x00"
    assert tbs["version"].native == "v3"
    assert [(name, value) for name, value in tbs["subject"].native.items()] == [
        ("organizational_unit_name", "SIMULATED"),
        ("country_name", "US"),
        ("locality_name", "Santa Clara"),
        ("state_or_province_name", "CA"),
        ("organization_name", "vtpm-ca simulated platform"),
        ("common_name", "SEV-VCEK"),
    ]
    assert tbs["signature"]["algorithm"].native == "rsassa_pss"
    parameters = tbs["signature"]["parameters"].native
    assert parameters["hash_algorithm"]["algorithm"] == "sha384"
    assert parameters["mask_gen_algorithm"]["parameters"]["algorithm"] == "sha384"
    assert parameters["salt_length"] == 48
    assert list(extensions.items()) == [
        ("1", b"\x02\x01\x00"),
        ("2", b"\x16\x08Milan-B0"),
        ("3.1", b"\x02\x01\x01"),
        ("3.2", b"\x02\x01\x02"),
        ("3.4", b"\x02\x01\x03"),
        ("3.5", b"\x02\x01\x04"),
        ("3.6", b"\x02\x01\x05"),
        ("3.7", b"\x02\x01\x06"),
        ("3.3", b"\x02\x01\x7f"),
        ("3.8", b"\x02\x02\x00\x80"),
        ("4", bytes(range(1, 65))),
    ]


def test_turin_leaf_in_amds_form(chains):
    _, extensions = read(issue(chains[Product.TURIN]))
    assert extensions["1"] == b"\x02\x01\x01"
    assert extensions["2"] == b"\x16\x05Turin"
    assert extensions["3.9"] == b"\x02\x01\x01"
    assert extensions["3.3"] == b"\x02\x01\x04"
    assert extensions["4"] == bytes(range(1, 9))
    assert "3.4" not in extensions


def test_same_form_as_a_genuine_leaf(chains, pytestconfig):
    """Everything but key, names, dates and values is as AMD wrote it."""
    vectors = pytestconfig.rootpath / "tests" / "vectors" / "snp-evidence"
    for vector, product in (
        ("milan-v5-vcek-gcp", Product.MILAN),
        ("genoa-v3-vcek-aci", Product.GENOA),
        ("turin-v5-vcek-aci", Product.TURIN),
    ):
        genuine, amd = read((vectors / vector / "vcek.der").read_bytes())
        simulated, ours = read(issue(chains[product]))
        assert set(ours) == set(amd)
        assert ours["1"] == amd["1"]
        assert ours["2"] == amd["2"]
        assert len(ours["4"]) == len(amd["4"])
        assert simulated["signature"].dump() == genuine["signature"].dump()
        assert simulated["subject"].native.keys() == genuine["subject"].native.keys()
        assert simulated["serial_number"].dump() == genuine["serial_number"].dump()


def test_dates(chains):
    leaf = x509.load_der_x509_certificate(issue(chains[Product.MILAN]))
    assert leaf.not_valid_before_utc == NOW
    assert leaf.not_valid_after_utc == NOW + timedelta(days=7 * 365)
    short = x509.load_der_x509_certificate(issue(chains[Product.MILAN], not_after=NOW + timedelta(days=1)))
    assert short.not_valid_after_utc == NOW + timedelta(days=1)


def test_two_new_chains_have_nothing_in_common(chains):
    again = new_simulated_chain(Product.MILAN, label="Test", bits=2048)
    first = chains[Product.MILAN]
    assert again.ask.subject == first.ask.subject
    assert again.ask.public_key() != first.ask.public_key()
    leaf = x509.load_der_x509_certificate(issue(again))
    with pytest.raises(InvalidSignature):
        leaf.verify_directly_issued_by(first.ask)
    leaf.verify_directly_issued_by(again.ask)


def test_new_chain_is_amds_size_by_default():
    assert new_simulated_chain().ask_key.key_size == 4096
