"""The guest's control channel: two harmless commands are answered here, every other one is refused.

Neither of the two needs swtpm. GET_CAPABILITY says what this channel can do (set the locality), not what swtpm could;
locality 0 is the one that the TPM is in, always.
"""

import socket
import struct
from contextlib import suppress

from vtpm.tpm.control import Command, Result

_CAPABILITIES = 1 << 3
"""PTM_CAP_SET_LOCALITY."""

_DRAIN_S = 1.0
_DRAIN_BYTES = 1 << 20


def answer(command: int, payload: bytes) -> bytes | None:
    """The reply to a control command that is allowed; None if it is refused.

    Args:
        command: its number.
        payload: what followed the number; SET_LOCALITY has one byte, GET_CAPABILITY none.
    """
    if command == Command.GET_CAPABILITY and not payload:
        return struct.pack(">II", Result.SUCCESS, _CAPABILITIES)
    if command == Command.SET_LOCALITY and len(payload) == 1:
        return struct.pack(">I", Result.SUCCESS if payload == b"\0" else Result.BAD_LOCALITY)
    return None


def serve_control(connection: socket.socket) -> None:
    """Serve one connection until its end, or until a command is refused.

    A refused command ends the connection: the length of its payload is not ours to know, and what follows must not be
    taken for a command.

    Raises:
        OSError: the connection broke.
    """
    while (head := _exactly(connection, 4)) is not None:
        (command,) = struct.unpack(">I", head)
        payload = _exactly(connection, 1) if command == Command.SET_LOCALITY else b""
        if payload is None:
            return
        reply = answer(command, payload)
        if reply is None:
            say_goodbye(connection, struct.pack(">I", Result.BAD_ORDINAL))
            return
        connection.sendall(reply)


def say_goodbye(connection: socket.socket, reply: bytes) -> None:
    """Send a last reply and let the other side read it: closing with unread input would reset the connection."""
    connection.sendall(reply)
    connection.shutdown(socket.SHUT_WR)
    connection.settimeout(_DRAIN_S)
    drained = 0
    with suppress(OSError):
        while drained < _DRAIN_BYTES and (piece := connection.recv(65536)):
            drained += len(piece)


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            return None
        data += piece
    return data
