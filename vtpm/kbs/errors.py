"""The key broker's errors."""

from vtpm.errors import VtpmError


class KbsError(VtpmError):
    """The KBS's directory is not in a state in which the KBS may go on."""


class RcarError(Exception):
    """A request that is answered with Trustee's error body.

    Attributes:
        variant: name of the error in Trustee's `kbs::Error`, for example `PolicyDeny`.
        detail: the sentence for the client; it never tells what would have been accepted.
        status: 401, or 404 where Trustee says so.
        rule: the rule that said no, for the log; empty if none did.
    """

    def __init__(self, variant: str, detail: str, *, status: int = 401, rule: str = "") -> None:
        super().__init__(detail)
        self.variant = variant
        self.detail = detail
        self.status = status
        self.rule = rule
