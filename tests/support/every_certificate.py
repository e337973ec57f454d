"""One certificate of every kind and every type of key that this CA issues, all made by the real way of issuance.

A simulation CA with four revocation lists for each issuing CA and an OCSP service has enrolled TPMs in software until
every template had its certificate: EKs, IAKs in both forms, IDevIDs, the same from the Ephemeral CA, and one
TPM whose certificates are revoked. To make them takes some seconds of a processor, most of it for RSA keys.
"""

import functools
import hashlib
import itertools
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import amd_guest
import enrollment_world as w
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp

from ca_service.enrollment import Enroller, Limits, publish_all, revoke
from ca_service.keys import RootCa, load_root
from ca_service.profiles import key_kind, serial_hex
from ca_service.profiles.model import Profile
from ca_service.status import build_crl, parse_request, reply_to
from ca_service.store import CertificateState, Store
from vtpm.wire.enrollment import CertificatesReply
from vtpm.wire.templates import Role, templates

SHARDS = 4
HOUR = timedelta(hours=1)
EPHEMERAL = timedelta(days=amd_guest.DAYS)
"""The life of the ephemeral certificates."""

EKS = tuple(chosen.id for chosen in templates(Role.EK))
IDENTITIES = tuple(chosen.id for chosen in templates(Role.IAK))

FLEET = tuple((EKS[number :: len(IDENTITIES)], one, one) for number, one in enumerate(IDENTITIES))
"""Templates of TPMs that have one key of every template between them: EKs, IAK, IDevID."""
FORMED = tuple((("L-2",), one, "H-3") for one in IDENTITIES)
"""Templates of TPMs whose IAK certificates have the form of `iak-webauthn`, between them every kind of IAK."""


@dataclass(frozen=True)
class Issued:
    """A certificate and what it is.

    Attributes:
        profile: as `ca_service.profiles.Profile` names it.
        issuer: who signed: ``root``, ``ek``, ``devid`` or ``ephemeral``.
        template: of the TPM key; empty for keys of the CA.
        der: the certificate.
    """

    profile: Profile
    issuer: str
    template: str
    der: bytes = field(repr=False)

    @functools.cached_property
    def certificate(self) -> x509.Certificate:
        return x509.load_der_x509_certificate(self.der)

    @functools.cached_property
    def key(self) -> str:
        """The type of its key: ``RSA-2048``, ``P-384``."""
        spki = self.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return key_kind(spki)

    @property
    def ephemeral(self) -> bool:
        return self.issuer == "ephemeral"

    @property
    def device(self) -> bool:
        """Whether it is about a key of a TPM."""
        return bool(self.template)

    @property
    def role(self) -> Role:
        """Of the TPM's key."""
        return Role(self.profile.removesuffix("-webauthn"))

    @property
    def id(self) -> str:
        """A word for test reports."""
        words = ("ephemeral" if self.ephemeral and self.device else "", self.profile)
        words += (self.template, "" if self.device else self.issuer)
        return "-".join(word for word in words if word)

    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)


@dataclass(frozen=True)
class EveryCertificate:
    """The CA and what it has issued.

    Attributes:
        world: the CA and its surroundings; its clock stands at `at`.
        root: the root with its key.
        issued: good certificates: of devices, of OCSP responders, of the CAs, in this order.
        revoked: the certificates of one TPM, which stand on the lists.
        lists: DER of the revocation lists: the root's under ("root", 0), those of issuing CAs by role and shard.
    """

    world: w.World
    root: RootCa
    issued: tuple[Issued, ...]
    revoked: tuple[Issued, ...]
    lists: dict[tuple[str, int], bytes] = field(repr=False)

    @property
    def devices(self) -> tuple[Issued, ...]:
        return tuple(one for one in self.issued if one.device)

    @property
    def at(self) -> datetime:
        """When everything here holds: an hour after it was made."""
        return self.world.time

    def authority_of(self, role: str) -> x509.Certificate:
        """The certificate of the root or of an issuing CA."""
        return self.root.certificate if role == "root" else self.world.authority.issuer(role).certificate

    def one(self, profile: str, *, key: str = "", template: str = "", issuer: str = "") -> Issued:
        """The first good certificate of which these are true; an empty word is true of all."""
        return next(
            one
            for one in self.issued
            if one.profile == profile
            and key in ("", one.key)
            and template in ("", one.template)
            and issuer in ("", one.issuer)
        )

    def answer(self, about: Issued) -> bytes:
        """What the CA's OCSP service answers about a certificate, DER."""
        asked = ocsp.OCSPRequestBuilder().add_certificate(
            about.certificate, self.authority_of(about.issuer), hashes.SHA256()
        )
        return self.answer_to(asked.build().public_bytes(Encoding.DER))

    def answer_to(self, request: bytes) -> bytes:
        """What the CA's OCSP service answers to a request, both DER."""
        store = self.world.open_store()
        try:
            with store.read() as tx:
                return reply_to(tx, self.world.authority, parse_request(request), self.at).der
        finally:
            store.close()


