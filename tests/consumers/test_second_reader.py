"""Whatever this CA issues reads the same by `cryptography` and by asn1crypto, field by field; no field goes unseen."""

import functools
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import read_by_asn1crypto as second
import read_by_cryptography as first
from asn1crypto import core, crl, ocsp
from asn1crypto import x509 as asn1
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.ocsp import OCSPRequestBuilder
from relying_stage import provenance, signed

from ca_service.profiles import DEVICE_LIFETIME, Validity, draft_devid, lint, new_serial, oids, structures
from vtpm.wire.public_area import pack_public, parse_public
from vtpm.wire.templates import Role, template

AKI, SKI, KU, BC, SAN, EKU = ("2.5.29." + last for last in ("35", "14", "15", "19", "17", "37"))
SDA, CP, CDP, AIA, NO_CHECK = (
    "2.5.29.9",
    "2.5.29.32",
    "2.5.29.31",
    "1.3.6.1.5.5.7.1.1",
    "1.3.6.1.5.5.7.48.1.5",
)
PROVENANCE = oids.PROVENANCE.dotted_string
NUMBER, SCOPE, REASON, NONCE = "2.5.29.20", "2.5.29.28", "2.5.29.21", "1.3.6.1.5.5.7.48.1.2"
MISSING = object()

KINDS = {
    "certificate": (first.certificate, second.certificate, asn1.Certificate),
    "list": (first.revocation_list, second.revocation_list, crl.CertificateList),
    "answer": (first.answer, second.answer, ocsp.OCSPResponse),
}


def different(one, other) -> set[str]:
    """The fields that differ, or that only one has."""
    return {name for name in one.keys() | other.keys() if one.get(name, MISSING) != other.get(name, MISSING)}


@pytest.fixture(scope="module")
def issued(every):
    """DER of everything, by kind and a word for it."""
    asked = OCSPRequestBuilder().add_extension(x509.OCSPNonce(bytes(range(32))), critical=False)
    about = every.one("ek")
    asked = asked.add_certificate(about.certificate, every.authority_of("ek"), hashes.SHA1())  # noqa: S303 - as clients ask
    sides = [
        every.one(p, issuer=i) for p in ("ek", "idevid") for i in ("ephemeral", {"ek": "ek"}.get(p, "devid"))
    ]
    answers = {one.id: every.answer(one) for one in sides}
    answers |= {f"revoked-{one.id}": every.answer(one) for one in every.revoked}
    answers["nonce"] = every.answer_to(asked.build().public_bytes(Encoding.DER))
    certificates = {one.id: one.der for one in every.issued} | further(every)
    return {
        "certificate": certificates | {f"revoked-{one.id}": one.der for one in every.revoked},
        "list": {f"{role}-{shard}": der for (role, shard), der in every.lists.items()},
        "answer": answers,
    }


def further(every) -> dict[str, bytes]:
    """IDevID certificates with the forms of provenance that the others do not have.

    The short form comes of a long name of a resource; the other one of evidence that no key broker vouches for.
    """
    key = every.one("idevid", key="P-384").certificate.public_key().public_numbers()
    coordinates = tuple(part.to_bytes(48, "big") for part in (key.x, key.y))
    area = replace(parse_public(template(Role.IDEVID, "H-3").public), unique=coordinates)
    vtpm = {"kbs_thumbprint": None, "resource": None, "profile": "amd-svsm-vtpm:0", "ephemeral": True}
    forms = {
        "brief": ("devid", Validity.device_lifetime(every.at), {"resource": "default/vtpm/" + "x" * 240}),
        "ungranted": ("ephemeral", Validity.ephemeral(every.at, 7, DEVICE_LIFETIME), vtpm),
    }
    made = {}
    for form, (role, validity, stated) in forms.items():
        issuer = every.world.authority.issuer(role)
        draft = draft_devid(
            Role.IDEVID,
            public=pack_public(area),
            ek_name=bytes(34),
            manufacturer="49424d00",
            ek_serial=7,
            ek_aki=bytes(20),
            ek_digest="ab" * 32,
            serial=new_serial(7, lambda n: bytes([7] * n)),
            validity=validity,
            issuer=issuer.info,
            provenance=provenance(**stated),
        )
        lint(draft, issuer.info)
        made[form] = signed(draft.tbs, issuer.signer)
    return made


