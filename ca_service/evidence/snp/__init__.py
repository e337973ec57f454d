"""The verifier of SEV-SNP reports: pure, with time and trusted roots as arguments and no network.

It works on the raw bytes of a report: what is re-encoded before hashing would accept flipped reserved bits.
Milan, Genoa (with Bergamo and Siena) and Turin, signed by a VCEK whose certificate the requester brings along.
"""

from ca_service.evidence.snp.authenticity import AUTHENTICITY
from ca_service.evidence.snp.configuration import CONFIGURATION
from ca_service.evidence.snp.evidence import SnpEvidence
from ca_service.evidence.snp.leaf import load_leaf
from ca_service.evidence.snp.roots import Root, amd_roots, data_folder, simulated_roots

__all__ = [
    "AUTHENTICITY",
    "CONFIGURATION",
    "Root",
    "SnpEvidence",
    "amd_roots",
    "data_folder",
    "load_leaf",
    "simulated_roots",
]
