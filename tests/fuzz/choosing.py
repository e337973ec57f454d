"""How a fuzzer's bytes become decisions."""

from __future__ import annotations


class Chooser:
    """Takes decisions from a fuzzer's bytes; zeros once they are used up."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def byte(self) -> int:
        return self.number(1)

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def take(self, size: int) -> bytes:
        self._at += size
        return self._data[self._at - size : self._at].ljust(size, b"\0")

    def rest(self) -> bytes:
        rest, self._data = self._data[self._at :], b""
        return rest

    @property
    def more(self) -> bool:
        return self._at < len(self._data)


def xor(base: bytes, change: bytes) -> bytes:
    """`base` with the bytes that `change` has altered; a longer `change` is appended."""
    size = max(len(base), len(change))
    one, other = (int.from_bytes(part.ljust(size, b"\0"), "big") for part in (base, change))
    return (one ^ other).to_bytes(size, "big")