# --- they agree ---


@pytest.mark.parametrize("kind", KINDS)
def test_both_read_the_same(issued, kind):
    by_cryptography, by_asn1crypto, _ = KINDS[kind]
    for name, der in issued[kind].items():
        assert different(by_cryptography(der), by_asn1crypto(der)) == set(), name


@pytest.mark.parametrize("kind", KINDS)
def test_asn1crypto_writes_it_back_octet_for_octet(issued, kind):
    """So there is nothing in it that it has passed over, and no encoding but the one of DER."""
    loader = KINDS[kind][2]
    for name, der in issued[kind].items():
        read = loader.load(der, strict=True)
        read.native  # noqa: B018 - reads it to the last element
        assert read.dump(force=True) == der, name


def test_every_kind_is_among_them(every, issued):
    keys = {(one.profile, one.ephemeral, one.key) for one in every.devices}
    assert len(keys) == 4 * 2 * 5
    assert len(issued["certificate"]) == len(every.issued) + len(every.revoked) + 2 >= 50
    rows = [first.certificate(der) for der in issued["certificate"].values()]
    assert {row[PROVENANCE][0] for row in rows if PROVENANCE in row} == {1, 2, 3}
    assert {"root-0", "ek-3", "devid-0", "ephemeral-1"} <= set(issued["list"])
    verdicts = {row[0] for der in issued["answer"].values() for row in first.answer(der)["verdicts"]}
    assert verdicts == {"good", "revoked"}


# --- each field is seen to differ ---


def swap(old: str | bytes, new: str | bytes, *, last=False):
    """Octets for as many others, at the first place where they stand; text is hex."""
    old, new = (bytes.fromhex(part) if isinstance(part, str) else part for part in (old, new))
    assert len(old) == len(new)
    assert old != new

    def changed(der):
        at = der.rindex(old) if last else der.index(old)
        return der[:at] + new + der[at + len(old) :]

    return changed


def flip(find, offset=-1):
    """One bit in the octets that `find` picks out of the certificate's fields."""

    def changed(der):
        octets = find(der)
        other = bytearray(octets)
        other[offset] ^= 1
        return swap(octets, bytes(other))(der)

    return changed


def _part(kind, *path):
    """The part of an object under asn1crypto's names for it."""

    def rebuild(change):
        def changed(der):
            loaded = KINDS[kind][2].load(der, strict=True)
            holder = loaded
            for step in path:
                holder = holder[step]
                holder = holder.parsed if isinstance(holder, core.ParsableOctetString) else holder
            change(holder)
            return loaded.dump(force=True)

        return changed

    return rebuild


CERTIFICATE = _part("certificate", "tbs_certificate")
LIST = _part("list", "tbs_cert_list")
ANSWER = _part("answer", "response_bytes", "response", "tbs_response_data")


def _setting(*path, value):
    *before, last = path

    def change(holder):
        for step in before:
            holder = holder[step]
        holder[last] = value

    return change


def timed(part, *path, later):
    """A time that is a second later, or the same one written as the other type of time."""

    def change(holder):
        *before, last = path
        for step in before:
            holder = holder[step]
        at = holder[last].native
        holder[last] = asn1.Time(
            *(("utc_time", at + timedelta(seconds=1)) if later else ("general_time", at))
        )

    return part(change)


def exchanged(part, name, dotted, value):
    """Another value of an extension; `value` is DER or has `public_bytes`."""

    def change(holder):
        (row,) = (row for row in holder[name] if row["extn_id"].dotted == dotted)
        row["extn_value"] = core.ParsableOctetString(
            value if isinstance(value, bytes) else value.public_bytes()
        )

    return part(change)


def turned(part, name):
    """The first two extensions in the other order."""

    def change(holder):
        rows = list(holder[name])
        holder[name] = type(holder[name])([rows[1], rows[0], *rows[2:]])

    return part(change)


