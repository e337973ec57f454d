"""The one error that reading untrusted bytes can raise."""

from typing import Self


class WireError(ValueError):
    """Bytes or JSON from outside do not have the form that the protocol demands.

    Attributes:
        path: the member at fault, for example ``runtime_data.tpm.ek[0].pub``; empty for the whole input.
        problem: what is wrong and what is wanted, in printable ASCII, without echoing the offending value.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}" if path else problem)
        self.path = path
        self.problem = problem

    def under(self, prefix: str) -> Self:
        """The same error seen from one level further out: `prefix` is put before the path."""
        if not prefix:
            return self
        joined = prefix if not self.path else prefix + ("" if self.path.startswith("[") else ".") + self.path
        return type(self)(joined, self.problem)
