"""Clients that leave the machine to the CA: what a TPM and a processor would sign is signed beforehand.

A measurement of how many enrolments two cores can do shares them with whoever asks. On real machines the evidence is
signed by a processor and a TPM that are no part of the CA's machine, so here it is made before the clock runs, for
nonces that this CA has given. Then every client sends the three requests of an enrolment, nonces too, byte for byte as
any client does, over a connection that stays open, reads each answer, and answers the challenge with its TPM's key:
the one thing that nobody can prepare.
"""

import contextlib
import json
import multiprocessing
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import enrollment_world as w
import enrolment_load as load

_READ = 64 << 10
_TIMEOUT_S = 30.0
_CERTIFICATES = 3
_ADDRESS = "127.8.{}.{}"


class Line:
    """One connection that speaks HTTP/1.1: a request is written at once, an answer read up to its length."""

    def __init__(self, base: str, source: str) -> None:
        where = urlsplit(base)
        address = (where.hostname or "", where.port or 0)
        self._socket = socket.create_connection(address, _TIMEOUT_S, (source, 0))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._host = where.netloc

    def post(self, path: str, body: bytes, status: int) -> bytes:
        """The content of the answer; raises `load.Unexpected` for any other status."""
        kind = "Content-Type: application/json\r\n" if body else ""
        head = f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\n{kind}Content-Length: {len(body)}\r\n\r\n"
        self._socket.sendall(head.encode("ascii") + body)
        came = self._socket.recv(_READ)
        while (end := came.find(b"\r\n\r\n")) < 0:
            came += self._more()
        first, *fields = came[:end].decode("ascii").split("\r\n")
        named = dict(one.split(": ", 1) for one in fields)
        content, length = came[end + 4 :], int(named["Content-Length"])
        while len(content) < length:
            content += self._more()
        if first.split(" ")[1] != str(status) or named.get("Connection") == "close":
            raise load.Unexpected(f"{path}: {first} {content[:300]!r}")
        return content

    def _more(self) -> bytes:
        data = self._socket.recv(_READ)
        if not data:
            raise load.Unexpected("the server has closed the connection")
        return data

    def close(self) -> None:
        self._socket.close()


@dataclass(frozen=True)
class Booked:
    """A machine and its request to enrol, signed."""

    machine: load.Machine
    body: bytes = field(repr=False)


def book(base: str, machines: Sequence[load.Machine]) -> list[Booked]:
    """Get a nonce for each machine, and let its processor and its TPM sign."""
    found = []
    with contextlib.closing(Line(base, _ADDRESS.format(255, 1))) as line:
        for machine in machines:
            nonce = json.loads(line.post("/v1/nonces", b"", load.CREATED))["nonce"]
            found.append(Booked(machine, machine.body(nonce)))
    return found


def enrol(line: Line, booked: Booked) -> None:
    """The three requests of an enrolment; raises `load.Unexpected`."""
    json.loads(line.post("/v1/nonces", b"", load.CREATED))
    challenges = line.post("/v1/enrollments", booked.body, load.CREATED)
    enrolment, secrets = w.answer(booked.machine.tpm, challenges)
    issued = json.loads(line.post(f"/v1/enrollments/{enrolment}/activation", secrets, load.OK))
    count = sum(1 for _ in load.certificates_in(issued))
    if count != _CERTIFICATES:
        raise load.Unexpected(f"{count} certificates")


class Drivers:
    """Clients in a process of their own, each a thread with an address and a connection of its own.

    Args:
        base: the server.
        work: what they enrol, each the next one.
        clients: how many.
        number: of this process, for the addresses.
    """

    def __init__(self, base: str, work: Sequence[Booked], clients: int, number: int) -> None:
        fork = multiprocessing.get_context("fork")
        self._near, far = fork.Pipe(duplex=False)
        self._process = fork.Process(target=_drive, args=(far, base, work, clients, number))
        self._process.start()
        far.close()

    def join(self, seconds: float) -> list[float]:
        """How long each enrolment took, in seconds; raises `load.Unexpected` for what one of them met."""
        assert self._near.poll(seconds), "the clients did not end in time"
        times, met = self._near.recv()
        self._process.join(seconds)
        if met:
            raise load.Unexpected(met[0])
        return times


def _drive(far, base: str, work: Sequence[Booked], clients: int, number: int) -> None:
    rest, times, met = iter(work), list[float](), list[str]()
    guard = threading.Lock()
    lines = [Line(base, _ADDRESS.format(number, 1 + client)) for client in range(clients)]
    threads = [threading.Thread(target=_client, args=(line, rest, guard, times, met)) for line in lines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    far.send((times, met))


def _client(
    line: Line, rest: Iterator[Booked], guard: threading.Lock, times: list[float], met: list[str]
) -> None:
    with contextlib.closing(line):
        while True:
            with guard:
                booked = next(rest, None)
            if booked is None or met:
                return
            begun = time.perf_counter()
            try:
                enrol(line, booked)
            except Exception as error:  # noqa: BLE001 - a client that dies in silence would prove nothing
                met.append(f"machine {booked.machine.number}: {error!r}")
            times.append(time.perf_counter() - begun)
