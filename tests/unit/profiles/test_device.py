"""Drafts, read by clients that share nothing with the code that makes them."""

import hashlib
import os
import ssl
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from asn1crypto import core
from asn1crypto import x509 as asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from draft_bytes import filled

from ca_service.judgment import BadRequest, Unavailable
from ca_service.profiles import (
    DEVICE_LIFETIME,
    EMPTY_SLOT,
    Validity,
    assemble,
    draft_issuing,
    draft_root,
    find_slot,
    lint,
    new_serial,
    patch_slot,
    printable_manufacturer,
    serial_hex,
)
from vtpm.wire.templates import Role, name, parse_public

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
KINDS = ("P-256", "P-384", "P-521", "RSA-2048", "RSA-3072")


def sign(draft, ca, tbs=None):
    tbs = draft.tbs if tbs is None else tbs
    return assemble(tbs, ca.key.sign(tbs, ec.ECDSA(hashes.SHA384())))


def second_reading(draft):
    tbs = asn1.TbsCertificate.load(draft.tbs, strict=True)
    return tbs, {e["extn_id"].native: e for e in tbs["extensions"]}


def pem(path, *ders):
    path.write_text("".join(map(ssl.DER_cert_to_PEM_cert, ders)))
    return path


@pytest.fixture(scope="module")
def anchors(cas, tmp_path_factory):
    folder = tmp_path_factory.mktemp("anchors")
    certificates = {
        r: getattr(cas, r).info.certificate.public_bytes(Encoding.PEM)
        for r in ("root", "ek", "devid", "ephemeral")
    }
    for role, data in certificates.items():
        (folder / f"{role}.pem").write_bytes(data)
    return folder


