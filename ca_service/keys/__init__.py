"""The CA's own keys: who signs, how the keys rest on disk, and the ceremony that makes them.

`run_ceremony` makes a CA, `load_authority` opens it, `sign_certificate` is the only way to a signed
certificate.
"""

from ca_service.keys.authority import (
    Authority,
    Certified,
    IssuingCa,
    PublicAuthority,
    PublicIssuer,
    RootCa,
    load_authority,
    load_public,
    load_root,
)
from ca_service.keys.ceremony import Transcript, TranscriptEntry, run_ceremony
from ca_service.keys.configuration import CeremonyConfig, ValidityRule
from ca_service.keys.issue import sign_certificate
from ca_service.keys.passphrase import find_passphrase
from ca_service.keys.sealed import Sealer, seal, unseal
from ca_service.keys.signer import FileSigner, Signer, sign_and_check
from ca_service.profiles import DEFAULT_PAIR

__all__ = [
    "DEFAULT_PAIR",
    "Authority",
    "CeremonyConfig",
    "Certified",
    "FileSigner",
    "IssuingCa",
    "PublicAuthority",
    "PublicIssuer",
    "RootCa",
    "Sealer",
    "Signer",
    "Transcript",
    "TranscriptEntry",
    "ValidityRule",
    "find_passphrase",
    "load_authority",
    "load_public",
    "load_root",
    "run_ceremony",
    "seal",
    "sign_and_check",
    "sign_certificate",
    "unseal",
]
