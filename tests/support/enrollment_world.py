"""A whole small world for tests of the CA: authority, database, KBS key, simulated platform, and TPMs in software.

The evidence is real in every byte: reports of the simulated platform, grants, TPM structures, signatures. Only the TPM
is written in Python here, because a test that enrols a hundred TPMs should not start a hundred processes.
"""

import hashlib
import hmac
import json
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from ca_service.enrollment import Desk, Enroller, FileLiveness, Judge
from ca_service.keys import Authority, AuthoritySource, CeremonyConfig, load_authority, run_ceremony
from ca_service.operations.issuers import ensure_issuers
from ca_service.policy import load
from ca_service.store import (
    EpochRow,
    Faults,
    Store,
    create_store,
    no_faults,
    open_store,
)
from vtpm.lab.allowlist import launch_entry, platform_entry
from vtpm.snp import Platform
from vtpm.wire.encoding import b64std
from vtpm.wire.enrollment import (
    ActivationRequest,
    CertificatesReply,
    Certify,
    ChallengeReply,
    EnrollmentRequest,
    Evidence,
)
from vtpm.wire.grant import GrantClaims, key_id, sign_grant
from vtpm.wire.jwk import EcJwk
from vtpm.wire.public_area import pack_public
from vtpm.wire.report import Product
from vtpm.wire.runtime_data import (
    PROFILE,
    KbsStatement,
    KeyStatement,
    RuntimeData,
    StoreStatement,
    TpmSpec,
    TpmStatement,
    certify_qualifier,
    report_data,
)
from vtpm.wire.templates import Role, name, parse_public, qualified_name, template

START = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
PASSPHRASE = b"a passphrase of the tests"
FIRMWARE = "2023112300000001"
RESOURCE = "default/vtpm/guest-a"


def _instance(role: Role, template_id: str, *parts: bytes) -> bytes:
    return pack_public(replace(parse_public(template(role, template_id).public), unique=parts))


def _sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def _take(data: bytes) -> tuple[bytes, bytes]:
    (size,) = struct.unpack_from(">H", data)
    return data[2 : 2 + size], data[2 + size :]


def _kdfa(seed: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    """KDFa with SHA-256 (TPM 2.0 Library, Part 1, section 11.4.10.2), for one block."""
    message = struct.pack(">I", 1) + label + b"\x00" + context + struct.pack(">I", bits)
    return hmac.digest(seed, message, "sha256")[: bits // 8]


def _thumbprint(private_value: int) -> str:
    return EcJwk.from_key(ec.derive_private_key(private_value, ec.SECP521R1()).public_key()).thumbprint()


class SoftTpm:
    """EK L-1, IAK and IDevID H-3, TPM2_Certify and TPM2_ActivateCredential, in plain Python."""

    def __init__(self, ek: rsa.RSAPrivateKey | None = None) -> None:
        self._ek = ek or rsa.generate_private_key(65537, 2048)
        self._iak = ec.generate_private_key(ec.SECP384R1())
        self._idevid = ec.generate_private_key(ec.SECP384R1())
        modulus = self._ek.public_key().public_numbers().n.to_bytes(256, "big")
        self.ek = KeyStatement("L-1", _instance(Role.EK, "L-1", modulus))
        self.iak = KeyStatement("H-3", _instance(Role.IAK, "H-3", *self._point(self._iak)))
        self.idevid = KeyStatement("H-3", _instance(Role.IDEVID, "H-3", *self._point(self._idevid)))

    @staticmethod
    def _point(key: ec.EllipticCurvePrivateKey) -> tuple[bytes, bytes]:
        point = key.public_key().public_numbers()
        return point.x.to_bytes(48, "big"), point.y.to_bytes(48, "big")

    def statement(self) -> TpmStatement:
        return TpmStatement(
            (self.ek,), self.iak, self.idevid, "49424d00", "SW   TPM", FIRMWARE, TpmSpec("2.0", "0", "164"),
            "manufactured",
        )  # fmt: skip

    def certify(self, qualifier: bytes) -> Certify:
        attest = (
            struct.pack(">IH", 0xFF544347, 0x8017)
            + _sized(qualified_name(self.iak.public))
            + _sized(qualifier)
            + struct.pack(">QIIB", 1000, 1, 0, 1)
            + bytes.fromhex(FIRMWARE)
            + _sized(name(self.idevid.public))
            + _sized(qualified_name(self.idevid.public))
        )
        r, s = decode_dss_signature(self._iak.sign(attest, ec.ECDSA(hashes.SHA384())))
        parts = _sized(r.to_bytes(48, "big")) + _sized(s.to_bytes(48, "big"))
        return Certify(attest, struct.pack(">HH", 0x0018, 0x000C) + parts)

    def activate(self, credential_blob: bytes, secret: bytes) -> bytes:
        """TPM2_ActivateCredential for the IAK (TPM 2.0 Library, Part 1, section 24)."""
        oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), b"IDENTITY\x00")
        seed = self._ek.decrypt(_take(secret)[0], oaep)
        integrity, encrypted = _take(_take(credential_blob)[0])
        iak_name = name(self.iak.public)
        wanted = hmac.digest(_kdfa(seed, b"INTEGRITY", b"", 256), encrypted + iak_name, "sha256")
        assert hmac.compare_digest(wanted, integrity)
        key = _kdfa(seed, b"STORAGE", iak_name, 128)
        plain = Cipher(algorithms.AES(key), CFB(bytes(16))).decryptor().update(encrypted)
        return _take(plain)[0]