def openssl_verify(anchors, role, der, tmp_path, *options):
    leaf = pem(tmp_path / "leaf.pem", der)
    command = [
        "openssl",
        "verify",
        "-x509_strict",
        "-CAfile",
        anchors / "root.pem",
        "-untrusted",
        anchors / f"{role}.pem",
    ]
    return subprocess.run([*command, *options, leaf], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("kind", KINDS)
def test_openssl_verifies_every_kind_of_key(kind, cas, anchors, make_ek, make_devid, make_webauthn, tmp_path):
    drafts = [
        ("devid", make_webauthn(kind)),
        ("ek", make_ek(kind)),
        ("devid", make_devid(Role.IAK, kind)),
        ("devid", make_devid(Role.IDEVID, kind)),
    ]
    for role, draft in drafts:
        ca = getattr(cas, role)
        lint(draft, ca.info)
        result = openssl_verify(anchors, role, sign(draft, ca), tmp_path, "-ignore_critical")
        assert result.returncode == 0, result.stderr


def test_openssl_needs_no_leniency(cas, anchors, make_ek, make_devid, tmp_path):
    for role, draft in [("ek", make_ek()), ("devid", make_devid())]:
        assert openssl_verify(anchors, role, sign(draft, getattr(cas, role)), tmp_path).returncode == 0


@pytest.mark.parametrize("profile", ["svsm-vtpm-ca:1", "amd-svsm-services", "amd-svsm-vtpm:0"])
def test_openssl_verifies_ephemeral_certificates_for_a_week(
    profile, cas, anchors, make_ek, make_devid, make_webauthn, ephemeral, tmp_path
):
    common = ephemeral(profile)
    drafts = (
        make_ek(**common),
        make_devid(Role.IAK, **common),
        make_devid(Role.IDEVID, **common),
        make_webauthn(**common),
    )
    for draft in drafts:
        lint(draft, cas.ephemeral.info)
        der = sign(draft, cas.ephemeral)
        week = int(timedelta(days=7).total_seconds())
        moments = [(week - 1, True), (0, True), (week + 1, False), (-1, False)]
        for seconds, good in moments if draft.profile == "ek" else moments[:1]:
            at = str(int(NOW.timestamp()) + seconds)
            result = openssl_verify(anchors, "ephemeral", der, tmp_path, "-attime", at)
            assert (result.returncode == 0) == good, (draft.profile, seconds, result.stderr)
        # Whoever trusts the CAs of persistent TPMs alone does not take it.
        at = str(int(NOW.timestamp()))
        assert openssl_verify(anchors, "ek", der, tmp_path, "-attime", at).returncode != 0


def openssl_text(der):
    command = ["openssl", "x509", "-inform", "DER", "-noout", "-text"]
    return subprocess.run(command, input=der, capture_output=True, check=True).stdout.decode()


def test_openssl_prints_every_profile(cas, make_ek, make_devid, make_webauthn, ephemeral):
    """A third reader: extensions in their order, with what it makes of them."""
    shared = ["Authority Key Identifier", "Subject Key Identifier", "Key Usage: critical"]
    last = [
        "Authority Information Access",
        "CRL Distribution Points",
        "1.2.840.113556.1.8000.2554.22.90.55.20305.39874.4691.1706394",
    ]
    san, policies, purposes = "Subject Alternative Name", "Certificate Policies", "Extended Key Usage"
    middle = {
        "ek": ["Basic Constraints: critical", f"{san}: critical", purposes, "Subject Directory Attributes"],
        "iak": [policies, san, purposes],
        "idevid": [policies, san],
        "iak-webauthn": ["Basic Constraints: critical", policies, f"{san}: critical", purposes],
    }
    made = {"ek": make_ek, "iak": make_devid, "iak-webauthn": make_webauthn}
    made["idevid"] = lambda **changes: make_devid(Role.IDEVID, **changes)
    for profile, extensions in middle.items():
        for changes, ca in (({}, None), (ephemeral("amd-svsm-vtpm:0"), cas.ephemeral)):
            own = cas.ek if profile == "ek" else cas.devid
            text = openssl_text(sign(made[profile](**changes), ca or own))
            names = [line.strip().rstrip(" :") for line in text.splitlines() if line.startswith(" " * 12)]
            wanted = [*shared, *extensions, *last]
            found = [next((w for w in wanted if n.removeprefix("X509v3 ") == w), None) for n in names]
            assert [w for w in found if w] == wanted, text
            assert ("Subject: CN = vTPM" in text) == (profile in ("iak", "idevid"))
            assert ("not a CA" in text or "CA:FALSE" in text) == ("basic" in str(extensions).lower())


def test_openssl_sees_a_flipped_bit(cas, anchors, make_ek, tmp_path):
    draft = make_ek()
    other = draft.tbs.replace(b"SW   TPM", b"SX   TPM")
    der = assemble(other, cas.ek.key.sign(draft.tbs, ec.ECDSA(hashes.SHA384())))
    assert openssl_verify(anchors, "ek", der, tmp_path).returncode != 0


def test_ek_says_what_the_evidence_says(make_ek, cas, publics):
    draft = make_ek()
    tbs, extensions = second_reading(draft)
    assert tbs["version"].native == "v3"
    assert tbs["serial_number"].native == draft.serial
    assert tbs["issuer"].dump() == cas.ek.info.certificate.subject.public_bytes()
    assert len(tbs["subject"].chosen) == 0
    san = extensions["subject_alt_name"]
    assert san["critical"].native
    # The bytes that swtpm writes, with our values.
    rdns = [("2.23.133.2.1", "id:49424D00"), ("2.23.133.2.2", "SW   TPM"), ("2.23.133.2.3", "id:20191023")]
    (directory_name,) = san["extn_value"].parsed
    assert [(r[0]["type"].dotted, r[0]["value"].native) for r in directory_name.chosen.chosen] == rdns
    assert (
        san["extn_value"]
        .contents.hex()
        .startswith("3049a4473045311630140605678105020 10c0b".replace(" ", ""))
    )
    assert extensions["subject_directory_attributes"]["extn_value"].contents.hex() == (
        "30193017060567810502103 10e300c0c03322e30020100020200a4".replace(" ", "")
    )
    assert extensions["extended_key_usage"]["extn_value"].contents.hex() == "300706056781050801"
    assert extensions["key_usage"]["extn_value"].contents.hex() == "03020520"
    assert extensions["basic_constraints"]["extn_value"].contents.hex() == "3000"
    key = parse_public(publics["RSA-2048"]).public_key()
    assert tbs["subject_public_key_info"]["public_key"].parsed["modulus"].native == key.public_numbers().n


def test_an_elliptic_ek_agrees_on_keys(make_ek):
    _, extensions = second_reading(make_ek("P-384"))
    assert extensions["key_usage"]["extn_value"].contents.hex() == "03020308"


@pytest.mark.parametrize(
    ("role", "second"), [(Role.IAK, "2.23.133.11.1.3"), (Role.IDEVID, "2.23.133.11.1.2")]
)
def test_identities_say_what_the_evidence_says(role, second, make_devid, cas, publics):
    ek_serial = new_serial(9, os.urandom)
    tbs, extensions = second_reading(make_devid(role, ek_serial=ek_serial, ek_digest="5a" * 32))
    serial = hashlib.sha256(name(publics["RSA-2048"])).hexdigest()[:32]
    assert tbs["subject"].native == {"common_name": "vTPM", "serial_number": serial}
    san = extensions["subject_alt_name"]
    assert not san["critical"].native
    module, permanent = san["extn_value"].parsed
    hw_serial = f"IBM:{cas.ek.info.skid}:{ek_serial:034x}".encode()
    assert module.chosen["type_id"].dotted == "1.3.6.1.5.5.7.8.4"
    assert module.chosen["value"].native == {"0": "2.23.133.1.2", "1": hw_serial}
    assert permanent.chosen["type_id"].dotted == "1.3.6.1.5.5.7.8.3"
    assert permanent.chosen["value"].native == {"0": "5a" * 32, "1": "2.23.133.12.1"}
    policies = [
        p["policy_identifier"].dotted for p in extensions["certificate_policies"]["extn_value"].parsed
    ]
    assert policies == ["2.23.133.11.1.1", second]
    assert extensions["key_usage"]["extn_value"].contents.hex() == "03020780"
    assert "basic_constraints" not in extensions
    purposes = extensions.get("extended_key_usage")
    assert ([p.dotted for p in purposes["extn_value"].parsed] if purposes else []) == (
        ["2.23.133.8.3"] if role is Role.IAK else []
    )


def test_an_iak_in_webauthns_form_says_what_the_evidence_says(make_webauthn, make_ek, cas):
    draft = make_webauthn("P-256", ek_digest="5a" * 32)
    tbs, extensions = second_reading(draft)
    assert len(tbs["subject"].chosen) == 0
    san = extensions["subject_alt_name"]
    assert san["critical"].native
    directory, permanent = san["extn_value"].parsed
    _, ek_extensions = second_reading(make_ek())
    (of_ek,) = ek_extensions["subject_alt_name"]["extn_value"].parsed
    assert directory.dump() == of_ek.dump()
    assert permanent.chosen["type_id"].dotted == "1.3.6.1.5.5.7.8.3"
    assert permanent.chosen["value"].native == {"0": "5a" * 32, "1": "2.23.133.12.1"}
    assert [p.dotted for p in extensions["extended_key_usage"]["extn_value"].parsed] == ["2.23.133.8.3"]
    assert extensions["basic_constraints"]["extn_value"].contents.hex() == "3000"
    assert extensions["key_usage"]["extn_value"].contents.hex() == "03020780"
    policies = extensions["certificate_policies"]["extn_value"].parsed
    assert [p["policy_identifier"].dotted for p in policies] == ["2.23.133.11.1.1", "2.23.133.11.1.3"]
    assert extensions["authority_key_identifier"]["extn_value"].parsed.native["key_identifier"] == (
        cas.devid.info.key_id
    )


def test_its_slot_is_filled_as_that_of_the_others(make_webauthn):
    numbers = {"serial": new_serial(1, os.urandom), "ek_serial": new_serial(1, os.urandom)}
    draft, digest = make_webauthn(**numbers), "5a" * 32
    assert filled(draft, digest) == make_webauthn(**numbers, ek_digest=digest)


def provenance_of(draft):
    _, extensions = second_reading(draft)
    return extensions["1.2.840.113556.1.8000.2554.22.90.55.20305.39874.4691.1706394"]["extn_value"].contents


def test_a_provenance_without_a_grant_is_version_2(make_ek, ephemeral, provenance):
    bare = core.Sequence.load(provenance_of(make_ek(**ephemeral("amd-svsm-vtpm:0"))), strict=True)
    assert [bare[i].native for i in range(len(bare))] == [
        2,
        "amd-svsm-vtpm:0",
        provenance.measurement,
        bytes.fromhex(provenance.policy_digest),
        provenance.decision_id,
    ]


def test_that_it_is_ephemeral_does_not_change_a_provenance_with_a_grant(make_ek, ephemeral):
    """The bytes of version 1 are those of every release; the issuer alone says how long they hold."""
    whole = provenance_of(make_ek())
    assert provenance_of(make_ek(**ephemeral("svsm-vtpm-ca:1"))) == whole
    assert (
        hashlib.sha256(whole).hexdigest()
        == "23d234f1c5225ef9ffa224f76d2450d55b700a5cf10dd6bc8e7af4d2f81223e1"
    )


def test_both_identities_of_a_device_have_one_subject_and_one_san(make_devid):
    same = {"ek_serial": new_serial(9, os.urandom), "ek_digest": "5a" * 32}
    iak, idevid = (second_reading(make_devid(role, **same)) for role in (Role.IAK, Role.IDEVID))
    assert iak[0]["subject"].dump() == idevid[0]["subject"].dump()
    assert iak[1]["subject_alt_name"].dump() == idevid[1]["subject_alt_name"].dump()


@pytest.mark.parametrize("which", ["ek", "iak"])
def test_every_leaf_says_where_it_comes_from(which, make_ek, make_devid, cas, provenance):
    draft, ca = (make_ek(), cas.ek) if which == "ek" else (make_devid(), cas.devid)
    tbs, extensions = second_reading(draft)
    assert extensions["authority_key_identifier"]["extn_value"].parsed.native == {
        "key_identifier": ca.info.key_id,
        "authority_cert_issuer": None,
        "authority_cert_serial_number": None,
    }
    access = extensions["authority_information_access"]["extn_value"].parsed.native
    skid = ca.info.key_id.hex()
    assert [(a["access_method"], a["access_location"]) for a in access] == [
        ("ca_issuers", f"http://ca.example.org/ca/{skid}.cer")
    ]
    points = extensions["crl_distribution_points"]["extn_value"].parsed.native
    assert [p["distribution_point"] for p in points] == [[f"http://ca.example.org/crl/{skid}/0.crl"]]
    assert tbs["validity"]["not_after"].dump() == b"\x18\x0f99991231235959Z"
    assert tbs["validity"]["not_before"].dump() == b"\x17\x0d260801120000Z"
    origin = extensions["1.2.840.113556.1.8000.2554.22.90.55.20305.39874.4691.1706394"]
    assert not origin["critical"].native
    value = core.Sequence.load(origin["extn_value"].contents)
    assert value[3].native == provenance.resource
    assert value[4].native == provenance.measurement
    assert value[5].native.hex() == provenance.policy_digest


def test_the_key_identifier_is_sha256_of_the_key_bits(make_ek, publics):
    _, extensions = second_reading(make_ek("P-384"))
    numbers = parse_public(publics["P-384"]).public_key().public_numbers()
    point = b"\x04" + numbers.x.to_bytes(48, "big") + numbers.y.to_bytes(48, "big")
    expected = hashlib.sha256(point).digest()[:20]
    assert extensions["key_identifier"]["extn_value"].parsed.native == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("year", [2027, 2049, 2050, 9999])
def test_the_bytes_are_those_of_cryptographys_builder(
    make_ek, make_devid, make_webauthn, changed, provenance, kind, year
):
    """Which signs each of them with another key, on the curve that the CAs sign on."""
    ends = {"validity": Validity(NOW, datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC))}
    long = {"provenance": replace(provenance, resource="default/" + "x" * 200)}
    drafts = [
        make(kind=kind, **ends, **more)
        for more in ({}, long)
        for make in (make_ek, make_devid, make_webauthn)
    ]
    drafts += [
        make_devid(Role.IDEVID, kind, **ends),
        make_ek(kind, serial=1),
        make_ek(kind, serial=0x80 << 128),
    ]
    for draft in drafts:
        assert changed(draft).tbs == draft.tbs


