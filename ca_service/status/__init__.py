"""Status of certificates: what the CA says about them after it has issued them, in lists and in answers."""

from typing import TYPE_CHECKING

from ca_service.faces import on_demand

if TYPE_CHECKING:
    from ca_service.status.answers import Reply, reply_to
    from ca_service.status.crl import REASONS, RevokedEntry, build_crl
    from ca_service.status.ocsp import MAX_REQUEST, Failure, failure_response, parse_request
    from ca_service.status.reading import Entry
    from ca_service.status.responder import responder_key
else:
    __getattr__ = on_demand(
        __name__,
        {
            ".answers": "Reply reply_to",
            ".crl": "REASONS RevokedEntry build_crl",
            ".ocsp": "MAX_REQUEST Failure failure_response parse_request",
            ".reading": "Entry",
            ".responder": "responder_key",
        },
    )

__all__ = [
    "MAX_REQUEST",
    "REASONS",
    "Entry",
    "Failure",
    "Reply",
    "RevokedEntry",
    "build_crl",
    "failure_response",
    "parse_request",
    "reply_to",
    "responder_key",
]
