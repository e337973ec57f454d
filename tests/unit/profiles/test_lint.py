"""Each rule of the lint has at least one mutation that it catches, and nothing else is needed to catch it."""

import hashlib
import os
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID
from draft_bytes import by_parts, filled, with_tbs

from ca_service.judgment import Conflict, Verdict, judge_all
from ca_service.profiles import (
    DEVICE_LIFETIME,
    EPHEMERAL_LIMIT,
    LintFailed,
    LintPassed,
    Validity,
    draft_issuing,
    draft_ocsp,
    draft_root,
    hardware_serial,
    lint,
    new_serial,
    oids,
    patch_slot,
    rules,
    structures,
)
from ca_service.profiles.encoding import assemble
from ca_service.profiles.extensions import provenance_extension
from ca_service.profiles.lint import READABLE, READERS_AGREE
from ca_service.profiles.rule import LintSubject
from ca_service.profiles.rules import RULES, judge, rules_for
from ca_service.profiles.view import AIA, AKI, BC, CDP, CP, EKU, KU, NO_CHECK, PROVENANCE, SAN, SDA, SKI
from vtpm.wire.public_area import parse_public
from vtpm.wire.runtime_data import TpmSpec
from vtpm.wire.templates import Role

MUTATIONS = []
P384_PRIME = 2**384 - 2**128 - 2**96 + 2**32 - 1


def mutation(rule, *profiles):
    def register(function):
        MUTATIONS.extend(
            pytest.param(rule, profile, function, id=f"{rule}-{profile}-{function.__name__}")
            for profile in profiles
        )
        return function

    return register


ALL = ("ek", "iak", "iak-webauthn", "idevid", "root-ca", "issuing-ca")
DEVICES = ("ek", "iak", "iak-webauthn", "idevid")
IDENTITIES = ("iak", "iak-webauthn", "idevid")
NAMED = ("iak", "idevid")
ISSUED = ("ek", "iak", "iak-webauthn", "idevid", "issuing-ca")


@pytest.fixture(scope="module")
def drafts(make_ek, make_devid, make_webauthn, cas):
    return {
        "iak-webauthn": (make_webauthn(), cas.devid.info),
        "ek": (make_ek("P-384"), cas.ek.info),
        "iak": (make_devid(Role.IAK), cas.devid.info),
        "idevid": (make_devid(Role.IDEVID), cas.devid.info),
        "ocsp": (responder(cas), cas.ek.info),
        "root-ca": (cas.root_draft, None),
        "issuing-ca": (cas.ek_draft, cas.root.info),
    }


def responder(cas, *, days=14, curve=ec.SECP256R1):
    key = ec.generate_private_key(curve()).public_key()
    validity = Validity.bounded(cas.root.info.validity.not_before, days)
    return draft_ocsp(
        public_key=key, serial=new_serial(42, os.urandom), validity=validity, issuer=cas.ek.info
    )


def failures(draft, issuer):
    with pytest.raises(LintFailed) as caught:
        lint(draft, issuer)
    found = {f.rule for f in caught.value.trace.findings if f.verdict is Verdict.FAILED}
    assert caught.value.rule in found
    assert caught.value.code == "lint"
    return found


@pytest.mark.parametrize("profile", [*ALL, "ocsp"])
def test_what_is_drafted_passes(profile, drafts):
    assert isinstance(lint(*drafts[profile]), LintPassed)


@pytest.mark.parametrize(("rule", "profile", "mutate"), MUTATIONS)
def test_a_mutation_is_caught_by_its_rule(rule, profile, mutate, drafts, changed, cas):
    draft, issuer = drafts[profile]
    mutated = mutate(draft, changed, cas)
    mutated, issuer = mutated if isinstance(mutated, tuple) else (mutated, issuer)
    assert mutated.tbs != draft.tbs or mutated != draft or issuer != drafts[profile][1]
    assert rule in failures(mutated, issuer)


def test_each_rule_has_a_mutation():
    tried = {parameters.values[0] for parameters in MUTATIONS}
    assert tried | set(UNREACHABLE) == {rule.id for rule in RULES} | {READABLE, READERS_AGREE}
    assert not tried & set(UNREACHABLE)


def test_a_draft_passes_exactly_if_all_rules_that_there_are_look_and_find_nothing(drafts, changed, cas):
    """What is remembered of steady rules, and no finding for those that are content, change no verdict."""
    for draft, issuer in drafts.values():
        others = [draft.content] if issuer is None else [d.content for d, _ in drafts.values()]
        for content in others:
            subject = LintSubject.of(replace(draft, content=content), by_parts(draft.tbs), issuer)
            trace = judge_all(rules_for(draft.profile), subject)
            assert judge(subject) == (None if trace.admitted else trace)


def test_a_profile_without_rules_lets_nothing_pass(drafts, monkeypatch):
    draft, issuer = drafts["ek"]
    monkeypatch.setattr(rules, "RULES", ())
    for remembered in (rules.rules_for, rules._other_rules, rules._are_steadily_content):
        monkeypatch.setattr(rules, remembered.__name__, remembered.__wrapped__)
    trace = judge(LintSubject.of(draft, by_parts(draft.tbs), issuer))
    assert trace is not None
    assert not trace.admitted


def test_each_rule_is_named_once():
    names = [rule.id for rule in RULES]
    assert len(set(names)) == len(names)


# --- whether it can be read, and by both alike ---


@mutation(READABLE, *ALL)
def truncated(draft, changed, cas):
    return replace(draft, tbs=draft.tbs[:-1])


@mutation(READABLE, *ALL)
def trailing(draft, changed, cas):
    return replace(draft, tbs=draft.tbs + b"\0")