def make(folder: Path, start: datetime = w.START) -> EveryCertificate:
    """Set the CA up in an empty folder at a time, and let it issue everything."""
    world = w.World.create(folder, shards=SHARDS, ocsp=True, at=start)
    store = world.new_store()
    try:
        return _filled(world, store, load_root(folder / "ca", w.PASSPHRASE))
    finally:
        store.close()
        world.close()


def _filled(world: w.World, store: Store, root: RootCa) -> EveryCertificate:
    world.apply(store, policy(world, "iak"))
    enroller = world.enroller(store)
    enroller.recover()
    customer = Customer(world, enroller)
    fleet = [w.SoftTpm(*templates_) for templates_ in FLEET]
    # The ledger binds no key for an ephemeral certificate, so the same TPMs may have lasting ones afterwards.
    ephemeral = [one for tpm in fleet for one in customer.passing(tpm)]
    issued = [one for tpm in fleet for one in customer.lasting(tpm)]
    condemned = customer.lasting(w.SoftTpm(("L-2",), "H-3", "H-2"))
    world.apply(store, policy(world, "iak-webauthn"))
    formed = [w.SoftTpm(*templates_) for templates_ in FORMED]
    ephemeral += [customer.passing(tpm)[1] for tpm in formed]
    issued += [customer.lasting(tpm)[1] for tpm in formed]
    at = world.time = world.time + HOUR
    for one in condemned:
        serial = serial_hex(one.certificate.serial_number)
        revoke(store, world.authority, serial, at=at, reason="keyCompromise", cause="tests", limits=Limits())
    publish_all(store, world.authority, at, Limits())
    roles = {ca.skid: ca.role for ca in world.authority.issuers}
    with store.read() as tx:
        responders = [
            Issued("ocsp", roles[row.issuer], "", row.der)
            for skid in roles
            for row in tx.responders.of_issuer(skid, CertificateState.ISSUED)
        ]
        newest = tx.crls.newest(list(roles))
    lists = {(roles[skid], shard): row.der for (skid, shard), row in newest.items()}
    lists["root", 0] = build_crl(root, [], 1, at, at + timedelta(days=90))
    cas = [
        Issued("issuing-ca", ca.role, "", ca.certificate.public_bytes(Encoding.DER))
        for ca in world.authority.issuers
    ]
    top = Issued("root-ca", "root", "", root.certificate.public_bytes(Encoding.DER))
    everything = (*sorted(issued, key=_place), *sorted(ephemeral, key=_place), *responders, *cas, top)
    return EveryCertificate(world, root, everything, tuple(condemned), lists)


def policy(world: w.World, iak_profile: str) -> str:
    """All templates and kinds of evidence are admitted."""

    def listed(words: tuple[str, ...]) -> str:
        return "[" + ", ".join(f'"{word}"' for word in words) + "]"

    return (
        amd_guest.policy(world)
        .replace('ek = ["L-1"]', f"ek = {listed(EKS)}")
        .replace('iak = ["H-3"]', f"iak = {listed(IDENTITIES)}")
        .replace('idevid = ["H-3"]', f'idevid = {listed(IDENTITIES)}\niak_profile = "{iak_profile}"')
    )


def _place(one: Issued) -> tuple[int, int]:
    order = EKS if one.profile == "ek" else IDENTITIES
    return ("ek", "iak", "iak-webauthn", "idevid").index(one.profile), order.index(one.template)


class Customer:
    """Enrols TPMs, each in a VM of its own."""

    def __init__(self, world: w.World, enroller: Enroller, name: str = "soft") -> None:
        self._world, self._enroller, self._name = world, enroller, name
        self._numbers = itertools.count(1)

    def _boot(self) -> w.Boot:
        resource = f"default/vtpm/{self._name}-{next(self._numbers)}"
        return w.Boot(resource=resource, secret=hashlib.sha256(resource.encode()).digest())

    def reply(self, tpm: w.SoftTpm) -> bytes:
        """The CA's answer with the certificates."""
        return w.issue(self._world, self._enroller, tpm, self._boot())

    def reply_for_passing(self, tpm: w.SoftTpm) -> bytes:
        """The same from the Ephemeral CA, for evidence of AMD's attestation protocol."""
        return amd_guest.Guest(self._world, self._enroller, tpm, self._boot()).issue(amd_guest.PROFILES[0])

    def lasting(self, tpm: w.SoftTpm) -> list[Issued]:
        """IDevID, IAK, EKs."""
        return read(self.reply(tpm), ("ek", "devid"))

    def passing(self, tpm: w.SoftTpm) -> list[Issued]:
        """The same from the Ephemeral CA."""
        return read(self.reply_for_passing(tpm), ("ephemeral", "ephemeral"))


def read(reply: bytes, issuers: tuple[str, str]) -> list[Issued]:
    """IDevID, IAK and EKs of an answer; `issuers` of the EKs, and of the others."""
    parsed = CertificatesReply.parse(reply)
    iak = x509.load_der_x509_certificate(parsed.iak.certificate)
    kinds = [("idevid", issuers[1], parsed.idevid)]
    kinds.append(("iak" if list(iak.subject) else "iak-webauthn", issuers[1], parsed.iak))
    kinds += [("ek", issuers[0], entry) for entry in parsed.ek]
    return [Issued(profile, issuer, one.template, one.certificate) for profile, issuer, one in kinds]
