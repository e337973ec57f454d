"""What consumers demand: every rule can fail, reports are right for real certificates, and the document says so."""

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from ca_service.judgment import BadRequest, Verdict
from ca_service.profiles import CONTRACTS, DEVICE_LIFETIME, assemble, contract_report, key_kind, lint, oids
from ca_service.profiles.contract import ContractSubject
from ca_service.profiles.reader_cryptography import read
from ca_service.profiles.rules import RULES, rules_for
from ca_service.profiles.view import (
    AIA,
    AKI,
    BC,
    CP,
    EKU,
    KU,
    PROVENANCE,
    SAN,
    SDA,
    SKI,
    AuthorityKeyView,
    BasicConstraintsView,
    ExtensionView,
    HardwareModuleView,
    NameView,
    OtherNameView,
    PermanentIdentifierView,
    PoliciesView,
    SpecificationView,
)
from vtpm.wire.templates import Role, parse_public

DOCUMENT = Path(__file__).parents[3] / "docs" / "consumers.md"
KINDS = ("RSA-2048", "RSA-3072", "P-256", "P-384", "P-521")
PROFILES = ("ek", "iak", "iak-webauthn", "idevid")
BY_ID = {rule.id: rule for rule in CONTRACTS}


@pytest.fixture(scope="module")
def make(make_ek, make_devid, make_webauthn):
    """A draft by profile and kind of key."""

    def made(profile, kind, **changes):
        if profile == "ek":
            return make_ek(kind, **changes)
        if profile == "iak-webauthn":
            return make_webauthn(kind, **changes)
        return make_devid(Role(profile), kind, **changes)

    return made


def der_of(draft):
    return assemble(
        draft.tbs, ec.generate_private_key(ec.SECP384R1()).sign(draft.tbs, ec.ECDSA(hashes.SHA384()))
    )


def verdicts(reports):
    return {report.consumer: report.failed for report in reports}


# --- the rules, one by one, on views that differ in one thing ---


def with_extension(view, dotted, value=None, *, critical=None):
    """The view with another value or criticality of an extension; without it if neither is given."""
    changed = []
    for extension in view.extensions:
        if extension.id != dotted:
            changed.append(extension)
        elif value is not None or critical is not None:
            changed.append(
                extension._replace(
                    value=extension.value if value is None else value,
                    critical=extension.critical if critical is None else critical,
                )
            )
    return replace(view, extensions=tuple(changed))


def san(*names):
    return lambda view: with_extension(view, SAN, tuple(names))


def extension(dotted, value=None, *, critical=None):
    return lambda view: with_extension(view, dotted, value, critical=critical)


def policies(*named):
    """certificatePolicies, which EK certificates of this CA do not have."""
    value = ExtensionView(CP, critical=False, der=b"", value=PoliciesView(named, qualified=False))
    return lambda view: replace(view, extensions=(*view.extensions, value))


def without_subject(view):
    return replace(view, subject=NameView(b"0\0", ()))


def attributes(**texts):
    return tuple(
        ((f"2.23.133.2.{number}", text),) for number, text in zip((1, 2, 3), texts.values(), strict=True)
    )


TPM = NameView(b"", attributes(manufacturer="id:1", model="m", version="id:2"))
MODULE = HardwareModuleView("2.23.133.1.2", b"IBM:aa:bb")
PERMANENT = PermanentIdentifierView("ab" * 32, "2.23.133.12.1")
HOST = OtherNameView("DNSName", b"host.example")


def doubled(view):
    return replace(view, extensions=(*view.extensions, view.extensions[0]))


def of_an_odd_key(view):
    return replace(view, spki=view.spki[1:])


def ed25519(view):
    return replace(view, signature_algorithm=b"Ed25519")


# Each for a consumer whose program is written in Go.
UNREAD_BY_GO = [
    *(extension(dotted, critical=True) for dotted in (AKI, SKI, AIA)),
    doubled,
    of_an_odd_key,
]
TWICE = extension(CP, PoliciesView(("2.23.133.11.1.1",) * 2, qualified=False))
GO = [("spire", "ek", "P-384"), ("step-ca", "iak-webauthn", "P-256"), ("go-attestation", "ek", "P-384")]