@mutation(READABLE, *ALL)
def version_2(draft, changed, cas):
    return replace(draft, tbs=draft.tbs.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x01", 1))


@mutation(READABLE, *ALL)
def doubled_extension(draft, changed, cas):
    one = bytes.fromhex("0603551d0e")
    other = bytes.fromhex("0603551d0f")
    return replace(draft, tbs=draft.tbs.replace(one, other))


@mutation(READABLE, "iak")
def wrong_type_inside_the_hardware_module_name(draft, changed, cas):
    inner = bytes.fromhex("0605678105010204")
    return replace(draft, tbs=draft.tbs.replace(inner, bytes.fromhex("060567810501020c")))


@mutation(READABLE, "ek")
def wrong_type_inside_the_specification(draft, changed, cas):
    return replace(draft, tbs=draft.tbs.replace(b"\x0c\x032.0", b"\x13\x032.0"))


@mutation(READABLE, *ALL)
def time_of_the_wrong_type(draft, changed, cas):
    return replace(draft, tbs=draft.tbs.replace(b"\x18\x0f9999", b"\x18\x0f2030"))


@mutation(READERS_AGREE, "iak", "idevid")
def key_usage_with_idle_bits(draft, changed, cas):
    return replace(draft, tbs=draft.tbs.replace(b"\x03\x02\x07\x80", b"\x03\x02\x06\x80"))


# --- the frame ---


@mutation("lint.content", *DEVICES)
def content_of_a_ca(draft, changed, cas):
    return replace(draft, content=cas.ek_draft.content)


@mutation("lint.content", "iak")
def content_of_the_other_identity(draft, changed, cas):
    return replace(draft, content=replace(draft.content, role=Role.IDEVID))


@mutation("lint.content", *ISSUED)
def no_issuer(draft, changed, cas):
    return draft, None


@mutation("lint.content", "root-ca")
def an_issuer(draft, changed, cas):
    return draft, cas.root.info


@mutation("compat.go-attestation.version", "ek")
@mutation("compat.step-ca.version", "iak-webauthn")
@mutation("lint.version", *ALL)
def version_1(draft, changed, cas):
    body = draft.tbs[4:]
    assert body.startswith(b"\xa0\x03\x02\x01\x02")
    body = body[5:]
    return replace(draft, tbs=b"\x30\x82" + len(body).to_bytes(2, "big") + body)


@mutation("lint.serial", *ALL)
def another_serial(draft, changed, cas):
    return changed(draft, serial=new_serial(42, os.urandom))


@mutation("lint.serial", *ALL)
def a_short_serial(draft, changed, cas):
    short = 2**100
    return replace(changed(draft, serial=short), serial=short, content=replace(draft.content, serial=short))


@mutation("lint.serial", *ALL)
def a_long_serial(draft, changed, cas):
    long = 2**140
    return replace(changed(draft, serial=long), serial=long, content=replace(draft.content, serial=long))


@mutation("lint.serial", *ALL)
def a_serial_that_is_not_the_drafts(draft, changed, cas):
    return replace(draft, serial=draft.serial + 1)


@mutation(READABLE, *ALL)
def sha_256(draft, changed, cas):
    weak = bytes.fromhex("06082a8648ce3d040302")
    return replace(draft, tbs=draft.tbs.replace(bytes.fromhex("06082a8648ce3d040303"), weak))


@mutation("lint.validity", *ALL)
def too_long(draft, changed, cas):
    return replace(
        draft,
        content=replace(
            draft.content,
            validity=Validity(draft.content.validity.not_before, DEVICE_LIFETIME - timedelta(seconds=1)),
        ),
    )


@mutation("lint.validity", *ALL)
def another_beginning(draft, changed, cas):
    return changed(draft, not_before=draft.content.validity.not_before + timedelta(seconds=1))


@mutation("lint.validity", *ISSUED)
def before_its_issuer(draft, changed, cas):
    early = Validity(draft.content.validity.not_before - timedelta(days=1), DEVICE_LIFETIME)
    return replace(
        changed(draft, not_before=early.not_before), content=replace(draft.content, validity=early)
    )


# --- issuer ---


@mutation("compat.go-attestation.issuer", "ek")
@mutation("lint.issuer-name", *ISSUED)
def no_issuer_name(draft, changed, cas):
    return changed(draft, issuer=x509.Name([]))


@mutation("lint.issuer-name", *ALL)
def another_issuer_name(draft, changed, cas):
    return changed(draft, issuer=cas.ephemeral.info.certificate.subject)


@mutation("lint.issuer-role", "ek")
def ek_under_the_devid_ca(draft, changed, cas):
    return draft, cas.devid.info


@mutation("lint.issuer-role", *IDENTITIES)
def identity_under_the_ek_ca(draft, changed, cas):
    return draft, cas.ek.info


@mutation("lint.issuer-role", *DEVICES)
def device_under_the_root(draft, changed, cas):
    return draft, cas.root.info


@mutation("lint.issuer-role", "ek")
def root_in_the_guise_of_an_ek_ca(draft, changed, cas):
    return draft, replace(cas.root.info, role="ek")


@mutation("lint.issuer-role", "issuing-ca")
def ca_under_an_issuing_ca(draft, changed, cas):
    return draft, replace(cas.ek.info, role="root")


@mutation("compat.go-attestation.authority-key-id", "ek")
@mutation("lint.extension-set", *ISSUED)
def no_authority_key(draft, changed, cas):
    return changed(draft, extensions={AKI: None})


@mutation("compat.spire.readable", "ek", "idevid")
@mutation("compat.step-ca.readable", "iak-webauthn")
@mutation("compat.go-attestation.readable", "ek")
@mutation("compat.go-attestation.not-critical", "ek")
@mutation("lint.criticality", *ISSUED)
def access_is_critical(draft, changed, cas):
    return changed(draft, extensions={AIA: True})


@mutation("lint.authority-key-id", *ISSUED)
def another_authority_key(draft, changed, cas):
    return changed(draft, extensions={AKI: x509.AuthorityKeyIdentifier(bytes(20), None, None)})


@mutation("lint.authority-key-id", *ISSUED)
def authority_with_issuer_and_serial(draft, changed, cas):
    extension = x509.AuthorityKeyIdentifier(
        cas.ek.info.key_id, [x509.DirectoryName(cas.root.info.certificate.subject)], 1
    )
    return changed(draft, extensions={AKI: extension})


def access(*entries):
    return x509.AuthorityInformationAccess(
        [x509.AccessDescription(method, x509.UniformResourceIdentifier(url)) for method, url in entries]
    )


@mutation("lint.authority-info-access", *ISSUED)
def another_ca_url(draft, changed, cas):
    return changed(
        draft, extensions={AIA: access((AuthorityInformationAccessOID.CA_ISSUERS, "http://x/a.cer"))}
    )


@mutation("lint.authority-info-access", *ISSUED)
def ocsp_instead(draft, changed, cas):
    url = cas.ek.info.certificate_url
    return changed(draft, extensions={AIA: access((AuthorityInformationAccessOID.OCSP, url))})


def point(*urls, reasons=None):
    names = [x509.UniformResourceIdentifier(url) for url in urls]
    return x509.DistributionPoint(names, None, reasons, None)


@mutation("lint.crl-distribution-points", *ISSUED)
def another_crl_url(draft, changed, cas):
    return changed(draft, extensions={CDP: x509.CRLDistributionPoints([point("http://x/0.crl")])})


@mutation("lint.crl-distribution-points", "ek")
def only_some_reasons(draft, changed, cas):
    partial = point(cas.ek.info.crl_url(draft.serial), reasons=frozenset({x509.ReasonFlags.key_compromise}))
    return changed(draft, extensions={CDP: x509.CRLDistributionPoints([partial])})


def test_each_certificate_names_the_list_of_its_serial_number(make_ek, cas, changed):
    issuer = replace(cas.ek.info, shards=4, ocsp=True)
    for _ in range(8):
        draft = make_ek(issuer=issuer)
        lint(draft, issuer)
        shard = draft.serial % 4
        for other in {0, 1, 2, 3, 5} - {shard}:
            url = issuer.list_url(other)
            wrong = changed(draft, extensions={CDP: x509.CRLDistributionPoints([point(url)])})
            assert failures(wrong, issuer) == {"lint.crl-distribution-points"}
    # Under an issuer with one list, or without OCSP, the same certificate is another one.
    assert "lint.authority-info-access" in failures(draft, replace(issuer, ocsp=False))
    assert "lint.authority-info-access" in failures(make_ek(), replace(cas.ek.info, ocsp=True))


# --- OCSP responders ---


@mutation("lint.no-check", "ocsp")
def one_day_more(draft, changed, cas):
    return responder(cas, days=15)


@mutation("lint.no-check", "ocsp")
@mutation("lint.extension-set", "ocsp")
def somebody_may_look_it_up(draft, changed, cas):
    return changed(draft, extensions={NO_CHECK: None})


@mutation("lint.extension-set", "ocsp")
def a_list_that_nobody_reads(draft, changed, cas):
    return changed(draft, extensions={CDP: x509.CRLDistributionPoints([point("http://x/0.crl")])})


@mutation("lint.responder-subject", "ocsp")
def a_responder_with_a_device_s_name(draft, changed, cas):
    return changed(draft, subject=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vTPM")]))


@mutation("lint.extended-key-usage", "ocsp")
def a_responder_that_is_an_ek(draft, changed, cas):
    return changed(draft, extensions={EKU: x509.ExtendedKeyUsage([oids.EK_CERTIFICATE])})


@mutation("lint.extended-key-usage", "ocsp")
def a_responder_for_everything(draft, changed, cas):
    return changed(draft, extensions={EKU: x509.ExtendedKeyUsage([oids.OCSP_SIGNING, oids.AIK_CERTIFICATE])})


@mutation("lint.criticality", "ocsp")
def a_purpose_that_may_be_overlooked(draft, changed, cas):
    return changed(draft, extensions={EKU: False})


@mutation("lint.key-kind", "ocsp")
def a_responder_on_p_384(draft, changed, cas):
    return responder(cas, curve=ec.SECP384R1)


@mutation("lint.issuer-role", "ocsp")
def a_responder_of_the_root(draft, changed, cas):
    return draft, cas.root.info


@mutation("lint.content", "ocsp")
def a_responder_s_draft_with_an_ek_s_profile(draft, changed, cas):
    return replace(draft, profile="ek")


# --- the set of extensions ---


@mutation("lint.extension-set", "ek", "iak", "root-ca", "issuing-ca")
def key_usage_is_missing(draft, changed, cas):
    return changed(draft, extensions={KU: None})


@mutation("lint.extension-set", "ek")
def san_is_missing(draft, changed, cas):
    return changed(draft, extensions={SAN: None})


@mutation("lint.extension-set", *NAMED)
def constraints_are_there(draft, changed, cas):
    return changed(draft, extensions={BC: (x509.BasicConstraints(ca=False, path_length=None), True)})


@mutation("lint.extension-set", "idevid")
def a_purpose_is_there(draft, changed, cas):
    return changed(draft, extensions={EKU: x509.ExtendedKeyUsage([oids.AIK_CERTIFICATE])})


@mutation("lint.extension-set", *DEVICES)
def an_unknown_extension(draft, changed, cas):
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    return changed(draft, extensions={"1.2.3.4": unknown})


@mutation("lint.extension-set", *DEVICES)
def a_provenance_under_its_former_id(draft, changed, cas):
    """What the readers of releases up to 0.5 have taken, and no Go program can read."""
    signed = x509.load_der_x509_certificate(assemble(draft.tbs, bytes.fromhex("3006020101020101")))
    old = signed.extensions.get_extension_for_oid(oids.PROVENANCE).value
    former = x509.UnrecognizedExtension(oids.FORMER_PROVENANCE, old.value)
    return changed(draft, extensions={PROVENANCE: None, former.oid.dotted_string: former})


@mutation("compat.go-attestation.tpm-name", "ek")
@mutation("lint.criticality", "ek", "iak-webauthn")
def san_is_not_critical(draft, changed, cas):
    return changed(draft, extensions={SAN: False})


@mutation("compat.spire.devid-critical", "idevid")
@mutation("lint.criticality", *NAMED)
def san_is_critical(draft, changed, cas):
    return changed(draft, extensions={SAN: True})


@mutation("compat.go-attestation.key-usage", "ek")
@mutation("lint.criticality", *ALL)
def key_usage_is_not_critical(draft, changed, cas):
    return changed(draft, extensions={KU: False})


@mutation("lint.criticality", "ek")
def attributes_are_critical(draft, changed, cas):
    return changed(draft, extensions={SDA: True})


@mutation("compat.go-attestation.critical", "ek")
@mutation("compat.spire.ek-critical", "ek")
@mutation("compat.spire.devid-critical", "idevid")
@mutation("compat.step-ca.critical", "iak-webauthn")
@mutation("lint.criticality", *DEVICES)
def provenance_is_critical(draft, changed, cas):
    return changed(draft, extensions={PROVENANCE: True})


# --- key ---


@mutation("lint.key", *ALL)
def another_key(draft, changed, cas):
    return changed(draft, key=ec.generate_private_key(ec.SECP384R1()).public_key())


@mutation("lint.key", *DEVICES)
def a_key_of_another_kind(draft, changed, cas):
    return changed(draft, key=rsa.generate_private_key(65537, 2048).public_key())


@mutation("lint.key", "ek", *NAMED)
def a_key_on_another_curve(draft, changed, cas):
    return changed(draft, key=ec.generate_private_key(ec.SECP256R1()).public_key())


@mutation("lint.key", "ek", *NAMED)
def the_same_point_below_zero(draft, changed, cas):
    """It has the same x, and a y that is the field's prime less the other one."""
    numbers = parse_public(draft.content.public).public_key().public_numbers()
    opposite = ec.EllipticCurvePublicNumbers(numbers.x, P384_PRIME - numbers.y, numbers.curve)
    return changed(draft, key=opposite.public_key())


@mutation("lint.key-kind", *DEVICES)
def a_short_key(draft, changed, cas):
    return changed(draft, key=rsa.generate_private_key(65537, 1024).public_key())  # noqa: S505 - the weak key to be refused


@mutation("lint.key-kind", "ek")
def an_odd_exponent(draft, changed, cas):
    return changed(draft, key=rsa.generate_private_key(3, 2048).public_key())


@mutation("lint.key-kind", "ek")
def an_odd_exponent_of_the_same_length(draft, changed, cas):
    modulus = rsa.generate_private_key(65537, 2048).public_key().public_numbers().n
    return changed(draft, key=rsa.RSAPublicNumbers(65539, modulus).public_key())


@mutation("compat.keylime.key", *DEVICES)
@mutation("lint.key-kind", *DEVICES)
def an_odd_curve(draft, changed, cas):
    return changed(draft, key=ec.generate_private_key(ec.SECP256K1()).public_key())


@mutation("lint.key-kind", "root-ca", "issuing-ca")
def a_ca_on_p_256(draft, changed, cas):
    return changed(draft, key=ec.generate_private_key(ec.SECP256R1()).public_key())


@mutation("lint.subject-key-id", *ALL)
def another_key_id(draft, changed, cas):
    return changed(draft, extensions={SKI: x509.SubjectKeyIdentifier(bytes(20))})


def usage(*names):
    bits = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
    )
    bits += ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{bit: bit in names for bit in bits})


