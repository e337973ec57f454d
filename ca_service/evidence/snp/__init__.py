"""The verifier of SEV-SNP reports: pure, with time, trusted roots and collateral as arguments and no network.

It works on the raw bytes of a report: what is re-encoded before hashing would accept flipped reserved bits. Reports
of versions 2 to 5, of Milan, Genoa (with Bergamo and Siena) and Turin, signed by a VCEK or a VLEK.

A reader's way: `evidence` gathers what is judged, `form`, `endorsement` and `authenticity` say whether a processor
signed it, `configuration` what it says about the VM; `collateral`, `authorities`, `leaf` and `crl` read what others
send, `roots` holds what is pinned.
"""

from typing import TYPE_CHECKING

from ca_service.faces import on_demand

if TYPE_CHECKING:
    from ca_service.evidence.snp.authenticity import AUTHENTICITY
    from ca_service.evidence.snp.authorities import Authority, read_authority
    from ca_service.evidence.snp.certificates import split_pem
    from ca_service.evidence.snp.collateral import Collateral
    from ca_service.evidence.snp.configuration import CONFIGURATION
    from ca_service.evidence.snp.crl import Crl, read_crl, read_crls
    from ca_service.evidence.snp.endorsement import CrlAge
    from ca_service.evidence.snp.evidence import SnpEvidence
    from ca_service.evidence.snp.leaf import Leaf, read_leaf
    from ca_service.evidence.snp.roots import Root, amd_roots, data_folder, simulated_roots, unsafe_root
else:
    __getattr__ = on_demand(
        __name__,
        {
            ".authenticity": "AUTHENTICITY",
            ".authorities": "Authority read_authority",
            ".certificates": "split_pem",
            ".collateral": "Collateral",
            ".configuration": "CONFIGURATION",
            ".crl": "Crl read_crl read_crls",
            ".endorsement": "CrlAge",
            ".evidence": "SnpEvidence",
            ".leaf": "Leaf read_leaf",
            ".roots": "Root amd_roots data_folder simulated_roots unsafe_root",
        },
    )

__all__ = [
    "AUTHENTICITY",
    "CONFIGURATION",
    "Authority",
    "Collateral",
    "Crl",
    "CrlAge",
    "Leaf",
    "Root",
    "SnpEvidence",
    "amd_roots",
    "data_folder",
    "read_authority",
    "read_crl",
    "read_crls",
    "read_leaf",
    "simulated_roots",
    "split_pem",
    "unsafe_root",
]
