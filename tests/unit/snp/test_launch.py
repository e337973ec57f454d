"""Reports of every product, version and key, read at the offsets of AMD 56860, table ATTESTATION_REPORT."""

import dataclasses
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from vtpm.errors import UsageError
from vtpm.snp import Firmware, IdBlock, KeySelect, Model, Platform, PspError, sign_body
from vtpm.wire.certtable import CertKind, parse_table
from vtpm.wire.report import Product, Report

SECRET = b"\x11" * 32
NOW = datetime(2026, 6, 1, tzinfo=UTC)
CPUID = {Product.MILAN: b"\x19\x01\x01", Product.GENOA: b"\x19\x11\x01", Product.TURIN: b"\x1a\x02\x01"}

FIRMWARE = Firmware(
    current=(1, 58, 40),
    committed=(1, 57, 39),
    current_tcb=b"CURRENT.",
    committed_tcb=b"COMMITTE",
    launch_tcb=b"LAUNCH..",
    platform_info=0x1122334455667788,
    launch_mit_vector=0x0102030405060708,
    current_mit_vector=0x1112131415161718,
)
ID_BLOCK = IdBlock(b"f" * 16, b"i" * 16, 0x01020304, b"k" * 48, b"a" * 48)


@pytest.fixture(scope="module")
def made(chains):
    def make(product=Product.MILAN, **changes):
        arguments = {"chain": chains[product], "clock": lambda: NOW} | changes
        return Platform.made(SECRET, product=product, **arguments)

    return make


def little(raw, start, size):
    return int.from_bytes(raw[start : start + size], "little")


def signed_by(raw, certificate):
    """Whether the certificate's key signed the report, all 72 bytes of r and s read."""
    key = x509.load_der_x509_certificate(certificate).public_key()
    pair = encode_dss_signature(little(raw, 0x2A0, 72), little(raw, 0x2E8, 72))
    key.verify(pair, raw[:0x2A0], ec.ECDSA(hashes.SHA384()))
    return True


@pytest.mark.parametrize("csp_id", [None, "CN=cc-test-1.example"], ids=["vcek", "vlek"])
@pytest.mark.parametrize("version", [2, 3, 4, 5])
@pytest.mark.parametrize("product", list(Product))
def test_every_field_of_every_report(made, product, version, csp_id):
    platform = made(product, report_version=version, csp_id=csp_id, firmware=FIRMWARE, tcb=b"REPORTED")
    vm = platform.launch_measured(
        b"m" * 48,
        policy=0x4032201F,
        host_data=b"h" * 32,
        id_block=ID_BLOCK,
        entropy=lambda size: b"r" * size,
    )
    raw = vm.report(b"d" * 64, vmpl=3)
    chip_id = platform.chip_id
    assert len(raw) == 0x4A0
    assert little(raw, 0x000, 4) == version
    assert little(raw, 0x004, 4) == 0x01020304
    assert little(raw, 0x008, 8) == 0x4032201F
    assert raw[0x010:0x030] == b"f" * 16 + b"i" * 16
    assert little(raw, 0x030, 4) == 3
    assert little(raw, 0x034, 4) == 1
    assert raw[0x038:0x040] == b"CURRENT."
    assert little(raw, 0x040, 8) == 0x1122334455667788
    assert little(raw, 0x048, 4) == (0b00001 if csp_id is None else 0b00101)
    assert little(raw, 0x04C, 4) == 0
    assert raw[0x050:0x090] == b"d" * 64
    assert raw[0x090:0x0C0] == b"m" * 48
    assert raw[0x0C0:0x0E0] == b"h" * 32
    assert raw[0x0E0:0x140] == b"k" * 48 + b"a" * 48
    assert raw[0x140:0x180] == b"r" * 32 + b"\xff" * 32
    assert raw[0x180:0x188] == b"REPORTED"
    assert raw[0x188:0x18B] == (CPUID[product] if version >= 3 else bytes(3))
    assert raw[0x18B:0x1A0] == bytes(21)
    assert raw[0x1A0:0x1E0] == (chip_id if csp_id is None else bytes(64))
    assert any(chip_id[:8])
    assert any(chip_id[8:]) is (product is not Product.TURIN)
    assert raw[0x1E0:0x1E8] == b"COMMITTE"
    assert raw[0x1E8:0x1F0] == bytes([40, 58, 1, 0, 39, 57, 1, 0])
    assert raw[0x1F0:0x1F8] == b"LAUNCH.."
    assert little(raw, 0x1F8, 8) == (0x0102030405060708 if version == 5 else 0)
    assert little(raw, 0x200, 8) == (0x1112131415161718 if version == 5 else 0)
    assert raw[0x208:0x2A0] == bytes(152)
    assert raw[0x330:] == bytes(368)
    assert Report.parse(raw).reserved_nonzero() == []
    kind = CertKind.VCEK if csp_id is None else CertKind.VLEK
    assert signed_by(raw, parse_table(vm.cert_table())[kind])


@pytest.mark.parametrize("model", list(Model))
def test_models(made, model):
    vm = made(model.product, cpuid=model.value).launch_measured(bytes(48))
    cpuid = Report.parse(vm.report(bytes(64))).cpuid
    assert cpuid == model.value
    assert Product.from_cpuid(*cpuid[:2]) is model.product


