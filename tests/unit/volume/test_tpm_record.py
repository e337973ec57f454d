import pytest

from vtpm.volume import (
    TPM_KEYS,
    TPM_STATE,
    TpmRecord,
    VolumeDamaged,
    make_blank_disk,
    open_volume,
    read_tpm,
    record_tpm,
)

RECORD = TpmRecord(b"state with seeds", b"keys")


@pytest.fixture
def volume(tmp_path):
    make_blank_disk(tmp_path / "disk", bytes(16))
    with open_volume(tmp_path / "disk", bytes(32)) as opened:
        yield opened


def test_a_tpm_is_recorded_whole_in_one_transaction(volume):
    assert read_tpm(volume) is None
    before = volume.counter
    record_tpm(volume, RECORD)
    assert volume.counter == before + 1
    assert read_tpm(volume) == RECORD


@pytest.mark.parametrize(
    "half",
    [{TPM_STATE: b"state"}, {TPM_KEYS: b"keys"}, {TPM_STATE: b"", TPM_KEYS: b"keys"}, {TPM_STATE: b""}],
)
def test_half_a_tpm_is_refused_and_not_manufactured_over(volume, half):
    volume.transaction(half)
    with pytest.raises(VolumeDamaged):
        read_tpm(volume)
    with pytest.raises(VolumeDamaged):
        record_tpm(volume, RECORD)


def test_a_recorded_tpm_is_not_written_over(volume):
    record_tpm(volume, RECORD)
    with pytest.raises(VolumeDamaged, match="already"):
        record_tpm(volume, TpmRecord(b"other", b"other"))
    assert read_tpm(volume) == RECORD


def test_the_state_is_not_shown():
    assert "seeds" not in repr(RECORD)