@mutation("compat.go-attestation.key-usage", "ek")
@mutation("lint.key-usage", "ek")
def encipherment_on_a_curve(draft, changed, cas):
    return changed(draft, extensions={KU: usage("key_encipherment")})


@mutation("lint.key-usage", *DEVICES)
def one_usage_more(draft, changed, cas):
    return changed(draft, extensions={KU: usage("digital_signature", "key_agreement")})


@mutation("lint.key-usage", *DEVICES)
def a_leaf_that_signs_certificates(draft, changed, cas):
    return changed(draft, extensions={KU: usage("key_cert_sign")})


@mutation("lint.key-usage", "root-ca", "issuing-ca")
def a_ca_without_lists(draft, changed, cas):
    return changed(draft, extensions={KU: usage("key_cert_sign")})


@mutation("compat.go-attestation.basic-constraints", "ek")
@mutation("compat.step-ca.not-a-ca", "iak-webauthn")
@mutation("lint.basic-constraints", "ek", "iak-webauthn")
def a_leaf_that_is_a_ca(draft, changed, cas):
    return changed(draft, extensions={BC: x509.BasicConstraints(ca=True, path_length=0)})


@mutation("lint.basic-constraints", "root-ca", "issuing-ca")
def no_path_length(draft, changed, cas):
    return changed(draft, extensions={BC: x509.BasicConstraints(ca=True, path_length=None)})