extension = functools.partial(exchanged, CERTIFICATE, "extensions")
KEY_ID = bytes(range(20))
URL = x509.UniformResourceIdentifier("http://other.example/x")
PLACE = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "other")])


def usage(*names):
    bits = [
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
    ]
    bits += ["key_cert_sign", "crl_sign", "encipher_only", "decipher_only"]
    return x509.KeyUsage(**{bit: bit in names for bit in bits})


def points(**parts):
    values = {"full_name": [URL], "relative_name": None, "reasons": None, "crl_issuer": None} | parts
    return x509.CRLDistributionPoints([x509.DistributionPoint(**values)])


def other_names(
    serial=b"IBM:0:1", hw_type=oids.TPM_20, digest="0" * 64, assigner=oids.EK_PERMANENT_ID_SHA256, turn=False
):
    module = structures.HardwareModuleName(hw_type=hw_type, hw_serial_num=serial)
    identifier = structures.PermanentIdentifier(identifier_value=digest, assigner=assigner)
    names = [
        x509.OtherName(oids.HARDWARE_MODULE_NAME, structures.encode(module)),
        x509.OtherName(oids.PERMANENT_IDENTIFIER, structures.encode(identifier)),
    ]
    return x509.SubjectAlternativeName(names[::-1] if turn else names)


def signature_of(der):
    return second.certificate(der)["signature"]


def serial_of(der):
    return asn1.Certificate.load(der)["tbs_certificate"]["serial_number"].contents


def revoked_serial(der):
    return crl.CertificateList.load(der)["tbs_cert_list"]["revoked_certificates"][0][
        "user_certificate"
    ].contents


def field_of(reader, name):
    return lambda der: reader(der)[name]


def vouching(member):
    """Another last bit of a member of the provenance."""

    def change(tbs):
        (row,) = (row for row in tbs["extensions"] if row["extn_id"].dotted == PROVENANCE)
        value = bytearray(bytes(row["extn_value"]))
        ends = len(value)
        for later in reversed(list(second.members(bytes(value)))[member + 1 :]):
            ends -= len(later)
        value[ends - 1] ^= 1
        row["extn_value"] = core.ParsableOctetString(bytes(value))

    return CERTIFICATE(change)


_SHA384, _SHA256 = "06082a8648ce3d040303", "06082a8648ce3d040302"

LATER = datetime(2049, 1, 1, tzinfo=UTC)
OTHER_TIMES = ({"later": True}, {"later": False})
UNKNOWN = ocsp.CertStatus("unknown", core.Null())
REVOKED_LATER = ocsp.CertStatus(
    "revoked", ocsp.RevokedInfo({"revocation_time": LATER, "revocation_reason": "key_compromise"})
)
SCOPES = [
    x509.IssuingDistributionPoint(
        **{
            "full_name": None,
            "relative_name": None,
            "only_contains_user_certs": False,
            "only_contains_ca_certs": False,
            "only_some_reasons": None,
            "indirect_crl": False,
            "only_contains_attribute_certs": False,
            **changes,
        }
    )
    for changes in (
        {"full_name": [URL]},
        {"full_name": [URL], "indirect_crl": True},
        {"only_contains_user_certs": True},
        {"only_contains_ca_certs": True},
        {"only_contains_attribute_certs": True},
        {"only_some_reasons": frozenset([x509.ReasonFlags.key_compromise])},
    )
]


