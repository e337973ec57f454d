"""What can be wrong with a volume; each error names what failed."""

from vtpm.errors import UnavailableError, VtpmError


class VolumeError(VtpmError):
    """A volume cannot be opened, read or changed. It is never a reason to make a new TPM."""


class VolumeMissing(VolumeError, UnavailableError):
    """There is no such file, or it cannot be read."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, rule="store.missing")


class VolumeLocked(VolumeError, UnavailableError):
    """Somebody else has the volume open."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, rule="store.locked")


class VolumeUnknown(VolumeError):
    """The file is neither a volume nor a creation header of a known format."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, rule="store.format")


class VolumeKeyError(VolumeError):
    """The volume was made under another secret; it is never encrypted anew under this one."""

    def __init__(self, detail: str) -> None:
        super().__init__(
            detail,
            rule="store.key",
            remedy="The KBS released a key that this volume was not made with. The volume was left as it is.",
        )


class VolumeDamaged(VolumeError):
    """The volume's bytes are not those that were written."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, rule="store.damaged", remedy="The volume was left as it is.")


class VolumeWriteError(VolumeError, UnavailableError):
    """A transaction could not be made durable; the volume is closed, and holds the state before or after it."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, rule="store.write")


class VolumeClosed(VolumeError):
    """The volume was closed, or a transaction failed in an unknown state, and it can no longer be used."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, rule="store.closed")
