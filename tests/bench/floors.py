"""What no enrolment can do without: its cryptography, and what the disk takes for a flush."""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

_FLUSHES = 200
_CERTIFICATES, _CHECKPOINTS = 3, 2
"""That an enrolment signs."""


def cpu_ms(work: Callable[[], object], repeats: int) -> float:
    """Median CPU time of one call, in milliseconds."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append((time.process_time() - start) * 1000)
    return statistics.median(times)


def bare_cryptography() -> Callable[[], None]:
    """What no enrolment can do without: three P-384 verifications and signatures, one RSA-2048 OAEP."""
    key, ek = ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)
    algorithm, data = ec.ECDSA(hashes.SHA384()), bytes(1184)
    signature = key.sign(data, algorithm)
    public, ek_public = key.public_key(), ek.public_key()
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), b"IDENTITY\x00")

    def work() -> None:
        for _ in range(3):
            public.verify(signature, data, algorithm)
            key.sign(data, algorithm)
        ek_public.encrypt(bytes(32), oaep)

    return work


def flush_ms(folder: Path) -> float:
    """Wall time of one 4 KiB write with fdatasync."""
    times = []
    with (folder / "flush").open("wb") as file:
        for _ in range(_FLUSHES):
            start = time.perf_counter()
            file.write(bytes(4096))
            file.flush()
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


def checks_of_own() -> Callable[[], None]:
    """What the CA does beyond the bare cryptography: it signs its log, and verifies all signatures that it makes."""
    key, log_key = ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()
    algorithm, data = ec.ECDSA(hashes.SHA384()), bytes(1184)
    signature = key.sign(data, algorithm)
    public, log_public = key.public_key(), log_key.public_key()

    def work() -> None:
        for _ in range(_CERTIFICATES):
            public.verify(signature, data, algorithm)
        for _ in range(_CHECKPOINTS):
            log_public.verify(log_key.sign(data), data)

    return work
