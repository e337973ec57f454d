"""The command `vtpm-ca`."""

from ca_service.cli.main import main

__all__ = ["main"]
