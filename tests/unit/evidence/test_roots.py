import hashlib
import re
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

import ca_service
from ca_service.evidence.snp import amd_roots, data_folder, roots, simulated_roots
from ca_service.judgment import VtpmCaError
from vtpm.wire.report import Product

CERTS = Path(ca_service.__file__).parent.parent / "certs"


def fingerprint(certificate):
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def test_one_root_for_each_product_and_none_is_simulated():
    assert [root.product for root in amd_roots()] == list(Product)
    assert not any(root.simulated for root in amd_roots())


def test_the_simulated_root_is_apart_from_amds():
    (simulated,) = simulated_roots()
    assert simulated.simulated
    assert simulated.asvk is None
    assert simulated not in amd_roots()
    for certificate in (simulated.ark, simulated.ask):
        assert "OU=SIMULATED" in certificate.subject.rfc4514_string()
        assert "Advanced Micro Devices" not in certificate.subject.rfc4514_string()


@pytest.mark.parametrize(
    "root", [*amd_roots(), *simulated_roots()], ids=lambda root: root.ark.subject.rfc4514_string()[3:18]
)
def test_every_intermediate_is_under_its_root(root):
    root.ark.verify_directly_issued_by(root.ark)
    for intermediate in filter(None, (root.ask, root.asvk)):
        intermediate.verify_directly_issued_by(root.ark)


@pytest.mark.parametrize(
    ("product", "spki"),
    [
        (Product.MILAN, "9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9"),
        (Product.GENOA, "429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831"),
        (Product.TURIN, "4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08"),
    ],
)
def test_amds_public_keys_are_those_that_other_verifiers_pin(product, spki):
    from cryptography.hazmat.primitives.serialization import PublicFormat  # noqa: PLC0415

    ark = next(root.ark for root in amd_roots() if root.product is product)
    key = ark.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert hashlib.sha256(key).hexdigest() == spki


def test_the_readme_states_every_fingerprint():
    text = (CERTS / "README.md").read_text()
    stated = dict(re.findall(r"^\| `([a-z-]+\.pem)` \|.*`([0-9a-f]{64})` \|$", text, re.MULTILINE))
    assert stated == {name.rpartition("/")[2]: digest for name, digest in roots._FINGERPRINTS.items()}


def test_the_simulated_chain_is_the_one_that_simulated_processors_use():
    from vtpm.snp import SimulatedChain  # noqa: PLC0415

    (root,) = simulated_roots()
    assert (SimulatedChain.shipped().ark, SimulatedChain.shipped().ask) == (root.ark, root.ask)


def test_data_folder_of_a_checkout():
    assert data_folder("certs") == CERTS


def test_data_folder_of_an_installation(monkeypatch, tmp_path):
    shutil.copytree(CERTS, tmp_path / "data" / "certs")
    monkeypatch.setattr(roots.resources, "files", lambda _: tmp_path)
    assert data_folder("certs") == tmp_path / "data" / "certs"
    assert amd_roots.__wrapped__() == amd_roots()


def test_data_folder_that_is_in_no_place():
    with pytest.raises(VtpmCaError, match="missing"):
        data_folder("no-such-folder")


@pytest.mark.parametrize("content", ["milan-ask.pem", "garbage", None])
def test_an_exchanged_pinned_file_is_noticed(monkeypatch, tmp_path, content):
    shutil.copytree(CERTS, tmp_path / "certs")
    target = tmp_path / "certs" / "amd" / "milan-ark.pem"
    if content is None:
        target.unlink()
    elif content == "garbage":
        target.write_text("-----BEGIN CERTIFICATE-----\n")
    else:
        target.write_bytes((CERTS / "amd" / content).read_bytes())
    monkeypatch.setattr(roots, "data_folder", lambda name: tmp_path / name)
    with pytest.raises(VtpmCaError, match=r"amd/milan-ark\.pem"):
        amd_roots.__wrapped__()


def test_an_exchanged_simulated_file_is_noticed(monkeypatch, tmp_path):
    shutil.copytree(CERTS, tmp_path / "certs")
    (tmp_path / "certs" / "simulated" / "ask.pem").write_bytes((CERTS / "amd" / "milan-ask.pem").read_bytes())
    monkeypatch.setattr(roots, "data_folder", lambda name: tmp_path / name)
    with pytest.raises(VtpmCaError, match=r"simulated/ask\.pem"):
        simulated_roots.__wrapped__()
