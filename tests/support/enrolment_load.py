"""A load of enrolments over HTTP, by clients that retry as real ones do and write down all that they receive.

TPMs are `enrollment_world.SoftTpm`s; `Machine` is one VM with its TPM, resource and secret. `Client` enrols machines
one after the other over kept-alive connections, from an address of its own in 127.0.0.0/8, and fails over between the
CA's nodes. `Load` is several clients as threads.

What the clients received is in a `Record`: one JSON object a line, written before the client acts on it.
"""

import base64
import contextlib
import hashlib
import http.client
import itertools
import json
import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import enrollment_world as w
from cryptography.hazmat.primitives.asymmetric import rsa

from vtpm.wire.enrollment import EnrollmentRequest, Evidence
from vtpm.wire.runtime_data import PROFILE, RuntimeData, certify_qualifier, report_data
from vtpm.wire.templates import Role

CREATED, OK, FORBIDDEN, MISSING, CONFLICT = 201, 200, 403, 404, 409
AWAY = frozenset({429, 500, 502, 503, 504})
"""Statuses after which a client sends the same again. 500 is among them, and counted: none is expected."""

TIMEOUT_S = 30.0
_JSON = {"Content-Type": "application/json"}
_EXPONENT = 65537


class Stopped(Exception):
    """The load ends; what this client was at stays unfinished."""


class Unexpected(AssertionError):
    """The CA gave an answer that no client should ever get."""


# --- TPMs and machines ----------------------------------------------------------------------------------------------


def make_tpms(count: int) -> list[w.SoftTpm]:
    """So many TPMs, in little time; see `tpms`."""
    return list(itertools.islice(tpms(), count))


def tpms() -> Iterator[w.SoftTpm]:
    """TPMs without end, made as they are asked for, and none twice in one process.

    Their RSA moduli are the pairings of a few primes, all different, because to make an RSA key takes long. Good for
    load alone: whoever sees two of these moduli may find a common factor.
    """
    while True:
        with _PAIRING:
            pair = next(_PAIRS)
        yield _tpm(*pair)


def _pairs() -> Iterator[tuple[int, int]]:
    keys: list[rsa.RSAPrivateNumbers] = []
    while True:
        new = rsa.generate_private_key(_EXPONENT, 2048).private_numbers()
        pairs = [(new.p, old.q) for old in keys] + [(old.p, new.q) for old in keys] + [(new.p, new.q)]
        yield from (pair for pair in pairs if (pair[0] * pair[1]).bit_length() == 2048)
        keys.append(new)


_PAIRS = _pairs()
_PAIRING = threading.Lock()


def _tpm(p: int, q: int) -> w.SoftTpm:
    d = pow(_EXPONENT, -1, (p - 1) * (q - 1))
    public = rsa.RSAPublicNumbers(_EXPONENT, p * q)
    numbers = rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), public)
    ek = numbers.private_key(unsafe_skip_rsa_key_validation=True)
    return w.SoftTpm(keys=lambda of: ek if of.role is Role.EK else w.new_key(of))


@dataclass(frozen=True)
class _Named:
    """All that clients know of a CA."""

    ca_id: str
    directory: Path


def load_world(directory: Path, ca_id: str = "test-ca") -> w.World:
    """The world of the clients: platform, launch and KBS of ``directory``, at the present time; no key of the CA."""
    world = w.World(directory, _Named(ca_id, directory / "ca"))
    world.time = datetime.now(UTC).replace(microsecond=0)
    return world


@dataclass
class Machine:
    """A VM with its TPM, its own resource, secret and salt. `prepare` may be called before the load is measured."""

    world: w.World
    tpm: w.SoftTpm
    number: int
    prefix: str = "load"
    known: bool = False
    """It has received its certificates."""
    data: RuntimeData | None = field(default=None, repr=False)

    @property
    def boot(self) -> w.Boot:
        digest = hashlib.sha256(f"{self.prefix} {self.number}".encode()).digest()
        return w.Boot(resource=f"default/vtpm/{self.prefix}-{self.number}", secret=digest, salt=digest[:16])

    def prepare(self) -> RuntimeData:
        """Grant and statements, all but the nonce."""
        if self.data is None:
            self.world.time = datetime.now(UTC).replace(microsecond=0)
            self.data = self.world.runtime_data("", self.tpm, self.boot)
        return self.data

    def body(self, nonce: str, *, certify: bool = True) -> bytes:
        """The request to enrol with this nonce."""
        canonical = replace(self.prepare(), nonce=nonce).canonical()
        launch = self.world.launch
        evidence = Evidence(PROFILE, canonical, launch.report(report_data(canonical)), launch.cert_table())
        proof = self.tpm.certify(certify_qualifier(canonical)) if certify else None
        return w.encode(EnrollmentRequest(evidence, proof))


