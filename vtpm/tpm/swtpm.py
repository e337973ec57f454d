"""A TPM in a swtpm process: power on, state in and out, commands."""

import secrets
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

from vtpm.tpm.control import ControlChannel
from vtpm.tpm.errors import TpmError, TpmRefused
from vtpm.tpm.esapi import ESAPI, ESYS_TR, HEADER, MAX_COMMAND, ChannelTcti, TSS2_Exception
from vtpm.tpm.process import SwtpmProcess

_NO_SESSIONS = 0x8001
_CC_STARTUP = 0x00000144
_CC_SHUTDOWN = 0x00000145
_SU_CLEAR = 0
_PLATFORM_AUTH_SIZE = 32

_MAX_TRIES = 32
_RECOVERY_S = 10
"""Dictionary-attack parameters. swtpm's own (3 tries, 1,000 s) would lock IAK and IDevID after three launches that
ended without TPM2_Shutdown, which is how virtual machines end."""

_PT_PERMANENT = 0x00000200
_CAP_TPM_PROPERTIES = 6
_LOCKOUT_AUTH_SET = 1 << 2


class Swtpm:
    """One TPM. Use as a context manager, or call `start` and `stop` (or `kill`).

    All use of the TPM goes through one lock: what runs inside `esapi` is not interleaved with a guest's commands.

    Args:
        entropy: random bytes by number, for the platform authorisation.
        executable: the swtpm program.
        timeout: seconds after which a silent swtpm counts as gone.
    """

    def __init__(
        self,
        *,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
        executable: str = "swtpm",
        timeout: float = 60.0,
    ) -> None:
        self._entropy = entropy
        self._executable = executable
        self._timeout = timeout
        self._lock = threading.RLock()
        self._process: SwtpmProcess | None = None
        self._platform_auth = b""
        self._origin = ""

    # -- process ----------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start the process; the TPM is still without power.

        Raises:
            TpmError: swtpm is not installed, cannot be started, or runs already.
        """
        if self._process is not None:
            raise TpmError("this TPM's process has been started before")
        self._process = SwtpmProcess(self._executable, timeout=self._timeout)
        return self

    @property
    def pid(self) -> int:
        """Process id of swtpm."""
        return self._running().pid

    @property
    def origin(self) -> str:
        """`"manufactured"` by this power-on, or `"loaded"` from a state."""
        if not self._origin:
            raise TpmError("the TPM has no power")
        return self._origin

    def _running(self) -> SwtpmProcess:
        if self._process is None:
            raise TpmError("this TPM's process has not been started")
        return self._process

    def stop(self) -> None:
        """End in order: TPM2_Shutdown(CLEAR), then the process. Never raises; harmless when done before.

        An end without TPM2_Shutdown counts as a failed authorisation for the dictionary-attack logic.
        """
        if self._process is None:
            return
        with self._lock:
            with suppress(TpmError):
                if self._origin:
                    self._shutdown()
                ControlChannel(self._process).shutdown()
                self._process.wait()
            self.kill()

    def kill(self) -> None:
        """End the process at once (SIGKILL). Its state goes with it; harmless when done before."""
        if self._process is not None:
            self._process.kill()

    def __enter__(self) -> Self:
        return self if self._process is not None else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- power and state --------------------------------------------------------------------------------------

    def power_on(self, state: bytes | None) -> None:
        """Give the TPM power: INIT, TPM2_Startup(CLEAR), random platformAuth, dictionary-attack parameters.

        The platform authorisation is empty after each TPM2_Startup(CLEAR); a guest that found it so could
        undefine the certificates or change the endorsement seed. Its random value is kept in memory only.

        Args:
            state: permanent state blob of `take_state` or `current_state`; None makes a new TPM.

        Raises:
            TpmError: swtpm refused the state, or a step of the start-up failed. The process is ended then: after
                a refused blob it would power on as another TPM.
        """
        process = self._running()
        if self._origin:
            raise TpmError("the TPM has power already")
        control = ControlChannel(process)
        try:
            with self._lock:
                if state is not None:
                    control.set_state(state)
                control.init()
                self._expect_success(
                    struct.pack(">HIIH", _NO_SESSIONS, 12, _CC_STARTUP, _SU_CLEAR), "TPM2_Startup"
                )
                self._set_platform_auth()
        except BaseException:
            self.kill()
            raise
        self._origin = "loaded" if state is not None else "manufactured"
        self._set_lockout_parameters()

    def _expect_success(self, command: bytes, name: str) -> None:
        (rc,) = struct.unpack_from(">I", self.transmit(command), 6)
        if rc != 0:
            raise TpmRefused(f"the TPM refused {name}: response code 0x{rc:x}", rc)

    def _set_platform_auth(self) -> None:
        auth = self._entropy(_PLATFORM_AUTH_SIZE)
        with self.esapi("setting the platform authorisation") as tpm:
            tpm.hierarchy_change_auth(ESYS_TR.PLATFORM, auth)
            self._platform_auth = auth

    def _set_lockout_parameters(self) -> None:
        """Set the dictionary-attack parameters while nobody has claimed the lockout hierarchy; TPM2_Clear resets them.

        A guest may have locked the lockout hierarchy out by wrong answers; that is its affair and fails no boot.
        """
        if self.permanent_attributes() & _LOCKOUT_AUTH_SET:
            return
        with suppress(TpmRefused), self.esapi("setting the dictionary-attack parameters") as tpm:
            tpm.dictionary_attack_parameters(
                new_max_tries=_MAX_TRIES, new_recovery_time=_RECOVERY_S, lockout_recovery=_RECOVERY_S
            )

    def permanent_attributes(self) -> int:
        """TPMA_PERMANENT (TPM 2.0 Library, Part 2, section 8.6)."""
        with self.esapi("reading its permanent attributes") as tpm:
            _, data = tpm.get_capability(_CAP_TPM_PROPERTIES, _PT_PERMANENT, 1)
            return int(data.data.tpmProperties[0].value)

    def _shutdown(self) -> None:
        self._expect_success(struct.pack(">HIIH", _NO_SESSIONS, 12, _CC_SHUTDOWN, _SU_CLEAR), "TPM2_Shutdown")

    def take_state(self) -> bytes:
        """The permanent state after TPM2_Shutdown(CLEAR); the TPM goes on working.

        Raises:
            TpmError: the TPM refused, or has gone.
        """
        with self._lock:
            self._shutdown()
            return ControlChannel(self._running()).get_state()

    def current_state(self) -> bytes:
        """The permanent state as it is, without TPM2_Shutdown: what a running TPM has changed so far.

        Raises:
            TpmError: the TPM has gone.
        """
        with self._lock:
            return ControlChannel(self._running()).get_state()

    @contextmanager
    def replica(self) -> Iterator["Swtpm"]:
        """A second TPM with this one's seeds, cleared, for the time of the block; `vtpm.tpm.workbench` says why.

        Raises:
            TpmError: the state could not be copied.
        """
        copy = Swtpm(entropy=self._entropy, executable=self._executable, timeout=self._timeout).start()
        try:
            copy.power_on(self.current_state())
            with copy.esapi("clearing the replica") as tpm:
                # The guest may have disabled TPM2_Clear; the platform can enable it again.
                tpm.clear_control(ESYS_TR.PLATFORM, False)
                tpm.clear(ESYS_TR.PLATFORM)
            yield copy
        finally:
            copy.kill()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Nobody else uses the TPM during the block."""
        with self._lock:
            yield

    # -- commands ---------------------------------------------------------------------------------------------

    def transmit(self, command: bytes) -> bytes:
        """Send one command, return its response.

        Args:
            command: exactly one TPM command; its size field must say so, else swtpm would lose step.

        Raises:
            TpmError: the command is not framed, or swtpm has gone.
        """
        process = self._running()
        if not HEADER <= len(command) <= MAX_COMMAND or int.from_bytes(command[2:6], "big") != len(command):
            raise TpmError("a TPM command must state its own size")
        with self._lock:
            try:
                process.data.sendall(command)
                response = self._receive(process, HEADER)
                size = int.from_bytes(response[2:6], "big")
                if not HEADER <= size <= MAX_COMMAND:
                    raise TpmError("swtpm answered with an impossible response size")
                return response + self._receive(process, size - HEADER)
            except OSError as error:
                raise process.gone("answering a command") from error

    def _receive(self, process: SwtpmProcess, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = process.data.recv(size - len(data))
            if not piece:
                raise ConnectionResetError
            data += piece
        return bytes(data)

    @contextmanager
    def esapi(self, doing: str) -> Iterator[ESAPI]:
        """A fresh ESAPI context that knows the platform authorisation, for one piece of work.

        Args:
            doing: what the work is, for the error text; "the TPM refused while <doing>".

        Raises:
            TpmRefused: the TPM answered with an error inside the block.
            TpmGone: swtpm ended inside the block.
        """
        with self._lock:
            tcti = ChannelTcti(self.transmit)
            try:
                with ESAPI(tcti) as tpm:
                    tpm.tr_set_auth(ESYS_TR.PLATFORM, self._platform_auth)
                    yield tpm
            except TSS2_Exception as error:
                if tcti.failure is not None:
                    raise tcti.failure from None
                raise TpmRefused(f"the TPM refused while {doing}: {error}", int(error.rc)) from error
            if tcti.failure is not None:
                # The block took the library's error for an answer of the TPM; it was none.
                raise tcti.failure
