"""About which certificates a revocation list is, if it is one of several: its issuingDistributionPoint.

A relying party must not take such a list for any other certificate than those whose cRLDistributionPoints have the
same name in them (RFC 5280, sections 5.2.5 and 6.3.3). The extension is critical, so whoever does not know it takes no
such list at all.
"""

from cryptography import x509


def issuing_distribution_point(url: str) -> x509.IssuingDistributionPoint:
    """The extension of the list that is published at `url`, for all reasons, of this CA alone."""
    return _only(x509.UniformResourceIdentifier(url))


def scope_of(crl: x509.CertificateRevocationList) -> str | None:
    """Where a list says that it is published; None if it does not say so, and is about all certificates.

    Raises:
        ValueError: the extension is not critical, or says anything else, so that the list is none of this CA's.
    """
    try:
        extension = crl.extensions.get_extension_for_class(x509.IssuingDistributionPoint)
    except x509.ExtensionNotFound:
        return None
    names = list(extension.value.full_name or ())
    if len(names) != 1 or not extension.critical or extension.value != _only(names[0]):
        raise ValueError("the issuingDistributionPoint must be critical, and name one place and nothing else")
    if not isinstance(names[0], x509.UniformResourceIdentifier):
        raise ValueError("the issuingDistributionPoint must be a URI")  # noqa: TRY004 - the list's fault, not a caller's
    return names[0].value


def _only(name: x509.GeneralName) -> x509.IssuingDistributionPoint:
    return x509.IssuingDistributionPoint(
        full_name=[name],
        relative_name=None,
        only_contains_user_certs=False,
        only_contains_ca_certs=False,
        only_some_reasons=None,
        indirect_crl=False,
        only_contains_attribute_certs=False,
    )
