"""The virtual TPM: a real swtpm, its keys, its proofs, its state, and the gateway that a guest uses.

In the order of a boot: `Swtpm.power_on` with the stored state, or None for a new TPM; then either `manufacture`, or
`verify_loaded` against the recorded keys and `repair_persistent`; `certify_idevid` and `activate` for the CA;
`write_certificate`; `Swtpm.take_state` for the volume; `GuestGateway` with a `StateKeeper` for the guest.

Whoever has no more than a `Bench`, a guest for example, gets its keys by `derive` and their proofs by `certify_on` and
`activate_on`.
"""

from vtpm.tpm.errors import TpmError, TpmGone, TpmIdentityError, TpmRefused
from vtpm.tpm.esapi import Bench
from vtpm.tpm.guest import GuestGateway
from vtpm.tpm.keeper import StateKeeper
from vtpm.tpm.keys import RecordedKeys, TpmKeys, derive, manufacture, repair_persistent, verify_loaded
from vtpm.tpm.nv import MAX_CERTIFICATE, read_certificate, write_certificate
from vtpm.tpm.proofs import activate, activate_on, certify_idevid, certify_on
from vtpm.tpm.properties import TpmProperties, properties
from vtpm.tpm.swtpm import Swtpm

__all__ = [
    "MAX_CERTIFICATE",
    "Bench",
    "GuestGateway",
    "RecordedKeys",
    "StateKeeper",
    "Swtpm",
    "TpmError",
    "TpmGone",
    "TpmIdentityError",
    "TpmKeys",
    "TpmProperties",
    "TpmRefused",
    "activate",
    "activate_on",
    "certify_idevid",
    "certify_on",
    "derive",
    "manufacture",
    "properties",
    "read_certificate",
    "repair_persistent",
    "verify_loaded",
    "write_certificate",
]