def machines(world: w.World, those: Iterable[w.SoftTpm], prefix: str = "load") -> Iterator[Machine]:
    """One machine per TPM, numbered, made as they are asked for."""
    return (Machine(world, tpm, number, prefix) for number, tpm in enumerate(those))


# --- what was received ----------------------------------------------------------------------------------------------


class Record:
    """Appends what the clients received to a file, one line per answer; safe for threads and forked processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._more = threading.Condition()
        self._answers = 0

    def __call__(self, **members: object) -> None:
        line = json.dumps({"at": round(time.time(), 6), **members}, separators=(",", ":")).encode() + b"\n"
        # One write: lines of several writers do not mix, and the kernel has it when the call returns.
        assert os.write(self._file, line) == len(line)
        if members.get("status"):
            with self._more:
                self._answers += 1
                self._more.notify_all()

    def until_more(self, count: int, seconds: float) -> bool:
        """Wait until this process has recorded so many more answers; says whether it did within the time."""
        with self._more:
            wanted = self._answers + count
            return self._more.wait_for(lambda: self._answers >= wanted, seconds)

    def close(self) -> None:
        os.close(self._file)


def read_record(path: Path) -> Iterator[dict]:
    """The lines of a record."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def certificates_in(value: object) -> Iterator[str]:
    """Every member ``certificate`` in an answer, base64url as it stands there."""
    if isinstance(value, dict):
        for name, member in value.items():
            if name == "certificate" and isinstance(member, str):
                yield member
            else:
                yield from certificates_in(member)
    elif isinstance(value, list):
        for member in value:
            yield from certificates_in(member)


def log_in(value: object) -> dict[str, list]:
    """What an answer says about the log, wherever it stands there: proofs and checkpoints."""
    found: dict[str, list] = {"proofs": [], "checkpoints": []}
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            if {"leaf", "position", "path"} <= item.keys():
                found["proofs"].append(item)
            if isinstance(item.get("checkpoint"), str):
                found["checkpoints"].append(unb64(item["checkpoint"]).decode())
            todo.extend(item.values())
        elif isinstance(item, list):
            todo.extend(item)
    return found


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


# --- HTTP -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes = field(repr=False)
    retry_after: float | None = None

    def json(self) -> dict:
        return json.loads(self.body)


class Caller:
    """One client's connections, one kept alive per node; status 0 stands for an answer that did not come."""

    def __init__(self, bases: Sequence[str], source: str | None, timeout_s: float = TIMEOUT_S) -> None:
        self.bases = tuple(bases)
        self._source = None if source is None else (source, 0)
        self._timeout = timeout_s
        self._open: dict[str, http.client.HTTPConnection] = {}

    def call(self, base: str, method: str, path: str, body: bytes = b"") -> Answer:
        """One request to one node; never raises for what a network or a dying server does."""
        connection = self._open.pop(base, None)
        if connection is None:
            where = urlsplit(base)
            connection = http.client.HTTPConnection(
                where.hostname, where.port, timeout=self._timeout, source_address=self._source
            )
        try:
            connection.request(method, path, body, _JSON if body else {})
            response = connection.getresponse()
            answer = Answer(response.status, response.read(), _seconds(response.getheader("Retry-After")))
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return Answer(0, type(error).__name__.encode())
        if response.will_close:
            connection.close()
        else:
            self._open[base] = connection
        return answer

    def close(self) -> None:
        for connection in self._open.values():
            connection.close()
        self._open.clear()


def _seconds(text: str | None) -> float | None:
    return float(text) if text and text.isdigit() else None


# --- clients --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Habits:
    """How the clients behave.

    Attributes:
        again: share of the enrolled machines that reboot and enrol once more, as known TPMs.
        replay: share of the enrolments whose every request is sent once more after the answer.
        hop: share of the requests that go to another node than the one before, though that one answers.
        most_wait_s: longest wait that is really waited, whatever ``Retry-After`` says.
        pause_s: wait after an answer that did not come.
        patience_s: how long one enrolment is retried before that counts as a fault of the CA.
    """

    again: float = 0.2
    replay: float = 0.1
    hop: float = 0.0
    most_wait_s: float = 1.0
    pause_s: float = 0.02
    patience_s: float = 60.0


