"""A small hierarchy in memory, TPM public areas, and a way to change one thing in a draft."""

import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from draft_bytes import with_tbs

from ca_service.profiles import (
    IssuerInfo,
    Provenance,
    Validity,
    assemble,
    draft_devid,
    draft_ek,
    draft_iak_webauthn,
    draft_issuing,
    draft_root,
    new_serial,
)
from vtpm.wire.public_area import ALG_ECDSA, CURVE_IDS, PublicArea, Scheme, Symmetric, pack_public
from vtpm.wire.runtime_data import TpmSpec
from vtpm.wire.templates import Role, name

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
URL = "http://ca.example.org"


@dataclass(frozen=True)
class Ca:
    info: IssuerInfo
    key: ec.EllipticCurvePrivateKey


def _signed(tbs, key):
    return x509.load_der_x509_certificate(assemble(tbs, key.sign(tbs, ec.ECDSA(hashes.SHA384()))))


@pytest.fixture(scope="session")
def serial():
    return lambda: new_serial(42, os.urandom)


@pytest.fixture(scope="session")
def cas(serial):
    lifetime = Validity.device_lifetime(NOW)
    common = {"organization": "Example", "mode": "simulation", "validity": lifetime}
    key = ec.generate_private_key(ec.SECP384R1())
    draft = draft_root(public_key=key.public_key(), serial=serial(), **common)
    root = Ca(IssuerInfo(_signed(draft.tbs, key), URL, "root"), key)
    made = {"root": root, "root_draft": draft}
    for role in ("ek", "devid", "ephemeral"):
        key = ec.generate_private_key(ec.SECP384R1())
        draft = draft_issuing(
            role, pair="default", public_key=key.public_key(), serial=serial(), issuer=root.info, **common
        )
        made[role] = Ca(IssuerInfo(_signed(draft.tbs, root.key), URL, role), key)
        made[f"{role}_draft"] = draft
    return SimpleNamespace(**made)


