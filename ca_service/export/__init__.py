"""What consumers of the certificates need, in the form in which they want it."""

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