@mutation("compat.step-ca.aik-purpose-first", "iak-webauthn")
@mutation("lint.extended-key-usage", "ek", "iak", "iak-webauthn")
def server_authentication(draft, changed, cas):
    return changed(draft, extensions={EKU: x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH])})


@mutation("lint.extended-key-usage", "ek", "iak", "iak-webauthn")
def one_purpose_more(draft, changed, cas):
    both = [oids.EK_CERTIFICATE, oids.AIK_CERTIFICATE]
    return changed(draft, extensions={EKU: x509.ExtendedKeyUsage(both)})


def policies(*ids):
    return x509.CertificatePolicies([x509.PolicyInformation(i, None) for i in ids])


@mutation("compat.hirs.policies", *IDENTITIES)
@mutation("lint.policies", *IDENTITIES)
def one_policy_only(draft, changed, cas):
    return changed(draft, extensions={CP: policies(oids.VERIFIED_TPM_RESIDENCY)})


@mutation("lint.policies", "iak", "iak-webauthn")
def policies_of_an_idevid(draft, changed, cas):
    return changed(draft, extensions={CP: policies(oids.VERIFIED_TPM_RESIDENCY, oids.VERIFIED_TPM_FIXED)})


@mutation("lint.policies", "idevid")
def policies_of_an_iak(draft, changed, cas):
    return changed(
        draft, extensions={CP: policies(oids.VERIFIED_TPM_RESIDENCY, oids.VERIFIED_TPM_RESTRICTED)}
    )


