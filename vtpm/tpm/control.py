"""swtpm's control channel: what we send ourselves, and what the answers look like (swtpm_ioctls, big-endian).

Every command is a 32-bit number and its payload, every answer begins with a 32-bit result code. After a refused
state blob swtpm's CMD_INIT quietly manufactures a *new* TPM and reports success, so no result may go unread.
"""

import socket
import struct
from enum import IntEnum

from vtpm.tpm.errors import TpmError
from vtpm.tpm.process import SwtpmProcess

MAX_STATE = 2 * 1024 * 1024
"""Largest state blob that is taken, in bytes; a TPM whose NV memory is full has about 140,000."""

_STATE_HEADER = struct.Struct(">BBHHI")
_PLAIN_STATE = (2, 1, 10, 0x0004)
"""How a plain state blob begins: version, lowest reader version, header size, flags; its whole length follows."""

_PERMANENT = 1
_ENCRYPTED = 2


class Command(IntEnum):
    """Numbers of control commands."""

    GET_CAPABILITY = 1
    INIT = 2
    SHUTDOWN = 3
    SET_LOCALITY = 5
    GET_STATEBLOB = 12
    SET_STATEBLOB = 13


class Result(IntEnum):
    """Result codes that have a name here (the TPM 1.2 codes that swtpm uses)."""

    SUCCESS = 0
    BAD_ORDINAL = 0x0A
    BAD_LOCALITY = 0x3D


def _exactly(channel: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = channel.recv(size - len(data))
        if not piece:
            raise ConnectionError
        data += piece
    return bytes(data)


class ControlChannel:
    """The SVSM's own use of the control channel."""

    def __init__(self, process: SwtpmProcess) -> None:
        self._process = process

    def _call(self, command: Command, payload: bytes, doing: str, reply: int = 0) -> bytes:
        """Send a command, check its result code, return the `reply` bytes that follow."""
        channel = self._process.control
        try:
            channel.sendall(struct.pack(">I", command) + payload)
            (result,) = struct.unpack(">I", _exactly(channel, 4))
            if result != Result.SUCCESS:
                raise TpmError(f"swtpm refused with result 0x{result:x} while {doing}")
            return _exactly(channel, reply)
        except OSError as error:
            raise self._process.gone(doing) from error

    def init(self) -> None:
        """Power the TPM on; without a state set before, this makes a new TPM."""
        self._call(Command.INIT, struct.pack(">I", 0), "powering the TPM on")

    def shutdown(self) -> None:
        """Ask the process to end."""
        self._call(Command.SHUTDOWN, b"", "ending swtpm")

    def set_state(self, state: bytes) -> None:
        """Hand over a permanent state blob before `init`; one message, as the socket interface wants it.

        The header is checked here as well: swtpm 0.7.1 says success to a blob of an unknown version, keeps nothing of
        it, and would power on as a new TPM.

        Raises:
            TpmError: the blob is not a plain state blob, or swtpm refused it. The process is of no use then: `init`
                would make a new TPM.
        """
        if len(state) > MAX_STATE or state[: _STATE_HEADER.size] != _STATE_HEADER.pack(
            *_PLAIN_STATE, len(state)
        ):
            raise TpmError(
                "the stored state was refused: it is no plain state blob of swtpm, or it is cut off"
            )
        header = struct.pack(">III", 0, _PERMANENT, len(state))
        self._call(Command.SET_STATEBLOB, header + state, "taking the stored state")

    def get_state(self) -> bytes:
        """The permanent state blob as it is now; also while the TPM is running.

        Raises:
            TpmError: swtpm refused, or answered with something else than a plain blob of sane size.
        """
        doing = "handing out the state"
        state = bytearray()
        while True:
            head = self._call(
                Command.GET_STATEBLOB, struct.pack(">III", 0, _PERMANENT, len(state)), doing, reply=12
            )
            flags, total, length = struct.unpack(">III", head)
            if flags & _ENCRYPTED or not 0 < total <= MAX_STATE or not 0 < length <= total - len(state):
                raise TpmError(f"swtpm answered with an impossible state blob while {doing}")
            try:
                state += _exactly(self._process.control, length)
            except OSError as error:
                raise self._process.gone(doing) from error
            if len(state) == total:
                return bytes(state)
