"""Why a boot ends."""

from vtpm.errors import VtpmError


class BootRefused(VtpmError):
    """The SVSM itself says no: what the host delivered breaks the rule `rule`, and no guest may start on it."""