@mutation("lint.policies", "iak", "iak-webauthn")
def a_qualified_policy(draft, changed, cas):
    infos = [
        x509.PolicyInformation(oids.VERIFIED_TPM_RESIDENCY, ["http://x/cps"]),
        x509.PolicyInformation(oids.VERIFIED_TPM_RESTRICTED, None),
    ]
    return changed(draft, extensions={CP: x509.CertificatePolicies(infos)})


# --- names ---


def distinguished(**parts):
    names = {"cn": NameOID.COMMON_NAME, "sn": NameOID.SERIAL_NUMBER, "o": NameOID.ORGANIZATION_NAME}
    return x509.Name([x509.NameAttribute(names[k], v) for k, v in parts.items()])


@mutation("lint.ca-subject", "root-ca", "issuing-ca")
def a_ca_without_the_mark(draft, changed, cas):
    return changed(draft, subject=distinguished(o="Example", cn="vTPM Root CA"))


@mutation("lint.ca-subject", "root-ca", "issuing-ca")
def a_production_ca_with_the_mark(draft, changed, cas):
    return replace(draft, content=replace(draft.content, mode="production"))


@mutation("lint.ca-subject", "root-ca", "issuing-ca")
def another_organization(draft, changed, cas):
    return replace(draft, content=replace(draft.content, organization="Other"))


@mutation("lint.subject", "ek", "iak-webauthn")
def an_ek_with_a_subject(draft, changed, cas):
    return changed(draft, subject=distinguished(cn="vTPM"))


@mutation("compat.step-ca.empty-subject", "iak-webauthn")
@mutation("lint.subject", *IDENTITIES)
def another_device(draft, changed, cas):
    return changed(draft, subject=distinguished(cn="vTPM", sn="0" * 32))


@mutation("compat.spire.devid-subject", "idevid")
@mutation("lint.subject", *NAMED)
def an_identity_without_subject(draft, changed, cas):
    return changed(draft, subject=x509.Name([]))


def tpm_name(*attributes, one_rdn=False):
    parts = [x509.NameAttribute(x509.ObjectIdentifier(f"2.23.133.2.{n}"), text) for n, text in attributes]
    name = x509.Name([x509.RelativeDistinguishedName(parts)]) if one_rdn else x509.Name(parts)
    return x509.SubjectAlternativeName([x509.DirectoryName(name)])


GOOD = ((1, "id:49424D00"), (2, "SW   TPM"), (3, "id:20191023"))


@mutation("lint.tpm-name", "ek", "iak-webauthn")
def another_manufacturer(draft, changed, cas):
    return changed(draft, extensions={SAN: tpm_name((1, "id:414D4400"), *GOOD[1:])})


@mutation("lint.tpm-name", "ek", "iak-webauthn")
def another_model(draft, changed, cas):
    return changed(draft, extensions={SAN: tpm_name(GOOD[0], (2, "other"), GOOD[2])})


@mutation("lint.tpm-name", "ek", "iak-webauthn")
def another_version(draft, changed, cas):
    return changed(draft, extensions={SAN: tpm_name(*GOOD[:2], (3, "id:00163636"))})


@mutation("compat.go-attestation.tpm-name", "ek")
@mutation("compat.step-ca.tpm-name", "iak-webauthn")
@mutation("lint.tpm-name", "ek", "iak-webauthn")
def version_is_missing(draft, changed, cas):
    return changed(draft, extensions={SAN: tpm_name(*GOOD[:2])})


@mutation("lint.tpm-name", "ek", "iak-webauthn")
def a_fourth_attribute(draft, changed, cas):
    return changed(draft, extensions={SAN: tpm_name(*GOOD, (4, "x"))})


@mutation("lint.tpm-name", "ek", "iak-webauthn")
def one_rdn_of_three(draft, changed, cas):
    return changed(draft, extensions={SAN: tpm_name(*GOOD, one_rdn=True)})


@mutation("compat.go-attestation.tpm-name", "ek")
@mutation("lint.tpm-name", "ek")
def a_host_name_too(draft, changed, cas):
    (name,) = tpm_name(*GOOD)
    return changed(draft, extensions={SAN: x509.SubjectAlternativeName([name, x509.DNSName("a.example")])})