BROKEN = [
    *((f"compat.{consumer}.readable", *case, change) for consumer, *case in GO for change in UNREAD_BY_GO),
    ("compat.spire.readable", "idevid", "P-256", TWICE),
    ("compat.step-ca.readable", "iak-webauthn", "P-256", TWICE),
    ("compat.spire.signature", "idevid", "P-256", ed25519),
    ("compat.step-ca.signature", "iak-webauthn", "P-256", ed25519),
    ("compat.step-ca.hardware-module-name", "iak-webauthn", "P-256", san(TPM, MODULE, PERMANENT)),
    ("compat.step-ca.permanent-identifier", "iak-webauthn", "P-256", san(TPM)),
    (
        "compat.step-ca.permanent-identifier",
        "iak-webauthn",
        "P-256",
        san(TPM, replace(PERMANENT, identifier_value="")),
    ),
    ("compat.go-attestation.critical", "ek", "P-384", extension(SDA, critical=True)),
    ("compat.go-attestation.policies", "ek", "P-384", policies()),
    ("compat.go-attestation.tpm-name", "ek", "P-384", san(TPM, HOST)),
    ("compat.go-attestation.tpm-name", "ek", "P-384", san(TPM, MODULE)),
    ("compat.hirs.ek-specification", "ek", "P-384", extension(SDA, b"")),
    ("compat.keylime.signature", "ek", "P-384", ed25519),
    ("compat.keylime.key", "iak", "P-384", of_an_odd_key),
    ("compat.keylime.hardware-module-name", "iak", "P-384", san(TPM)),
    ("compat.keylime.hardware-module-name", "idevid", "P-384", san()),
    (
        "compat.keylime.hardware-module-name",
        "iak",
        "P-384",
        san(HardwareModuleView("2.23.133.1.0", MODULE.hw_serial_num)),
    ),
    ("compat.spire.ek-critical", "ek", "RSA-2048", extension(SDA, critical=True)),
    ("compat.spire.devid-critical", "idevid", "P-256", extension(SAN, critical=True)),
    ("compat.spire.devid-subject", "idevid", "P-256", without_subject),
    ("compat.step-ca.version", "iak-webauthn", "P-256", lambda v: replace(v, version=1)),
    ("compat.step-ca.empty-subject", "iak-webauthn", "P-256", lambda v: replace(v, subject=v.issuer)),
    ("compat.step-ca.not-a-ca", "iak-webauthn", "P-256", extension(BC, BasicConstraintsView(True, 0))),
    (
        "compat.step-ca.aik-purpose-first",
        "iak-webauthn",
        "P-256",
        extension(EKU, ("2.23.133.8.1", "2.23.133.8.3")),
    ),
    ("compat.step-ca.aik-purpose-first", "iak-webauthn", "P-256", extension(EKU)),
    ("compat.step-ca.tpm-name", "iak-webauthn", "P-256", san(MODULE)),
    (
        "compat.step-ca.tpm-name",
        "iak-webauthn",
        "P-256",
        san(NameView(b"", attributes(manufacturer="id:1", model="", version="id:2"))),
    ),
    ("compat.step-ca.critical", "iak-webauthn", "P-256", extension(AKI, critical=True)),
    ("compat.go-attestation.version", "ek", "P-384", lambda v: replace(v, version=2)),
    ("compat.go-attestation.serial", "ek", "P-384", lambda v: replace(v, serial=0)),
    ("compat.go-attestation.issuer", "ek", "P-384", lambda v: replace(v, issuer=NameView(b"0\0", ()))),
    ("compat.go-attestation.basic-constraints", "ek", "P-384", extension(BC)),
    ("compat.go-attestation.basic-constraints", "ek", "P-384", extension(BC, critical=False)),
    (
        "compat.go-attestation.basic-constraints",
        "ek",
        "P-384",
        extension(BC, BasicConstraintsView(True, None)),
    ),
    ("compat.go-attestation.tpm-name", "ek", "P-384", san(TPM, TPM)),
    ("compat.go-attestation.tpm-name", "ek", "P-384", extension(SAN)),
    ("compat.go-attestation.tpm-name", "ek", "P-384", extension(SAN, critical=False)),
    (
        "compat.go-attestation.tpm-name",
        "ek",
        "P-384",
        san(NameView(b"", (*TPM.rdns, (("2.5.4.3", "vTPM"),)))),
    ),
    ("compat.go-attestation.key-usage", "ek", "P-384", extension(KU, frozenset({"key_encipherment"}))),
    ("compat.go-attestation.key-usage", "ek", "RSA-2048", extension(KU, frozenset({"key_agreement"}))),
    ("compat.go-attestation.key-usage", "ek", "RSA-2048", extension(KU, critical=False)),
    ("compat.go-attestation.authority-key-id", "ek", "P-384", extension(AKI)),
    (
        "compat.go-attestation.authority-key-id",
        "ek",
        "P-384",
        extension(AKI, AuthorityKeyView(None, names_issuer=True)),
    ),
    ("compat.go-attestation.not-critical", "ek", "P-384", extension(AIA, critical=True)),
    ("compat.go-attestation.specification", "ek", "P-384", extension(SDA, b"")),
    (
        "compat.go-attestation.specification",
        "ek",
        "P-384",
        extension(SDA, SpecificationView("2.23.133.2.17", "2.0", 0, 164)),
    ),
    ("compat.hirs.hardware-module-name", "iak", "P-384", san(TPM)),
    ("compat.hirs.hardware-module-name", "idevid", "P-384", san(replace(MODULE, hw_serial_num=b"IBM:aa"))),
    ("compat.hirs.hardware-module-name", "idevid", "P-384", san(replace(MODULE, hw_type="2.23.133.1.0"))),
    ("compat.hirs.policies", "iak", "P-384", extension(CP)),
    (
        "compat.hirs.policies",
        "idevid",
        "P-384",
        extension(CP, PoliciesView(("2.23.133.11.1.2",), qualified=False)),
    ),
    (
        "compat.hirs.policies",
        "iak-webauthn",
        "P-384",
        extension(CP, PoliciesView(("2.23.133.11.1.1",), qualified=False)),
    ),
    (
        "compat.hirs.not-after",
        "idevid",
        "P-384",
        lambda v: replace(v, not_after=DEVICE_LIFETIME - timedelta(seconds=1)),
    ),
]
BY_KEY = {
    "compat.keylime.agent-template": ("iak", {"P-256", "RSA-3072"}),
    "compat.keylime.public-area": ("idevid", {"RSA-3072"}),
    "compat.spire.ek-template": ("ek", {"P-256", "P-384", "P-521", "RSA-3072"}),
    "compat.spire.devid-agent": ("idevid", set(KINDS)),
    "compat.hirs.ek-rsa": ("ek", {"P-256", "P-384", "P-521", "RSA-3072"}),
    "compat.keylime.tenant-algorithms": ("ek", {"P-384", "P-521", "RSA-3072"}),
    "compat.spire.ek-rsa": ("ek", {"P-256", "P-384", "P-521"}),
    "compat.spire.devid-challenge": ("idevid", {"P-384", "P-521"}),
    "compat.step-ca.algorithm": ("iak-webauthn", {"P-384", "P-521", "RSA-2048", "RSA-3072"}),
}


