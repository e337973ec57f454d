import hashlib
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from vtpm.errors import UsageError
from vtpm.snp import Platform, SimulatedChain, new_simulated_chain
from vtpm.snp.names import HWID_SIZE
from vtpm.wire.report import Product

NOW = datetime(2026, 6, 1, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP384R1())
ARC = "1.3.6.1.4.1.3704.1."


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


def issue_vlek(chain, **changes):
    arguments = {"tcb": bytes([1, 2, 3, 4, 5, 6, 0x7F, 0x80]), "not_before": NOW} | changes
    return chain.issue_vlek(KEY.public_key(), **arguments)


def verified(directory, *, untrusted, leaf, options=(), ark):
    """What openssl says about a leaf under an ARK; intermediates are handed in as untrusted."""
    for name, certificate in (("ark", ark), ("intermediate", untrusted)):
        (directory / name).write_bytes(certificate.public_bytes(Encoding.PEM))
    (directory / "leaf").write_bytes(x509.load_der_x509_certificate(leaf).public_bytes(Encoding.PEM))
    command = ["openssl", "verify", "-attime", str(int(NOW.timestamp())), *options]
    done = subprocess.run(
        [*command, "-CAfile", "ark", "-untrusted", "intermediate", "leaf"],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("product", list(Product))
def test_shipped_chain(product):
    chain = SimulatedChain.shipped(product)
    assert chain.product is product
    assert chain.ask_key.key_size == 4096
    assert chain.ark.public_key().key_size == 4096
    assert chain.ask_key.public_key() == chain.ask.public_key()
    assert chain.ark.subject.rfc4514_string().startswith(f"CN=ARK-Simulated-{product},")
    assert chain.ask.subject.rfc4514_string().startswith(f"CN=SEV-Simulated-{product},")
    assert "private" not in repr(chain).lower()
    assert chain is SimulatedChain.shipped(product)


@pytest.mark.parametrize("product", [Product.GENOA, Product.TURIN])
def test_shipped_chain_with_every_key(product):
    chain = SimulatedChain.shipped(product)
    assert chain.asvk_key.key_size == 4096
    assert chain.asvk.subject.rfc4514_string().startswith(f"CN=SEV-VLEK-Simulated-{product},")
    assert chain.asvk_key.public_key() == chain.asvk.public_key()
    assert chain.ark_key.public_key() == chain.ark.public_key()


def test_shipped_milan_signs_vceks_only():
    milan = SimulatedChain.shipped()
    assert milan is SimulatedChain.shipped(Product.MILAN)
    assert (milan.ark_key, milan.asvk, milan.asvk_key) == (None, None, None)
    with pytest.raises(UsageError, match="Milan has no ASVK"):
        issue_vlek(milan)
    for call in (lambda: milan.crl(this_update=NOW), lambda: milan.issue_intermediate(serial=5)):
        with pytest.raises(UsageError, match="does not exist"):
            call()


def test_the_files_of_the_package_are_those_of_the_repository(pytestconfig):
    shipped = pytestconfig.rootpath / "certs" / "simulated"
    packaged = pytestconfig.rootpath / "vtpm" / "snp" / "data"
    names = {path.name for path in shipped.iterdir()}
    assert names == {path.name for path in packaged.glob("*.pem") if "key" not in path.name}
    assert len(names) == 8
    for name in names:
        assert (shipped / name).read_bytes() == (packaged / name).read_bytes()


def test_the_readme_states_the_simulated_fingerprints(pytestconfig):
    folder = pytestconfig.rootpath / "certs"
    text = (folder / "README.md").read_text()
    for path in (folder / "simulated").iterdir():
        der = x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)
        assert f"| `simulated/{path.name}` | `{hashlib.sha256(der).hexdigest()}` |" in text


@pytest.mark.parametrize(("product", "serials"), [("Milan", 0x10000), ("Genoa", 0x20000), ("Turin", 0x30000)])
def test_authorities_in_amds_form(chains, product, serials, pytestconfig):
    chain = chains[product]
    amd = pytestconfig.rootpath / "certs" / "amd"
    for kind, distance in (("ark", 0), ("ask", 1), ("asvk", 0x101)):
        ours = getattr(chain, kind)
        genuine = x509.load_pem_x509_certificate((amd / f"{product.lower()}-{kind}.pem").read_bytes())
        assert ours.serial_number == serials + distance
        theirs = {e.oid: e for e in genuine.extensions}
        assert {e.oid for e in ours.extensions} <= set(theirs)
        for oid in (x509.BasicConstraints.oid, x509.KeyUsage.oid):
            mine = ours.extensions.get_extension_for_oid(oid)
            assert mine.critical == theirs[oid].critical
            if kind != "ark":
                assert mine.value == theirs[oid].value
        assert [a.oid for a in ours.subject] == [a.oid for a in genuine.subject]
        assert ours.not_valid_after_utc - ours.not_valid_before_utc == timedelta(days=25 * 365)
    assert chain.asvk.subject.rfc4514_string().startswith(f"CN=SEV-VLEK-Test-{product},")


