"""The command `vtpm`: the simulated platform, its key broker, and the attacks on both."""

from vtpm.cli.main import main

__all__ = ["main"]