CERTIFICATES = [
    ("idevid-H-3", {"version"}, swap("a003020102", "a003020101")),
    ("idevid-H-3", {"serial"}, flip(serial_of)),
    ("idevid-H-3", {"signature"}, flip(signature_of)),
    ("idevid-H-3", {"algorithm"}, swap(_SHA384, _SHA256)),
    ("idevid-H-3", {"algorithm"}, swap(_SHA384, _SHA256, last=True)),
    ("idevid-H-3", {"algorithm"}, CERTIFICATE(_setting("signature", "parameters", value=core.Null()))),
    ("idevid-H-3", {"issuer"}, swap(b"Tests", b"tests")),
    ("idevid-H-3", {"issuer"}, swap(b"\x0c\x05Tests", b"\x13\x05Tests")),
    ("idevid-H-3", {"issuer"}, swap("060355040a", "060355040b")),
    ("idevid-H-3", {"subject"}, swap(b"\x0c\x04vTPM", b"\x0c\x04VTPM")),
    ("idevid-H-3", {"subject"}, swap(b"\x0c\x04vTPM", b"\x13\x04vTPM")),
    ("idevid-H-3", {"subject"}, swap("06035504051320", "06035504050c20")),
    ("ek-L-1", {"subject"}, CERTIFICATE(_setting("subject", value=asn1.Name.build({"common_name": "x"})))),
    *(
        ("ocsp-ek", {name.replace("_", " ")}, timed(CERTIFICATE, "validity", name, **other))
        for name in ("not_before", "not_after")
        for other in OTHER_TIMES
    ),
    ("idevid-H-3", {"not after"}, swap(b"99991231235959Z", b"99991231235958Z")),
    ("ek-L-1", {"key", "key algorithm"}, swap("06092a864886f70d010101", "06092a864886f70d010107")),
    ("idevid-H-3", {"key", "key algorithm"}, swap("06072a8648ce3d0201", "06072a8648ce3d0202")),
    ("ek-L-1", {"key", "key parameters"}, swap("2a864886f70d0101010500", "2a864886f70d0101010400")),
    ("idevid-H-3", {"key", "key parameters"}, swap("06052b81040022", "06052b81040023")),
    ("ek-L-1", {"key", "key numbers"}, swap("0203010001", "0203010003")),
    ("ek-L-1", {"key", "key numbers"}, flip(lambda der: der[der.index(bytes.fromhex("0282010100")) :][5:261], 9)),
    ("idevid-H-3", {"key", "key numbers"}, flip(field_of(second.certificate, "key"), 30)),
    ("idevid-H-3", {"key", "key numbers"}, flip(field_of(second.certificate, "key"), -1)),
    # --- extensions ---
    ("idevid-H-3", {"extensions"}, swap("0603551d0f0101ff", "0603551d0f010100")),
    ("idevid-H-3", {"extensions"}, turned(CERTIFICATE, "extensions")),
    ("idevid-H-3", {"extensions", SKI, "2.5.29.99"}, swap("0603551d0e", "0603551d63")),
    ("idevid-H-3", {AKI}, extension(AKI, x509.AuthorityKeyIdentifier(KEY_ID, None, None))),
    *(
        (name, {AKI}, extension(AKI, x509.AuthorityKeyIdentifier(None, [x509.DirectoryName(PLACE)], 7)))
        for name in ("ek-L-1", "issuing-ca-ek")
    ),
    ("idevid-H-3", {SKI}, extension(SKI, x509.SubjectKeyIdentifier(KEY_ID))),
    *(
        (name, {KU}, extension(KU, usage(*bits)))
        for name, *bits in (
            ("idevid-H-3", "content_commitment"),
            ("idevid-H-3", "digital_signature", "data_encipherment"),
            ("ek-L-1", "data_encipherment"),
            ("ek-L-2", "key_agreement", "encipher_only"),
            ("ek-L-2", "key_agreement", "decipher_only"),
            ("issuing-ca-ek", "key_cert_sign"),
            ("issuing-ca-ek", "crl_sign"),
        )
    ),
    ("ek-L-1", {BC}, extension(BC, x509.BasicConstraints(ca=True, path_length=None))),
    ("issuing-ca-ek", {BC}, extension(BC, x509.BasicConstraints(ca=True, path_length=1))),
    ("issuing-ca-ek", {BC}, extension(BC, x509.BasicConstraints(ca=False, path_length=None))),
    ("ek-L-1", {SAN}, swap(b"id:49424D00", b"id:49424D01")),
    ("ek-L-1", {SAN}, swap("060567810502020c", "060567810502010c")),
    ("ek-L-1", {SAN}, extension(SAN, x509.SubjectAlternativeName([x509.DNSName("other.example")]))),
    ("iak-webauthn-H-2", {SAN}, swap(b"id:20231123", b"id:20231124")),
    *(
        ("idevid-H-3", {SAN}, extension(SAN, other_names(**changes)))
        for changes in (
            {"serial": b"IBM:0:2"},
            {"hw_type": x509.ObjectIdentifier("2.23.133.1.0")},
            {"digest": "1" * 64},
            {"assigner": oids.TPM_20},
            {"turn": True},
        )
    ),
    ("ek-L-1", {EKU}, extension(EKU, x509.ExtendedKeyUsage([oids.AIK_CERTIFICATE]))),
    ("ek-L-1", {EKU}, extension(EKU, x509.ExtendedKeyUsage([oids.EK_CERTIFICATE, oids.AIK_CERTIFICATE]))),
    ("idevid-H-3", {CP}, swap("06066781050b0102", "06066781050b0103")),
    (
        "idevid-H-3",
        {CP},
        extension(
            CP,
            x509.CertificatePolicies(
                [
                    x509.PolicyInformation(x509.ObjectIdentifier(f"2.23.133.11.1.{last}"), said)
                    for last, said in ((1, None), (2, ["http://other.example/cps"]))
                ]
            ),
        ),
    ),
    ("idevid-H-3", {CDP}, swap(b"/crl/", b"/crL/")),
    ("idevid-H-3", {CDP}, extension(CDP, points(full_name=[URL, URL]))),
    (
        "idevid-H-3",
        {CDP},
        extension(CDP, points(full_name=None, relative_name=x509.RelativeDistinguishedName(list(PLACE)))),
    ),
    ("idevid-H-3", {CDP}, extension(CDP, points(reasons=frozenset([x509.ReasonFlags.key_compromise])))),
    ("idevid-H-3", {CDP}, extension(CDP, points(crl_issuer=[x509.DirectoryName(PLACE)]))),
    ("idevid-H-3", {AIA}, swap(b"/ocsp", b"/OCSP")),
    ("idevid-H-3", {AIA}, swap("06082b06010505073001", "06082b06010505073003")),
    *(("ek-L-1", {SDA}, swap(*change)) for change in (
        (b"\x0c\x032.0", b"\x0c\x032.1"),
        ("06056781050210", "06056781050211"),
        (b"2.0\x02\x01\x00", b"2.0\x02\x01\x01"),
        (b"2.0\x02\x01\x00\x02\x02\x00\xa4", b"2.0\x02\x01\x00\x02\x02\x00\xa5"),
    )),
    *(
        (name, {PROVENANCE}, vouching(member))
        for name, members in (("idevid-H-3", 7), ("ungranted", 5), ("brief", 5))
        for member in range(members)
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "fields", "change"), CERTIFICATES)
def test_another_certificate(issued, name, fields, change):
    seen_to_differ("certificate", issued["certificate"][name], fields, change)


