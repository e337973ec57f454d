"""A simulated SEV-SNP processor: its key chain in AMD's formats, launches, and signed reports.

`vtpm.snp.server` runs it as a process of its own and has the client. Only simulation CAs trust it.
"""

from vtpm.snp.chain import SimulatedChain, new_simulated_chain
from vtpm.snp.errors import PspError, PspUnavailableError
from vtpm.snp.firmware import Firmware, Model, default_tcb
from vtpm.snp.forms import LeafForm, SignatureForm
from vtpm.snp.idblock import IdBlock, key_digest
from vtpm.snp.keys import sign_body
from vtpm.snp.launch import KeySelect, LaunchContext
from vtpm.snp.measurement import launch_digest
from vtpm.snp.platform import Platform

__all__ = [
    "Firmware",
    "IdBlock",
    "KeySelect",
    "LaunchContext",
    "LeafForm",
    "Model",
    "Platform",
    "PspError",
    "PspUnavailableError",
    "SignatureForm",
    "SimulatedChain",
    "default_tcb",
    "key_digest",
    "launch_digest",
    "new_simulated_chain",
    "sign_body",
]
