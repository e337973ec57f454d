"""Big-endian fields one after another, as the TPM marshals them (TPM 2.0 Library, Part 2, section 4)."""


class Octets:
    """Takes fields off the front; what is not there, or not of the form, is a ValueError."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        """The next octets."""
        start, self._at = self._at, self._at + size
        if self._at > len(self._data):
            raise ValueError("ends too early")
        return self._data[start : self._at]

    def number(self, size: int) -> int:
        """An unsigned number of so many octets."""
        return int.from_bytes(self.take(size), "big")

    def sized(self, most: int) -> bytes:
        """A TPM2B of at most so many octets."""
        size = self.number(2)
        if size > most:
            raise ValueError("is longer than may be")
        return self.take(size)

    def flag(self) -> bool:
        """A TPMI_YES_NO."""
        value = self.number(1)
        if value > 1:
            raise ValueError("is neither yes nor no")
        return value == 1

    def end(self) -> None:
        """Nothing may follow."""
        if self._at != len(self._data):
            raise ValueError("is followed by more")
