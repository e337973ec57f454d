"""What consumers of the certificates need, in the form in which they want it."""

from ca_service.export.issuers import trusted_issuers
from ca_service.export.keylime import AGENT_NOTE, ExportReport, ExportRole, export_keylime

__all__ = ["AGENT_NOTE", "ExportReport", "ExportRole", "export_keylime", "trusted_issuers"]
