"""The device side's errors: one base, leaves named by whose fault it is, each with the exit code it means."""


class VtpmError(Exception):
    """Base of every error that the device side raises on purpose.

    Attributes:
        rule: stable id of the rule that said no; empty if no rule did.
        remedy: what to do about it, for people; may be empty.
        exit_code: 1 refused or invalid, 2 usage or unreadable input, 3 unavailable.
    """

    exit_code = 1

    def __init__(self, detail: str, *, rule: str = "", remedy: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.rule = rule
        self.remedy = remedy

    def diagnostics(self) -> str:
        """The error as a person at a terminal wants to read it."""
        lines = [f"[{self.rule}] {self.detail}" if self.rule else self.detail]
        return "\n".join([*lines, self.remedy] if self.remedy else lines)


class UsageError(VtpmError):
    """The command line or an input file is not what the command takes."""

    exit_code = 2


class UnavailableError(VtpmError):
    """Something that is needed cannot be reached or has gone away; trying again later is right."""

    exit_code = 3