def test_models_are_those_of_genuine_reports(pytestconfig):
    vectors = pytestconfig.rootpath / "tests" / "vectors" / "snp-evidence"
    for vector, model in (
        ("milan-v5-vcek-gcp", Model.MILAN),
        ("genoa-v3-vcek-aci", Model.GENOA),
        ("siena-v5-vcek", Model.SIENA),
        ("turin-v5-vcek-aci", Model.TURIN),
    ):
        assert Report.parse((vectors / vector / "report.bin").read_bytes()).cpuid == model.value


def test_the_guest_selects_the_key(made):
    platform = made(csp_id="CN=x")
    vm = platform.launch_measured(bytes(48))
    for select, kind, certificate in (
        (KeySelect.DEFAULT, CertKind.VLEK, platform.vlek_certificate),
        (KeySelect.VLEK, CertKind.VLEK, platform.vlek_certificate),
        (KeySelect.VCEK, CertKind.VCEK, platform.vcek_certificate),
    ):
        raw = vm.report(bytes(64), key=select)
        assert parse_table(vm.cert_table(key=select)) == {kind: certificate}
        assert signed_by(raw, certificate)
        assert Report.parse(raw).signing_key == (kind is CertKind.VLEK)
    assert platform.vlek_key().public_key() != platform.vcek_key().public_key()


def test_no_vlek_loaded(made):
    vm = made().launch_measured(bytes(48))
    assert signed_by(vm.report(bytes(64), key=KeySelect.VCEK), vm.platform.vcek_certificate)
    for call in (lambda: vm.report(bytes(64), key=KeySelect.VLEK), lambda: vm.cert_table(key=KeySelect.VLEK)):
        with pytest.raises(PspError, match="no VLEK"):
            call()


def test_keys_derive_from_the_reported_tcb(made):
    low, high = made(tcb=bytes(8)), made(firmware=Firmware(current_tcb=bytes(8)))
    assert low.vcek_key().public_key() == Platform.made(SECRET, tcb=bytes(8)).vcek_key().public_key()
    assert low.vcek_key().public_key() != high.vcek_key().public_key() == made().vcek_key().public_key()
    assert low.vlek_key().public_key() != high.vlek_key().public_key()


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("csp_id", [None, "CN=x"])
def test_chip_id_masked_or_not(made, csp_id, masked):
    platform = made(csp_id=csp_id, firmware=Firmware(mask_chip_id=masked))
    report = Report.parse(platform.launch_measured(bytes(48)).report(bytes(64)))
    assert report.chip_id == (bytes(64) if masked else platform.chip_id)


def test_masked_chip_key_signs_nothing(made):
    vm = made(firmware=Firmware(mask_chip_key=True)).launch_measured(bytes(48))
    report = Report.parse(vm.report(bytes(64)))
    assert (report.mask_chip_key, report.signing_key, report.author_key_en) == (True, 7, False)
    assert report.raw[0x2A0:] == bytes(512)


def test_body_can_be_changed_and_signed(made):
    vm = made().launch_measured(b"m" * 48)
    body = bytearray(vm.report_body(bytes(64)))
    assert bytes(body) == vm.report(bytes(64))[:0x2A0]
    body[0x34] = 2
    raw = bytes(body) + sign_body(bytes(body), vm.signing_key())
    assert Report.parse(raw).signature_algo == 2
    assert signed_by(raw, vm.platform.vcek_certificate)


@pytest.mark.parametrize("csp_id", [None, "CN=x"])
def test_certificate_table_with_everything(made, chains, csp_id):
    chain = chains[Product.GENOA]
    vm = made(Product.GENOA, csp_id=csp_id).launch_measured(bytes(48))
    crl = chain.crl(this_update=NOW)
    table = parse_table(vm.cert_table({CertKind.ASK, CertKind.ARK}, crl=crl))
    leaf, intermediate = (CertKind.VCEK, chain.ask) if csp_id is None else (CertKind.VLEK, chain.asvk)
    assert set(table) == {leaf, CertKind.ASK, CertKind.ARK, CertKind.CRL}
    assert table[CertKind.ASK] == intermediate.public_bytes(Encoding.DER)
    assert table[CertKind.ARK] == chain.ark.public_bytes(Encoding.DER)
    assert table[CertKind.CRL] == crl
    x509.load_der_x509_certificate(table[leaf]).verify_directly_issued_by(intermediate)
    assert set(parse_table(vm.cert_table({CertKind.ARK}))) == {leaf, CertKind.ARK}


def test_unsaid_firmware_is_that_of_earlier_releases(made):
    """What is signed, to the byte, of a report that release 0.2 made for the same chip and launch."""
    vm = Platform.made(SECRET).launch_measured(b"\1" * 48, entropy=lambda size: b"\2" * size)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(vm.report(bytes(64))[:0x2A0])
    known = "735db26162d371a70e0438e3d3c4827c160ea73e1f8b02a14c27fe5bb20b7a27"
    assert digest.finalize().hex() == known


@pytest.mark.parametrize("field", ["current_tcb", "committed_tcb", "launch_tcb"])
def test_tcb_of_another_size(field):
    with pytest.raises(UsageError, match="8 bytes"):
        Firmware(**{field: bytes(7)})


def test_vlek_of_a_service_without_asvk():
    with pytest.raises(UsageError, match="no ASVK"):
        Platform.made(SECRET, csp_id="CN=x")


def test_firmware_update_keeps_the_chip(made):
    before = made()
    after = dataclasses.replace(before, firmware=FIRMWARE, report_version=5)
    assert after.chip_id == before.chip_id
    assert signed_by(after.launch_measured(bytes(48)).report(bytes(64)), before.vcek_certificate)
