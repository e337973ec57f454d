"""A guest that enrols its own vTPM: evidence by its SVSM through Linux configfs-tsm, proofs by its TPM device.

`GuestTpm` is the TPM, `ConfigfsTsm` the kernel's way to the SVSM, and `GuestDevice` makes of both what
`vtpm.client.enroll` asks for. `Outcome.judge` holds the CA's answer against the TPM's keys; `write_folder` keeps it.
"""

from vtpm.guest.configfs import REPORTS, ConfigfsTsm
from vtpm.guest.device import GuestDevice
from vtpm.guest.errors import (
    DeviceMissing,
    GuestError,
    OutputRefused,
    TsmDisturbed,
    TsmMissing,
    TsmUnavailable,
)
from vtpm.guest.folder import check_folder, write_folder
from vtpm.guest.outcome import FILES, Outcome
from vtpm.guest.tpm import DEFAULT_TCTI, GuestTpm
from vtpm.guest.tsm import ALL_SERVICES, Attestation, Tsm, attest

__all__ = [
    "ALL_SERVICES",
    "DEFAULT_TCTI",
    "FILES",
    "REPORTS",
    "Attestation",
    "ConfigfsTsm",
    "DeviceMissing",
    "GuestDevice",
    "GuestError",
    "GuestTpm",
    "Outcome",
    "OutputRefused",
    "Tsm",
    "TsmDisturbed",
    "TsmMissing",
    "TsmUnavailable",
    "attest",
    "check_folder",
    "write_folder",
]