@dataclass
class Figures:
    """What a load has done: counts by kind, and how long each whole enrolment took, in seconds."""

    counts: Counter = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    def add(self, other: "Figures") -> None:
        self.counts.update(other.counts)
        self.seconds.extend(other.seconds)
        self.unexpected.extend(other.unexpected)


class Client:
    """Enrols machines. `record` gets a line for every answer, before anything is done with it."""

    def __init__(
        self,
        name: int,
        bases: Sequence[str],
        record: Callable[..., None],
        habits: Habits = Habits(),
        stop: threading.Event | None = None,
        seed: int = 0,
    ) -> None:
        self.name = name
        self.figures = Figures()
        self._habits = habits
        self._record = record
        self._stop = stop or threading.Event()
        self._chance = random.Random(f"{seed} {name}")  # noqa: S311 - to be repeated, not to be secret
        # An address per client: limits per address count each by itself.
        self._caller = Caller(bases, f"127.{1 + name // 62_500}.{name // 250 % 250}.{1 + name % 250}")
        self._base = bases[name % len(bases)]

    def close(self) -> None:
        self._caller.close()

    def enrol(self, machine: Machine) -> None:
        """From nonce to certificates, however often it takes; then perhaps once more, as the habits say.

        Raises:
            Stopped: the load ends.
            Unexpected: an answer that no honest client should get, or none in time.
        """
        self._whole(machine, "enrolments")
        while self._chance.random() < self._habits.again:
            self._whole(machine, "known")

    def _whole(self, machine: Machine, kind: str) -> None:
        begun = time.monotonic()
        deadline = begun + self._habits.patience_s
        while not self._try(machine, deadline):
            pass
        machine.known = True
        self.figures.counts[kind] += 1
        if kind == "enrolments":
            self.figures.seconds.append(time.monotonic() - begun)

    def _try(self, machine: Machine, deadline: float) -> bool:
        """One nonce's worth; False if a new nonce is needed."""
        given = self._ask("nonce", "/v1/nonces", b"", deadline, machine=machine.number)
        if given.status != CREATED:
            raise self._unexpected("nonce", given)
        nonce = given.json()["nonce"]
        # A machine that has its certificates boots again without TPM2_Certify, every other time.
        body = machine.body(nonce, certify=not machine.known or self._chance.random() < 0.5)
        digest = hashlib.sha256(body).hexdigest()
        about = {"machine": machine.number, "nonce": nonce, "request": digest}
        first = self._ask("enroll", "/v1/enrollments", body, deadline, **about)
        if self._new_nonce("enroll", first):
            return False
        if first.status == OK:
            self._once_more("enroll", "/v1/enrollments", body, first, deadline, about)
            return True
        if first.status != CREATED:
            raise self._unexpected("enroll", first)
        self._once_more("enroll", "/v1/enrollments", body, first, deadline, about)
        enrolment, secrets = w.answer(machine.tpm, first.body)
        path = f"/v1/enrollments/{enrolment}/activation"
        about["enrolment"] = enrolment
        last = self._ask("activate", path, secrets, deadline, **about)
        if self._new_nonce("activate", last):
            return False
        if last.status != OK:
            raise self._unexpected("activate", last)
        self._once_more("activate", path, secrets, last, deadline, about)
        return True

    def _once_more(
        self, step: str, path: str, body: bytes, first: Answer, deadline: float, about: dict
    ) -> None:
        """Send the same again: the answer must be the same, byte for byte."""
        if self._chance.random() >= self._habits.replay:
            return
        second = self._ask(step, path, body, deadline, hop=True, **about)
        self.figures.counts["replays"] += 1
        if (second.status, second.body) != (first.status, first.body):
            raise self._unexpected(f"replayed {step}", second)

    def _new_nonce(self, step: str, answer: Answer) -> bool:
        if answer.status == CONFLICT:
            self.figures.counts[f"{step} 409"] += 1
            return True
        if answer.status == FORBIDDEN and answer.json().get("retryable"):
            self.figures.counts[f"{step} 403 {answer.json().get('rule')}"] += 1
            return True
        return False

    def _ask(
        self, step: str, path: str, body: bytes, deadline: float, *, hop: bool = False, **about: object
    ) -> Answer:
        """The same request until the CA answers it, at the next node when one does not."""
        if hop or (self._habits.hop and self._chance.random() < self._habits.hop):
            self._next_node()
        while True:
            if self._stop.is_set():
                raise Stopped
            answer = self._caller.call(self._base, "POST", path, body)
            self._note(step, answer, about)
            if answer.status and answer.status not in AWAY:
                return answer
            if answer.status in (429, 503) and answer.retry_after is None:
                raise self._unexpected(f"{step}: no Retry-After", answer)
            if time.monotonic() > deadline:
                raise self._unexpected(f"{step}: no answer in time", answer)
            self._next_node()
            wait = answer.retry_after if answer.status else self._habits.pause_s
            self._stop.wait(min(self._habits.pause_s if wait is None else wait, self._habits.most_wait_s))

    def _next_node(self) -> None:
        bases = self._caller.bases
        self._base = bases[(bases.index(self._base) + 1) % len(bases)]

    def _note(self, step: str, answer: Answer, about: dict) -> None:
        if not answer.status:
            self.figures.counts[f"{step} {answer.body.decode()}"] += 1
            self._record(client=self.name, node=self._base, step=step, status=0, **about)
            return
        members = dict(about)
        if answer.status in (OK, CREATED):
            told = answer.json()
            if step == "nonce":
                members["nonce"] = told["nonce"]
            members["certificates"] = list(certificates_in(told))
            if members["certificates"]:
                members["log"] = log_in(told)
            self.figures.counts["certificates"] += len(members["certificates"])
        else:
            members["problem"] = answer.body.decode(errors="replace")[:2000]
            self.figures.counts[f"{step} {answer.status}"] += answer.status in AWAY
        members["digest"] = hashlib.sha256(answer.body).hexdigest()
        self._record(client=self.name, node=self._base, step=step, status=answer.status, **members)

    def _unexpected(self, step: str, answer: Answer) -> Unexpected:
        return Unexpected(f"{step}: {answer.status} {answer.body[:600]!r}")


