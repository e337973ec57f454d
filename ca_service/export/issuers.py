"""Which issuing CAs consumers are to trust: what the CA's database says, checked against the root."""

from collections.abc import Mapping, Sequence
from typing import cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from ca_service.judgment import VtpmCaError
from ca_service.keys import PublicAuthority, PublicIssuer
from ca_service.profiles import IssuerInfo, IssuerRole


def trusted_issuers(public: PublicAuthority, entries: Sequence[Mapping[str, str]]) -> list[PublicIssuer]:
    """The issuing CAs that are prepared, active, old or tainted, those of other nodes too.

    Args:
        public: the CA.
        entries: `role`, `pair` and `pem` of each, as the operation ``issuer-certificates`` gives them.

    Raises:
        VtpmCaError: one of them is not this root's (code ``store``). What stands in a store of trust must not be
            decided by a database alone.
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
        role = cast("IssuerRole", entry["role"])
        info = IssuerInfo(certificate, public.publication_url, role)
        found.append(PublicIssuer(entry["pair"], role, certificate, info))
    return found
