"""Status of certificates: what the CA says about them after it has issued them."""

from ca_service.status.crl import RevokedEntry, build_crl

__all__ = ["RevokedEntry", "build_crl"]
