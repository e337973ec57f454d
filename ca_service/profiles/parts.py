"""The parts that a TBSCertificate is made of, each encoded.

Source: RFC 5280, section 4.1.
"""

from typing import NamedTuple


class Parts(NamedTuple):
    """DER of the parts of a TBSCertificate that has extensions and no unique identifiers.

    The first eight, one after the other, are its contents; the last member has the extensions of `extension_list` one
    by one.
    """

    version: bytes
    serial: bytes
    algorithm: bytes
    issuer: bytes
    validity: bytes
    subject: bytes
    spki: bytes
    extension_list: bytes
    extensions: tuple[bytes, ...]
