"""A CA in miniature: real certificates of the real profiles, without any judgement. Loaded by `conftest.py` files."""

import hashlib
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca_service.profiles import (
    IssuerInfo,
    Provenance,
    Validity,
    assemble,
    draft_devid,
    draft_ek,
    draft_issuing,
    draft_root,
    new_serial,
)
from vtpm.wire.enrollment import CertificateEntry, CertificatesReply
from vtpm.wire.runtime_data import TpmSpec
from vtpm.wire.templates import Role, name

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
URL = "http://ca.example.org"
VALIDITY = Validity.device_lifetime(NOW)
PROVENANCE = Provenance(
    kbs_thumbprint="NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs",
    resource="default/vtpm/one",
    measurement=bytes(48),
    policy_digest="ab" * 32,
    decision_id="0f8fad5b-d9cb-469f-a165-70867728950e",
    profile="svsm-vtpm-ca:1",
)


def serial():
    return new_serial(42, os.urandom)


def signed(draft, key):
    return assemble(draft.tbs, key.sign(draft.tbs, ec.ECDSA(hashes.SHA384())))


@dataclass
class Certifier:
    """Root, issuing CAs for EKs and for IAK and IDevID, and the certificates of a TPM's keys."""

    keys: dict = field(default_factory=dict)
    infos: dict = field(default_factory=dict)

    def __post_init__(self):
        common = {"organization": "Example", "mode": "simulation", "validity": VALIDITY}
        for role in ("root", "ek", "devid"):
            key = ec.generate_private_key(ec.SECP384R1())
            fields = {"public_key": key.public_key(), "serial": serial()} | common
            if role == "root":
                draft, above = draft_root(**fields), key
            else:
                draft = draft_issuing(role, pair="default", issuer=self.infos["root"], **fields)
                above = self.keys["root"]
            self.keys[role] = key
            certificate = x509.load_der_x509_certificate(signed(draft, above))
            self.infos[role] = IssuerInfo(certificate, URL, role)

    def _entry(self, role, template, der):
        chain = tuple(self.infos[r].certificate.public_bytes(Encoding.DER) for r in (role, "root"))
        return CertificateEntry(template, der, chain)

    def ek(self, key):
        draft = draft_ek(
            public=key.public,
            manufacturer="49424d00",
            vendor="SW   TPM",
            firmware="2019102300163636",
            spec=TpmSpec("2.0", "0", "164"),
            serial=serial(),
            validity=VALIDITY,
            issuer=self.infos["ek"],
            provenance=PROVENANCE,
        )
        return self._entry("ek", key.template, signed(draft, self.keys["ek"]))

    def devid(self, role, key, *, ek_key, ek_certificate, digest=None):
        draft = draft_devid(
            role,
            public=key.public,
            ek_name=name(ek_key.public),
            manufacturer="49424d00",
            ek_serial=x509.load_der_x509_certificate(ek_certificate).serial_number,
            ek_aki=self.infos["ek"].key_id,
            ek_digest=digest or hashlib.sha256(ek_certificate).hexdigest(),
            serial=serial(),
            validity=VALIDITY,
            issuer=self.infos["devid"],
            provenance=PROVENANCE,
        )
        return self._entry("devid", key.template, signed(draft, self.keys["devid"]))

    def certify(self, eks, iak, idevid):
        """The CA's answer for these keys."""
        entries = tuple(self.ek(ek) for ek in eks)
        names = {"ek_key": eks[0], "ek_certificate": entries[0].certificate}
        return CertificatesReply(
            "e" * 22,
            "d" * 22,
            entries,
            self.devid(Role.IAK, iak, **names),
            self.devid(Role.IDEVID, idevid, **names),
        )
