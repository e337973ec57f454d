import hashlib
import json
import stat
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from vtpm.errors import UsageError
from vtpm.snp import Platform, PspError, SimulatedChain, default_tcb, launch_digest
from vtpm.wire.certtable import CertKind, parse_table
from vtpm.wire.report import Product, Report

SECRET = b"\x11" * 32
PAGES = [(0x1000, b"\x01" * 4096)]


@pytest.fixture(scope="module")
def platform():
    return Platform.made(SECRET)


def verify(report, key):
    key.verify(
        encode_dss_signature(report.signature_r, report.signature_s),
        report.signed_bytes,
        ec.ECDSA(hashes.SHA384()),
    )


def test_report_says_what_the_launch_was(platform):
    vm = platform.launch(PAGES, policy=0xB0000, host_data=b"\x05" * 32)
    report = Report.parse(vm.report(b"\x09" * 64, vmpl=2))
    assert report.version == 3
    assert report.measurement == vm.measurement == launch_digest(PAGES)
    assert report.report_id == vm.report_id
    assert (report.policy, report.host_data, report.report_data) == (0xB0000, b"\x05" * 32, b"\x09" * 64)
    assert (report.vmpl, report.signing_key, report.signature_algo) == (2, 0, 1)
    assert report.chip_id == platform.chip_id
    assert report.reported_tcb == report.current_tcb == default_tcb(Product.MILAN)
    assert Product.from_cpuid(*report.cpuid[:2]) is Product.MILAN
    assert report.reserved_nonzero() == []
    verify(report, platform.vcek_key().public_key())


def test_report_id_is_constant_for_a_launch_and_new_for_the_next(platform):
    first, second = platform.launch(PAGES), platform.launch(PAGES)
    ids = [Report.parse(vm.report(bytes(64))).report_id for vm in (first, first, second)]
    assert ids[0] == ids[1] != ids[2]


def test_certificate_table_verifies_the_report(platform):
    vm = platform.launch(PAGES)
    table = parse_table(vm.cert_table())
    assert set(table) == {CertKind.VCEK}
    leaf = x509.load_der_x509_certificate(table[CertKind.VCEK])
    verify(Report.parse(vm.report(bytes(64))), leaf.public_key())
    leaf.verify_directly_issued_by(platform.chain.ask)


def test_keys_derive_from_secret_and_tcb(platform):
    def point(platform):
        return platform.vcek_key().public_key()

    assert point(platform) == point(Platform.made(SECRET))
    assert platform.chip_id == Platform.made(SECRET).chip_id
    other_chip = Platform.made(b"\x12" * 32)
    assert point(other_chip) != point(platform)
    assert other_chip.chip_id != platform.chip_id
    other_tcb = Platform.made(SECRET, tcb=bytes(8))
    assert point(other_tcb) != point(platform)
    assert other_tcb.chip_id == platform.chip_id


@pytest.mark.parametrize("version", [-1, 1, 6])
def test_report_version_that_does_not_exist(version):
    with pytest.raises(UsageError, match="2 to 5"):
        Platform.made(SECRET, report_version=version)


def test_chain_for_another_product(chains):
    with pytest.raises(UsageError, match="certifies Milan, not Turin"):
        Platform.made(SECRET, product=Product.TURIN, chain=chains[Product.MILAN])


@pytest.mark.parametrize("version", [2, 3, 4, 5])
@pytest.mark.parametrize("product", list(Product))
def test_create_and_load_of_every_product(tmp_path, product, version):
    made = Platform.create(tmp_path, product, report_version=version)
    assert Platform.load(tmp_path) == made
    assert (made.product, made.report_version, made.chain.product) == (product, version, product)
    assert Platform.load_or_create(tmp_path, product, version) == made
    assert Platform.load_or_create(tmp_path) == made
    x509.load_der_x509_certificate(made.vcek_certificate).verify_directly_issued_by(
        SimulatedChain.shipped(product).ask
    )


@pytest.mark.parametrize(
    ("product", "version"), [(Product.GENOA, None), (Product.MILAN, 5), (None, 2), (Product.TURIN, 3)]
)
def test_existing_platform_is_another_one(tmp_path, product, version):
    Platform.create(tmp_path)
    with pytest.raises(UsageError, match="a Milan with report version 3"):
        Platform.load_or_create(tmp_path, product, version)