@pytest.mark.parametrize("product", list(Product))
def test_openssl_verifies_the_chain(chains, product, tmp_path):
    chain = chains[product]
    for leaf, untrusted in ((issue(chain), chain.ask), (issue_vlek(chain), chain.asvk)):
        assert verified(tmp_path, ark=chain.ark, untrusted=untrusted, leaf=leaf) == "leaf: OK\n"


@pytest.mark.parametrize("product", [Product.GENOA, Product.TURIN])
def test_openssl_verifies_the_shipped_chain(product, tmp_path):
    chain = SimulatedChain.shipped(product)
    for leaf, untrusted in ((issue(chain), chain.ask), (issue_vlek(chain), chain.asvk)):
        assert verified(tmp_path, ark=chain.ark, untrusted=untrusted, leaf=leaf) == "leaf: OK\n"


def test_a_vlek_is_not_the_asks(chains, tmp_path):
    chain = chains[Product.GENOA]
    said = verified(tmp_path, ark=chain.ark, untrusted=chain.ask, leaf=issue_vlek(chain))
    assert "unable to get local issuer certificate" in said


def test_milan_leaf_is_the_one_of_earlier_releases():
    """What is signed, to the byte, of a VCEK that release 0.2 made for the same chip at the same time."""
    platform = Platform.made(b"\x11" * 32, clock=lambda: NOW)
    tbs, _ = read(platform.vcek_certificate)
    known = "4042f883851aa832c05614e46099fb84a73937f0fd225c79c7cb8dbdcdaba1d4"
    assert hashlib.sha256(tbs.dump()).hexdigest() == known


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


def test_vlek_in_amds_form(chains):
    tbs, extensions = read(issue_vlek(chains[Product.MILAN], csp_id="CN=cc-eu-west-1.amazonaws.com"))
    assert tbs["serial_number"].contents == b"\x00"
    assert tbs["subject"].native["common_name"] == "SEV-VLEK"
    assert tbs["issuer"].native["common_name"] == "SEV-VLEK-Test-Milan"
    assert extensions["2"] == b"\x16\x05Milan"
    assert extensions["5"] == b"\x16\x1dCN=cc-eu-west-1.amazonaws.com"
    assert list(extensions) == ["1", "2", "3.1", "3.2", "3.4", "3.5", "3.6", "3.7", "3.3", "3.8", "5"]
    _, turin = read(issue_vlek(chains[Product.TURIN]))
    assert list(turin) == ["1", "2", "3.9", "3.1", "3.2", "3.3", "3.5", "3.6", "3.7", "3.8", "5"]
    assert turin["1"] == b"\x02\x01\x01"


def test_same_form_as_a_genuine_vlek(chains, pytestconfig):
    vectors = pytestconfig.rootpath / "tests" / "vectors" / "snp-evidence"
    genuine, amd = read((vectors / "milan-v5-vlek-aws" / "vlek.der").read_bytes())
    simulated, ours = read(issue_vlek(chains[Product.MILAN]))
    assert list(ours) == list(amd)
    assert (ours["1"], ours["2"]) == (amd["1"], amd["2"])
    assert simulated["signature"].dump() == genuine["signature"].dump()
    assert simulated["serial_number"].dump() == genuine["serial_number"].dump()


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
        assert list(ours) == list(amd)
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
    vlek = x509.load_der_x509_certificate(issue_vlek(chains[Product.MILAN]))
    assert vlek.not_valid_after_utc == NOW + timedelta(days=365)
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


def test_new_chain_is_amds_size_by_default(chains, monkeypatch):
    asked = []

    def generate(public_exponent, key_size):
        asked.append((public_exponent, key_size))
        return chains[Product.MILAN].ark_key

    monkeypatch.setattr(rsa, "generate_private_key", generate)
    new_simulated_chain()
    assert asked == [(65537, 4096)] * 3
