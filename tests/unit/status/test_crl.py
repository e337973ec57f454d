"""Revocation lists, judged by OpenSSL and by a second parser."""

import subprocess
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from asn1crypto import crl as asn1
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from ca_service.judgment import BadRequest, VtpmCaError
from ca_service.keys import FileSigner
from ca_service.profiles import assemble
from ca_service.profiles.scope import scope_of
from ca_service.status import RevokedEntry, build_crl, crl, reading
from ca_service.status.crl import REASONS
from ca_service.status.encoding import revoked_certificates, tbs_certlist

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


@pytest.mark.parametrize("scope", [None, "http://ca.example/crl/aa/7.crl"])
@pytest.mark.parametrize(
    "at", [NOW, datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(2050, 1, 1, tzinfo=UTC)]
)
@pytest.mark.parametrize("serials", [[], [1], [0x7F, 0x80, *range(1000, 1300), 2**159 - 1]])
def test_it_has_the_bytes_that_cryptography_would_write(serials, at, scope, ca):
    """The list is framed here; the library's own builder is too slow for a long one, and says what is right."""
    entries = [RevokedEntry(s, at + timedelta(seconds=s % 7), REASONS[s % len(REASONS)]) for s in serials]
    builder = x509.CertificateRevocationListBuilder(
        ca.ek.certificate.subject,
        at,
        at + timedelta(days=7),
        revoked_certificates=[
            x509.RevokedCertificateBuilder(
                e.serial, e.at, [] if e.reason == "unspecified" else [reason(e.reason)]
            ).build()
            for e in entries
        ],
    )
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier(bytes.fromhex(ca.ek.skid), None, None), critical=False
    )
    builder = builder.add_extension(x509.CRLNumber(128), critical=False)
    if scope:
        names = [x509.UniformResourceIdentifier(scope)]
        point = x509.IssuingDistributionPoint(names, None, False, False, None, False, False)
        builder = builder.add_extension(point, critical=True)
    key = ec.generate_private_key(ec.SECP384R1())
    der = build_crl(ca.ek, entries, 128, at, at + timedelta(days=7), scope=scope)
    wanted = builder.sign(key, hashes.SHA384()).tbs_certlist_bytes
    assert x509.load_der_x509_crl(der).tbs_certlist_bytes == wanted


def reason(name):
    return x509.Extension(x509.CRLReason.oid, critical=False, value=x509.CRLReason(x509.ReasonFlags(name)))


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
    genuine = crl.revoked_certificates
    wanted = [RevokedEntry(SERIAL + i, NOW, r) for i, r in enumerate((*REASONS, *REASONS))]
    last = wanted[-1]
    for wrong in (
        [*wanted[:-1], last._replace(serial=last.serial + 1)],
        [*wanted[:-1], last._replace(at=NOW + timedelta(seconds=1))],
        [*wanted[:-1], last._replace(reason="keyCompromise")],
        [*wanted[:-1], last._replace(reason="unspecified")],
        wanted[:-1],
        [*wanted, last],
        [last, *wanted[:-1]],
    ):
        monkeypatch.setattr(crl, "revoked_certificates", lambda _, wrong=wrong: genuine(wrong))
        with pytest.raises(VtpmCaError) as caught:
            build_crl(ca.ek, wanted, 1, NOW, NEXT)
        assert caught.value.code == "lint"


