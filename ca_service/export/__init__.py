"""What consumers of the certificates need, in the form in which they want it."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ca_service.export.issuers import trusted_issuers
    from ca_service.export.keylime import AGENT_NOTE, ExportReport, ExportRole, export_keylime

__all__ = ["AGENT_NOTE", "ExportReport", "ExportRole", "export_keylime", "trusted_issuers"]


def __getattr__(name: str) -> object:
    """Load on first use: keylime starts `vtpm-ca-ek-check` for every TPM, and that needs none of the CA's keys."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "issuers" if name == "trusted_issuers" else "keylime"
    return getattr(import_module(f"{__name__}.{home}"), name)
