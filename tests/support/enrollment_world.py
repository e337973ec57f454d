"""A whole small world for tests of the CA: authority, database, KBS key, simulated platform, and TPMs in software.

The evidence is real in every byte: reports of the simulated platform, grants, TPM structures, signatures. Only the TPM
is written in Python, see `soft_tpm`.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from soft_tpm import FIRMWARE, SoftTpm, new_key

from ca_service.enrollment import Desk, Enroller, Judge, Limits
from ca_service.enrollment.liveness import Liveness, liveness_for
from ca_service.keys import (
    Authority,
    AuthoritySource,
    CeremonyConfig,
    PublicationRule,
    load_authority,
    run_ceremony,
)
from ca_service.operations import OperationContext, ensure_issuers, perform
from ca_service.policy import load
from ca_service.store import (
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
    ChallengeReply,
    EnrollmentRequest,
    Evidence,
)
from vtpm.wire.grant import GrantClaims, key_id, sign_grant
from vtpm.wire.jwk import EcJwk
from vtpm.wire.report import Product
from vtpm.wire.runtime_data import (
    PROFILE,
    KbsStatement,
    RuntimeData,
    StoreStatement,
    certify_qualifier,
    report_data,
)

START = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
PASSPHRASE = b"a passphrase of the tests"
RESOURCE = "default/vtpm/guest-a"


def _thumbprint(private_value: int) -> str:
    return EcJwk.from_key(ec.derive_private_key(private_value, ec.SECP521R1()).public_key()).thumbprint()


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
        opened = authority or load_authority(directory / "ca", PASSPHRASE)
        self.authority = replace(opened, directory=directory / "ca")
        self.url = url or f"sqlite:///{directory}/ca.sqlite3"
        self._livenesses: list[Liveness] = []

    @classmethod
    def create(cls, directory: Path, shards: int = 1, *, ocsp: bool = False, at: datetime = START) -> "World":
        config = CeremonyConfig(
            mode="simulation",
            organization="Tests",
            publication_url="http://ca.test",
            ca_id="test-ca",
            publication=PublicationRule(shards=shards, ocsp=ocsp),
        )
        run_ceremony(directory / "ca", config, PASSPHRASE, clock=lambda: at, entropy=os.urandom)
        Platform.create(directory / "platform", Product.MILAN, clock=lambda: at)
        made = cls(directory)
        made.time = at
        return made

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
unconstrained = ["release-policy"]
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
        ensure_issuers(store, authority, self.time)
        return Enroller(
            Desk(
                source=AuthoritySource(self.directory / "ca", lambda: authority),
                store=store,
                judge=judge or Judge.of(authority.ca_id, authority.mode),
                liveness=self._liveness(),
                clock=lambda: self.time,
                entropy=os.urandom,
                faults=faults,
            )
        )

    def _liveness(self) -> Liveness:
        made = liveness_for(self.url, self.directory / "run")
        self._livenesses.append(made)
        return made

    def close(self) -> None:
        """End the claims to live of all enrollers made here."""
        for liveness in self._livenesses:
            liveness.close()

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
    secrets = tuple(tpm.activate(c.credential_blob, c.secret, i) for i, c in enumerate(challenge.challenges))
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


def operate(world: World, store: Store, name: str, **arguments: object) -> object:
    """Do what an operator does on the CA's own machine."""
    authority = world.authority
    context = OperationContext(authority, lambda: authority, store, lambda: world.time, "alice", Limits())
    return perform(context, name, arguments)


def certificates(reply: bytes) -> list[x509.Certificate]:
    """The certificates in an answer: EKs, IAK, IDevID."""
    return [x509.load_der_x509_certificate(der) for der in ders(reply)]


def signers(authority: Authority, reply: bytes) -> list[tuple[str, int]]:
    """Who signed each certificate of an answer, by signature and not by word: role and generation."""
    found = []
    for certificate in certificates(reply):
        for ca in authority.issuers:
            try:
                certificate.verify_directly_issued_by(ca.certificate)
            except (ValueError, InvalidSignature):
                continue
            found.append((ca.role, ca.generation))
    return found


__all__ = [
    "FIRMWARE",
    "Boot",
    "CertificatesReply",
    "SoftTpm",
    "World",
    "answer",
    "certificates",
    "ders",
    "encode",
    "issue",
    "new_key",
    "operate",
    "signers",
]