@dataclass(frozen=True)
class Boot:
    """One boot of a VM: what differs from enrolment to enrolment. `change` may replace any runtime data."""

    resource: str = RESOURCE
    secret: bytes = field(default=bytes(range(32)), repr=False)
    origin: str = "kbs-generated"
    counter: int = 1
    salt: bytes = bytes(16)
    vmpl: int = 0
    kbs: ec.EllipticCurvePrivateKey | None = None
    certify: bool = True
    change: Callable[[RuntimeData], RuntimeData] = lambda data: data
    change_grant: Callable[[str], str] = lambda grant: grant
    change_claims: Callable[[GrantClaims], GrantClaims] = lambda claims: claims


class World:
    """Everything around the CA, and the CA itself in `directory`; several may open the same directory."""

    def __init__(self, directory: Path, authority: Authority | None = None, url: str | None = None) -> None:
        self.directory = directory
        self.time = START
        self.kbs = ec.derive_private_key(0xB0B, ec.SECP384R1())
        self.platform = Platform.load(directory / "platform")
        self.launch = self.platform.launch([(0x1000 * i, bytes([i]) * 4096) for i in range(2)])
        # To open the sealed keys is slow on purpose; copies of one CA may share them.
        self.authority = authority or load_authority(directory / "ca", PASSPHRASE)
        self.url = url or f"sqlite:///{directory}/ca.sqlite3"

    @classmethod
    def create(cls, directory: Path) -> "World":
        config = CeremonyConfig(
            mode="simulation", organization="Tests", publication_url="http://ca.test", ca_id="test-ca"
        )
        run_ceremony(directory / "ca", config, PASSPHRASE, clock=lambda: START, entropy=os.urandom)
        Platform.create(directory / "platform", Product.MILAN, clock=lambda: START)
        return cls(directory)

    def policy(self, *, extra: str = "", status: str = "trusted", shared: str = "false") -> str:
        jwk = EcJwk.from_key(self.kbs.public_key()).members()
        inline = ", ".join(f'{k} = "{v}"' for k, v in jwk.items())
        return f"""
schema = 1
[grant]
max_age_s = 3600
[[kbs]]
id = "org-kbs"
label = "the organisation's"
status = "{status}"
origins = ["kbs-generated"]
[[kbs.key]]
jwk = {{ {inline} }}
[[kbs.resource]]
pattern = "default/vtpm/*"
shared = {shared}
{launch_entry("simulated", self.launch.measurement, ("verifies-grants", "reports-state"))}
[tpm]
ek = ["L-1"]
iak = ["H-3"]
idevid = ["H-3"]
[store]
formats = ["cocoonfs/1"]
{extra}
{platform_entry()}
"""

    def new_store(self, faults: Faults = no_faults) -> Store:
        return create_store(self.url, faults)

    def open_store(self, faults: Faults = no_faults) -> Store:
        return open_store(self.url, faults)

    def apply(self, store: Store, text: str) -> None:
        with store.write() as tx:
            tx.policies.append(load(text).digest, text, self.time, "tests")

    def enroller(self, store: Store, faults: Faults = no_faults, judge: Judge | None = None) -> Enroller:
        authority = self.authority
        with store.write() as tx:
            if tx.epochs.current() is None:
                tx.epochs.begin(EpochRow(1, "00" * 32, self.time, "tests"))
        ensure_issuers(store, authority, self.time)
        return Enroller(
            Desk(
                source=AuthoritySource(self.directory / "ca", lambda: authority),
                store=store,
                judge=judge or Judge.of(authority.ca_id, authority.mode),
                liveness=FileLiveness(self.directory / "run"),
                clock=lambda: self.time,
                entropy=os.urandom,
                faults=faults,
            )
        )

    def later(self, **step: int) -> None:
        self.time += timedelta(**step)

    def grant(self, boot: Boot) -> str:
        issued = int(self.time.timestamp()) - 1
        claims = GrantClaims(
            epk_jkt=_thumbprint(0xE9),
            tee_jkt=_thumbprint(0x7EE),
            nonce=b64std(bytes(32)),
            key_id=key_id(boot.secret),
            resource=boot.resource,
            origin=boot.origin,
            report_id=self.launch.report_id,
            policy="00" * 32,
            iat=issued,
            exp=issued + 300,
        )
        return boot.change_grant(sign_grant(boot.change_claims(claims), boot.kbs or self.kbs))

    def runtime_data(self, nonce: str, tpm: SoftTpm, boot: Boot) -> RuntimeData:
        session = EcJwk.from_key(ec.generate_private_key(ec.SECP256R1()).public_key())
        kbs = EcJwk.from_key((boot.kbs or self.kbs).public_key())
        data = RuntimeData(
            aud=self.authority.ca_id,
            nonce=nonce,
            session=session,
            tpm=tpm.statement(),
            kbs=KbsStatement(kbs, self.grant(boot)),
            store=StoreStatement(
                mode="persistent",
                format="cocoonfs/1",
                salt=boot.salt,
                created="this-boot",
                key_id=key_id(boot.secret),
                counter=boot.counter,
                root=hashlib.sha256(str(boot.counter).encode()).digest(),
            ),
        )
        return boot.change(data)

    def request(self, nonce: str, tpm: SoftTpm, boot: Boot = Boot()) -> EnrollmentRequest:
        canonical = self.runtime_data(nonce, tpm, boot).canonical()
        report = self.launch.report(report_data(canonical), boot.vmpl)
        evidence = Evidence(PROFILE, canonical, report, self.launch.cert_table())
        return EnrollmentRequest(
            evidence, tpm.certify(certify_qualifier(canonical)) if boot.certify else None
        )

    def body(self, nonce: str, tpm: SoftTpm, boot: Boot = Boot()) -> bytes:
        return encode(self.request(nonce, tpm, boot))


def encode(message: object) -> bytes:
    return json.dumps(message.to_json()).encode()


def answer(tpm: SoftTpm, reply: bytes) -> tuple[str, bytes]:
    """The enrolment's id and the body that answers its challenges."""
    challenge = ChallengeReply.parse(reply)
    secrets = tuple(tpm.activate(c.credential_blob, c.secret) for c in challenge.challenges)
    return challenge.id, encode(ActivationRequest(secrets))


def issue(world: World, enroller: Enroller, tpm: SoftTpm, boot: Boot = Boot()) -> bytes:
    """Enrol a TPM from nonce to certificates."""
    reply = enroller.enroll(world.body(enroller.new_nonce().nonce, tpm, boot))
    if reply.status == 200:
        return reply.body
    return enroller.activate(*answer(tpm, reply.body))


def ders(reply: bytes) -> list[bytes]:
    """The certificates in an answer; what it says about the log differs from answer to answer."""
    return [entry.certificate for entry in CertificatesReply.parse(reply).entries]


__all__ = ["Boot", "CertificatesReply", "SoftTpm", "World", "answer", "ders", "encode", "issue"]
