"""A real CA with a TPM's real certificates, its lists, and its keys to certify what it never would."""

import base64
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property

import enrollment_world as w
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp

from ca_service.export.relying import Trust
from ca_service.keys import load_root
from ca_service.profiles import (
    Provenance,
    Validity,
    assemble,
    draft_ek,
    draft_ocsp,
    new_serial,
)
from ca_service.status import build_crl
from ca_service.status.ocsp import Answer, build_response, parse_request
from vtpm.wire.runtime_data import TpmSpec

AT = w.START + timedelta(hours=1)
DAY = timedelta(days=1)


@dataclass(frozen=True)
class SoftSigner:
    key: ec.EllipticCurvePrivateKey

    def public_key(self):
        return self.key.public_key()

    def sign(self, data):
        return self.key.sign(data, ec.ECDSA(hashes.SHA384()))


def new_signer():
    return SoftSigner(ec.generate_private_key(ec.SECP384R1()))


def signed(tbs, signer):
    return assemble(tbs, signer.sign(tbs))


def loaded(der):
    return x509.load_der_x509_certificate(der)


def crl_place(certificate):
    return (
        certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value[0].full_name[0].value
    )


@dataclass(frozen=True)
class Stage:
    """Everything in memory: after it is made, no file is read."""

    world: w.World
    root: object
    tpm: w.SoftTpm
    ek: bytes
    iak: bytes
    idevid: bytes

    def issuer(self, role):
        return self.world.authority.issuer(role)

    @cached_property
    def issuers(self):
        return tuple(ca.certificate for ca in self.world.authority.issuers)

    def list_of(self, role, revoked=(), number=1, made=AT, life=DAY, scope=None):
        issuer = self.root if role == "root" else self.issuer(role)
        entries = [(serial, made, "keyCompromise") for serial in revoked]
        return build_crl(issuer, entries, number, made, made + life, scope=scope)

    @cached_property
    def lists(self):
        return {role: self.list_of(role) for role in ("root", "ek", "devid", "ephemeral")}

    def trust(self, **changed):
        lists = {**self.lists, **changed}
        return Trust(self.root.certificate, self.issuers, tuple(der for der in lists.values() if der))

    def draft(self, role="ek", at=AT, **changes):
        """An EK certificate's draft under the issuing CA of a role."""
        values = {
            "public": self.tpm.ek.public,
            "manufacturer": "49424d00",
            "vendor": "SW   TPM",
            "firmware": "2019102300163636",
            "spec": TpmSpec("2.0", "0", "164"),
            "serial": new_serial(42, lambda n: bytes([7] * n)),
            "validity": Validity.device_lifetime(at),
            "issuer": self.issuer(role).info,
            "provenance": provenance(),
        }
        return draft_ek(**(values | changes))

    def craft(self, role="ek", **changes):
        return signed(self.draft(role, **changes).tbs, self.issuer(role).signer)

    def rebuilt(self, der, role, *, without=(), extra=(), subject=None, key=None):
        """The certificate with some extensions left out, added or exchanged, signed by the CA's own key."""
        old = loaded(der)
        builder = (
            x509.CertificateBuilder()
            .subject_name(old.subject if subject is None else subject)
            .issuer_name(old.issuer)
            .public_key(key or old.public_key())
            .serial_number(old.serial_number)
            .not_valid_before(old.not_valid_before_utc)
            .not_valid_after(old.not_valid_after_utc)
        )
        for extension in old.extensions:
            if extension.oid.dotted_string not in without:
                builder = builder.add_extension(extension.value, extension.critical)
        for value, critical in extra:
            builder = builder.add_extension(value, critical)
        tbs = builder.sign(new_signer().key, hashes.SHA384()).tbs_certificate_bytes
        return signed(tbs, self.root.signer if role == "root" else self.issuer(role).signer)

    @cached_property
    def ephemeral(self):
        return self.craft("ephemeral", validity=Validity.ephemeral(AT, 7, AT + 9 * DAY))

    @cached_property
    def answer(self):
        return self.ocsp(self.ek)

    def ocsp(
        self,
        der,
        role="ek",
        *,
        by=None,
        at=AT,
        life=timedelta(hours=1),
        responder=None,
        nonce_critical=None,
        **answer,
    ):
        """An answer about a certificate, by the responder of an issuing CA."""
        issuer = self.issuer(role)
        key = ec.generate_private_key(ec.SECP256R1())
        signer = self.issuer(by or role)
        draft = draft_ocsp(
            public_key=key.public_key(),
            serial=new_serial(42, lambda n: bytes([9] * n)),
            validity=Validity.bounded(at, 7),
            issuer=signer.info,
        )
        request = ocsp.OCSPRequestBuilder().add_certificate(loaded(der), issuer.certificate, hashes.SHA256())
        (cert_id,) = parse_request(request.build().public_bytes(Encoding.DER)).cert_ids
        own = responder or signed(draft.tbs, signer.signer)
        if nonce_critical is not None:
            builder = ocsp.OCSPResponseBuilder().responder_id(ocsp.OCSPResponderEncoding.HASH, loaded(own))
            builder = builder.certificates([loaded(own)]).add_response(
                loaded(der),
                issuer.certificate,
                hashes.SHA256(),
                ocsp.OCSPCertStatus.GOOD,
                at,
                at + life,
                None,
                None,
            )
            builder = builder.add_extension(x509.OCSPNonce(bytes(16)), critical=nonce_critical)
            return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
        return build_response(
            [Answer(cert_id, **({"known": True} | answer))],
            certificate=own,
            key=key,
            this_update=at,
            next_update=at + life,
            nonce=None,
        )


def make_stage(folder):
    """The stage in an empty folder: a CA whose one TPM has its certificates."""
    world = w.World.create(folder, shards=4, ocsp=True)
    store = world.new_store()
    world.apply(store, world.policy())
    enroller = world.enroller(store)
    tpm = w.SoftTpm()
    ek, iak, idevid = w.ders(w.issue(world, enroller, tpm))
    root = load_root(world.directory / "ca", w.PASSPHRASE)
    store.close()
    world.close()
    return Stage(world, root, tpm, ek, iak, idevid)


def provenance(**changes):
    values = {
        "kbs_thumbprint": "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs",
        "resource": "default/vtpm/other",
        "measurement": bytes(range(48)),
        "policy_digest": "ab" * 32,
        "decision_id": "0f8fad5b-d9cb-469f-a165-70867728950e",
        "profile": "svsm-vtpm-ca:1",
    }
    return Provenance(**(values | changes))


def pem_of(spki_key):
    return spki_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def tpm2b(public):
    return base64.b64encode(len(public).to_bytes(2, "big") + public).decode()


def shown(stage, **changes):
    """The environment as keylime 7.14 sets it."""
    values = {
        "AGENT_UUID": "d432fbb3-d2f1-4a97-9ef7-75bd81c00000",
        "EK_CERT": base64.b64encode(stage.ek).decode(),
        "EK": pem_of(loaded(stage.ek).public_key()),
        "EK_TPM": tpm2b(stage.tpm.ek.public),
        "PROVKEYS": "{}",
        "TPM_CERT_STORE": "/var/lib/keylime/tpm_cert_store",
    }
    return values | changes