def test_neither_throwaway_key_nor_its_curve_changes_the_bytes(serial, cas):
    """The CAs sign on P-384, drafts of their own certificates are made by a P-256 key."""
    keys = [*(ec.generate_private_key(ec.SECP384R1()) for _ in range(2)), None]
    common = {"organization": "E", "mode": "production", "validity": Validity.device_lifetime(NOW)}
    common |= {"public_key": keys[0].public_key(), "serial": serial()}
    assert len({draft_root(throwaway=k, **common).tbs for k in keys}) == 1
    issuing = {"pair": "default", "issuer": cas.root.info, **common}
    assert len({draft_issuing("ek", throwaway=k, **issuing).tbs for k in keys}) == 1


def test_filling_the_slot_changes_the_slot_only(make_devid):
    numbers = {"serial": new_serial(1, os.urandom), "ek_serial": new_serial(1, os.urandom)}
    draft = make_devid(**numbers)
    digest = hashlib.sha256(b"an EK certificate").hexdigest()
    tbs = patch_slot(draft.tbs, draft.slot, digest)
    assert draft.tbs[draft.slot : draft.slot + 64] == EMPTY_SLOT
    assert tbs[draft.slot : draft.slot + 64] == digest.encode()
    assert (tbs[: draft.slot], tbs[draft.slot + 64 :]) == (
        draft.tbs[: draft.slot],
        draft.tbs[draft.slot + 64 :],
    )
    assert tbs == make_devid(**numbers, ek_digest=digest).tbs
    assert filled(draft, digest) == make_devid(**numbers, ek_digest=digest)


