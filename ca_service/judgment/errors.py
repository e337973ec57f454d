"""The CA's errors: one base, leaves named by whose fault it is.

The `api` room maps them to RFC 9457 problem documents, the `cli` room to exit codes; nobody else formats them.
"""


class VtpmCaError(Exception):
    """Base of every error that this package raises on purpose.

    Attributes:
        code: stable short name, for scripts.
        detail: one sentence that may be shown to whoever made the request; never a secret, never the allow-list.
        remedy: what to do about it, for people; may be empty.
    """

    code = "internal"

    def __init__(self, detail: str, *, code: str | None = None, remedy: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.remedy = remedy
        if code is not None:
            self.code = code

    def diagnostics(self) -> str:
        """The error as a person at a terminal wants to read it."""
        return f"{self.detail}\n{self.remedy}" if self.remedy else self.detail


class BadRequest(VtpmCaError):
    """The request or document is malformed; `path` names the member at fault."""

    code = "malformed"

    def __init__(self, path: str, detail: str, *, code: str | None = None, remedy: str = "") -> None:
        super().__init__(f"{path}: {detail}" if path else detail, code=code, remedy=remedy)
        self.path = path


class Refused(VtpmCaError):
    """The request was understood and a rule says no.

    Attributes:
        rule: stable id of the first rule that failed, for example ``grant.kbs-listed``.
        decision_id: under which the operator finds the whole trace; empty if none was recorded.
        retryable: whether the same client may succeed by trying again with a fresh nonce.
    """

    code = "refused"

    def __init__(self, rule: str, detail: str, *, decision_id: str = "", retryable: bool = False) -> None:
        super().__init__(detail)
        self.rule = rule
        self.decision_id = decision_id
        self.retryable = retryable


class Conflict(VtpmCaError):
    """The request contradicts one that was already answered, or the object's present state."""

    code = "conflict"


class NotFound(VtpmCaError):
    """There is no such object."""

    code = "not-found"


class Unavailable(VtpmCaError):
    """The CA cannot do this now; trying again later is right."""

    code = "unavailable"


class TooMany(VtpmCaError):
    """The client asks more often than it may.

    Attributes:
        retry_after_s: how many seconds it should wait.
        limit: name of the limit that it met; for the log, like `limited`.
        limited: whom that limit counts: an address, a launch, an instance.
    """

    code = "too-many-requests"

    def __init__(self, detail: str, *, retry_after_s: int = 1, limit: str = "", limited: str = "") -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s
        self.limit = limit
        self.limited = limited
