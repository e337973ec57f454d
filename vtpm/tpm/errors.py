"""What can go wrong between the SVSM and its TPM."""

from vtpm.errors import UnavailableError, VtpmError


class TpmError(VtpmError):
    """The TPM, or what was asked of it, is not in order.

    The text names the step and the TPM's answer; it never holds an auth value, a seed or state bytes.
    """


class TpmRefused(TpmError):
    """The TPM answered a command with an error.

    Attributes:
        rc: the response code (TPM 2.0 Library, Part 2, section 6.6), layer bits included.
    """

    def __init__(self, detail: str, rc: int, *, rule: str = "") -> None:
        super().__init__(detail, rule=rule)
        self.rc = rc


class TpmIdentityError(TpmError):
    """The TPM does not hold the keys that are recorded for it: it is another TPM."""

    def __init__(self, detail: str) -> None:
        super().__init__(
            detail,
            rule="tpm.identity",
            remedy="The stored state and the recorded keys do not belong together. Nothing was changed.",
        )


class TpmGone(TpmError, UnavailableError):
    """The swtpm process has ended or does not answer any more."""