def test_a_resource_of_zeros_is_not_taken_for_the_slot(make_devid, provenance):
    origin = provenance.__class__(**(vars(provenance) | {"resource": "a/b/" + "0" * 64}))
    draft = make_devid(provenance=origin)
    assert draft.tbs.count(EMPTY_SLOT) == 2
    assert draft.tbs[: draft.slot].endswith(b"\x0c\x40")
    tbs = patch_slot(draft.tbs, draft.slot, "ab" * 32)
    assert tbs.count(EMPTY_SLOT) == 1
    assert origin.resource.encode() in tbs


@pytest.mark.parametrize("digest", ["", "0" * 63, "0" * 65, "AB" * 32, "zz" * 32, "é" * 64])
def test_only_a_digest_fills_the_slot(make_devid, digest):
    with pytest.raises(BadRequest):
        filled(make_devid(), digest)


def test_there_must_be_a_slot(make_ek, make_devid):
    assert make_ek().slot is None
    assert make_devid(ek_digest="ab" * 32).slot is None
    draft = make_devid()
    for offset in (-1, 0, draft.slot + 1, len(draft.tbs)):
        with pytest.raises(BadRequest):
            patch_slot(draft.tbs, offset, "cd" * 32)
    for tbs in (b"", draft.tbs + draft.tbs):
        with pytest.raises(ValueError, match="once"):
            find_slot(tbs, EMPTY_SLOT.decode())


