"""Certificate profiles and their lint: pure values, no keys, no clock, no storage.

A reader starts at `draft_ek` and `draft_devid`, which turn evidence into to-be-signed bytes, and goes on to
`lint`, which reads those bytes with two independent parsers and, if nothing is wrong, gives the one-shot
token that signing demands.
"""

from ca_service.profiles.authority import draft_issuing, draft_root
from ca_service.profiles.contract import Consumer, ConsumerReport, ContractRule
from ca_service.profiles.contract_subject import key_kind
from ca_service.profiles.contracts import CONTRACTS, contract_report
from ca_service.profiles.device import (
    EMPTY_SLOT,
    draft_devid,
    draft_ek,
    draft_iak_webauthn,
    find_slot,
    patch_slot,
)
from ca_service.profiles.encoding import assemble
from ca_service.profiles.lint import LintFailed, lint
from ca_service.profiles.model import (
    DEVICE_LIFETIME,
    EPHEMERAL_LIMIT,
    OCSP_LIMIT,
    CaRole,
    Draft,
    Entropy,
    IakProfile,
    IssuerInfo,
    IssuerRole,
    Mode,
    Provenance,
    Validity,
    new_serial,
    serial_hex,
)
from ca_service.profiles.naming import (
    DEFAULT_PAIR,
    SIMULATION_MARK,
    CaTitle,
    ca_name,
    device_serial,
    hardware_serial,
    printable_manufacturer,
    read_ca_name,
)
from ca_service.profiles.responder import draft_ocsp
from ca_service.profiles.structures import certified_key
from ca_service.profiles.token import LintPassed

__all__ = [
    "CONTRACTS",
    "DEFAULT_PAIR",
    "DEVICE_LIFETIME",
    "EMPTY_SLOT",
    "EPHEMERAL_LIMIT",
    "OCSP_LIMIT",
    "SIMULATION_MARK",
    "CaRole",
    "CaTitle",
    "Consumer",
    "ConsumerReport",
    "ContractRule",
    "Draft",
    "Entropy",
    "IakProfile",
    "IssuerInfo",
    "IssuerRole",
    "LintFailed",
    "LintPassed",
    "Mode",
    "Provenance",
    "Validity",
    "assemble",
    "ca_name",
    "certified_key",
    "contract_report",
    "device_serial",
    "draft_devid",
    "draft_ek",
    "draft_iak_webauthn",
    "draft_issuing",
    "draft_ocsp",
    "draft_root",
    "find_slot",
    "hardware_serial",
    "key_kind",
    "lint",
    "new_serial",
    "patch_slot",
    "printable_manufacturer",
    "read_ca_name",
    "serial_hex",
]
