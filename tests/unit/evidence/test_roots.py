import dataclasses
import hashlib
import re
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import ca_service
from ca_service.evidence.snp import amd_roots, data_folder, roots, simulated_roots, unsafe_root
from ca_service.evidence.snp.certificates import issued
from ca_service.judgment import VtpmCaError
from vtpm.snp import SimulatedChain
from vtpm.snp.authority import authority_certificate
from vtpm.wire.certtable import CertKind
from vtpm.wire.report import Product

CERTS = Path(ca_service.__file__).parent.parent / "certs"
ALL = (*amd_roots(), *simulated_roots())


def der(certificate):
    return certificate.public_bytes(Encoding.DER)


def test_one_root_for_each_product_and_none_is_simulated():
    assert [root.product for root in amd_roots()] == list(Product)
    assert not any(root.simulated for root in amd_roots())


def test_the_simulated_roots_are_apart_from_amds():
    assert all(root.simulated for root in simulated_roots())
    assert not {root.ark.der for root in simulated_roots()} & {root.ark.der for root in amd_roots()}
    for root in simulated_roots():
        for authority in (root.ark, *root.authorities):
            subject = authority.certificate.subject.rfc4514_string()
            assert "OU=SIMULATED" in subject
            assert "Advanced Micro Devices" not in subject


@pytest.mark.parametrize("root", ALL, ids=lambda root: root.ark.common_name)
def test_every_intermediate_is_under_its_root_and_says_what_it_issues(root):
    product = root.product.value
    assert root.ark.common_name.startswith("ARK-")
    assert root.ark.common_name.endswith(f"-{product}")
    assert root.ark.issues is None
    assert root.ark.self_issued
    assert issued(root.ark.der, root.ark.der)
    for authority in root.authorities:
        assert authority.common_name.startswith("SEV-")
        assert authority.common_name.endswith(f"-{product}")
        assert not authority.self_issued
        assert issued(authority.der, root.ark.der)
        assert not issued(root.ark.der, authority.der)


def test_amds_intermediates_are_an_ask_and_an_asvk_for_each_product():
    for root in amd_roots():
        named = {authority.common_name: authority.issues for authority in root.authorities}
        product = root.product.value
        assert named == {f"SEV-{product}": CertKind.VCEK, f"SEV-VLEK-{product}": CertKind.VLEK}


@pytest.mark.parametrize(
    ("product", "spki"),
    [
        (Product.MILAN, "9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9"),
        (Product.GENOA, "429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831"),
        (Product.TURIN, "4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08"),
    ],
)
def test_amds_public_keys_are_those_that_other_verifiers_pin(product, spki):
    ark = next(root.ark for root in amd_roots() if root.product is product)
    key = ark.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert hashlib.sha256(key).hexdigest() == spki


def test_the_readme_states_every_fingerprint():
    text, stated = (CERTS / "README.md").read_text(), {}
    for folder in ("amd", "simulated"):
        section = text.partition(f"\n## `{folder}/`")[2].partition("\n## ")[0]
        rows = re.findall(
            r"^\| `(?:[a-z]+/)?([a-z-]+\.(?:pem|der))` \|.*`([0-9a-f]{64})` \|$", section, re.MULTILINE
        )
        stated |= {f"{folder}/{name}": digest for name, digest in rows}
    assert roots._FINGERPRINTS.items() <= stated.items()
    assert set(stated) == {f"{file.parent.name}/{file.name}" for file in CERTS.glob("*/*.*")}


def test_the_simulated_chains_are_those_that_simulated_processors_use():
    for root in simulated_roots():
        chain = SimulatedChain.shipped(root.product)
        assert root.ark.der == der(chain.ark)
        present = [certificate for certificate in (chain.ask, chain.asvk) if certificate is not None]
        assert [authority.der for authority in root.authorities] == [der(one) for one in present]


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


@pytest.mark.parametrize("product", list(Product))
def test_a_root_that_somebody_names_counts_as_simulated(product, chains):
    named = chains[product].ark
    root = unsafe_root(der(named))
    assert root == roots.Root(product, root.ark, (), simulated=True)
    assert root.ark.der == der(named)


def test_amds_own_root_named_on_a_command_line_counts_as_simulated_too():
    (milan, *_) = amd_roots()
    assert unsafe_root(milan.ark.der) == dataclasses.replace(milan, authorities=(), simulated=True)


@pytest.mark.parametrize("name", ["ARK-Venice", "ARK-milan", "Root"])
def test_a_root_of_another_name_has_no_product(name, chains):
    chain = chains[Product.MILAN]
    other = authority_certificate(
        name, chain.ark.public_key(), name, chain.ark_key, 1, chain.ark.not_valid_before_utc
    )
    assert unsafe_root(der(other)).product is None


def test_what_is_no_self_signed_authority_is_no_root(chains):
    chain = chains[Product.MILAN]
    platform_leaf = chain.issue_vcek(
        ec.generate_private_key(ec.SECP384R1()).public_key(),
        hwid=bytes(64),
        tcb=bytes(8),
        not_before=chain.ark.not_valid_before_utc,
    )
    impostor = authority_certificate(
        "ARK-Milan", chain.ark.public_key(), "ARK-Milan", chain.ask_key, 1, chain.ark.not_valid_before_utc
    )
    for content in (
        b"",
        der(chain.ask),
        platform_leaf,
        der(impostor),
        der(chain.ark)[:-1],
        der(chain.ark) + b"\0",
    ):
        assert unsafe_root(content) is None
