"""Which volumes the SVSM works on; the rest it leaves as they are."""

import os
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from vtpm.svsm.errors import BootRefused
from vtpm.svsm.store import check_algorithms, open_store
from vtpm.volume import DEFAULT, VolumeUnsupported, make_blank_disk, make_volume, of_strength, open_volume
from vtpm.volume.format.algorithms import CipherAlgorithm, HashAlgorithm, cipher_named, hash_named

SECRET = bytes(range(32))
USES = {
    "node_hash": "tree nodes",
    "data_hash": "data blocks",
    "root_hash": "the root",
    "preauth_hash": "pre-authentication",
    "kdf_hash": "key derivation",
}


@pytest.fixture
def disk(tmp_path):
    return tmp_path / "disk"


@pytest.mark.parametrize("bits", [128, 192, 256])
def test_what_the_svsms_kernel_has(disk, bits):
    make_blank_disk(disk, b"salt", layout=of_strength(bits))
    open_store(disk, SECRET, os.urandom).close()
    with open_volume(disk, SECRET) as volume:
        assert volume.created == "earlier"
        assert volume.state.static.layout == of_strength(bits)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("algorithm", ["sha3_256", "sha3_384", "sha3_512", "sm3"])
def test_another_hash_in_any_place(use, algorithm):
    layout = replace(DEFAULT, **{use: HashAlgorithm(0x1234, algorithm, 32)})
    with pytest.raises(VolumeUnsupported, match=f"no {algorithm}, .* for {USES[use]}") as refusal:
        check_algorithms(layout)
    assert refusal.value.rule == "store.unsupported"


@pytest.mark.parametrize("algorithm", ["camellia128", "camellia192", "camellia256", "sm4"])
def test_another_cipher(algorithm):
    layout = replace(DEFAULT, cipher=CipherAlgorithm(0x1234, 128, algorithm, AES))
    with pytest.raises(VolumeUnsupported, match=f"no {algorithm}, .* for encryption"):
        check_algorithms(layout)


@pytest.mark.parametrize("use", ["kdf_hash", "cipher"])
@pytest.mark.parametrize("formatted", [False, True])
def test_a_disk_with_another_algorithm_is_neither_formatted_nor_opened(disk, use, formatted):
    another = hash_named("sha3_256") if use == "kdf_hash" else cipher_named("camellia128")
    layout = replace(DEFAULT, **{use: another})
    if formatted:
        make_volume(disk, SECRET, b"salt", layout=layout)
    else:
        make_blank_disk(disk, b"salt", layout=layout)
    before = disk.read_bytes()
    with pytest.raises(VolumeUnsupported):
        open_store(disk, SECRET, os.urandom)
    assert disk.read_bytes() == before
    open_volume(disk, SECRET).close()


@pytest.mark.parametrize("formatted", [False, True])
def test_a_volume_without_salt(disk, formatted):
    if formatted:
        make_volume(disk, SECRET, b"")
    else:
        make_blank_disk(disk, b"")
    before = disk.read_bytes()
    with pytest.raises(BootRefused, match="salt") as refusal:
        open_store(disk, SECRET, os.urandom)
    assert refusal.value.rule == "svsm.salt-present"
    assert disk.read_bytes() == before
    with open_volume(disk, SECRET) as unlocked:
        assert unlocked.inodes() == ()


@pytest.mark.parametrize("size", [1, 255])
def test_the_salts_that_an_enrolment_can_tell(disk, size):
    make_blank_disk(disk, os.urandom(size))
    volume = open_store(disk, SECRET, os.urandom)
    assert len(volume.salt) == size
    volume.close()
