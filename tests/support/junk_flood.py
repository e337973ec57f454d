"""A flood of requests that prove nothing, from several clients and many addresses, as fast as the server answers.

Requests without credentials, contents that are no enrolment, and evidence that is genuine but for one bit of a
signature, a certificate or the nonce. `Flood` sends them pipelined over kept-alive connections and counts what comes
back, by kind and status; status 0 stands for a connection that ended before the answer.
"""

import contextlib
import json
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import enrollment_world as w
from enrolment_load import Machine

from vtpm.wire.enrollment import EnrollmentRequest
from vtpm.wire.runtime_data import certify_qualifier

AT_ONCE = 10
"""Requests that are sent before the first answer is read."""

TURNS = 8
"""So many times on one connection."""

_TIMEOUT_S = 60.0
_SIGNATURE = 0x2A0
"""Where the signature begins in a report (56860, table 23)."""


def post(path: str, body: bytes = b"") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: ca\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _forgeries(machine: Machine, nonce: str) -> Iterator[tuple[str, bytes]]:
    """Requests of a machine that the CA would certify, each with one thing wrong."""
    machine.prepare()
    genuine = EnrollmentRequest.parse(machine.body(nonce))
    evidence = genuine.evidence

    def with_report(place: int) -> bytes:
        report = bytearray(evidence.report)
        report[place] ^= 1
        return w.encode(replace(genuine, evidence=replace(evidence, report=bytes(report))))

    yield "signature", post("/v1/enrollments", with_report(_SIGNATURE + 3))
    yield "signed content", post("/v1/enrollments", with_report(0x90))
    canonical = evidence.runtime_data.replace(nonce.encode(), nonce[::-1].encode())
    wrong = replace(evidence, runtime_data=canonical)
    proof = machine.tpm.certify(certify_qualifier(canonical))
    yield "nonce", post("/v1/enrollments", w.encode(EnrollmentRequest(wrong, proof)))
    chain = (
        evidence.certificates[:-40] + bytes([evidence.certificates[-40] ^ 1]) + evidence.certificates[-39:]
    )
    cut = w.encode(replace(genuine, evidence=replace(evidence, certificates=chain)))
    yield "chain", post("/v1/enrollments", cut)


def _plain() -> Iterator[tuple[str, bytes]]:
    for _ in range(3):
        yield "unasked nonce", post("/v1/nonces")
    for body in (
        b"{",
        b'{"evidence":{},"evidence":{}}',
        b"[" * 3000,
        b'{"evidence":{"profile":"\\ud800"}}',
        b"\xff\xfe",
    ):
        yield "malformed", post("/v1/enrollments", body)
    yield "malformed", post("/v1/enrollments/00/activation", b'{"secrets":["AAAA"]}')
    yield "nowhere", b"GET /v1/enrollments/00 HTTP/1.1\r\nHost: ca\r\n\r\n"
    yield "nowhere", b"DELETE /v1/nonces HTTP/1.1\r\nHost: ca\r\n\r\n"
    yield "nowhere", post("/operator/v1/policy-show", b"{}")


class Flood:
    """So many requests by so many clients.

    Attributes:
        answers: how many of each (kind, status).
        sent: requests so far.
    """

    def __init__(
        self, port: int, new_machine: Callable[[], Machine], requests: int, clients: int, seed: int = 0
    ) -> None:
        self.answers: Counter[tuple[str, int]] = Counter()
        self.sent = 0
        self.broken: list[str] = []
        self._port = port
        self._left = requests
        self._new_machine = new_machine
        self._guard = threading.Lock()
        self._seed = seed
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"flood-{number}", daemon=True)
            for number in range(clients)
        ]

    def start(self) -> "Flood":
        for thread in self._threads:
            thread.start()
        return self

    @property
    def busy(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def join(self, seconds: float) -> "Flood":
        for thread in self._threads:
            thread.join(seconds)
        assert not self.busy, (self.sent, self.answers)
        assert not self.broken, self.broken
        return self

    def _take(self, most: int) -> int:
        with self._guard:
            taken = min(most, self._left)
            self._left -= taken
            self.sent += taken
            return taken

    def _run(self, number: int) -> None:
        chance = random.Random(f"{self._seed} {number}")  # noqa: S311 - to be repeated, not to be secret
        turn = 0
        try:
            with self._guard:
                machine = self._new_machine()
            while self._left:
                # From a new address each time: limits per address are another test's.
                source = f"127.{40 + number}.{turn // 250 % 250}.{1 + turn % 250}"
                self._converse(source, machine, chance)
                turn += 1
        except Exception as error:  # noqa: BLE001 - a thread that dies in silence would prove nothing
            self.broken.append(repr(error))

    def _converse(self, source: str, machine: Machine, chance: random.Random) -> None:
        """One connection: a nonce, and then junk that uses it."""
        with contextlib.ExitStack() as stack:
            connection = socket.create_connection(("127.0.0.1", self._port), _TIMEOUT_S, (source, 0))
            stack.enter_context(connection)
            reader = stack.enter_context(connection.makefile("rb"))
            if not self._take(1):
                return
            connection.sendall(post("/v1/nonces"))
            status, content = response(reader)
            self._count("unasked nonce", status)
            if status != 201:
                return
            junk = [*_forgeries(machine, json.loads(content)["nonce"]), *_plain()]
            for _ in range(TURNS):
                chosen = chance.choices(junk, k=self._take(AT_ONCE))
                if not chosen:
                    break
                with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                    connection.sendall(b"".join(data for _, data in chosen))
                for kind, _ in chosen:
                    self._count(kind, response(reader)[0])
            # Then something that is no request at all.
            with contextlib.suppress(OSError):
                connection.sendall(b"\x1b[31m\xff" + chance.randbytes(40) + b"\r\n\r\n")
                reader.read()

    def _count(self, kind: str, status: int) -> None:
        with self._guard:
            self.answers[kind, status] += 1


def response(reader) -> tuple[int, bytes]:
    """The next response of a connection: status and content; (0, b"") if there is none."""
    try:
        line = reader.readline()
        if not line:
            return 0, b""
        length = 0
        while field := reader.readline().strip():
            name, _, value = field.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return int(line.split()[1]), reader.read(length)
    except (ConnectionResetError, BrokenPipeError):
        return 0, b""
