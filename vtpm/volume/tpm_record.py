"""The rule of the half-manufactured TPM: a TPM is completely recorded, or it is made anew.

State and recorded publics are written in one transaction, so no crash leaves one without the other. A volume that has
just one of them was not written by us; it is refused, and nothing is manufactured over it.
"""

from dataclasses import dataclass, field

from vtpm.volume.errors import VolumeDamaged
from vtpm.volume.interface import TPM_KEYS, TPM_STATE, Volume


@dataclass(frozen=True)
class TpmRecord:
    """A recorded TPM: the permanent `state` blob (it holds the seeds) and the encoded `keys`."""

    state: bytes = field(repr=False)
    keys: bytes


def read_tpm(volume: Volume) -> TpmRecord | None:
    """The recorded TPM; None if the volume has none, and one may be manufactured.

    Raises:
        VolumeDamaged: the volume has only one half of a TPM.
    """
    state, keys = volume.read(TPM_STATE), volume.read(TPM_KEYS)
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
    volume.transaction({TPM_STATE: record.state, TPM_KEYS: record.keys})