@mutation(READABLE, "ek")
def printable_string(draft, changed, cas):
    return replace(draft, tbs=draft.tbs.replace(b"\x0c\x0bid:20191023", b"\x13\x0bid:20191023"))


@mutation("lint.tpm-specification", "ek")
def another_revision(draft, changed, cas):
    return replace(draft, content=replace(draft.content, spec=TpmSpec("2.0", "0", "138")))


@mutation(READABLE, "ek")
def another_attribute(draft, changed, cas):
    return replace(
        draft, tbs=draft.tbs.replace(bytes.fromhex("06056781050210"), bytes.fromhex("06056781050211"))
    )


def device_names(
    draft, hw_type=oids.TPM_20, serial=None, digest="0" * 64, assigner=oids.EK_PERMANENT_ID_SHA256
):
    """Both names of an identity, the first as its profile has it."""
    content = draft.content
    permanent = structures.PermanentIdentifier(identifier_value=digest, assigner=assigner)
    second = x509.OtherName(oids.PERMANENT_IDENTIFIER, structures.encode(permanent))
    if draft.profile == "iak-webauthn":
        return (*tpm_name(*GOOD), second)
    serial = (
        hardware_serial(content.manufacturer, content.ek_aki, content.ek_serial) if serial is None else serial
    )
    module = structures.HardwareModuleName(hw_type=hw_type, hw_serial_num=serial)
    return x509.OtherName(oids.HARDWARE_MODULE_NAME, structures.encode(module)), second


def with_names(changed, draft, *names):
    return changed(draft, extensions={SAN: x509.SubjectAlternativeName(list(names))})


@mutation("compat.keylime.hardware-module-name", *NAMED)
@mutation("compat.hirs.hardware-module-name", *NAMED)
@mutation("lint.hardware-module-name", *NAMED)
def tpm_12(draft, changed, cas):
    return with_names(changed, draft, *device_names(draft, hw_type=x509.ObjectIdentifier("2.23.133.1.0")))


@mutation("lint.hardware-module-name", *NAMED)
def another_ek(draft, changed, cas):
    return with_names(changed, draft, *device_names(draft, serial=b"IBM:aa:bb"))


@mutation("lint.hardware-module-name", *NAMED)
def upper_case(draft, changed, cas):
    module = structures.decode(structures.HardwareModuleName, device_names(draft)[0].value)
    serial = module.hw_serial_num.upper()
    return with_names(changed, draft, *device_names(draft, serial=serial))


@mutation("compat.keylime.hardware-module-name", *NAMED)
@mutation("lint.hardware-module-name", *NAMED)
def names_in_the_wrong_order(draft, changed, cas):
    return with_names(changed, draft, *reversed(device_names(draft)))


@mutation("lint.permanent-identifier", *IDENTITIES)
def names_an_ek_certificate_that_is_not_known(draft, changed, cas):
    return with_names(changed, draft, *device_names(draft, digest="ab" * 32))


@mutation("lint.permanent-identifier", *IDENTITIES)
def another_assigner(draft, changed, cas):
    return with_names(changed, draft, *device_names(draft, assigner=oids.TPM_20))


@mutation("lint.permanent-identifier", *IDENTITIES)
def a_third_name(draft, changed, cas):
    return with_names(changed, draft, *device_names(draft), x509.DNSName("a.example"))


@mutation("compat.step-ca.permanent-identifier", "iak-webauthn")
@mutation("lint.permanent-identifier", *IDENTITIES)
def no_second_name(draft, changed, cas):
    return with_names(changed, draft, device_names(draft)[0])


@mutation("compat.step-ca.hardware-module-name", "iak-webauthn")
def a_module_name_too(draft, changed, cas):
    module = structures.HardwareModuleName(hw_type=oids.TPM_20, hw_serial_num=b"IBM:aa:bb")
    name = x509.OtherName(oids.HARDWARE_MODULE_NAME, structures.encode(module))
    return with_names(changed, draft, *device_names(draft), name)


@mutation("lint.slot", *IDENTITIES)
def slot_is_elsewhere(draft, changed, cas):
    return replace(draft, slot=draft.slot + 1)


@mutation("lint.slot", *IDENTITIES)
def slot_is_forgotten(draft, changed, cas):
    return replace(draft, slot=None)


@mutation("lint.slot", *IDENTITIES)
def slot_is_filled(draft, changed, cas):
    return with_tbs(draft, patch_slot(draft.tbs, draft.slot, "ab" * 32))


@mutation("lint.slot", *IDENTITIES)
def zeros_for_good(draft, changed, cas):
    return filled(draft, "0" * 64)


@mutation("lint.slot", "ek")
def a_slot_in_an_ek(draft, changed, cas):
    return replace(draft, slot=10)


@mutation("lint.provenance", *DEVICES)
def another_measurement(draft, changed, cas):
    return replace(draft, tbs=draft.tbs.replace(bytes(range(48)), bytes(48)))


@mutation("lint.provenance", *DEVICES)
def another_resource(draft, changed, cas):
    return replace(draft, tbs=draft.tbs.replace(b"vm-0001", b"vm-0002"))


@mutation("lint.provenance", *DEVICES)
def another_decision(draft, changed, cas):
    origin = replace(draft.content.provenance, decision_id="other")
    return replace(draft, content=replace(draft.content, provenance=origin))


@mutation("lint.size", *IDENTITIES)
def too_large_for_keylime(draft, changed, cas):
    return changed(draft, extensions={CDP: x509.CRLDistributionPoints([point("http://x/" + "0" * 400)])})


@mutation("compat.keylime.size", "ek")
@mutation("lint.size", "ek")
def too_large_for_the_nv_index(draft, changed, cas):
    return changed(draft, extensions={CDP: x509.CRLDistributionPoints([point("http://x/" + "0" * 1100)])})


