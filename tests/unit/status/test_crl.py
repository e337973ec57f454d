"""Revocation lists, judged by OpenSSL and by a second parser."""

import subprocess
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from asn1crypto import crl as asn1
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca_service.judgment import BadRequest, VtpmCaError
from ca_service.keys import FileSigner
from ca_service.status import RevokedEntry, build_crl
from ca_service.status.crl import REASONS

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
NEXT = NOW + timedelta(days=7)
SERIAL = 0x2A << 128


def openssl_crl(path, der, anchor):
    path.write_bytes(der)
    command = ["openssl", "crl", "-inform", "DER", "-in", path, "-CAfile", anchor, "-noout", "-text"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("who", ["root", "ek", "devid"])
def test_openssl_verifies_it(who, ca, tmp_path):
    entries = [RevokedEntry(SERIAL + 1, NOW, "superseded"), RevokedEntry(SERIAL, NOW)]
    der = build_crl(getattr(ca, who), entries, 7, NOW, NEXT)
    name = "root" if who == "root" else f"{who}-default"
    result = openssl_crl(tmp_path / "x.crl", der, ca.directory / "certs" / f"{name}.pem")
    assert result.returncode == 0
    assert "verify OK" in result.stderr
    assert "Superseded" in result.stdout
    assert "Unspecified" not in result.stdout
    other = "devid-default" if name != "devid-default" else "ek-default"
    refused = openssl_crl(tmp_path / "x.crl", der, ca.directory / "certs" / f"{other}.pem")
    assert "verify OK" not in refused.stderr


def test_openssl_refuses_what_is_on_it(ca, tmp_path):
    """The whole way: the issuing CA's certificate is good until the root's list names it."""
    certs, leaf = ca.directory / "certs", ca.ek.certificate
    for revoked, code in (([], 0), ([RevokedEntry(leaf.serial_number, NOW, "cACompromise")], 2)):
        der = build_crl(ca.root, revoked, 1, NOW, NEXT)
        (tmp_path / "root.crl").write_bytes(x509.load_der_x509_crl(der).public_bytes(Encoding.PEM))
        command = ["openssl", "verify", "-crl_check", "-attime", str(int(NOW.timestamp()) + 60)]
        files = ["-CAfile", certs / "root.pem", "-CRLfile", tmp_path / "root.crl", certs / "ek-default.pem"]
        result = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
        assert result.returncode == code, result.stderr
        assert ("certificate revoked" in result.stderr) == bool(revoked)


def test_a_second_parser_sees_each_entry(ca):
    entries = [RevokedEntry(SERIAL + i, NOW + timedelta(seconds=i), r) for i, r in enumerate(REASONS)]
    parsed = asn1.CertificateList.load(build_crl(ca.ek, entries[::-1], 2**100, NOW, NEXT), strict=True)
    body = parsed["tbs_cert_list"]
    read = [(r["user_certificate"].native, r["revocation_date"].native) for r in body["revoked_certificates"]]
    assert read == [(e.serial, e.at) for e in entries]  # sorted, whatever the order given
    reasons = [r.crl_reason_value and r.crl_reason_value.native for r in body["revoked_certificates"]]
    assert reasons == [
        None,
        "key_compromise",
        "ca_compromise",
        "affiliation_changed",
        "superseded",
        "cessation_of_operation",
        "privilege_withdrawn",
    ]
    assert body["version"].native == "v2"
    assert body["signature"]["algorithm"].native == "sha384_ecdsa"
    assert (body["this_update"].native, body["next_update"].native) == (NOW, NEXT)
    assert parsed.crl_number_value.native == 2**100
    assert parsed.authority_key_identifier_value.native["key_identifier"].hex() == ca.ek.skid
    assert parsed.authority_key_identifier_value.native["authority_cert_issuer"] is None
    assert parsed.issuer.dump() == ca.ek.certificate.subject.public_bytes()


def test_the_throwaway_key_leaves_no_trace(ca):
    keys = [ec.generate_private_key(ec.SECP384R1()) for _ in range(2)]
    lists = [build_crl(ca.ek, [RevokedEntry(SERIAL, NOW)], 1, NOW, NEXT, throwaway=k) for k in keys]
    assert len({x509.load_der_x509_crl(der).tbs_certlist_bytes for der in lists}) == 1


def test_an_empty_list_has_no_entries_at_all(ca):
    body = asn1.CertificateList.load(build_crl(ca.root, [], 1, NOW, NEXT))["tbs_cert_list"]
    assert body["revoked_certificates"].native is None


def test_a_list_of_the_far_future_is_possible(ca):
    last = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    body = asn1.CertificateList.load(build_crl(ca.root, [], 1, NOW, last))["tbs_cert_list"]
    assert body["next_update"].chosen.dump() == b"\x18\x0f99991231235959Z"


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"next_update": NOW}, "next_update"),
        ({"next_update": NOW - timedelta(1)}, "next_update"),
        ({"this_update": NOW.replace(tzinfo=None)}, "time"),
        ({"number": 0}, "number"),
        ({"number": 2**160}, "number"),
        ({"revoked": [RevokedEntry(0, NOW)]}, "serial"),
        ({"revoked": [RevokedEntry(5, NOW, "certificateHold")]}, "reason"),
        ({"revoked": [RevokedEntry(5, NOW, "removeFromCRL")]}, "reason"),
        ({"revoked": [RevokedEntry(5, NOW), RevokedEntry(5, NOW)]}, "revoked"),
        ({"revoked": [RevokedEntry(5, NOW.replace(tzinfo=None))]}, "time"),
    ],
)
def test_what_makes_no_sense_is_refused(change, path, ca):
    values = {"revoked": [], "number": 1, "this_update": NOW, "next_update": NEXT} | change
    with pytest.raises(BadRequest) as caught:
        build_crl(ca.ek, **values)
    assert caught.value.path == path


@dataclass(frozen=True)
class Mismatched:
    certificate: x509.Certificate
    signer: FileSigner


def test_signer_and_certificate_belong_together(ca):
    with pytest.raises(VtpmCaError) as caught:
        build_crl(Mismatched(ca.ek.certificate, ca.devid.signer), [], 1, NOW, NEXT)
    assert caught.value.code == "signer"


def test_a_parser_that_sees_something_else_stops_it(ca, monkeypatch):
    from ca_service.status import crl  # noqa: PLC0415

    genuine = crl._entry
    monkeypatch.setattr(crl, "_entry", lambda e: genuine(replace(e, serial=e.serial + 1)))
    with pytest.raises(VtpmCaError) as caught:
        build_crl(ca.ek, [RevokedEntry(SERIAL, NOW)], 1, NOW, NEXT)
    assert caught.value.code == "lint"