def test_this_profile_is_not_for_eks(make_devid):
    with pytest.raises(ValueError, match="IAK"):
        make_devid(Role.EK)


def test_sizes_stay_below_what_consumers_hold(make_ek, make_devid):
    for kind in ("P-256", "P-384", "P-521", "RSA-2048"):
        assert len(make_ek(kind).tbs) + 123 < 2048
        assert max(len(make_devid(role, kind).tbs) + 123 for role in (Role.IAK, Role.IDEVID)) < 1400


def test_serials_have_the_prefix_and_128_random_bits():
    drawn = [new_serial(p, os.urandom) for p in range(1, 128)]
    assert [s >> 128 for s in drawn] == list(range(1, 128))
    assert len({s % 2**128 for s in drawn}) == 127
    assert all(len(serial_hex(s)) == 34 and int(serial_hex(s), 16) == s for s in drawn)
    assert all(len(core.Integer(s).contents) == 17 for s in drawn)
    assert new_serial(1, bytes) == 1 << 128
    for prefix in (0, 128, -1):
        with pytest.raises(ValueError, match="prefix"):
            new_serial(prefix, os.urandom)


@pytest.mark.parametrize(
    ("manufacturer", "printed"),
    [
        ("49424d00", "IBM"),
        ("414d4400", "AMD"),
        ("00001014", "00001014"),
        ("00000000", "00000000"),
        ("494e5443", "INTC"),
        ("3a3a3a3a", "3a3a3a3a"),
        ("4e544300", "NTC"),
        ("53204d00", "53204d00"),
    ],
)
def test_manufacturer_is_printed_where_it_can_be(manufacturer, printed):
    assert printable_manufacturer(manufacturer) == printed


def test_validity_never_overflows():
    assert Validity.bounded(NOW, 10).not_after == NOW + timedelta(days=10)
    near = NOW + timedelta(days=3)
    assert Validity.bounded(NOW, 10, within=near).not_after == near
    late = datetime(9999, 12, 30, tzinfo=UTC)
    assert Validity.bounded(late, 365000).not_after == DEVICE_LIFETIME
    whole = Validity.device_lifetime(NOW)
    assert whole.lies_within(whole)
    assert not Validity(NOW - timedelta(seconds=1), near).lies_within(whole)
    assert not whole.lies_within(Validity(NOW, near))
    assert Validity.device_lifetime(NOW.replace(microsecond=7)).not_before == NOW
    for bad in (NOW.replace(tzinfo=None), NOW.replace(microsecond=1)):
        with pytest.raises(ValueError, match="aware"):
            Validity(bad, DEVICE_LIFETIME)


@pytest.mark.parametrize("past", [timedelta(0), timedelta(seconds=1), timedelta(days=400)])
def test_nothing_comes_from_a_ca_that_has_expired(past):
    for make in (Validity.bounded, Validity.ephemeral):
        with pytest.raises(Unavailable) as caught:
            make(NOW, 3, NOW - past)
        assert caught.value.code == "issuer-expired"