@pytest.mark.parametrize("read", [reading.read_first, reading.read_second])
@pytest.mark.parametrize("reason", ["superseded", "unspecified"])
def test_a_reader_overlooks_no_bit_of_an_entry(read, reason, ca):
    """Neither of one that is alone, nor of one among others of the same shape, which are not all read in full."""
    for count, place in ((1, 0), (3, 1), (3, 2)):
        wanted = [(SERIAL + i, NOW, reason) for i in range(1, count + 1)]
        good = entries_list(revoked_certificates(wanted), ca)
        assert read(good).entries == wanted
        size = len(revoked_certificates(wanted)) // count
        start = good.index(revoked_certificates(wanted)) + place * size
        for bit in range(8 * start, 8 * (start + size)):
            der = bytearray(good)
            der[bit // 8] ^= 1 << bit % 8
            assert entries_read(read, bytes(der)) != wanted, (count, place, bit)


def entries_list(entries, ca):
    extensions = [(x509.AuthorityKeyIdentifier(bytes(20), None, None), False), (x509.CRLNumber(1), False)]
    tbs = tbs_certlist(ca.ek.certificate.subject.public_bytes(), NOW, NEXT, entries, extensions)
    return assemble(tbs, bytes.fromhex("3006020101020101"))


def entries_read(read, der):
    try:
        return read(der).entries
    except ValueError:
        return None


READERS = {"read_first": "read_second", "read_second": "read_first"}


@pytest.mark.parametrize("reader", ["read_first", "read_second"])
def test_each_reader_alone_stops_it(reader, ca, monkeypatch):
    """Whatever the other one overlooks."""
    genuine = crl.revoked_certificates
    monkeypatch.setattr(
        crl, "revoked_certificates", lambda entries: genuine([(s + 1, at, why) for s, at, why in entries])
    )
    other = READERS[reader]
    overlooked = getattr(reading, other)

    def overlooks(der):
        view = overlooked(der)
        return replace(view, entries=[(serial - 1, at, why) for serial, at, why in view.entries])

    monkeypatch.setattr(reading, other, overlooks)
    with pytest.raises(VtpmCaError) as caught:
        build_crl(ca.ek, [RevokedEntry(SERIAL, NOW)], 1, NOW, NEXT)
    assert caught.value.code == "lint"


@given(
    der=st.binary(max_size=200)
    | st.builds(lambda a, b: b"\x30\x82\x01\x10" + a + b, st.binary(), st.binary())
)
def test_the_readers_raise_nothing_but_value_errors(der):
    for read in (reading.read_first, reading.read_second):
        with pytest.raises(ValueError):
            read(der)


def lists_of(serials, last):
    times = st.datetimes(datetime(2000, 1, 1), last, timezones=st.just(UTC))  # noqa: DTZ001
    entries = st.builds(RevokedEntry, serials, times, st.sampled_from(REASONS))
    return st.lists(entries, unique_by=lambda e: e.serial, max_size=20)


ENTRIES = lists_of(st.integers(1, 2**159 - 1), datetime(9999, 12, 31)) | lists_of(  # noqa: DTZ001
    # As this CA's own: they are read in another way.
    st.integers(2**128, 2**135 - 1),
    datetime(2049, 12, 31),  # noqa: DTZ001
)


@settings(max_examples=30, deadline=None)
@given(entries=ENTRIES, number=st.integers(1, 2**159 - 1))
def test_any_list_reads_back_as_it_was_wanted(entries, number, ca):
    der = build_crl(ca.ek, entries, number, NOW, NEXT, scope="http://x/1.crl")
    read = x509.load_der_x509_crl(der)
    wanted = sorted((e.serial, e.at.replace(microsecond=0)) for e in entries)
    assert [(r.serial_number, r.revocation_date_utc) for r in read] == wanted
    assert reading.read_first(der) == reading.read_second(der)


def scoped(*, critical: bool, **changed):
    """A list with another issuingDistributionPoint than this CA writes."""
    given = {"full_name": [x509.UniformResourceIdentifier("http://x/1.crl")], "relative_name": None} | changed
    flags = (
        "only_contains_user_certs",
        "only_contains_ca_certs",
        "indirect_crl",
        "only_contains_attribute_certs",
    )
    point = x509.IssuingDistributionPoint(**{"only_some_reasons": None} | dict.fromkeys(flags, False) | given)
    builder = x509.CertificateRevocationListBuilder(x509.Name([]), NOW, NEXT).add_extension(point, critical)
    return builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())


def test_another_scope_than_this_ca_states_is_none():
    assert scope_of(scoped(critical=True)) == "http://x/1.crl"
    uri = x509.UniformResourceIdentifier
    for changed in (
        {"critical": False},
        {"critical": True, "only_contains_user_certs": True},
        {"critical": True, "indirect_crl": True},
        {"critical": True, "only_some_reasons": frozenset({x509.ReasonFlags.key_compromise})},
        {"critical": True, "full_name": [uri("http://x/1.crl"), uri("http://x/2.crl")]},
        {"critical": True, "full_name": [x509.DNSName("x")]},
        {"critical": True, "full_name": None, "only_contains_ca_certs": True},
    ):
        with pytest.raises(ValueError, match="issuingDistributionPoint"):
            scope_of(scoped(**changed))
