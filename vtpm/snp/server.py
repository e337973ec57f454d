"""The secure processor as a process of its own: ``python -m vtpm.snp.server --platform DIR --fd N``.

It serves one VM over an inherited socket, in the frames of `vtpm.wire.aproxy`, each one JSON object:

=================  ==========================================  ======================================
``command``        further members                             answer
=================  ==========================================  ======================================
``launch-start``   ``policy`` (hex), ``host_data`` (base64)    ``{}``
``launch-update``  ``gpa`` (integer), ``pages`` (base64)       ``{}``
``launch-finish``                                              ``measurement``, ``report_id`` (hex)
``report``         ``report_data`` (base64), ``vmpl``          ``report`` (base64)
``certificates``                                               ``table`` (base64)
=================  ==========================================  ======================================

The names are the firmware's (SNP_LAUNCH_START, _UPDATE, _FINISH; MSG_REPORT_REQ). A VM is launched once; after
that its measurement is fixed. A refused command is answered with ``{"error": "..."}``.
"""

import argparse
import json
import secrets
import socket
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from vtpm.errors import VtpmError
from vtpm.snp.errors import PspError, PspUnavailableError
from vtpm.snp.launch import LaunchContext
from vtpm.snp.measurement import PAGE_SIZE, LaunchDigest
from vtpm.snp.platform import DEFAULT_POLICY, NEWEST_VERSION, OLDEST_VERSION, Entropy, Platform
from vtpm.wire.aproxy import HEADER_SIZE, MAX_FRAME, frame, frame_length
from vtpm.wire.certtable import MAX_TABLE
from vtpm.wire.encoding import Members, b64std, parse_json
from vtpm.wire.errors import WireError
from vtpm.wire.report import REPORT_SIZE, Product

_BATCH: Final = 128
"""Pages in one launch-update: 512 KiB, which base64 still fits into one frame."""

_TIMEOUT_S: Final = 60.0
_POLICY: Final = 8
_HOST_DATA: Final = 32
_MEASUREMENT: Final = 48
_REPORT_ID: Final = 32
_REPORT_DATA: Final = 64
_LAST_GPA: Final = 1 << 52


