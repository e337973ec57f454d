"""kill -9 of the CA before and after every write and every signature, one after the other.

A child process enrols a TPM and is killed at the n-th point; then the CA is started anew and the client tries again.
For every n: no certificate that the CA does not know, no second live one for a (profile, key), and the client succeeds.
"""

import multiprocessing
import os
import signal
from collections import Counter

import pytest
from cryptography import x509

from ca_service.judgment import Conflict, Refused
from ca_service.keys import issue as issue_module
from ca_service.store import CertificateState

FORK = multiprocessing.get_context("fork")
MOST_POINTS = 400
SHARES = 4
"""The points are tried in so many tests, for machines with several cores."""


class Crash:
    """Kills this process at the n-th point; counts them if there is no n."""

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.points: list[str] = []

    def __call__(self, point: str) -> None:
        self.points.append(point)
        if len(self.points) == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def _serve(world, tpm, body: bytes, crash: Crash, helpers, pipe, signed) -> None:
    """The CA's process: everything that leaves it goes through the pipe, every signature is noted at once."""
    real = issue_module.assemble

    def noted(*arguments):
        der = real(*arguments)
        signed.send_bytes(der)
        return der

    issue_module.assemble = noted
    store = world.open_store(crash)
    enroller = world.enroller(store, crash)
    enroller.recover()
    first = enroller.enroll(body)
    pipe.send_bytes(first.body)
    pipe.send_bytes(enroller.activate(*helpers.answer(tpm, first.body)))
    pipe.send_bytes("\n".join(crash.points).encode())


def _received(pipe) -> list[bytes]:
    found = []
    while pipe.poll():
        try:
            found.append(pipe.recv_bytes())
        except EOFError:
            break
    return found


def run(world, tpm, body, at, helpers) -> tuple[list[bytes], list[bytes], int]:
    """What left the process, what it signed, and how it ended."""
    near, far = FORK.Pipe(duplex=False)
    near_signed, far_signed = FORK.Pipe(duplex=False)
    child = FORK.Process(target=_serve, args=(world, tpm, body, Crash(at), helpers, far, far_signed))
    child.start()
    far.close()
    far_signed.close()
    child.join()
    return _received(near), _received(near_signed), child.exitcode


def retry(world, enroller, tpm, body: bytes, helpers) -> bytes:
    """What a client does whose request was cut off: the same again, and if that leads nowhere, with a new nonce."""
    try:
        reply = enroller.enroll(body)
        return reply.body if reply.status == 200 else enroller.activate(*helpers.answer(tpm, reply.body))
    except (Refused, Conflict):
        return helpers.issue(world, enroller, tpm)


def check(world, store, left: list[bytes], signed: list[bytes], reply: bytes, helpers) -> None:
    with store.read() as tx:
        assert tx.intents.open() == []
        rows = {int(row.serial, 16): row for row in tx.certificates.latest(1000)}
        crls = {
            ca.skid: x509.load_der_x509_crl(tx.crls.latest(ca.skid).der) for ca in world.authority.issuers
        }
    for der in signed:
        certificate = x509.load_der_x509_certificate(der)
        row = rows[certificate.serial_number]
        on_list = crls[row.issuer].get_revoked_certificate_by_serial_number(certificate.serial_number)
        if row.state is CertificateState.ISSUED:
            assert row.der == der
            assert on_list is None
        else:
            assert row.state is CertificateState.ABANDONED
            assert on_list is not None
    live = Counter(row.live for row in rows.values() if row.live is not None)
    assert len(live) == 3
    assert set(live.values()) == {1}
    assert all(row.state is not CertificateState.INTENDED for row in rows.values())
    stored = {row.der for row in rows.values() if row.state is CertificateState.ISSUED}
    for answer in [*left[1:2], reply]:
        parsed = helpers.CertificatesReply.parse(answer)
        assert {e.certificate for e in (*parsed.ek, parsed.iak, parsed.idevid)} == stored


@pytest.mark.parametrize("share", range(SHARES))
def test_killed_before_and_after_every_write(new_world, tpm, helpers, share):
    world = new_world("whole")
    body = world.body(_nonce(world), tpm)
    left, signed, code = run(world, tpm, body, None, helpers)
    assert code == 0
    points = left[2].decode().split("\n")
    assert len(signed) == 3
    wanted = (
        "INSERT INTO submissions",
        "INSERT INTO intents",
        "INSERT INTO certificates",
        "commit",
        "signing idevid",
    )
    for point in wanted:
        assert f"before {point}" in points
        assert f"after {point}" in points
    assert 40 < len(points) < MOST_POINTS
    for at in range(1 + share, len(points) + 1, SHARES):
        world = new_world(f"at-{at}")
        left, signed, code = run(world, tpm, body, at, helpers)
        assert code == -signal.SIGKILL, points[at - 1]
        store = world.open_store()
        enroller = world.enroller(store)
        enroller.recover()
        reply = retry(world, enroller, tpm, body, helpers)
        check(world, store, left, signed, reply, helpers)
        store.close()


def test_a_second_process_closes_what_a_killed_worker_left(new_world, tpm, helpers):
    """Without a restart: another worker of the same server meets the dead one's intent when the client retries."""
    world = new_world("workers")
    store = world.open_store()
    enroller = world.enroller(store)
    body = world.body(_nonce(world), tpm)
    whole, _, _ = run(new_world("count"), tpm, body, None, helpers)
    at = whole[2].decode().split("\n").index("after signing ek") + 1
    left, signed, code = run(world, tpm, body, at, helpers)
    assert (code, len(signed)) == (-signal.SIGKILL, 1)
    reply = enroller.activate(*helpers.answer(tpm, left[0]))
    check(world, store, left, signed, reply, helpers)
    store.close()


def _nonce(world) -> str:
    store = world.open_store()
    nonce = world.enroller(store).new_nonce().nonce
    store.close()
    return nonce
