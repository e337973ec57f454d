"""The TPM of this VM as a guest has it: through a TCTI of libtss2, with the powers of its owner and no more."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from tpm2_pytss import TCTILdr

from vtpm.guest.errors import DeviceMissing, GuestError
from vtpm.tpm import TpmError, TpmGone, TpmRefused
from vtpm.tpm.esapi import ESAPI, TSS2_Exception

DEFAULT_TCTI: Final = "device:/dev/tpmrm0"
"""The kernel's resource manager of the first TPM."""

_CAP_TPM_PROPERTIES = 6
_PERMANENT, _STARTUP_CLEAR = 0x200, 0x201
_ENDORSEMENT_AUTH_SET, _IN_LOCKOUT = 1 << 1, 1 << 9
_ENDORSEMENT_ENABLED = 1 << 2

_LAYER_SHIFT, _LAYER = 16, 0xFF
_TPM_LAYERS = frozenset({0, 11, 12})
"""Where a TSS response code comes from: the TPM, or a resource manager that answers in its place (TSS 2.0 Overview
and Common Structures, section 3.2)."""


class _Hurdle(NamedTuple):
    rule: str
    detail: str
    remedy: str


_OWNED = _Hurdle(
    "guest.endorsement-auth",
    "the owner of this TPM has set an authorisation for the endorsement hierarchy",
    "Empty it for the enrolment: `tpm2_changeauth -c endorsement -p OLD`. If it is lost, `tpm2_clear` empties it and "
    "destroys the owner's keys.",
)
_DISABLED = _Hurdle(
    "guest.endorsement-enabled",
    "the endorsement hierarchy of this TPM is switched off until the next start",
    "Reboot the VM, and enrol before whatever switches it off (TPM2_HierarchyControl).",
)
_LOCKED = _Hurdle(
    "guest.lockout",
    "this TPM is in dictionary-attack lockout, so that its IAK signs nothing",
    "Wait for the recovery time, or `tpm2_dictionarylockout --clear-lockout`.",
)


class GuestTpm:
    """A TPM behind a TCTI. Nothing is kept open between two pieces of work, and nothing stays in the TPM.

    Args:
        tcti: name and configuration as tpm2-tools take them: ``device:/dev/tpmrm0``, ``swtpm:host=H,port=P``.
    """

    def __init__(self, tcti: str = DEFAULT_TCTI) -> None:
        self._tcti = tcti

    @contextmanager
    def esapi(self, doing: str) -> Iterator[ESAPI]:
        """A fresh ESAPI context for one piece of work.

        Args:
            doing: what the work is, for the error text.

        Raises:
            DeviceMissing: the TPM cannot be opened.
            TpmRefused: the TPM answered with an error inside the block.
            TpmGone: the way to the TPM broke inside the block.
        """
        tcti = self._open()
        try:
            with ESAPI(tcti) as tpm:
                yield tpm
        except TSS2_Exception as error:
            raise _explained(error, doing) from error
        finally:
            tcti.close()

    def _open(self) -> TCTILdr:
        name, _, configuration = self._tcti.partition(":")
        try:
            return TCTILdr(name, configuration or None)
        except (TSS2_Exception, ValueError) as error:
            raise DeviceMissing(
                f"the TPM {self._tcti} cannot be opened{self._because(name, configuration)}",
                remedy="Name the TPM with --tcti as for tpm2-tools, for example device:/dev/tpmrm0; its file is "
                "readable for root and the group tss. A VM below an SVSM needs Linux 6.16 or later for its vTPM "
                "(CONFIG_TCG_SVSM).",
            ) from error

    @staticmethod
    def _because(name: str, path: str) -> str:
        """What the system says of a device file; the library says "IO failure" of everything."""
        if name != "device":
            return ""
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            return f": {error.strerror}"
        return ""

    def check_usable(self) -> None:
        """Find out what would keep an owner from enrolling, before anybody is asked for anything.

        Raises:
            GuestError: an endorsement authorisation is set (rule ``guest.endorsement-auth``), that hierarchy is off
                (``guest.endorsement-enabled``), or the TPM is in lockout (``guest.lockout``).
            TpmError: the TPM refused, or has gone.
        """
        with self.esapi("reading its attributes") as tpm:
            _, data = tpm.get_capability(_CAP_TPM_PROPERTIES, _PERMANENT, 2)
            found = {int(entry.property): int(entry.value) for entry in data.data.tpmProperties}
        if not {_PERMANENT, _STARTUP_CLEAR} <= found.keys():
            raise TpmError("the TPM leaves out its attributes")
        for hurdle, stands in (
            (_OWNED, found[_PERMANENT] & _ENDORSEMENT_AUTH_SET),
            (_DISABLED, not found[_STARTUP_CLEAR] & _ENDORSEMENT_ENABLED),
            (_LOCKED, found[_PERMANENT] & _IN_LOCKOUT),
        ):
            if stands:
                raise GuestError(hurdle.detail, rule=hurdle.rule, remedy=hurdle.remedy)


def _explained(error: TSS2_Exception, doing: str) -> TpmError:
    code = int(error.rc)
    if (code >> _LAYER_SHIFT) & _LAYER in _TPM_LAYERS:
        return TpmRefused(f"the TPM refused while {doing}: {error}", code)
    return TpmGone(f"the TPM does not answer while {doing}: {error}")