def test_platform_of_an_earlier_release(tmp_path):
    """Release 0.2 wrote no report version; the chip keeps its keys."""
    made = Platform.made(SECRET)
    content = {"product": "Milan", "secret": SECRET.hex(), "tcb": made.tcb.hex()}
    (tmp_path / "platform.json").write_text(json.dumps(content))
    (tmp_path / "vcek.der").write_bytes(made.vcek_certificate)
    assert Platform.load(tmp_path) == made
    spki = made.vcek_key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    known_key = "f2c3d56ef72e95b5d284eacb71bd7d1fb18fc2a135d7776790d0e816546f9347"
    known_chip = "9f7fc279eb8b8bce6302211ebf2dc765af033d82eb60c5ac870ca55b436e2f3d"
    assert hashlib.sha256(spki).hexdigest() == known_key
    assert hashlib.sha256(made.chip_id).hexdigest() == known_chip


def test_create_and_load(tmp_path):
    made = Platform.create(tmp_path / "a" / "platform")
    loaded = Platform.load(tmp_path / "a" / "platform")
    assert loaded == made
    assert stat.S_IMODE((tmp_path / "a" / "platform").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "a" / "platform" / "platform.json").stat().st_mode) == 0o600
    assert Platform.load_or_create(tmp_path / "a" / "platform") == made
    assert Platform.load_or_create(tmp_path / "b").secret != made.secret


def test_create_never_overwrites(tmp_path):
    made = Platform.create(tmp_path)
    with pytest.raises(UsageError, match="already"):
        Platform.create(tmp_path)
    assert Platform.load(tmp_path) == made


def test_secret_stays_out_of_repr(platform):
    assert SECRET.hex() not in repr(platform)
    assert repr(SECRET) not in repr(platform.launch(PAGES))


def test_load_of_nothing_and_of_damage(tmp_path):
    with pytest.raises(UsageError, match="no platform"):
        Platform.load(tmp_path)
    Platform.create(tmp_path)
    path = tmp_path / "platform.json"
    content = json.loads(path.read_text())
    for broken in (
        "{",
        "[]",
        json.dumps(content | {"more": 1}),
        json.dumps(content | {"product": "Rome"}),
        json.dumps(content | {"secret": "00"}),
        json.dumps(content | {"report_version": 1}),
        json.dumps(content | {"report_version": 6}),
        json.dumps(content | {"report_version": "3"}),
    ):
        path.write_text(broken)
        with pytest.raises(UsageError, match="damaged"):
            Platform.load(tmp_path)
    path.write_text(json.dumps(content | {"secret": "00" * 32}))
    with pytest.raises(UsageError, match="another key"):
        Platform.load(tmp_path)
    (tmp_path / "vcek.der").unlink()
    with pytest.raises(UsageError, match="no platform"):
        Platform.load(tmp_path)


@pytest.mark.parametrize("size", [0, 63, 65])
def test_report_data_of_another_size(platform, size):
    with pytest.raises(PspError, match="64 bytes"):
        platform.launch(PAGES).report(bytes(size))


@pytest.mark.parametrize("vmpl", [-1, 4])
def test_level_that_does_not_exist(platform, vmpl):
    with pytest.raises(PspError, match="VMPL"):
        platform.launch(PAGES).report(bytes(64), vmpl)


@pytest.mark.parametrize("policy", [0, 0x10000, -1, 1 << 64 | 0x30000])
def test_policy_that_the_firmware_refuses(platform, policy):
    with pytest.raises(PspError, match="bit 17"):
        platform.launch(PAGES, policy=policy)


def test_malformed_launch(platform):
    with pytest.raises(PspError, match="page"):
        platform.launch([(0, b"short")])
    with pytest.raises(PspError, match="host data"):
        platform.launch(PAGES, host_data=b"")


def test_certificate_dates_come_from_the_clock():
    platform = Platform.made(SECRET, clock=lambda: datetime(2027, 1, 1, tzinfo=UTC))
    leaf = x509.load_der_x509_certificate(platform.vcek_certificate)
    assert leaf.not_valid_before_utc == datetime(2026, 12, 31, 23, tzinfo=UTC)


def test_another_key_does_not_verify(platform):
    report = Report.parse(platform.launch(PAGES).report(bytes(64)))
    with pytest.raises(InvalidSignature):
        verify(report, Platform.made(b"\x12" * 32).vcek_key().public_key())
