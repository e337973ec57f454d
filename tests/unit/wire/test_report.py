"""Attestation reports: genuine ones decode as other tools decoded them, and packing is the inverse."""

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from hypothesis import given
from hypothesis import strategies as st

from vtpm.wire.errors import WireError
from vtpm.wire.report import (
    REPORT_SIZE,
    SIGNED_SIZE,
    TCB_LAYOUT,
    Product,
    Report,
    pack_report,
    pack_signature,
    tcb_components,
)

SNP = Path(__file__).parents[2] / "vectors" / "snp"
VECTORS = json.loads((SNP / "manifest.json").read_text())["vectors"]
# AMD's leaf certificates carry serial number 0, which cryptography warns about.
serial_zero = pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive")
vectors = pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["id"])


def load(vector):
    return Report.parse((SNP / vector["files"]["report"]).read_bytes())


def packable(report):
    names = [
        f.name for f in dataclasses.fields(report) if f.name not in ("raw", "signature_r", "signature_s")
    ]
    return {name: getattr(report, name) for name in names}


@pytest.mark.parametrize(
    "entry",
    [*VECTORS, *json.loads((SNP / "manifest.json").read_text())["further"]],
    ids=lambda entry: entry["id"],
)
def test_vector_files_are_the_published_ones(entry):
    for name, path in entry["files"].items():
        assert hashlib.sha256((SNP / path).read_bytes()).hexdigest() == entry["sha256"][name]
        assert entry["source"][name]["licence"]


@vectors
def test_genuine_report_decodes_as_other_tools_decoded_it(vector):
    report = load(vector)
    assert report.version == vector["report_version"]
    assert report.guest_svn == vector["guest_svn"]
    assert report.policy == int(vector["guest_policy"], 16)
    assert report.platform_info == int(vector["platform_info"], 16)
    assert report.vmpl == vector["vmpl"]
    assert report.signature_algo == 1
    assert report.mask_chip_key is vector["mask_chip_key"]
    assert report.author_key_en is vector["author_key_en"]
    assert report.signing_key == {"VCEK": 0, "VLEK": 1}[vector["signing_key"]]
    for name in (
        "family_id",
        "image_id",
        "report_data",
        "measurement",
        "host_data",
        "id_key_digest",
        "author_key_digest",
        "report_id",
        "chip_id",
    ):
        assert getattr(report, name).hex() == vector[name]
    assert ".".join(map(str, report.current_firmware)) == vector["fw_current"]
    assert ".".join(map(str, report.committed_firmware)) == vector["fw_committed"]
    assert bytes(report.cpuid).hex() == (vector["cpuid_fms"] or "000000")
    assert report.launch_mit_vector == int(vector["launch_mit_vector"] or "0", 16)
    assert report.current_mit_vector == int(vector["current_mit_vector"] or "0", 16)
    assert report.report_id_ma == b"\xff" * 32
    assert not report.debug
    assert not report.migrate_ma


@vectors
def test_genuine_tcbs_decode_in_the_layout_of_their_product(vector):
    report = load(vector)
    for name, expected in vector["tcb"].items():
        raw = getattr(report, f"{name}_tcb")
        assert raw.hex() == expected["raw"]
        named = {key: value for key, value in expected.items() if key != "raw"}
        assert tcb_components(raw, Product(vector["product"])) == named


@serial_zero
@vectors
def test_genuine_signature_covers_signed_bytes(vector):
    report = load(vector)
    leaf = x509.load_der_x509_certificate((SNP / vector["files"]["vek"]).read_bytes()).public_key()
    signature = utils.encode_dss_signature(report.signature_r, report.signature_s)
    leaf.verify(signature, report.signed_bytes, ec.ECDSA(hashes.SHA384()))
    assert len(report.signed_bytes) == 0x2A0
    with pytest.raises(InvalidSignature):
        leaf.verify(signature, report.raw[: SIGNED_SIZE + 1], ec.ECDSA(hashes.SHA384()))


@vectors
def test_packing_a_decoded_report_gives_its_bytes(vector):
    report = load(vector)
    assert (
        pack_report(**packable(report)) + pack_signature(report.signature_r, report.signature_s) == report.raw
    )


@vectors
def test_cpuid_names_the_product(vector):
    report = load(vector)
    if report.version > 2:
        assert Product.from_cpuid(*report.cpuid[:2]) == vector["product"]
    else:
        assert Product.from_cpuid(*report.cpuid[:2]) is None


@pytest.mark.parametrize(
    ("family", "model", "product"),
    [
        (0x19, 0x00, Product.MILAN),
        (0x19, 0x0F, Product.MILAN),
        (0x19, 0x10, Product.GENOA),
        (0x19, 0x1F, Product.GENOA),
        (0x19, 0x20, None),
        (0x19, 0x9F, None),
        (0x19, 0xA0, Product.GENOA),
        (0x19, 0xAF, Product.GENOA),
        (0x19, 0xB0, None),
        (0x1A, 0x00, Product.TURIN),
        (0x1A, 0x11, Product.TURIN),
        (0x1A, 0x12, None),
        (0x1A, 0x50, None),
        (0x17, 0x01, None),
    ],
)
def test_product_boundaries(family, model, product):
    assert Product.from_cpuid(family, model) is product


