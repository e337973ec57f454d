"""The encrypted volume: CocoonFs, the format of COCONUT's SVSM, to be exchanged with its reference implementation.

`open_volume` opens one, or formats a disk on which `make_blank_disk` has left a creation header; `make_volume` makes
one with its key at hand. `read_tpm`, `record_tpm` and `update_tpm` keep the rule that a TPM is recorded whole or not at
all.

`format` is the format as bytes and values, and pure. From there up: `verified` reads a disk through the authentication
tree, `bootstrap` verifies a whole disk into a `state`, `transaction` plans a change and `mkfs` a new volume; `volume`,
`creation`, `opening`, `files` and `device` do the reading and writing.
"""

from vtpm.volume.errors import (
    VolumeClosed,
    VolumeDamaged,
    VolumeError,
    VolumeFull,
    VolumeKeyError,
    VolumeLocked,
    VolumeMissing,
    VolumePending,
    VolumeReadError,
    VolumeUnknown,
    VolumeUnsupported,
    VolumeWriteError,
)
from vtpm.volume.files import DISK_SIZE, make_blank_disk, make_volume, open_volume
from vtpm.volume.format.auxiliary import Auxiliary
from vtpm.volume.format.headers import StaticHeader
from vtpm.volume.format.layout import DEFAULT, Layout, of_strength
from vtpm.volume.interface import CERTIFICATES, TPM_KEYS, TPM_STATE, Version, Volume, Witness
from vtpm.volume.tpm_record import TpmRecord, read_state_blob, read_tpm, record_tpm, update_tpm
from vtpm.volume.transaction import Write
from vtpm.volume.volume import FORMAT, CocoonVolume

__all__ = [
    "CERTIFICATES",
    "DEFAULT",
    "DISK_SIZE",
    "FORMAT",
    "TPM_KEYS",
    "TPM_STATE",
    "Auxiliary",
    "CocoonVolume",
    "Layout",
    "StaticHeader",
    "TpmRecord",
    "Version",
    "Volume",
    "VolumeClosed",
    "VolumeDamaged",
    "VolumeError",
    "VolumeFull",
    "VolumeKeyError",
    "VolumeLocked",
    "VolumeMissing",
    "VolumePending",
    "VolumeReadError",
    "VolumeUnknown",
    "VolumeUnsupported",
    "VolumeWriteError",
    "Witness",
    "Write",
    "make_blank_disk",
    "make_volume",
    "of_strength",
    "open_volume",
    "read_state_blob",
    "read_tpm",
    "record_tpm",
    "update_tpm",
]
