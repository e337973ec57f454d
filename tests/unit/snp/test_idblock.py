import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from vtpm.snp import IdBlock, Platform, PspError, key_digest
from vtpm.snp.idblock import key_structure
from vtpm.wire.report import Report

ID_KEY = ec.derive_private_key(1, ec.SECP384R1()).public_key()
AUTHOR_KEY = ec.derive_private_key(2, ec.SECP384R1()).public_key()

# Computed with sev-snp-measure 0.0.13 (module id_block), an independent implementation.
ID_KEY_DIGEST = bytes.fromhex(
    "01ce77b697886b46c6e363a9d02bbee2506e4b21ca4b3085f35f20e4cf66ac780e01e38aad53f973cbcea56e59a7b382"
)
AUTHOR_KEY_DIGEST = bytes.fromhex(
    "0fa1181994e8fe9a2411a51bf9ef0c2f7a9680bd1601a913bfd32b095bc0ce0d3a18a18aee8e7e4acca9040f9d3269a8"
)


@pytest.fixture(scope="module")
def platform():
    return Platform.made(b"\x11" * 32)


def test_key_structure():
    structure = key_structure(ID_KEY)
    assert len(structure) == 0x404
    assert structure[:4] == b"\x02\0\0\0"
    numbers = ID_KEY.public_numbers()
    assert int.from_bytes(structure[0x04:0x4C], "little") == numbers.x
    assert int.from_bytes(structure[0x4C:0x94], "little") == numbers.y
    assert not any(structure[0x94:])


def test_key_digests_as_another_implementation_computes_them():
    assert key_digest(ID_KEY) == ID_KEY_DIGEST
    assert key_digest(AUTHOR_KEY) == AUTHOR_KEY_DIGEST


def test_key_on_another_curve():
    with pytest.raises(PspError, match="P-384"):
        key_digest(ec.generate_private_key(ec.SECP256R1()).public_key())


def test_report_of_a_vm_with_an_id_block(platform):
    block = IdBlock.signed_by(ID_KEY, AUTHOR_KEY, family_id=b"f" * 16, image_id=b"i" * 16, guest_svn=7)
    report = Report.parse(platform.launch_measured(b"\x01" * 48, id_block=block).report(bytes(64)))
    assert (report.family_id, report.image_id, report.guest_svn) == (b"f" * 16, b"i" * 16, 7)
    assert (report.id_key_digest, report.author_key_digest) == (ID_KEY_DIGEST, AUTHOR_KEY_DIGEST)
    assert report.author_key_en


def test_id_block_without_author_key(platform):
    vm = platform.launch([(0, bytes(4096))], id_block=IdBlock.signed_by(ID_KEY))
    report = Report.parse(vm.report(bytes(64)))
    assert (report.id_key_digest, report.author_key_digest) == (ID_KEY_DIGEST, bytes(48))
    assert report.key_flags == 0


def test_no_id_block(platform):
    report = Report.parse(platform.launch_measured(b"\x01" * 48).report(bytes(64)))
    assert not any(report.family_id + report.image_id + report.id_key_digest + report.author_key_digest)
    assert (report.guest_svn, report.key_flags) == (0, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"family_id": bytes(15)},
        {"image_id": bytes(17)},
        {"guest_svn": -1},
        {"guest_svn": 1 << 32},
        {"id_key_digest": bytes(47)},
        {"author_key_digest": bytes(49)},
        {"author_key_digest": b""},
    ],
)
def test_malformed(wrong):
    with pytest.raises(PspError, match="ID block"):
        IdBlock(**wrong)
