"""`key block|unblock|list` against the database that a real ceremony and a real enrolment left."""

import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca_service.judgment import BadRequest, NotFound
from ca_service.operations.bounds import MAX_CAUSE
from ca_service.operations.kept import read_state
from ca_service.profiles import certified_key
from ca_service.store import CertificateState


def certificates(desk):
    """Live certificates by profile."""
    return {row["profile"]: row["serial"] for row in desk("cert-list")}


def digest_of(desk, profile):
    """The SHA-256 of the key in a certificate, as any X.509 library sees it."""
    pem = desk("cert-show", serial=certificates(desk)[profile])["pem"]
    key = x509.load_pem_x509_certificate(pem.encode()).public_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def serials(result):
    return [row["serial"] for row in result["certificates"]]


@pytest.fixture(params=["ek", "iak", "idevid"])
def profile(request):
    return request.param


def test_the_key_is_read_off_the_bytes_to_be_signed(desk):
    with desk.store.read() as tx:
        rows = tx.certificates.latest(10)
    assert rows
    for row in rows:
        certificate = x509.load_der_x509_certificate(row.der)
        tbs, key = certificate.tbs_certificate_bytes, certificate.public_key()
        assert certified_key(tbs) == key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for broken in (b"", tbs[:-1], tbs + b"\0", rows[0].der):
        with pytest.raises(ValueError):
            certified_key(broken)


def test_a_blocked_key_is_listed_with_who_and_why(desk):
    assert desk("key-list") == []
    result = desk("key-block", digest="ab" * 32, cause="found on a web site")
    assert (result["done"], result["certificates"], result["being_issued"]) == (True, [], [])
    (row,) = desk("key-list")
    assert row == result["key"]
    assert (row["spki"], row["by"], row["cause"]) == ("ab" * 32, "alice", "found on a web site")
    with desk.store.read() as tx:
        assert tx.blocked_keys.among(["ab" * 32, "cd" * 32]) == {"ab" * 32}
    assert desk.unlocked == 0


def test_its_certificates_are_listed_and_left_alone(desk, profile):
    digest = digest_of(desk, profile)
    result = desk("key-block", digest=digest, cause="known")
    assert result["done"]
    assert serials(result) == [certificates(desk)[profile]]
    assert len(certificates(desk)) == 3
    assert desk.unlocked == 0


def test_a_dry_run_changes_nothing(desk, profile):
    digest, before = digest_of(desk, profile), desk("cert-list", all=True)
    result = desk("key-block", digest=digest, cause="known", revoke=True)
    assert not result["done"]
    assert serials(result) == [certificates(desk)[profile]]
    assert desk("key-list") == []
    assert desk("cert-list", all=True) == before
    assert desk.unlocked == 0


def test_revoking_is_for_this_key_alone_and_on_the_published_list(desk, profile):
    digest, serial = digest_of(desk, profile), certificates(desk)[profile]
    result = desk("key-block", digest=digest, cause="known", revoke=True, yes=True)
    assert result["done"]
    assert [(row["serial"], row["state"]) for row in result["certificates"]] == [(serial, "revoked")]
    assert profile not in certificates(desk)
    assert len(certificates(desk)) == 2
    shown = desk("cert-show", serial=serial)
    assert shown["reason"] == "keyCompromise"
    with desk.store.read() as tx:
        row = tx.certificates.get(serial)
        revocation = tx.revocations.get(row.issuer, serial)
        crl = x509.load_der_x509_crl(tx.crls.latest(row.issuer).der)
    assert revocation.cause == "key blocked by alice: known"
    # It is not forgotten with the database.
    kept = read_state(desk.context.public)
    assert kept.crls[row.issuer, row.shard] == crl.public_bytes(Encoding.DER)
    found = crl.get_revoked_certificate_by_serial_number(int(serial, 16))
    assert (
        found.extensions.get_extension_for_class(x509.CRLReason).value.reason
        is x509.ReasonFlags.key_compromise
    )


def test_a_second_time_finds_the_rest_and_keeps_the_first_cause(desk):
    digest = digest_of(desk, "iak")
    first = desk("key-block", digest=digest, cause="first")
    again = desk("key-block", digest=digest, cause="second", revoke=True, yes=True)
    assert again["key"] == first["key"]
    assert [row["state"] for row in again["certificates"]] == ["revoked"]
    assert serials(desk("key-block", digest=digest, cause="third")) == []
    assert [row["cause"] for row in desk("key-list")] == ["first"]


def test_a_certificate_that_is_just_being_issued_is_told(desk):
    digest = digest_of(desk, "idevid")
    with desk.store.write() as tx:
        serial = certificates(desk)["idevid"]
        signed = x509.load_der_x509_certificate(tx.certificates.get(serial).der).tbs_certificate_bytes
        tx.connection.exec_driver_sql(
            "UPDATE certificates SET state = ?, tbs = ?, der = NULL WHERE serial = ?",
            (CertificateState.INTENDED.value, signed, serial),
        )
    result = desk("key-block", digest=digest, cause="known", revoke=True, yes=True)
    assert result["certificates"] == []
    assert [row["serial"] for row in result["being_issued"]] == [serial]


def test_more_certificates_than_a_page(desk, monkeypatch):
    from ca_service.store.issuance import Certificates  # noqa: PLC0415

    whole = Certificates.unrevoked_page
    monkeypatch.setattr(Certificates, "unrevoked_page", lambda self, after: whole(self, after, 1))
    for profile in ("ek", "iak", "idevid"):
        result = desk("key-block", digest=digest_of(desk, profile), cause="known")
        assert serials(result) == [certificates(desk)[profile]]


def test_unblocking_is_a_dry_run_first(desk):
    blocked = desk("key-block", digest="ab" * 32, cause="by mistake")["key"]
    assert desk("key-unblock", digest="ab" * 32) == {"done": False, "key": blocked}
    assert desk("key-list") == [blocked]
    assert desk("key-unblock", digest="ab" * 32, yes=True) == {"done": True, "key": blocked}
    assert desk("key-list") == []
    with pytest.raises(NotFound, match="not blocked"):
        desk("key-unblock", digest="ab" * 32, yes=True)


def test_unblocking_brings_no_certificate_back(desk):
    digest = digest_of(desk, "iak")
    desk("key-block", digest=digest, cause="known", revoke=True, yes=True)
    desk("key-unblock", digest=digest, yes=True)
    assert "iak" not in certificates(desk)


@pytest.mark.parametrize("digest", ["", "ab" * 31, "ab" * 33, "AB" * 32, "xy" * 32, "ab" * 32 + "\n"])
@pytest.mark.parametrize("operation", ["key-block", "key-unblock"])
def test_what_is_no_digest_is_refused(desk, operation, digest):
    given = {"cause": "known"} if operation == "key-block" else {}
    with pytest.raises(BadRequest) as caught:
        desk(operation, digest=digest, **given)
    assert caught.value.path == "digest"
    assert desk("key-list") == []


@pytest.mark.parametrize("cause", ["", "x" * (MAX_CAUSE + 1)])
def test_a_cause_is_demanded(desk, cause):
    with pytest.raises(BadRequest) as caught:
        desk("key-block", digest="ab" * 32, cause=cause)
    assert caught.value.path == "cause"
    assert desk("key-list") == []
