"""Status of certificates: what the CA says about them after it has issued them."""

from ca_service.status.crl import REASONS, RevokedEntry, build_crl

__all__ = ["REASONS", "RevokedEntry", "build_crl"]
