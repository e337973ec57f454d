"""What the answer 503 of ``/readyz`` says: which check failed, by its name, and nothing of where the CA lies."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from ca_service.judgment import Unavailable, VtpmCaError

_log = structlog.get_logger(__name__)

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
        if "/" not in error.detail:
            raise Unavailable(error.detail, code=code) from error
        # What lies where is the operator's to know, and not of whoever asks.
        _log.warning("not ready", check=name, reason=error.detail)
        raise Unavailable(f"the check {name} failed", code=code) from error
    except VtpmCaError as error:
        # Whatever is wrong inside, whoever asks has to go elsewhere.
        _log.error("not ready", check=name, reason=error.detail, exc_info=error)
        raise Unavailable(f"the check {name} failed", code=name) from error