@pytest.mark.parametrize("size", [0, 1, REPORT_SIZE - 1, REPORT_SIZE + 1])
def test_other_sizes_are_refused(size):
    with pytest.raises(WireError, match="must be 1184 bytes") as caught:
        Report.parse(bytes(size), "evidence.report")
    assert caught.value.path == "evidence.report"


@given(st.binary(min_size=REPORT_SIZE, max_size=REPORT_SIZE))
def test_any_bytes_of_the_right_size_decode(data):
    report = Report.parse(data)
    assert report.raw == data
    body = bytearray(pack_report(**packable(report)))
    # What packing leaves zero is exactly what the format reserves in every version.
    for start, end in ((0x4C, 0x50), (0x18B, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x208, 0x2A0)):
        assert not any(body[start:end])
        body[start:end] = data[start:end]
    assert bytes(body) == report.signed_bytes
    assert pack_signature(report.signature_r, report.signature_s)[:144] == data[0x2A0:0x330]


RESERVED = {
    2: [(0x4C, 0x50), (0x188, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x1F8, 0x2A0)],
    3: [(0x4C, 0x50), (0x18B, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x1F8, 0x2A0)],
    4: [(0x4C, 0x50), (0x18B, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x1F8, 0x2A0)],
    5: [(0x4C, 0x50), (0x18B, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x208, 0x2A0)],
}
UNSIGNED = [(0x2D0, 0x2E8), (0x318, 0x330), (0x330, 0x4A0)]


@pytest.mark.parametrize("version", RESERVED)
def test_each_reserved_byte_is_noticed_and_no_other(version):
    blank = pack_report(version=version) + pack_signature(1, 1)
    assert Report.parse(blank).reserved_nonzero() == []
    reserved = {i: a for a, b in RESERVED[version] + UNSIGNED for i in range(a, b)}
    # The key flags are a bit field of their own, and the version decides what is reserved.
    for offset in set(range(4, REPORT_SIZE)) - set(range(0x48, 0x4C)):
        data = bytearray(blank)
        data[offset] ^= 0x80
        names = Report.parse(bytes(data)).reserved_nonzero()
        expected = [f"0x{reserved[offset]:03x}"] if offset in reserved else []
        assert [name.split("..")[0] for name in names] == expected, hex(offset)


@pytest.mark.parametrize("bit", range(32))
def test_key_flags(bit):
    report = Report.parse(pack_report(key_flags=1 << bit) + pack_signature(1, 1))
    assert report.author_key_en is (bit == 0)
    assert report.mask_chip_key is (bit == 1)
    assert report.signing_key == {2: 1, 3: 2, 4: 4}.get(bit, 0)
    assert report.reserved_nonzero() == (["0x048 bits 31:5"] if bit >= 5 else [])


@pytest.mark.parametrize("bit", range(64))
def test_policy_bits(bit):
    report = Report.parse(pack_report(policy=1 << bit) + pack_signature(1, 1))
    assert report.migrate_ma is (bit == 18)
    assert report.debug is (bit == 19)


def test_values_that_do_not_fit_are_refused():
    with pytest.raises(WireError, match="must be 64 bytes"):
        pack_report(report_data=bytes(63))
    with pytest.raises(WireError, match="does not fit"):
        pack_report(vmpl=1 << 32)
    with pytest.raises(WireError, match="does not fit"):
        pack_report(cpuid=(256, 0, 0))
    for r, s in ((1 << 576, 1), (1, -1)):
        with pytest.raises(WireError, match="must fit 72 bytes"):
            pack_signature(r, s)
    with pytest.raises(WireError, match="must be 8 bytes"):
        tcb_components(bytes(7), Product.MILAN)


def test_signature_numbers_are_read_from_all_72_bytes():
    field = pack_signature((1 << 575) + 7, 1 << 400)
    assert len(field) == 512
    report = Report.parse(pack_report() + field)
    assert (report.signature_r, report.signature_s) == ((1 << 575) + 7, 1 << 400)


def test_layouts_of_the_three_products():
    raw = bytes(range(8))
    assert tcb_components(raw, Product.MILAN) == {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7}
    assert tcb_components(raw, Product.GENOA) == tcb_components(raw, Product.MILAN)
    turin = {"fmc": 0, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 7}
    assert tcb_components(raw, Product.TURIN) == turin
    assert set(TCB_LAYOUT) == set(Product)


def test_the_report_does_not_spill_its_bytes_into_logs():
    assert "raw" not in repr(Report.parse(bytes(REPORT_SIZE)))
