"""The simulated processor's errors."""

from vtpm.errors import UnavailableError, VtpmError


class PspError(VtpmError):
    """The processor refused a command."""


class PspUnavailableError(UnavailableError):
    """The processor cannot be reached or has gone away."""
