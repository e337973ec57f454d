"""The SVSM's way to the CA: the host makes its HTTP requests, to the CA's `/v1` and nowhere else."""

import logging
from typing import Final

from vtpm.errors import UnavailableError
from vtpm.host.http import HttpClient
from vtpm.wire.aproxy import RelayRequest, RelayResponse

MOST_REPLY: Final = 512 * 1024
"""Largest answer in bytes; base64 and the frame around it stay below the largest frame."""

_PREFIX: Final = "/v1/"
_log = logging.getLogger("vtpm.host")


def forward(ca: str, request: RelayRequest) -> RelayResponse:
    """Make one request at the CA.

    Args:
        ca: the CA's base URL.
        request: what the SVSM asks. Its path has plain segments only (`RelayRequest` sees to that), so the prefix
            decides.

    Returns:
        The CA's answer; status 0 when the CA cannot be reached or the path is none of its `/v1`.
    """
    if not request.path.startswith(_PREFIX):
        _log.warning("not forwarded: %s %s", request.method, request.path)
        return RelayResponse(0)
    client = HttpClient(ca, most=MOST_REPLY)
    try:
        reply = client.call(request.method, request.path, request.body)
    except UnavailableError as error:
        _log.warning("%s %s: %s", request.method, request.path, error)
        return RelayResponse(0)
    finally:
        client.close()
    return RelayResponse(reply.status, reply.body)
