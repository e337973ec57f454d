"""tpm2-pytss over our own data channel: the transport, and contexts that always flush.

The TPM has three slots for transient objects and three for loaded sessions, and both leak when a command fails.
So objects and sessions are had through `flushing`, never bare.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Protocol

# The C library writes each failed command to standard error unless this is set before its first message.
os.environ.setdefault("TSS2_LOG", "all+none")

from tpm2_pytss import ESAPI, ESYS_TR, TPMT_SYM_DEF, TSS2_Exception
from tpm2_pytss.constants import TPM2_ALG, TPM2_SE
from tpm2_pytss.TCTI import PyTCTI

MAX_COMMAND = 4096
"""Largest command and response of this TPM (TPM_PT_MAX_COMMAND_SIZE), in bytes."""

HEADER = 10
"""Bytes of a command or response header: tag, size, code."""

HASHES = {"sha256": TPM2_ALG.SHA256, "sha384": TPM2_ALG.SHA384, "sha512": TPM2_ALG.SHA512}
"""Algorithm ids by the names that `vtpm.wire.templates` uses."""

__all__ = [
    "ESAPI",
    "ESYS_TR",
    "HASHES",
    "HEADER",
    "MAX_COMMAND",
    "Bench",
    "ChannelTcti",
    "TSS2_Exception",
    "flushing",
    "policy_session",
]


class Bench(Protocol):
    """A TPM to work on, whoever's it is: the SVSM's own swtpm, or a guest's device."""

    def esapi(self, doing: str) -> AbstractContextManager[ESAPI]:
        """A fresh ESAPI context for one piece of work; `doing` names it in the error text.

        Raises:
            TpmError: the TPM refused inside the block, or has gone.
        """


class ChannelTcti(PyTCTI):  # type: ignore[misc] # the library has no type information
    """A TCTI whose commands go through `exchange`, one at a time.

    Attributes:
        failure: what `exchange` raised; the C library in between knows only "general failure".
    """

    def __init__(self, exchange: Callable[[bytes], bytes]) -> None:
        super().__init__(max_size=MAX_COMMAND)
        self._exchange = exchange
        self._response = b""
        self.failure: Exception | None = None

    def do_transmit(self, command: bytes) -> None:
        """Send the command and keep the response: the TPM works on one command only."""
        try:
            self._response = self._exchange(command)
        except Exception as error:
            self.failure = error
            raise

    def do_receive(self, timeout: int) -> bytes:
        """Hand out the response of the last command."""
        del timeout  # the channel has its own
        return self._response


@contextmanager
def flushing(tpm: ESAPI, handle: ESYS_TR) -> Iterator[ESYS_TR]:
    """A transient object or session for the time of the block; flushed on every way out."""
    try:
        yield handle
    except BaseException:
        # The block's own error says more than what a flush in a broken TPM would.
        with suppress(TSS2_Exception):
            tpm.flush_context(handle)
        raise
    tpm.flush_context(handle)


@contextmanager
def policy_session(tpm: ESAPI, name_alg: str) -> Iterator[ESYS_TR]:
    """An empty policy session whose hash is that of the object it will authorise."""
    session = tpm.start_auth_session(
        tpm_key=ESYS_TR.NONE,
        bind=ESYS_TR.NONE,
        session_type=TPM2_SE.POLICY,
        symmetric=TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL),
        auth_hash=HASHES[name_alg],
    )
    with flushing(tpm, session) as handle:
        yield handle
