import pytest

from vtpm.volume import (
    CERTIFICATES,
    TPM_KEYS,
    TPM_STATE,
    TpmRecord,
    VolumeDamaged,
    make_blank_disk,
    open_volume,
    read_state_blob,
    read_tpm,
    record_tpm,
    update_tpm,
)

RECORD = TpmRecord(b"state with seeds", b"keys")
HEADER = b"libtpms-permall/1\n"


@pytest.fixture
def volume(tmp_path):
    make_blank_disk(tmp_path / "disk", bytes(16), size=64 * 1024)
    with open_volume(tmp_path / "disk", bytes(32)) as opened:
        yield opened


def test_a_tpm_is_recorded_whole_in_one_transaction(volume):
    assert read_tpm(volume) is None
    assert read_state_blob(volume) is None
    before = volume.counter
    record_tpm(volume, RECORD)
    assert volume.counter == (before + 1) % 2**128
    assert read_tpm(volume) == RECORD
    assert read_state_blob(volume) == RECORD.state
    assert volume.inodes() == (TPM_STATE, TPM_KEYS)


def test_the_file_says_that_it_is_libtpms_state(volume):
    record_tpm(volume, RECORD)
    assert volume.read(TPM_STATE) == HEADER + RECORD.state
    assert volume.read(TPM_KEYS) == RECORD.keys


def test_a_new_state_replaces_the_old_one_with_or_without_certificates_in_one_transaction(volume):
    record_tpm(volume, RECORD)
    before = volume.counter
    update_tpm(volume, b"second")
    assert volume.counter == (before + 1) % 2**128
    assert read_tpm(volume) == TpmRecord(b"second", RECORD.keys)
    assert volume.read(CERTIFICATES) is None
    update_tpm(volume, b"third", b"certificates")
    assert volume.counter == (before + 2) % 2**128
    assert read_tpm(volume) == TpmRecord(b"third", RECORD.keys)
    assert volume.read(CERTIFICATES) == b"certificates"
    update_tpm(volume, b"fourth")
    assert volume.read(CERTIFICATES) == b"certificates"


@pytest.mark.parametrize(
    "half",
    [
        {TPM_STATE: HEADER + b"state"},
        {TPM_KEYS: b"keys"},
        {TPM_STATE: HEADER + b"state", TPM_KEYS: b""},
        {TPM_STATE: b"", TPM_KEYS: b"keys"},
        {TPM_STATE: b""},
        {TPM_KEYS: b""},
    ],
)
def test_half_a_tpm_is_refused_and_not_manufactured_over(volume, half):
    volume.transaction(half)
    _refused_and_left(volume, half)


@pytest.mark.parametrize(
    "state",
    [
        b"state",
        HEADER,
        HEADER[:-1],
        HEADER[:-1] + b"state",
        b"\n" + HEADER + b"state",
        HEADER.replace(b"1", b"2") + b"state",
        HEADER.upper() + b"state",
        b"tcg-nvchip/1\nstate",
        b"COCONUT-SVSM",
        bytes(16384),
        b"\xff" * 16384,
    ],
)
def test_a_state_of_another_kind_is_refused_and_not_manufactured_over(volume, state):
    content = {TPM_STATE: state, TPM_KEYS: b"keys"}
    volume.transaction(content)
    with pytest.raises(VolumeDamaged) as refusal:
        read_state_blob(volume)
    assert (refusal.value.rule, refusal.value.part) == ("store.damaged", f"file {TPM_STATE:#x}")
    _refused_and_left(volume, content)


def _refused_and_left(volume, content):
    """Neither read nor recorded over."""
    before = volume.counter
    with pytest.raises(VolumeDamaged):
        read_tpm(volume)
    with pytest.raises(VolumeDamaged):
        record_tpm(volume, RECORD)
    assert volume.counter == before
    assert {inode: volume.read(inode) for inode in volume.inodes()} == content


def test_a_recorded_tpm_is_not_written_over(volume):
    record_tpm(volume, RECORD)
    with pytest.raises(VolumeDamaged, match="already"):
        record_tpm(volume, TpmRecord(b"other", b"other"))
    assert read_tpm(volume) == RECORD


def test_the_state_is_not_shown():
    assert "seeds" not in repr(RECORD)