@pytest.mark.parametrize(("rule", "profile", "kind", "change"), BROKEN)
def test_a_rule_sees_what_breaks_it(make, rule, profile, kind, change):
    view = read(der_of(make(profile, kind)))
    good, bad = (ContractSubject(profile, v, 1000) for v in (view, change(view)))
    assert BY_ID[rule].judge(good).verdict is Verdict.PASSED
    finding = BY_ID[rule].judge(bad)
    assert (finding.rule, finding.verdict) == (rule, Verdict.FAILED)
    assert finding.reason


@pytest.mark.parametrize("rule", BY_KEY)
def test_a_rule_about_the_kind_of_key(make, rule):
    profile, refused = BY_KEY[rule]
    failing = set()
    for kind in KINDS:
        subject = ContractSubject(profile, read(der_of(make(profile, kind))), 1000)
        if BY_ID[rule].judge(subject).verdict is Verdict.FAILED:
            failing.add(kind)
    assert failing == refused


@pytest.mark.parametrize(("consumer", "profile", "kind"), GO)
def test_go_reads_no_large_arc(make, consumer, profile, kind):
    rule = BY_ID[f"compat.{consumer}.readable"]
    view = read(der_of(make(profile, kind)))
    for arc, verdict in ((2**31 - 1, Verdict.PASSED), (2**31, Verdict.FAILED)):
        one = view.extensions[0]._replace(id=f"2.25.{arc}")
        other = replace(view, extensions=(*view.extensions, one))
        assert rule.judge(ContractSubject(profile, other, 1000)).verdict is verdict


@pytest.mark.parametrize(("consumer", "profile", "kind"), GO)
def test_what_was_issued_up_to_release_0_5_go_does_not_read(make, consumer, profile, kind):
    rule = BY_ID[f"compat.{consumer}.readable"]
    view = read(der_of(make(profile, kind)))
    former = oids.FORMER_PROVENANCE.dotted_string
    extensions = (e._replace(id=former) if e.id == PROVENANCE else e for e in view.extensions)
    old = replace(view, extensions=tuple(extensions))
    finding = rule.judge(ContractSubject(profile, old, 1000))
    assert (finding.verdict, former in finding.reason) == (Verdict.FAILED, True)
    assert old.of_today() == view


@pytest.mark.parametrize(("profile", "limit"), [("ek", 2048), ("iak", 1536), ("idevid", 1536)])
def test_what_keylime_has_room_for(make, profile, limit):
    view = read(der_of(make(profile, "P-384")))
    rule = BY_ID["compat.keylime.size"]
    assert rule.judge(ContractSubject(profile, view, limit)).verdict is Verdict.PASSED
    assert rule.judge(ContractSubject(profile, view, limit + 1)).verdict is Verdict.FAILED


