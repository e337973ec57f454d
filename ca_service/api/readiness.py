"""What the answer 503 of ``/readyz`` says: which check failed, by its name, and nothing of where the CA lies."""

from collections.abc import Iterator
from contextlib import contextmanager

from ca_service.judgment import Unavailable, VtpmCaError

_UNNAMED = Unavailable.code


@contextmanager
def check(name: str) -> Iterator[None]:
    """A named check of readiness.

    Raises:
        Unavailable: what is checked failed. Its code is the failure's own, or else the check's name.
    """
    try:
        yield
    except Unavailable as error:
        code = name if error.code == _UNNAMED else error.code
        # What lies where is nobody's business here; the log has it.
        detail = f"the check {name} failed" if "/" in error.detail else error.detail
        raise Unavailable(detail, code=code) from error
    except VtpmCaError as error:
        # Whatever is wrong inside, whoever asks has to go elsewhere.
        raise Unavailable(f"the check {name} failed", code=name) from error