class Load:
    """Several clients as threads, working off one list of machines, or on and on over it."""

    def __init__(
        self,
        bases: Sequence[str],
        record: Callable[..., None],
        work: Iterable[Machine],
        clients: int,
        habits: Habits = Habits(),
        seed: int = 0,
    ) -> None:
        self.stop = threading.Event()
        self._work = iter(work)
        self._guard = threading.Lock()
        self.clients = [Client(n, bases, record, habits, self.stop, seed) for n in range(clients)]
        self._threads = [
            threading.Thread(target=self._run, args=(client,), name=f"client-{client.name}", daemon=True)
            for client in self.clients
        ]

    def start(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def _next(self) -> Machine | None:
        with self._guard:
            return next(self._work, None)

    def _run(self, client: Client) -> None:
        with contextlib.suppress(Stopped), contextlib.closing(client):
            while not self.stop.is_set() and (machine := self._next()) is not None:
                try:
                    client.enrol(machine)
                except Stopped:
                    raise
                except Exception as error:  # noqa: BLE001 - a client that dies in silence would prove nothing
                    told = str(error) if isinstance(error, Unexpected) else repr(error)
                    client.figures.unexpected.append(f"machine {machine.number}: {told}")

    @property
    def busy(self) -> bool:
        """Whether a client is still at work."""
        return any(thread.is_alive() for thread in self._threads)

    def figures(self) -> Figures:
        """All clients' figures up to now."""
        total = Figures()
        for client in self.clients:
            total.add(client.figures)
        return total

    def join(self, seconds: float) -> Figures:
        """Wait until all machines are enrolled; an assertion fails if that takes longer."""
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        assert not self.busy, f"the load did not end within {seconds} s: {self.figures().counts}"
        return self.figures()

    def end(self, seconds: float = TIMEOUT_S + 10) -> Figures:
        """Tell all clients to stop, and wait for them."""
        self.stop.set()
        return self.join(seconds)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


__all__ = [
    "Caller", "Client", "Figures", "Habits", "Load", "Machine", "Record", "Stopped", "Unexpected",
    "free_port", "load_world", "machines", "make_tpms", "read_record", "tpms",
]  # fmt: skip