UNREAD = [
    ("ocsp-ek", NO_CHECK, swap("2b060105050730010504020500", "2b060105050730010504020400")),
    ("ek-L-1", SAN, swap(b"\x0c\x0bid:49424D00", b"\x13\x0bid:49424D00")),
    ("idevid-H-3", "subject", swap(b"\x0c\x04vTPM", b"\x04\x04vTPM")),
    ("idevid-H-3", "signature", lambda der: der + b"\0"),
    ("idevid-H-3", "signature", lambda der: der[:-1]),
]
LISTS = [
    ("ek-0", {"signature"}, flip(lambda der: second.revocation_list(der)["signature"])),
    ("ek-0", {"algorithm"}, swap(_SHA384, _SHA256)),
    ("ek-0", {"algorithm"}, swap(_SHA384, _SHA256, last=True)),
    ("ek-0", {"issuer"}, swap(b"Tests", b"tests")),
    ("ek-0", {"issuer"}, swap(b"\x0c\x05Tests", b"\x13\x05Tests")),
    *(
        ("ek-0", {name.replace("_", " ")}, timed(LIST, name, **other))
        for name in ("this_update", "next_update")
        for other in OTHER_TIMES
    ),
    ("revoked", {"revoked"}, flip(revoked_serial)),
    ("revoked", {"revoked"}, swap("0603551d1504030a0101", "0603551d1504030a0104")),
    ("revoked", {"revoked"}, swap("0603551d15", "0603551d63")),
    ("revoked", {"revoked"}, timed(LIST, "revoked_certificates", 0, "revocation_date", later=True)),
    ("ek-0", {"extensions"}, swap("0603551d1c0101ff", "0603551d1c010100")),
    ("ek-0", {"extensions"}, turned(LIST, "crl_extensions")),
    *(
        ("ek-0", {dotted}, exchanged(LIST, "crl_extensions", dotted, value))
        for dotted, value in (
            (AKI, x509.AuthorityKeyIdentifier(KEY_ID, None, None)),
            (NUMBER, x509.CRLNumber(77)),
            *((SCOPE, value) for value in SCOPES),
        )
    ),
]
ANSWERS = [
    ("good", {"status"}, swap("0a0100", "0a0101")),
    ("good", {"signature"}, flip(lambda der: second.answer(der)["signature"])),
    ("good", {"algorithm"}, swap(_SHA256, _SHA384)),
    ("good", {"responder"}, flip(lambda der: second.answer(der)["responder"])),
    ("good", {"produced at"}, ANSWER(_setting("produced_at", value=LATER))),
    ("good", {"certificates"}, flip(lambda der: second.answer(der)["certificates"][0])),
    ("good", {"about"}, swap("0609608648016503040201", "0609608648016503040202")),
    *(("good", {"about"}, flip(lambda der, at=at: second.answer(der)["about"][0][at])) for at in (1, 2)),
    ("good", {"about"}, ANSWER(_setting("responses", 0, "cert_id", "serial_number", value=7))),
    ("good", {"verdicts"}, ANSWER(_setting("responses", 0, "cert_status", value=UNKNOWN))),
    ("revoked", {"verdicts"}, swap("a0030a0101", "a0030a0104")),
    ("revoked", {"verdicts"}, ANSWER(_setting("responses", 0, "cert_status", value=REVOKED_LATER))),
    ("good", {"updates"}, ANSWER(_setting("responses", 0, "this_update", value=LATER))),
    ("good", {"updates"}, ANSWER(_setting("responses", 0, "next_update", value=LATER))),
    ("nonce", {NONCE}, flip(lambda _: bytes(range(32)))),
    ("nonce", {NONCE, "extensions"}, ANSWER(_setting("response_extensions", value=None))),
]


