"""A simulated SEV-SNP processor: its key chain in AMD's formats, launches, and signed reports.

`vtpm.snp.server` runs it as a process of its own and has the client. Only simulation CAs trust it.
"""

from vtpm.snp.chain import SimulatedChain, new_simulated_chain
from vtpm.snp.errors import PspError, PspUnavailableError
from vtpm.snp.measurement import launch_digest
from vtpm.snp.platform import LaunchContext, Platform, default_tcb, sign_body

__all__ = [
    "LaunchContext",
    "Platform",
    "PspError",
    "PspUnavailableError",
    "SimulatedChain",
    "default_tcb",
    "launch_digest",
    "new_simulated_chain",
    "sign_body",
]
