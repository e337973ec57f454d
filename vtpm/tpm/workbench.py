"""Where the SVSM uses the endorsement hierarchy although a guest may have taken it away.

A guest with owner rights can set endorsementAuth for good, claim the lockout hierarchy, drive the TPM into
dictionary-attack lockout, or change the lockout parameters. All of that is in the permanent state, so on the next
boot the SVSM could regenerate no key, certify nothing and activate nothing in the TPM itself.

But the SVSM holds the whole permanent state. It gives a copy to a second swtpm, the *replica*, and does TPM2_Clear
there as the platform: platformAuth is no part of the permanent state, so it is the SVSM's in the replica too.
TPM2_Clear empties the three authorisations, resets the lockout and leaves the endorsement seed: the replica makes the
same EK, IAK and IDevID, and proves for the TPM what the TPM is kept from proving. It lives in memory for one piece of
work, and the guest's own TPM is not touched.

Compared with a mark in an NV index (defined, written and locked with platform authorisation), the replica proves more
and needs less: the keys themselves are compared, not a digest written earlier; the copy is taken from the running TPM,
so a blob that was silently replaced by a new TPM shows; no index can be missing or exhausted; and certify and
activation work on it, which a mark cannot give. When the guest has taken nothing, the TPM itself is used: that saves
starting a process.
"""

from collections.abc import Callable
from typing import TypeVar

from vtpm.tpm.errors import TpmRefused
from vtpm.tpm.swtpm import Swtpm

_T = TypeVar("_T")


def workbench(tpm: Swtpm, work: Callable[[Swtpm], _T]) -> _T:
    """Do a piece of work that needs the endorsement hierarchy: in the TPM if it allows it, else in a replica.

    A refused attempt does the guest no harm: the endorsement authorisation is outside the dictionary-attack logic, and
    the keys' own authorisations are empty.

    Args:
        tpm: a TPM with power.
        work: called with the TPM to use; at most twice, so it must not leave anything behind.

    Raises:
        TpmError: what `work` raises in the replica, or the replica could not be made.
    """
    try:
        return work(tpm)
    except TpmRefused:
        # The guest's doing, or a refusal that the replica will repeat.
        with tpm.replica() as replica:
            return work(replica)
