"""By which key a CA's log is known."""

from ca_service.audit import VerifierKey
from ca_service.judgment import Unavailable
from ca_service.keys import PublicAuthority


def log_key(public: PublicAuthority) -> VerifierKey:
    """Verifier key of a CA's log.

    Raises:
        Unavailable: the CA was made by a release without a log, and was not upgraded.
    """
    if public.log is None:
        raise Unavailable("this CA has no log yet", code="log", remedy="Run `vtpm-ca db upgrade`.")
    return VerifierKey(public.log.origin, public.log.public)
