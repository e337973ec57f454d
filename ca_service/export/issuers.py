"""Which issuing CAs consumers are to trust: what the CA's database says, checked against the root."""

from collections.abc import Mapping, Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from ca_service.judgment import VtpmCaError
from ca_service.keys import PublicAuthority, PublicIssuer
from ca_service.profiles import IssuerInfo, read_ca_name


def trusted_issuers(public: PublicAuthority, entries: Sequence[Mapping[str, str]]) -> list[PublicIssuer]:
    """The issuing CAs that are prepared, active, old or tainted, those of other nodes too.

    Args:
        public: the CA.
        entries: `role`, `pair` and `pem` of each, as the operation ``issuer-certificates`` gives them.

    Raises:
        VtpmCaError: one of them is not this root's, or its certificate names another role or pair (code
            ``store``). What stands in a store of trust must not be decided by a database alone.
    """
    found = []
    for entry in entries:
        try:
            certificate = x509.load_pem_x509_certificate(entry["pem"].encode("ascii"))
            certificate.verify_directly_issued_by(public.root)
        except (ValueError, TypeError, InvalidSignature):
            raise VtpmCaError(
                "the database names an issuing CA that this root did not sign", code="store"
            ) from None
        title = read_ca_name(public.organization, public.mode, certificate.subject)
        if title is None or (entry["role"], entry["pair"]) != (title.role, title.pair):
            raise VtpmCaError(
                "the database states another role or pair of an issuing CA than its certificate", code="store"
            )
        info = IssuerInfo(certificate, public.publication_url, title.role)
        found.append(PublicIssuer(title.pair, title.role, certificate, info, generation=title.generation))
    return found
