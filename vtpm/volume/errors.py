"""What can be wrong with a volume; each error names what failed, and where."""

from vtpm.errors import UnavailableError, VtpmError


class VolumeError(VtpmError):
    """A volume cannot be opened, read or changed. It is never a reason to make a new TPM."""


class VolumeMissing(VolumeError, UnavailableError):
    """There is no such file, or it cannot be opened."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, rule="store.missing")


class VolumeLocked(VolumeError, UnavailableError):
    """Somebody else has the volume open."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, rule="store.locked")


class VolumeReadError(VolumeError, UnavailableError):
    """The disk did not give its bytes; what they would have been is not known."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, rule="store.read")


class VolumeUnknown(VolumeError):
    """The file is neither a volume nor a creation header of a known format."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, rule="store.format")


class VolumeUnsupported(VolumeError):
    """A volume of this format with a version, an algorithm or dimensions that are not supported here."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, rule="store.unsupported")


class VolumeDamaged(VolumeError):
    """The volume's bytes are not those that were written under its key.

    Attributes:
        part: which part of the format failed, for example ``journal log`` or ``data block``.
        block: the allocation block where it begins; None if it has no place.
    """

    def __init__(
        self, detail: str, *, part: str = "", block: int | None = None, rule: str = "store.damaged"
    ) -> None:
        where = f" at allocation block {block}" if block is not None else ""
        prefix = f"{part}{where}: " if part else ""
        super().__init__(prefix + detail, rule=rule, remedy="The volume was left as it is.")
        self.part = part
        self.block = block


class VolumeKeyError(VolumeDamaged):
    """The first thing that needs the key does not authenticate: made under another key, or altered there.

    A volume is never encrypted anew under another key.
    """

    def __init__(self, detail: str, *, part: str = "", block: int | None = None) -> None:
        super().__init__(detail, part=part, block=block, rule="store.key")


class VolumeFull(VolumeError):
    """There is no room for what is to be written; nothing has changed."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, rule="store.full", remedy="Remove files, or make a larger volume.")


class VolumeWriteError(VolumeError, UnavailableError):
    """A transaction could not be made durable; the volume is closed, and holds the state before or after it."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, rule="store.write")


class VolumePending(VolumeError, UnavailableError):
    """The witness did not acknowledge a transaction whose journal is durable.

    The volume is closed. The next opening asks the witness again, and applies the transaction or cancels it.
    """

    def __init__(self, detail: str) -> None:
        super().__init__(detail, rule="store.pending")


class VolumeClosed(VolumeError):
    """The volume was closed, or a transaction failed in an unknown state, and it can no longer be used."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, rule="store.closed")
