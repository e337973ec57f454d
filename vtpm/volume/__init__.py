"""Where the TPM's state is kept: the interface that every volume has, and the interim store.

`open_volume` opens one, or formats a disk on which `make_blank_disk` has left a creation header. `read_tpm` and
`record_tpm` keep the rule that a TPM is recorded whole or not at all.
"""

from vtpm.volume.errors import (
    VolumeClosed,
    VolumeDamaged,
    VolumeError,
    VolumeKeyError,
    VolumeLocked,
    VolumeMissing,
    VolumeUnknown,
    VolumeWriteError,
)
from vtpm.volume.interface import CERTIFICATES, TPM_KEYS, TPM_STATE, Volume
from vtpm.volume.interim import InterimVolume, make_blank_disk, open_volume
from vtpm.volume.tpm_record import TpmRecord, read_tpm, record_tpm

__all__ = [
    "CERTIFICATES",
    "TPM_KEYS",
    "TPM_STATE",
    "InterimVolume",
    "TpmRecord",
    "Volume",
    "VolumeClosed",
    "VolumeDamaged",
    "VolumeError",
    "VolumeKeyError",
    "VolumeLocked",
    "VolumeMissing",
    "VolumeUnknown",
    "VolumeWriteError",
    "make_blank_disk",
    "open_volume",
    "read_tpm",
    "record_tpm",
]
