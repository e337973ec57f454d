"""Genuine certificates and lists from the vectors, and a small signing service whose ARK can revoke."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.serialization import Encoding
from kds_stand_in import StandIn

from ca_service.collateral import CollateralFolder
from ca_service.evidence.snp import Root, read_authority
from vtpm.snp import Platform, new_simulated_chain
from vtpm.wire.report import Product

VECTORS = Path(__file__).parents[2] / "vectors" / "snp-evidence"
CERTS = Path(__file__).parents[3] / "certs"
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
_PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)


@pytest.fixture(scope="session")
def genuine():
    """Function: the bytes of a genuine file, by its path in the vectors or in certs/."""

    def read(name):
        path = VECTORS / name
        return (path if path.exists() else CERTS / name).read_bytes()

    return read


@pytest.fixture
def folder(tmp_path):
    return CollateralFolder(tmp_path / "bundle")


class Service:
    """A signing service with an ARK that makes revocation lists."""

    def __init__(self, product=Product.MILAN):
        self.chain = new_simulated_chain(product, label="Test", bits=2048)
        ark, ask = (read_authority(c.public_bytes(Encoding.DER)) for c in (self.chain.ark, self.chain.ask))
        self.root = Root(product, ark, (ask,), simulated=True)
        self.bare_root = Root(product, ark, (), simulated=True)
        self.ask = ask.der

    def vcek(self, hwid=b"\x07" * 64, tcb=b"\x03\0\0\0\0\0\x08\x73", key=None, **options):
        key = key or ec.generate_private_key(ec.SECP384R1())
        options = {"not_before": NOW - timedelta(days=1)} | options
        return self.chain.issue_vcek(key.public_key(), hwid=hwid, tcb=tcb, **options)

    def crl(self, *revoked, number=1, at=NOW, key=None):
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.chain.ark.subject)
            .last_update(at)
            .next_update(at + timedelta(days=365))
            .add_extension(x509.CRLNumber(number), critical=False)
        )
        for serial in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at).build()
            builder = builder.add_revoked_certificate(entry)
        signed = builder.sign(key or self.chain.ark_key, hashes.SHA384(), rsa_padding=_PSS)
        return signed.public_bytes(Encoding.DER)

    def platform(self, seed=b"\x07" * 32):
        return Platform.made(seed, product=self.chain.product, chain=self.chain, clock=lambda: NOW)


@pytest.fixture(scope="session")
def service():
    return Service()


@pytest.fixture(scope="session")
def now():
    return NOW


@pytest.fixture
def kds(monkeypatch):
    """A stand-in for AMD's service; the environment's proxies do not stand before it."""
    monkeypatch.setenv("NO_PROXY", "*")
    made = StandIn()
    yield made
    made.close()
