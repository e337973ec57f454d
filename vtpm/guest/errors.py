"""What can go wrong in a guest that enrols: by the kernel, by its SVSM, by its TPM, or by where the answer goes."""

from vtpm.errors import UnavailableError, UsageError, VtpmError


class GuestError(VtpmError):
    """The SVSM or the TPM of this VM is not what an enrolment needs."""


class TsmMissing(GuestError, UsageError):
    """There is no configfs-tsm where it was looked for, or this user may not use it."""


class TsmUnavailable(GuestError, UnavailableError):
    """The kernel has configfs-tsm, but what is needed of it is not there, or fails."""


class TsmDisturbed(TsmUnavailable):
    """Somebody else wrote into our entry each time: what it says is not the answer to what we asked."""


class DeviceMissing(GuestError, UsageError):
    """The TPM cannot be opened under the name that was given."""


class OutputRefused(GuestError, UsageError):
    """The certificates cannot be written where they shall go without loss of something else."""
