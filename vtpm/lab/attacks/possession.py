"""Proof of what an attacker has gained: a TPM with certified keys that is in the attacker's own hands."""

import os
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from vtpm.errors import VtpmError
from vtpm.lab.throwaway import ThrowawayCa
from vtpm.svsm.records import parse_keys
from vtpm.tpm import Swtpm, TpmKeys, certify_idevid, manufacture
from vtpm.volume import TpmRecord, open_volume, read_tpm
from vtpm.wire.templates import Role, parse_public, template


class NothingGained(VtpmError):
    """No rule said no, and yet the attacker has nothing to show: the attack is none."""


@contextmanager
def own_tpm() -> Iterator[tuple[Swtpm, TpmKeys]]:
    """A TPM that the attacker has made, with keys after the same templates as the victims'."""
    with Swtpm() as tpm:
        tpm.power_on(None)
        keys = manufacture(
            tpm, (template(Role.EK, "L-2"),), template(Role.IAK, "H-3"), template(Role.IDEVID, "H-3")
        )
        yield tpm, keys


def _record(disk: Path, secret: bytes) -> TpmRecord:
    copy = disk.with_suffix(f".{os.urandom(4).hex()}")
    shutil.copyfile(disk, copy)
    with open_volume(copy, secret) as volume:
        record = read_tpm(volume)
    if record is None:
        raise NothingGained("there is no TPM on the disk")
    return record


def recorded_keys(disk: Path, secret: bytes) -> TpmKeys:
    """Which keys the TPM on a disk has, read from a copy by somebody who knows the volume's secret."""
    return parse_keys(_record(disk, secret).keys)


@contextmanager
def opened(disk: Path, secret: bytes) -> Iterator[tuple[Swtpm, TpmKeys]]:
    """The TPM on a copy of a disk, powered on by an attacker who knows the volume's secret."""
    record = _record(disk, secret)
    with Swtpm() as tpm:
        tpm.power_on(record.state)
        yield tpm, parse_keys(record.keys)


def certificate_of(ca: ThrowawayCa, public: bytes) -> x509.Certificate | None:
    """The issued certificate for a TPM key (TPMT_PUBLIC), if there is one."""
    spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    wanted = parse_public(public, "public").public_key().public_bytes(*spki)
    return next((c for c in ca.certificates() if c.public_key().public_bytes(*spki) == wanted), None)


def certified(ca: ThrowawayCa, public: bytes, what: str) -> x509.Certificate:
    """The issued certificate for a TPM key, or `NothingGained`."""
    found = certificate_of(ca, public)
    if found is None:
        raise NothingGained(f"the CA has certified no {what}")
    return found


def sign_as_certified(ca: ThrowawayCa, tpm: Swtpm, keys: TpmKeys) -> x509.Certificate:
    """Have this TPM's IAK sign a fresh challenge, and verify it under the certificate that the CA issued.

    Raises:
        NothingGained: there is no certificate, or the signature does not hold under it.
    """
    certificate = certified(ca, keys.iak.public, "IAK of this TPM")
    challenge = os.urandom(32)
    attest, signature = certify_idevid(tpm, keys, challenge)
    if challenge not in attest or not _holds(certificate, attest, signature):
        raise NothingGained("the TPM does not sign as the certificate says")
    return certificate


def attackers_tpm(ca: ThrowawayCa, tpm: Swtpm, keys: TpmKeys) -> str:
    """Prove that a TPM in the attacker's hands has a certified IAK; raises `NothingGained`."""
    certificate = sign_as_certified(ca, tpm, keys)
    return (
        f"IAK certificate {certificate.serial_number:x}, whose key signs in a TPM of the attacker's own: "
        "its state, its seeds and every quote are the attacker's"
    )


def _holds(certificate: x509.Certificate, attest: bytes, signature: bytes) -> bool:
    """Whether a TPMT_SIGNATURE (ECDSA with SHA-384) over `attest` holds under a certificate."""
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    numbers, rest = [], signature[4:]
    for _ in range(2):
        (size,) = struct.unpack_from(">H", rest)
        numbers.append(int.from_bytes(rest[2 : 2 + size], "big"))
        rest = rest[2 + size :]
    try:
        key.verify(encode_dss_signature(*numbers), attest, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        return False
    return True
