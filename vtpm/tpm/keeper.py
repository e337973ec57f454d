"""Keeps the stored state in step with a running TPM."""

import hashlib
from collections.abc import Callable

from vtpm.tpm.swtpm import Swtpm


class StateKeeper:
    """Calls `save` when the TPM's permanent state has changed; made for `GuestGateway`'s `after_command`.

    Commands that change nothing permanent (most) cost one look at the state. The TPM also stores its clock about
    every four seconds of use, which counts as a change.

    Args:
        tpm: a TPM with power.
        save: makes a state durable, or raises.
        saved: the state that is stored now.
    """

    def __init__(self, tpm: Swtpm, save: Callable[[bytes], None], saved: bytes) -> None:
        self._tpm = tpm
        self._save = save
        self._digest = hashlib.sha256(saved).digest()

    def __call__(self) -> None:
        """Save the state if it differs from the last one saved.

        Raises:
            TpmError: the TPM has gone.
            Exception: whatever `save` raises; the state counts as not saved then.
        """
        self.keep(self._tpm.current_state())

    def keep(self, state: bytes) -> None:
        """Save this state if it differs from the last one saved, for example that of `Swtpm.take_state`."""
        digest = hashlib.sha256(state).digest()
        if digest != self._digest:
            self._save(state)
            self._digest = digest
