"""What the SVSM keeps of its TPM in the volume, and the rule of the half-manufactured TPM.

State and recorded publics are written in one transaction, so no crash leaves one without the other. A volume that has
just one of them was not written by us; it is refused, and nothing is manufactured over it.

The state is libtpms' permanent blob, behind a header that says so. COCONUT's SVSM keeps another thing in another inode:
the memory image of the TCG's reference TPM, which libtpms does not read, nor the other way round.
"""

from dataclasses import dataclass, field

from vtpm.volume.errors import VolumeDamaged
from vtpm.volume.interface import CERTIFICATES, TPM_KEYS, TPM_STATE, Volume

_STATE_HEADER = b"libtpms-permall/1\n"


@dataclass(frozen=True)
class TpmRecord:
    """A recorded TPM: the permanent `state` blob (it holds the seeds) and the encoded `keys`."""

    state: bytes = field(repr=False)
    keys: bytes


def read_state_blob(volume: Volume) -> bytes | None:
    """The TPM's permanent state blob; None if the volume has none.

    Raises:
        VolumeDamaged: what lies in its place is not libtpms state of a version that is known here.
    """
    record = volume.read(TPM_STATE)
    if record is None:
        return None
    if not record.startswith(_STATE_HEADER) or len(record) == len(_STATE_HEADER):
        raise VolumeDamaged("holds no libtpms state of a known version", part=f"file {TPM_STATE:#x}")
    return record[len(_STATE_HEADER) :]


def read_tpm(volume: Volume) -> TpmRecord | None:
    """The recorded TPM; None if the volume has none, and one may be manufactured.

    Raises:
        VolumeDamaged: the volume has only one half of a TPM, or another kind of state.
    """
    state, keys = read_state_blob(volume), volume.read(TPM_KEYS)
    if state is None and keys is None:
        return None
    if not state or not keys:
        present, absent = ("its keys", "state") if not state else ("a state", "recorded keys")
        raise VolumeDamaged(f"the volume has a TPM with {present} and no {absent}")
    return TpmRecord(state, keys)


def record_tpm(volume: Volume, record: TpmRecord) -> None:
    """Record a TPM that was just manufactured, whole.

    Raises:
        VolumeDamaged: the volume has a TPM already; it is not written over.
        VolumeError: the transaction failed.
    """
    if read_tpm(volume) is not None:
        raise VolumeDamaged("the volume has a TPM already")
    volume.transaction({TPM_STATE: _STATE_HEADER + record.state, TPM_KEYS: record.keys})


def update_tpm(volume: Volume, state: bytes, certificates: bytes | None = None) -> None:
    """Record the TPM's new state, and its certificates with it if they are given, in one transaction.

    Raises:
        VolumeError: the transaction failed.
    """
    changes: dict[int, bytes | None] = {TPM_STATE: _STATE_HEADER + state}
    if certificates is not None:
        changes[CERTIFICATES] = certificates
    volume.transaction(changes)
