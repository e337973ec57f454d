import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from ca_service.collateral.items import Kind, collateral_of, items_of, kind_of_name, read_item
from ca_service.evidence.snp import Collateral

FILES = {
    "milan-v2-vcek-azure/vcek.der": Kind.VCEK,
    "misc/turin-vcek.der": Kind.VCEK,
    "milan-v5-vlek-aws/vlek.der": Kind.VLEK,
    "roots/genoa-ask-revoked-020001.pem": Kind.ASK,
    "amd/turin-asvk.pem": Kind.ASVK,
    "crl/ark-genoa-2022-10-31.der": Kind.CRL,
}


@pytest.mark.parametrize("name", FILES)
def test_each_kind_has_a_name_by_kind_and_content(genuine, name):
    (item,) = items_of(Collateral.of_file(genuine(name)))
    assert item.kind is FILES[name]
    assert item.name == f"{FILES[name]}-{hashlib.sha256(item.der).hexdigest()}.der"
    assert read_item(item.name, item.der) == item


def test_a_collateral_is_what_its_items_are(genuine):
    whole = Collateral()
    for name in FILES:
        whole += Collateral.of_file(genuine(name))
    assert collateral_of(items_of(whole)) == whole
    assert items_of(whole + whole) == items_of(whole)
    assert [item.kind for item in items_of(whole)][:3] == [Kind.CRL, Kind.ASK, Kind.ASVK]


def test_the_content_must_be_what_the_name_says(genuine):
    items = [items_of(Collateral.of_file(genuine(name)))[0] for name in FILES]
    for item in items:
        digest = item.sha256
        assert read_item(item.name, item.der + b"\0") is None
        assert read_item(item.name, item.der[:-1]) is None
        for kind in Kind:
            assert (read_item(f"{kind}-{digest}.der", item.der) is not None) == (kind is item.kind)
        pem = b"-----BEGIN CERTIFICATE-----"
        assert read_item(f"{item.kind}-{hashlib.sha256(pem).hexdigest()}.der", pem) is None


def test_a_list_in_pem_is_no_file_of_a_bundle(genuine):

    pem = x509.load_der_x509_crl(genuine("crl/ark-genoa-2022-10-31.der")).public_bytes(Encoding.PEM)
    assert read_item(f"crl-{hashlib.sha256(pem).hexdigest()}.der", pem) is None


@given(st.text(max_size=90))
def test_other_names_are_strangers(name):
    assert kind_of_name(name) is None


@pytest.mark.parametrize(
    "name",
    ["", "crl-.der", "crl-" + "0" * 63 + ".der", "crl-" + "0" * 64 + ".der\n", "crl-" + "A" * 64 + ".der",
     "x/crl-" + "0" * 64 + ".der", "ark-" + "0" * 64 + ".der", "crl-" + "0" * 64 + ".pem"],
)  # fmt: skip
def test_nearly_a_name(name):
    assert kind_of_name(name) is None
    assert kind_of_name("crl-" + "0" * 64 + ".der") is Kind.CRL
