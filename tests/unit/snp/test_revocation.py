"""The simulated root's revocation lists and second intermediates, read by openssl."""

import dataclasses
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from asn1crypto import crl as asn1_crl
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from vtpm.snp import SignatureForm, SimulatedChain
from vtpm.wire.certtable import CertKind
from vtpm.wire.report import Product

NOW = datetime(2026, 6, 1, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP384R1())


@pytest.fixture(scope="module")
def chain(chains):
    return chains[Product.GENOA]


@pytest.fixture(scope="module")
def second(chain):
    return chain.issue_intermediate(serial=0x20002)


def run(directory, *command):
    done = subprocess.run(["openssl", *command], cwd=directory, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def checked(directory, chain, crl):
    """What openssl says about the chain's ASK when it has to consult a revocation list."""
    for name, certificate in (("ark", chain.ark), ("ask", chain.ask)):
        (directory / name).write_bytes(certificate.public_bytes(Encoding.PEM))
    pem = x509.load_der_x509_crl(crl).public_bytes(Encoding.PEM)
    (directory / "crl").write_bytes(pem)
    when = str(int(NOW.timestamp()))
    return run(directory, "verify", "-attime", when, "-crl_check", "-CRLfile", "crl", "-CAfile", "ark", "ask")


def test_amds_form(chain, tmp_path):
    made = chain.crl([0x20001], number=4, this_update=NOW)
    (tmp_path / "crl").write_bytes(made)
    text = run(tmp_path, "crl", "-inform", "DER", "-in", "crl", "-noout", "-text")
    expected = """Certificate Revocation List (CRL):
        Version 2 (0x1)
        Signature Algorithm: rsassaPss
        Hash Algorithm: sha384
        Mask Algorithm: mgf1 with sha384
         Salt Length: 0x30
        Trailer Field: 0x01 (default)
        Issuer: OU = SIMULATED, C = US, L = Santa Clara, ST = CA, O = vtpm-ca simulated platform, CN = ARK-Test-Genoa
        Last Update: Jun  1 00:00:00 2026 GMT
        Next Update: Jun  1 00:00:00 2027 GMT
        CRL extensions:
            X509v3 Authority Key Identifier:
                KEYID
            X509v3 CRL Number:
                4
Revoked Certificates:
    Serial Number: 020001
        Revocation Date: Jun  1 00:00:00 2026 GMT
"""
    key_id = chain.ark.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    expected = expected.replace("KEYID", key_id.hex(":").upper())
    lines = [line.rstrip() for line in text.splitlines()]
    assert lines[: expected.count("\n")] == expected.splitlines()
    read = asn1_crl.CertificateList.load(made, strict=True)
    assert not any(e["critical"].native for e in read["tbs_cert_list"]["crl_extensions"])


def test_empty_list(chain, tmp_path):
    made = chain.crl(this_update=NOW)
    assert "revoked_certificates" not in {
        name
        for name, value in asn1_crl.CertificateList.load(made)["tbs_cert_list"].native.items()
        if value is not None
    }
    assert checked(tmp_path, chain, made) == "ask: OK\n"


@pytest.mark.parametrize("number", [0, 1, 1 << 64])
def test_list_number(chain, number):
    made = x509.load_der_x509_crl(chain.crl(number=number, this_update=NOW))
    assert made.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == number


def test_openssl_finds_the_revoked_intermediate(chain, second, tmp_path):
    listed = chain.crl([chain.ask.serial_number], this_update=NOW)
    assert "certificate revoked" in checked(tmp_path, chain, listed)
    assert checked(tmp_path, second, listed) == "ask: OK\n"


def test_openssl_knows_fresh_from_stale(chain, tmp_path):
    stale = chain.crl(this_update=NOW - timedelta(days=2), next_update=NOW - timedelta(days=1))
    assert "CRL has expired" in checked(tmp_path, chain, stale)
    assert "CRL is not yet valid" in checked(tmp_path, chain, chain.crl(this_update=NOW + timedelta(days=1)))


def test_list_of_another_signer(chain, chains, tmp_path):
    forger = dataclasses.replace(chain, ark_key=chains[Product.MILAN].ark_key)
    assert "CRL signature failure" in checked(tmp_path, chain, forger.crl(this_update=NOW))
    by_ask = dataclasses.replace(chain, ark=chain.ask, ark_key=chain.ask_key).crl(this_update=NOW)
    assert "unable to get certificate CRL" in checked(tmp_path, chain, by_ask)


@pytest.mark.parametrize("form", list(SignatureForm))
def test_signature_forms(chain, tmp_path, form):
    made = chain.crl(this_update=NOW, signature=form)
    assert checked(tmp_path, chain, made) == "ask: OK\n"
    algorithm = asn1_crl.CertificateList.load(made)["signature_algorithm"]
    assert algorithm.dump() == form.algorithm()


def test_extensions_for_tests_of_verifiers(chain):
    delta = x509.DeltaCRLIndicator(1)
    made = x509.load_der_x509_crl(chain.crl(number=None, this_update=NOW, added=[(delta, True)]))
    assert [(e.oid, e.critical) for e in made.extensions] == [
        (x509.AuthorityKeyIdentifier.oid, False),
        (delta.oid, True),
    ]


def test_second_ask_of_the_same_name(chain, second):
    assert second.ask.subject == chain.ask.subject
    assert second.ask.public_key() == second.ask_key.public_key() != chain.ask.public_key()
    assert (second.ask.serial_number, second.ark, second.asvk) == (0x20002, chain.ark, chain.asvk)
    second.ask.verify_directly_issued_by(chain.ark)
    leaf = second.issue_vcek(KEY.public_key(), hwid=bytes(64), tcb=bytes(8), not_before=NOW)
    x509.load_der_x509_certificate(leaf).verify_directly_issued_by(second.ask)


def test_second_asvk(chain):
    dates = {"not_before": NOW, "not_after": NOW + timedelta(days=1)}
    second = chain.issue_intermediate(CertKind.VLEK, serial=0x20102, common_name="SEV-VLEK-Other", **dates)
    assert second.ask == chain.ask
    assert second.asvk.subject.rfc4514_string().startswith("CN=SEV-VLEK-Other,")
    assert (second.asvk.not_valid_before_utc, second.asvk.not_valid_after_utc) == tuple(dates.values())
    leaf = second.issue_vlek(KEY.public_key(), tcb=bytes(8), not_before=NOW)
    x509.load_der_x509_certificate(leaf).verify_directly_issued_by(second.asvk)


def test_second_asvk_of_the_same_name(chain):
    second = chain.issue_intermediate(CertKind.VLEK, serial=0x20102)
    assert second.asvk.subject == chain.asvk.subject
    assert second.asvk.public_key() != chain.asvk.public_key()


def test_intermediate_of_no_kind(chain):
    with pytest.raises(ValueError, match="VCEKs or VLEKs"):
        chain.issue_intermediate(CertKind.ARK, serial=1)


def test_shipped_roots_revoke_too(tmp_path):
    turin = SimulatedChain.shipped(Product.TURIN)
    assert "certificate revoked" in checked(tmp_path, turin, turin.crl([0x30001], this_update=NOW))
    assert checked(tmp_path, turin, turin.crl([0x30101], this_update=NOW)) == "ask: OK\n"