def tpm_public(key):
    """A TPMT_PUBLIC around a key; what the attributes say does not matter to the profiles."""
    common = {
        "name_alg": "sha256",
        "attributes": 0x300B2,
        "policy": b"",
        "symmetric": Symmetric(),
        "kdf": Scheme(),
    }
    if isinstance(key, rsa.RSAPublicKey):
        modulus = key.public_numbers().n.to_bytes(key.key_size // 8, "big")
        area = PublicArea(
            kind="rsa", scheme=Scheme(), bits=key.key_size, curve=0, exponent=0, unique=(modulus,), **common
        )
    else:
        size = (key.curve.key_size + 7) // 8
        numbers = key.public_numbers()
        area = PublicArea(
            kind="ecc",
            scheme=Scheme(ALG_ECDSA, 0x000B),
            bits=key.curve.key_size,
            curve=CURVE_IDS[key.curve.key_size],
            exponent=0,
            unique=(numbers.x.to_bytes(size, "big"), numbers.y.to_bytes(size, "big")),
            **common,
        )
    return pack_public(area)


@pytest.fixture(scope="session")
def publics():
    """TPMT_PUBLICs by kind of key."""
    rsa2048, rsa3072 = (rsa.generate_private_key(65537, bits).public_key() for bits in (2048, 3072))
    curves = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
    keys = {n: ec.generate_private_key(c).public_key() for n, c in curves.items()}
    keys |= {"RSA-2048": rsa2048, "RSA-3072": rsa3072}
    return {n: tpm_public(key) for n, key in keys.items()}


@pytest.fixture(scope="session")
def provenance():
    return Provenance(
        kbs_thumbprint="NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs",
        resource="default/vm-0001/persistence",
        measurement=bytes(range(48)),
        policy_digest="ab" * 32,
        decision_id="0f8fad5b-d9cb-469f-a165-70867728950e",
        profile="svsm-vtpm-ca:1",
    )


@pytest.fixture(scope="session")
def make_ek(cas, publics, serial, provenance):
    def make(kind="RSA-2048", **changes):
        values = {
            "public": publics[kind],
            "manufacturer": "49424d00",
            "vendor": "SW   TPM",
            "firmware": "2019102300163636",
            "spec": TpmSpec("2.0", "0", "164"),
            "serial": serial(),
            "validity": Validity.device_lifetime(NOW),
            "issuer": cas.ek.info,
            "provenance": provenance,
        }
        return draft_ek(**(values | changes))

    return make


@pytest.fixture(scope="session")
def make_devid(cas, publics, serial, provenance):
    def make(role=Role.IAK, kind="P-384", **changes):
        values = {
            "public": publics[kind],
            "ek_name": name(publics["RSA-2048"]),
            "manufacturer": "49424d00",
            "ek_serial": serial(),
            "ek_aki": cas.ek.info.key_id,
            "ek_digest": None,
            "serial": serial(),
            "validity": Validity.device_lifetime(NOW),
            "issuer": cas.devid.info,
            "provenance": provenance,
        }
        return draft_devid(role, **(values | changes))

    return make


@pytest.fixture(scope="session")
def make_webauthn(cas, publics, serial, provenance):
    def make(kind="P-256", **changes):
        values = {
            "public": publics[kind],
            "ek_name": name(publics["RSA-2048"]),
            "manufacturer": "49424d00",
            "vendor": "SW   TPM",
            "firmware": "2019102300163636",
            "ek_serial": serial(),
            "ek_aki": cas.ek.info.key_id,
            "ek_digest": None,
            "serial": serial(),
            "validity": Validity.device_lifetime(NOW),
            "issuer": cas.devid.info,
            "provenance": provenance,
        }
        return draft_iak_webauthn(**(values | changes))

    return make


@pytest.fixture(scope="session")
def ephemeral(cas, provenance):
    """What the drafts of an ephemeral certificate have in common; by evidence profile."""

    def common(profile="svsm-vtpm-ca:1", days=7):
        granted = profile != "amd-svsm-vtpm:0"
        return {
            "issuer": cas.ephemeral.info,
            "validity": Validity.ephemeral(NOW, days, cas.ephemeral.info.validity.not_after),
            "provenance": replace(
                provenance,
                profile=profile,
                ephemeral=True,
                kbs_thumbprint=provenance.kbs_thumbprint if granted else None,
                resource=provenance.resource if granted else None,
            ),
        }

    return common


def certificate_of(draft):
    """The draft under a throwaway signature."""
    return _signed(draft.tbs, ec.generate_private_key(ec.SECP384R1()))


@pytest.fixture(scope="session")
def changed():
    """A copy of a draft in whose bytes one thing is different; what it shall say stays."""

    def change(draft, *, extensions=None, digest=hashes.SHA384, curve=ec.SECP384R1, **fields):
        old = certificate_of(draft)
        builder = (
            x509.CertificateBuilder()
            .subject_name(fields.get("subject", old.subject))
            .issuer_name(fields.get("issuer", old.issuer))
            .public_key(fields.get("key", old.public_key()))
            .serial_number(fields.get("serial", old.serial_number))
            .not_valid_before(fields.get("not_before", old.not_valid_before_utc))
            .not_valid_after(fields.get("not_after", old.not_valid_after_utc))
        )
        wanted = {e.oid.dotted_string: (e.value, e.critical) for e in old.extensions}
        for oid, new in (extensions or {}).items():
            if new is None:
                del wanted[oid]
            elif isinstance(new, tuple):
                wanted[oid] = new
            elif isinstance(new, bool):
                wanted[oid] = (wanted[oid][0], new)
            else:
                wanted[oid] = (new, wanted[oid][1] if oid in wanted else False)
        for value, critical in wanted.values():
            builder = builder.add_extension(value, critical)
        signed = builder.sign(ec.generate_private_key(curve()), digest())
        return with_tbs(draft, signed.tbs_certificate_bytes)

    return change