def test_each_rule_has_been_seen_to_fail():
    tried = {case[0] for case in BROKEN} | set(BY_KEY) | {"compat.keylime.size"}
    assert tried == set(BY_ID)
    assert len(BY_ID) == len(CONTRACTS)


# --- what is required ---


def test_required_rules_are_linted_in_their_profiles_and_the_others_are_not():
    linted = {(rule.id, profile) for profile in PROFILES for rule in rules_for(profile)}
    for rule in CONTRACTS:
        assert re.fullmatch(rf"compat\.{rule.consumer}\.[a-z-]+", rule.id)
        assert rule.required <= rule.profiles <= set(PROFILES)
        assert {profile for profile in PROFILES if (rule.id, profile) in linted} == rule.required
    assert not [rule for rule in RULES if rule.id.startswith("compat.") and rule.id not in BY_ID]


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_the_lint_lets_pass_breaks_no_required_rule(make, cas, profile, kind):
    draft = make(profile, kind)
    lint(draft, cas.ek.info if profile == "ek" else cas.devid.info)
    broken = {rule for report in contract_report(draft) for rule in report.failed}
    assert not {rule for rule in broken if profile in BY_ID[rule].required}


# --- reports ---


@pytest.mark.parametrize("profile", PROFILES)
def test_a_draft_and_its_certificate_get_the_same_report(make, profile):
    for kind in ("RSA-2048", "P-384"):
        draft = make(profile, kind)
        assert verdicts(contract_report(draft)) == verdicts(contract_report(der_of(draft)))
        assert contract_report(der_of(draft), profile=profile) == contract_report(der_of(draft))


def test_a_report_tells_all_that_a_consumer_looked_at(make):
    reports = {report.consumer: report for report in contract_report(make("ek", "P-384"))}
    assert set(reports) == {"keylime", "spire", "go-attestation", "hirs"}
    assert reports["keylime"].failed == ("compat.keylime.tenant-algorithms",)
    (other,) = (one for one in contract_report(make("iak", "P-384")) if one.consumer == "keylime")
    assert (other.passed, other.failed) == (True, ())
    assert not reports["spire"].passed
    words = ("ek-rsa", "ek-template")
    assert reports["spire"].failed == tuple(f"compat.spire.{word}" for word in words)
    looked = [finding.rule.removeprefix("compat.spire.") for finding in reports["spire"].trace.findings]
    assert looked == [
        "readable",
        "signature",
        "ek-rsa",
        "ek-template",
        "ek-critical",
    ]


def test_who_may_be_asked_about_what(make):
    asked = {p: [r.consumer for r in contract_report(make(p, "P-256"))] for p in PROFILES}
    assert asked == {
        "ek": ["keylime", "spire", "go-attestation", "hirs"],
        "iak": ["keylime", "step-ca", "hirs"],
        "iak-webauthn": ["keylime", "step-ca", "hirs"],
        "idevid": ["keylime", "spire", "hirs"],
    }


def test_what_is_no_device_certificate_gets_no_report(cas):
    for der in (cas.ek.info.certificate.public_bytes(Encoding.DER), b"", b"no certificate"):
        with pytest.raises(BadRequest) as caught:
            contract_report(der)
        assert caught.value.path == "certificate"


@given(st.binary(max_size=64))
def test_any_bytes_are_a_bad_request_at_worst(data):
    with pytest.raises(BadRequest):
        contract_report(data)


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_of_a_key_is_read_off_its_first_bytes(publics, kind):
    key = parse_public(publics[kind]).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert key_kind(spki) == kind
    assert key_kind(spki[1:]) == key_kind(spki[:20]) == key_kind(b"") == ""


def test_another_kind_of_key_has_no_name_here():
    for curve in (ec.SECP256K1(), ec.SECP224R1(), ec.BrainpoolP384R1()):
        key = ec.generate_private_key(curve).public_key()
        assert key_kind(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)) == ""


# --- the document ---


def test_the_document_names_every_rule_and_where_it_is_required():
    text = DOCUMENT.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(compat\.[a-z-]+\.[a-z-]+)` \| ([^|]*) \| ([^|]*) \|", text, re.MULTILINE)
    documented = {rule: (profiles, required) for rule, profiles, required in rows}
    assert len(rows) == len(documented)

    def listed(profiles):
        return ", ".join(f"`{profile}`" for profile in PROFILES if profile in profiles) or "—"

    assert documented == {rule.id: (listed(rule.profiles), listed(rule.required)) for rule in CONTRACTS}
