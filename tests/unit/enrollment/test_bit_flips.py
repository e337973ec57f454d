"""A flipped bit anywhere is refused, by the first rule that it breaks, and never crashes anything."""

import json
from dataclasses import replace

import pytest

from ca_service.judgment import BadRequest, Refused
from vtpm.wire.encoding import b64url, unb64url

SIGNED_BITS = 0x2A0 * 8


def flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def outcome(enroller, body: bytes) -> str:
    """The rule that refused, or the member that was malformed; an admitted body fails the test."""
    try:
        reply = enroller.enroll(body)
    except Refused as error:
        return error.rule
    except BadRequest as error:
        return "malformed " + error.path
    raise AssertionError(f"admitted with {reply.status}")


@pytest.fixture
def request_(world, enroller, tpms):
    return world.request(enroller.new_nonce().nonce, tpms(0))


def test_in_the_signed_part_of_the_report(enroller, request_, helpers):
    rules = set()
    for bit in range(0, SIGNED_BITS, 41):
        evidence = replace(request_.evidence, report=flip(request_.evidence.report, bit))
        rule = outcome(enroller, helpers.encode(replace(request_, evidence=evidence)))
        assert rule.startswith("snp."), bit
        rules.add(rule)
    assert "snp.signature" in rules


def test_in_the_signature_of_the_report(enroller, request_, helpers):
    """72 bytes each of r and s, of which a P-384 signature fills 48; the rest of the 512 bytes is reserved."""
    rules = set()
    for bit in range(SIGNED_BITS, 1184 * 8, 97):
        evidence = replace(request_.evidence, report=flip(request_.evidence.report, bit))
        rules.add(outcome(enroller, helpers.encode(replace(request_, evidence=evidence))))
    assert "snp.signature" in rules
    assert rules <= {"snp.signature", "snp.reserved"}


def test_in_the_runtime_data(enroller, request_, helpers):
    data = request_.evidence.runtime_data
    found = set()
    for bit in range(0, len(data) * 8, 83):
        evidence = replace(request_.evidence, runtime_data=flip(data, bit))
        found.add(outcome(enroller, helpers.encode(replace(request_, evidence=evidence))).split()[0])
    assert found <= {"malformed", "evidence.report-data", "nonce.genuine", "nonce.audience"}
    assert {"malformed", "evidence.report-data"} <= found


def test_in_the_grant_even_if_the_svsm_reports_it(world, enroller, tpms, helpers):
    """The report vouches for the broken grant, so it is the grant's own signature that must tell."""

    def broken(index: int, bit: int):
        def change(compact: str) -> str:
            parts = compact.split(".")
            raw = flip(unb64url(parts[index], "part"), bit)
            return ".".join([*parts[:index], b64url(raw), *parts[index + 1 :]])

        return change

    found = set()
    for index, bits in ((0, 1500), (1, 3000), (2, 768)):
        for bit in range(0, bits, 97):
            boot = helpers.Boot(change_grant=broken(index, bit))
            try:
                body = world.body(enroller.new_nonce().nonce, tpms(0), boot)
            except IndexError:
                continue
            found.add(outcome(enroller, body).split()[0])
    assert found <= {"malformed", "grant.signature", "grant.key"}
    assert "grant.signature" in found


def test_in_the_certify_structure_and_its_signature(world, enroller, tpms, helpers):
    nonce = enroller.new_nonce().nonce
    sent = world.request(nonce, tpms(0)).certify
    for part in ("attest", "signature"):
        found = set()
        for bit in range(0, len(getattr(sent, part)) * 8, 53):
            request = world.request(enroller.new_nonce().nonce, tpms(0))
            certify = replace(request.certify, **{part: flip(getattr(request.certify, part), bit)})
            found.add(outcome(enroller, helpers.encode(replace(request, certify=certify))))
        assert all(rule.startswith("certify.") for rule in found), found


def test_each_rule_that_an_honest_svsm_with_a_bad_state_breaks(world, enroller, tpms, helpers):
    boot = helpers.Boot
    tpm = tpms(0)
    cases = {
        "snp.vmpl": boot(vmpl=1),
        "grant.key-id": boot(change=lambda d: replace(d, store=replace(d.store, key_id=b64url(bytes(32))))),
        "grant.report-id": boot(change_claims=lambda c: replace(c, report_id=bytes(32))),
        "kbs.resource": boot(resource="other/vtpm/guest-a"),
        "kbs.origin": boot(origin="provisioned"),
        "grant.age": boot(change_claims=lambda c: replace(c, iat=c.iat - 7200)),
        "store.format": boot(change=lambda d: replace(d, store=replace(d.store, format="cocoonfs/2"))),
        "tpm.keys-distinct": boot(change=lambda d: replace(d, tpm=replace(d.tpm, eks=(tpm.ek, tpm.ek)))),
    }
    found = {
        rule: outcome(enroller, world.body(enroller.new_nonce().nonce, tpm, b)) for rule, b in cases.items()
    }
    assert found == {rule: rule for rule in cases}


def test_a_certify_for_other_evidence(world, enroller, tpms, helpers):
    """X1: a genuine TPM2_Certify from another enrolment of the same TPM."""
    first, second = (world.request(enroller.new_nonce().nonce, tpms(0)) for _ in range(2))
    mixed = replace(first, certify=second.certify)
    assert outcome(enroller, helpers.encode(mixed)) == "certify.qualifier"


def test_a_certify_by_another_tpm(world, enroller, tpms, helpers):
    request = world.request(enroller.new_nonce().nonce, tpms(0))
    from_elsewhere = tpms(1).certify(helpers.certify_qualifier(request.evidence.runtime_data))
    body = helpers.encode(replace(request, certify=from_elsewhere))
    assert outcome(enroller, body) in {"certify.name", "certify.signer", "certify.qualified-name"}


def test_no_member_of_a_refusal_names_the_allow_list(world, enroller, tpms, helpers):
    boot = helpers.Boot(resource="other/vtpm/guest-a")
    with pytest.raises(Refused) as caught:
        enroller.enroll(world.body(enroller.new_nonce().nonce, tpms(0), boot))
    shown = json.dumps(vars(caught.value), default=str) + caught.value.diagnostics()
    assert "default/vtpm" not in shown
    assert "org-kbs" not in shown