def vouched(draft, **changes):
    """The draft with another provenance, in its bytes and in what it shall say."""
    origin = replace(draft.content.provenance, **changes)
    value, _ = provenance_extension(origin)
    return replace(draft, content=replace(draft.content, provenance=origin)), {PROVENANCE: value}


@mutation("lint.provenance", *DEVICES)
def a_grant_that_is_left_out(draft, changed, cas):
    bare, extensions = vouched(draft, kbs_thumbprint=None, resource=None)
    return replace(bare, tbs=changed(draft, extensions=extensions).tbs)


@mutation("lint.provenance", *DEVICES)
def a_grant_where_none_can_be(draft, changed, cas):
    other, extensions = vouched(draft, profile="amd-svsm-vtpm:0", ephemeral=True)
    return replace(other, tbs=changed(draft, extensions=extensions).tbs)


@mutation(READABLE, *DEVICES)
def a_provenance_of_another_form(draft, changed, cas):
    value = x509.UnrecognizedExtension(oids.PROVENANCE, bytes.fromhex("3003020101"))
    return changed(draft, extensions={PROVENANCE: value})


@mutation("lint.ephemeral", *DEVICES)
def persistent_under_the_ephemeral_ca(draft, changed, cas):
    return draft, cas.ephemeral.info


@mutation("lint.ephemeral", *DEVICES)
def ephemeral_under_a_persistent_ca(draft, changed, cas):
    origin = replace(draft.content.provenance, ephemeral=True)
    return replace(draft, content=replace(draft.content, provenance=origin))


@mutation("lint.ephemeral", *DEVICES)
def evidence_of_a_guest_called_persistent(draft, changed, cas):
    other, extensions = vouched(draft, profile="amd-svsm-services")
    return replace(other, tbs=changed(draft, extensions=extensions).tbs)


# --- what is not a single mutation ---


UNREACHABLE = {
    **dict.fromkeys(
        ("compat.keylime.signature", "compat.spire.signature", "compat.step-ca.signature"),
        "bytes that name another algorithm than ECDSA with SHA-384 are not read",
    ),
    "compat.go-attestation.policies": "policies without a policy are not read",
    "compat.hirs.ek-specification": "another directory attribute than the specification is not read",
    "compat.go-attestation.specification": "another directory attribute than the specification is not read",
    "compat.go-attestation.serial": "serial numbers that are not positive are not read",
}
"""Rules that another gate keeps from ever failing; `test_contracts` breaks them on views of their own."""


PROFILES = ("svsm-vtpm-ca:1", "amd-svsm-services", "amd-svsm-vtpm:0")


@pytest.mark.parametrize("profile", PROFILES)
def test_an_ephemeral_certificate_may_live_seven_days(
    make_ek, make_devid, make_webauthn, ephemeral, cas, profile
):
    common = ephemeral(profile)
    start = common["validity"].not_before
    assert common["validity"].not_after == start + EPHEMERAL_LIMIT
    more = Validity(start, start + EPHEMERAL_LIMIT + timedelta(seconds=1))
    idevid = partial(make_devid, Role.IDEVID)
    for make in (make_ek, make_devid, idevid, make_webauthn):
        lint(make(**common), cas.ephemeral.info)
        draft = make(**(common | {"validity": more}))
        assert failures(draft, cas.ephemeral.info) == {"lint.ephemeral"}


@pytest.mark.parametrize("profile", PROFILES)
def test_an_ephemeral_certificate_comes_from_no_other_ca(make_ek, make_devid, ephemeral, cas, profile):
    for make, ca in ((make_ek, cas.ek), (make_devid, cas.devid)):
        draft = make(**(ephemeral(profile) | {"issuer": ca.info}))
        assert failures(draft, ca.info) == {"lint.ephemeral"}


def test_a_persistent_certificate_of_few_days_does_not_come_from_the_ephemeral_ca(
    make_ek, ephemeral, provenance, cas
):
    draft = make_ek(**(ephemeral() | {"provenance": provenance}))
    assert failures(draft, cas.ephemeral.info) == {"lint.ephemeral"}


@pytest.mark.parametrize("days", [0, 8, -1, 365])
def test_an_ephemeral_validity_is_of_few_days(days):
    with pytest.raises(ValueError, match="1 to 7 days"):
        Validity.ephemeral(_now(), days, DEVICE_LIFETIME)


def test_an_ephemeral_certificate_does_not_outlive_its_issuer():
    end = _now() + timedelta(hours=5)
    assert Validity.ephemeral(_now(), 7, end) == Validity(_now(), end)


def test_half_a_grant_is_none(provenance):
    for missing in ("kbs_thumbprint", "resource"):
        with pytest.raises(ValueError, match="both a key and a resource"):
            replace(provenance, **{missing: None})


@pytest.mark.parametrize(
    "url",
    [
        "http://ca.example:80",
        "https://ca.example:443/%7Ea",
        "http://xn--bcher-kva.example",
        "http://[::1]:8443",
    ],
)
def test_any_url_that_the_ceremony_takes_will_do(url, make_ek, cas):
    issuer = replace(cas.ek.info, publication_url=url)
    lint(make_ek(issuer=issuer), issuer)


