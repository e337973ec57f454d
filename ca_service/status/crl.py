"""Building a certificate revocation list (RFC 5280, section 5).

The list is written, read back by two parsers, and only then signed through the CA's signer: the signer may be a device
that signs bytes and knows nothing of lists.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from operator import itemgetter
from typing import NamedTuple

from cryptography import x509

from ca_service.judgment import BadRequest, VtpmCaError
from ca_service.keys import Certified, sign_and_check
from ca_service.profiles import assemble
from ca_service.profiles.scope import issuing_distribution_point
from ca_service.profiles.signed import is_signed_by
from ca_service.status.encoding import CODES, revoked_certificates, tbs_certlist
from ca_service.status.reading import Entry, ListView, check_read

REASONS = tuple(CODES)
"""Reasons that this CA gives, under their names in RFC 5280, section 5.3.1. It puts nothing on hold."""

_MAX_CRL_NUMBER = 2**159
_NO_SIGNATURE = bytes.fromhex("3006020101020101")
"""An ECDSA-Sig-Value, so that parsers read a list that is not signed yet."""


class RevokedEntry(NamedTuple):
    """One line of a revocation list.

    Attributes:
        serial: serial number of the certificate.
        at: when it was revoked, aware.
        reason: one of `REASONS`; ``unspecified`` is left out of the list, as RFC 5280 wants.
    """

    serial: int
    at: datetime
    reason: str = "unspecified"


def build_crl(
    issuer: Certified,
    revoked: Sequence[Entry],
    number: int,
    this_update: datetime,
    next_update: datetime,
    *,
    scope: str | None = None,
) -> bytes:
    """Build and sign a revocation list.

    Args:
        issuer: the CA with its signer, issuing or root.
        revoked: all that is revoked, in any order, as `RevokedEntry` or as plain tuples, which cost less where there
            are many; the list is sorted by serial number.
        number: the cRLNumber, larger than that of any earlier list of this CA and scope.
        this_update: when the list was made, aware.
        next_update: when the next one will be there at the latest, aware.
        scope: where the list is published, if it is one of several: it is then about those certificates only whose
            distribution point that is (critical issuingDistributionPoint). None for a list of all certificates.

    Returns:
        DER of the CertificateList.

    Raises:
        BadRequest: times, number, a serial or a reason is out of range, or a serial stands twice.
        VtpmCaError: the two parsers do not both see the list that was wanted (code ``lint``), or the signer
            failed.
    """
    first, last = (_whole(moment) for moment in (this_update, next_update))
    if first >= last:
        raise BadRequest("next_update", "must be later than this_update")
    if not 0 < number < _MAX_CRL_NUMBER:
        raise BadRequest("number", "must be positive and at most 20 octets long")
    entries = sorted(map(_whole_entry, revoked), key=itemgetter(0))
    if len({entry[0] for entry in entries}) != len(entries):
        raise BadRequest("revoked", "names a certificate twice")
    key_id = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    name = issuer.certificate.subject.public_bytes()
    extensions = _extensions(key_id, number, scope)
    tbs = tbs_certlist(name, first, last, revoked_certificates(entries), extensions)
    ids = tuple(value.oid.dotted_string for value, _ in extensions)
    check_read(assemble(tbs, _NO_SIGNATURE), ListView(name, first, last, number, key_id, scope, ids, entries))
    der = assemble(tbs, sign_and_check(issuer.signer, tbs))
    if not is_signed_by(der, issuer.certificate.public_key()):
        raise VtpmCaError("signer and issuer of the revocation list do not belong together", code="signer")
    return der


def _extensions(key_id: bytes, number: int, scope: str | None) -> list[tuple[x509.ExtensionType, bool]]:
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.AuthorityKeyIdentifier(key_id, None, None), False),
        (x509.CRLNumber(number), False),
    ]
    if scope is not None:
        extensions.append((issuing_distribution_point(scope), True))
    return extensions


def _whole(moment: datetime) -> datetime:
    if moment.tzinfo is UTC and not moment.microsecond:
        return moment
    if moment.tzinfo is None:
        raise BadRequest("time", "must be aware")
    return moment.astimezone(UTC).replace(microsecond=0)


def _whole_entry(entry: Entry) -> Entry:
    at = _whole(entry[1])
    return entry if at is entry[1] else (entry[0], at, entry[2])
