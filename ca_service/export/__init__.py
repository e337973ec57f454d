"""What consumers of the certificates need, in the form in which they want it."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ca_service.export.issuers import trusted_issuers
    from ca_service.export.keylime import AGENT_NOTE, ExportReport, ExportRole, export_keylime
    from ca_service.export.keylime_hosts import Setting, keylime_settings, store_warning

__all__ = [
    "AGENT_NOTE",
    "ExportReport",
    "ExportRole",
    "Setting",
    "export_keylime",
    "keylime_settings",
    "store_warning",
    "trusted_issuers",
]

_HOMES = {
    "trusted_issuers": "issuers",
    "Setting": "keylime_hosts",
    "keylime_settings": "keylime_hosts",
    "store_warning": "keylime_hosts",
}


def __getattr__(name: str) -> object:
    """Load on first use: keylime starts `vtpm-ca-ek-check` for every TPM, and that needs none of the CA's keys."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'keylime')}"), name)