def _receive(connection: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes, or fewer if the peer closed before."""
    data = bytearray()
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            break
        data += part
    return bytes(data)


def _receive_frame(connection: socket.socket) -> bytes | None:
    """One payload; None when the peer has closed, also in the middle of a frame."""
    header = _receive(connection, HEADER_SIZE)
    if len(header) < HEADER_SIZE:
        return None
    size = frame_length(header)
    payload = _receive(connection, size)
    return payload if len(payload) == size else None


def _encode(value: dict[str, object]) -> bytes:
    return frame(json.dumps(value, separators=(",", ":")).encode("ascii"))


class PspServer:
    """The processor's side of one VM's socket."""

    def __init__(
        self, platform: Platform, connection: socket.socket, *, entropy: Entropy = secrets.token_bytes
    ) -> None:
        self._platform = platform
        self._connection = connection
        self._entropy = entropy
        self._started: tuple[int, bytes] | None = None
        self._digest = LaunchDigest()
        self._context: LaunchContext | None = None

    def serve(self) -> None:
        """Answer commands until the peer closes the socket or sends what is no frame."""
        while True:
            try:
                payload = _receive_frame(self._connection)
                if payload is None:
                    return
                self._connection.sendall(_encode(self.answer(payload)))
            except (WireError, OSError):
                return

    def answer(self, payload: bytes) -> dict[str, object]:
        """The answer to one command; a refusal is an answer too."""
        try:
            members = Members(parse_json(payload, "command", most=MAX_FRAME), "command")
            handlers = {
                "launch-start": self._start,
                "launch-update": self._update,
                "launch-finish": self._finish,
                "report": self._report,
                "certificates": self._certificates,
            }
            return handlers[members.one_of("command", tuple(handlers))](members)
        except (PspError, WireError, ValueError) as error:
            return {"error": str(error)}

    def _start(self, members: Members) -> dict[str, object]:
        policy = int.from_bytes(members.hex("policy", size=_POLICY), "big")
        host_data = members.b64std("host_data", size=_HOST_DATA)
        members.end()
        if self._started is not None:
            raise PspError("the VM's launch has been started already")
        self._started = policy, host_data
        return {}

    def _update(self, members: Members) -> dict[str, object]:
        gpa = members.integer("gpa", 0, _LAST_GPA)
        pages = members.b64std("pages", most=_BATCH * PAGE_SIZE)
        members.end()
        if self._started is None or self._context is not None:
            raise PspError("no launch is under way")
        for offset in range(0, len(pages), PAGE_SIZE):
            self._digest.update(gpa + offset, pages[offset : offset + PAGE_SIZE])
        return {}

    def _finish(self, members: Members) -> dict[str, object]:
        members.end()
        if self._started is None or self._context is not None:
            raise PspError("no launch is under way")
        policy, host_data = self._started
        context = self._platform.launch_measured(
            self._digest.value, policy=policy, host_data=host_data, entropy=self._entropy
        )
        self._context = context
        return {"measurement": context.measurement.hex(), "report_id": context.report_id.hex()}

    def _launched(self) -> LaunchContext:
        if self._context is None:
            raise PspError("the VM has not been launched")
        return self._context

    def _report(self, members: Members) -> dict[str, object]:
        report_data = members.b64std("report_data", size=_REPORT_DATA)
        vmpl = members.integer("vmpl", 0, 3)
        members.end()
        return {"report": b64std(self._launched().report(report_data, vmpl))}

    def _certificates(self, members: Members) -> dict[str, object]:
        members.end()
        return {"table": b64std(self._launched().cert_table())}


def _runs(pages: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Pages in the same order, neighbours joined into batches."""
    start, run = 0, bytearray()
    for gpa, page in pages:
        if len(page) != PAGE_SIZE:
            raise PspError(f"a page must be {PAGE_SIZE} bytes, is {len(page)}")
        if run and (gpa != start + len(run) or len(run) == _BATCH * PAGE_SIZE):
            yield start, bytes(run)
            run.clear()
        if not run:
            start = gpa
        run += page
    if run:
        yield start, bytes(run)


class PspClient:
    """The VM's side of the socket; a context manager that closes it.

    Raises:
        PspError: from every method: the processor refused the command.
        PspUnavailableError: likewise: it is gone, does not answer, or answers with nonsense.
    """

    def __init__(self, connection: socket.socket, *, timeout_s: float = _TIMEOUT_S) -> None:
        connection.settimeout(timeout_s)
        self._connection = connection

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; the processor forgets the VM."""
        self._connection.close()

    def launch(
        self,
        pages: Iterable[tuple[int, bytes]],
        *,
        policy: int = DEFAULT_POLICY,
        host_data: bytes = bytes(_HOST_DATA),
    ) -> bytes:
        """Launch the VM and return its 48-byte measurement; see `Platform.launch`."""
        try:
            encoded = policy.to_bytes(_POLICY, "big").hex()
        except OverflowError as error:
            raise PspError("the guest policy must fit 64 bits") from error
        self._call({"command": "launch-start", "policy": encoded, "host_data": b64std(host_data)}).end()
        for gpa, run in _runs(pages):
            self._call({"command": "launch-update", "gpa": gpa, "pages": b64std(run)}).end()
        answer = self._call({"command": "launch-finish"})
        try:
            measurement = answer.hex("measurement", size=_MEASUREMENT)
            answer.hex("report_id", size=_REPORT_ID)
            answer.end()
        except WireError as error:
            raise PspUnavailableError("the processor's answer is malformed") from error
        return measurement

    def report(self, report_data: bytes, vmpl: int = 0) -> bytes:
        """A signed attestation report, 1,184 bytes, over 64 bytes of REPORT_DATA."""
        return self._bytes(
            {"command": "report", "report_data": b64std(report_data), "vmpl": vmpl}, "report", REPORT_SIZE
        )

    def cert_table(self) -> bytes:
        """The certificate table with the VCEK, at most 16 KiB."""
        return self._bytes({"command": "certificates"}, "table", MAX_TABLE)

    def _bytes(self, command: dict[str, object], member: str, most: int) -> bytes:
        answer = self._call(command)
        try:
            value = answer.b64std(member, most=most)
            answer.end()
        except WireError as error:
            raise PspUnavailableError("the processor's answer is malformed") from error
        return value

    def _call(self, command: dict[str, object]) -> Members:
        try:
            self._connection.sendall(_encode(command))
            payload = _receive_frame(self._connection)
            if payload is None:
                raise PspUnavailableError("the processor has gone away")
            answer = Members(parse_json(payload, "answer", most=MAX_FRAME), "answer")
            refusal = answer.text("error") if answer.has("error") else None
        except OSError as error:
            raise PspUnavailableError("the processor cannot be reached") from error
        except WireError as error:
            raise PspUnavailableError("the processor's answer is malformed") from error
        if refusal is not None:
            raise PspError(refusal)
        return answer


def main(arguments: list[str] | None = None) -> int:
    """Serve one VM; 0 when the socket was closed, else the error's exit code."""
    parser = argparse.ArgumentParser(prog="vtpm.snp.server", description="A simulated SEV-SNP processor.")
    parser.add_argument("--platform", type=Path, required=True, help="the platform's folder, made if empty")
    parser.add_argument("--fd", type=int, required=True, help="the inherited socket to the VM")
    parser.add_argument(
        "--product", type=Product, choices=tuple(Product), help="of a new platform; Milan by default"
    )
    parser.add_argument(
        "--report-version",
        type=int,
        choices=range(OLDEST_VERSION, NEWEST_VERSION + 1),
        help="what a new platform's firmware writes; 3 by default",
    )
    given = parser.parse_args(arguments)
    try:
        platform = Platform.load_or_create(given.platform, given.product, given.report_version)
        with socket.socket(fileno=given.fd) as connection:
            PspServer(platform, connection).serve()
    except VtpmError as error:
        sys.stderr.write(error.diagnostics() + "\n")
        return error.exit_code
    except OSError:
        sys.stderr.write("the socket or the platform's folder cannot be used\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