def test_a_leaf_never_outlives_its_issuer(cas, make_ek, serial, changed):
    """Also where a sum of dates would lie beyond the year 9999."""
    start = make_ek().content.validity.not_before
    key = ec.generate_private_key(ec.SECP384R1())
    draft = draft_issuing(
        "ek",
        pair="short",
        organization="Example",
        mode="simulation",
        public_key=key.public_key(),
        serial=serial(),
        validity=Validity(start, start + timedelta(days=30)),
        issuer=cas.root.info,
    )
    der = assemble(draft.tbs, cas.root.key.sign(draft.tbs, ec.ECDSA(hashes.SHA384())))
    issuer = replace(cas.ek.info, certificate=x509.load_der_x509_certificate(der))
    assert failures(make_ek(issuer=issuer), issuer) == {"lint.validity"}
    lint(make_ek(issuer=issuer, validity=issuer.validity), issuer)


def test_a_production_root_has_no_mark(serial):
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    common = {"public_key": key, "serial": serial(), "validity": Validity.device_lifetime(_now())}
    lint(draft_root(organization="Example", mode="production", **common), None)
    marked = draft_root(organization="Example", mode="simulation", **common)
    pretended = replace(marked, content=replace(marked.content, mode="production"))
    assert failures(pretended, None) == {"lint.ca-subject"}


def _now():
    from datetime import UTC, datetime  # noqa: PLC0415

    return datetime(2026, 8, 1, tzinfo=UTC)


def test_the_message_names_what_is_wrong_but_no_bytes_of_it(make_ek, cas):
    with pytest.raises(LintFailed) as caught:
        lint(make_ek(validity=Validity.bounded(_now(), 1)), cas.ek.info)
    assert "lint.validity" in str(caught.value)


class TestToken:
    def test_is_good_once(self, make_ek, cas):
        draft = make_ek()
        token = lint(draft, cas.ek.info)
        token.redeem(draft.tbs, cas.ek.info.public_key())
        with pytest.raises(Conflict, match="used") as caught:
            token.redeem(draft.tbs, cas.ek.info.public_key())
        assert caught.value.code == "lint-token"

    def test_is_used_up_by_a_failure(self, make_ek, cas):
        draft = make_ek()
        token = lint(draft, cas.ek.info)
        with pytest.raises(Conflict, match="not those"):
            token.redeem(draft.tbs[:-1], cas.ek.info.public_key())
        with pytest.raises(Conflict, match="used"):
            token.redeem(draft.tbs, cas.ek.info.public_key())

    def test_is_good_for_one_issuer(self, make_ek, cas):
        draft = make_ek()
        with pytest.raises(Conflict, match="issuer"):
            lint(draft, cas.ek.info).redeem(draft.tbs, cas.devid.info.public_key())

    def test_gives_out_the_linted_bytes(self, make_ek, cas):
        draft = make_ek()
        assert lint(draft, cas.ek.info).redeem(draft.tbs, cas.ek.info.public_key()) == draft.tbs

    def test_fills_the_slot_by_the_ek_certificate(self, make_devid, cas):
        draft, key, ek = make_devid(), cas.devid.info.public_key(), b"DER of an EK certificate"
        wanted = patch_slot(draft.tbs, draft.slot, hashlib.sha256(ek).hexdigest())
        assert lint(draft, cas.devid.info).redeem(draft.tbs, key, ek_certificate=ek) == wanted
        for tbs, certificate in ((wanted, ek), (draft.tbs, None), (draft.tbs + b"\0", ek)):
            with pytest.raises(Conflict):
                lint(draft, cas.devid.info).redeem(tbs, key, ek_certificate=certificate)

    def test_names_the_issuer_that_the_draft_was_judged_by(self, make_ek, cas):
        assert lint(make_ek(), cas.ek.info).issuer == cas.ek.info.certificate
        assert lint(cas.root_draft, None).issuer is None

    def test_wants_no_ek_certificate_without_a_slot(self, make_devid, cas):
        draft = make_devid(ek_digest="ab" * 32)
        with pytest.raises(Conflict, match="slot"):
            lint(draft, cas.devid.info).redeem(draft.tbs, cas.devid.info.public_key(), ek_certificate=b"x")

    def test_cannot_be_made_by_hand(self, cas):
        with pytest.raises(TypeError):
            LintPassed(
                object(),
                profile="ek",
                tbs=b"",
                slot=None,
                issuer_key=cas.ek.info.public_key(),
                issuer=None,
            )

    def test_shows_a_digest_only(self, make_ek, cas):
        draft = make_ek()
        assert hashlib.sha256(draft.tbs).hexdigest()[:16] in repr(lint(draft, cas.ek.info))


@pytest.mark.parametrize("profile", [*DEVICES, "ocsp"])
def test_no_byte_may_differ_from_what_was_drafted(profile, drafts):
    """What a certificate shall say fixes every byte of it; the lint sees a change of any."""
    draft, issuer = drafts[profile]
    for offset in range(0, len(draft.tbs), 9):
        flipped = draft.tbs[offset] ^ (1 << offset % 8)
        tbs = draft.tbs[:offset] + bytes([flipped]) + draft.tbs[offset + 1 :]
        with pytest.raises(LintFailed):
            lint(replace(draft, tbs=tbs), issuer)


def test_what_the_readers_remember_is_known_by_its_bytes(make_ek, cas):
    """A name with another string type looks the same to people; both readers must see that it is another one."""
    draft = make_ek()
    lint(draft, cas.ek.info)
    name = cas.ek.info.certificate.subject.public_bytes()
    utf8, printable = bytes([0x0C]), bytes([0x13])
    assert utf8 in name
    other = name.replace(utf8 + bytes([len("Example")]) + b"Example", printable + bytes([7]) + b"Example")
    assert other != name
    assert len(other) == len(name)
    changed = replace(draft, tbs=draft.tbs.replace(name, other))
    with pytest.raises(LintFailed) as caught:
        lint(changed, cas.ek.info)
    assert caught.value.rule in {"lint.issuer-name", "lint.readers-agree"}
    lint(make_ek(), cas.ek.info)