@pytest.mark.parametrize(("name", "field", "change"), UNREAD)
def test_what_asn1crypto_does_not_read_at_all(issued, name, field, change):
    with pytest.raises(ValueError, match=r"while parsing|Extra data|Insufficient data"):
        second.certificate(change(issued["certificate"][name]))


@pytest.mark.parametrize(("name", "fields", "change"), LISTS)
def test_another_list(issued, every, name, fields, change):
    der = issued["list"]["ek-0"]
    if name == "revoked":
        der = next(der for der in issued["list"].values() if first.revocation_list(der)["revoked"])
    seen_to_differ("list", der, fields, change)


@pytest.mark.parametrize(("name", "fields", "change"), ANSWERS)
def test_another_answer(issued, every, name, fields, change):
    names = {"good": every.one("ek", issuer="ek").id, "revoked": f"revoked-{every.revoked[0].id}"}
    seen_to_differ("answer", issued["answer"][names.get(name, name)], fields, change)


@pytest.mark.parametrize(
    ("kind", "cases"), [("certificate", CERTIFICATES), ("list", LISTS), ("answer", ANSWERS)]
)
def test_each_field_was_seen_to_differ(issued, kind, cases):
    fields = {field for der in issued[kind].values() for field in KINDS[kind][0](der)}
    seen = {field for _, changed, _ in cases for field in changed} - {"2.5.29.99"}
    if kind == "certificate":
        seen |= {field for _, field, _ in UNREAD}
    assert seen == fields - {"tbs"}


def seen_to_differ(kind, der, fields, change):
    """`fields` and nothing else differ between what one library reads in `der` and the other in the changed one."""
    by_cryptography, by_asn1crypto, _ = KINDS[kind]
    mutated = change(der)
    assert different(by_cryptography(der), by_asn1crypto(mutated)) - {"tbs"} == fields
