"""What schemathesis does not know by itself: how content of OCSP is written."""

import schemathesis


@schemathesis.serializer("application/ocsp-request")
def ocsp_request(_context, value):
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
