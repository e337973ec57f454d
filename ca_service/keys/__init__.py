"""The CA's own keys: who signs, how the keys rest on disk or token, and the ceremony that makes them.

`run_ceremony` makes a CA, `load_authority` opens it, `prepare_issuing` makes the next generation of its issuing CAs,
`sign_certificate` is the only way to a signed certificate.
"""

from typing import TYPE_CHECKING

from ca_service.faces import on_demand

if TYPE_CHECKING:
    from ca_service.keys.authority import (
        Authority,
        Certified,
        IssuingCa,
        LogIdentity,
        PublicAuthority,
        PublicIssuer,
        RootCa,
    )
    from ca_service.keys.ceremony import run_ceremony
    from ca_service.keys.configuration import CeremonyConfig, PublicationRule, ValidityRule
    from ca_service.keys.generations import prepare_issuing
    from ca_service.keys.issue import sign_certificate
    from ca_service.keys.opening import load_authority, load_public, load_root
    from ca_service.keys.passphrase import (
        NewPassphrase,
        PinSource,
        find_new_passphrase,
        find_new_root_passphrase,
        find_passphrase,
        find_pin,
        find_root_passphrase,
        find_root_pin,
        no_pin,
    )
    from ca_service.keys.rewording import Rewording, change_passphrase
    from ca_service.keys.root_list import held_root_lists, replace_root_list
    from ca_service.keys.sealed import Sealer, seal, unseal
    from ca_service.keys.signer import FileSigner, Signer, sign_and_check
    from ca_service.keys.source import AuthoritySource
    from ca_service.keys.transcript import NOBODY, Occasion, Transcript, TranscriptEntry, TranscriptList
    from ca_service.keys.upgrade import promise_state, upgrade_directory
    from ca_service.profiles import DEFAULT_PAIR
else:
    __getattr__ = on_demand(
        __name__,
        {
            ".authority": "Authority Certified IssuingCa LogIdentity PublicAuthority PublicIssuer RootCa",
            ".ceremony": "run_ceremony",
            ".configuration": "CeremonyConfig PublicationRule ValidityRule",
            ".generations": "prepare_issuing",
            ".issue": "sign_certificate",
            ".opening": "load_authority load_public load_root",
            ".passphrase": (
                "NewPassphrase PinSource find_new_passphrase find_new_root_passphrase find_passphrase find_pin "
                "find_root_passphrase find_root_pin no_pin"
            ),
            ".rewording": "Rewording change_passphrase",
            ".root_list": "held_root_lists replace_root_list",
            ".sealed": "Sealer seal unseal",
            ".signer": "FileSigner Signer sign_and_check",
            ".source": "AuthoritySource",
            ".transcript": "NOBODY Occasion Transcript TranscriptEntry TranscriptList",
            ".upgrade": "promise_state upgrade_directory",
            "ca_service.profiles": "DEFAULT_PAIR",
        },
    )

__all__ = [
    "DEFAULT_PAIR",
    "NOBODY",
    "Authority",
    "AuthoritySource",
    "CeremonyConfig",
    "Certified",
    "FileSigner",
    "IssuingCa",
    "LogIdentity",
    "NewPassphrase",
    "Occasion",
    "PinSource",
    "PublicAuthority",
    "PublicIssuer",
    "PublicationRule",
    "Rewording",
    "RootCa",
    "Sealer",
    "Signer",
    "Transcript",
    "TranscriptEntry",
    "TranscriptList",
    "ValidityRule",
    "change_passphrase",
    "find_new_passphrase",
    "find_new_root_passphrase",
    "find_passphrase",
    "find_pin",
    "find_root_passphrase",
    "find_root_pin",
    "held_root_lists",
    "load_authority",
    "load_public",
    "load_root",
    "no_pin",
    "prepare_issuing",
    "promise_state",
    "replace_root_list",
    "run_ceremony",
    "seal",
    "sign_and_check",
    "sign_certificate",
    "unseal",
    "upgrade_directory",
]
