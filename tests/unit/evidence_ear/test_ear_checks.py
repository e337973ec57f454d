"""The checks on an attestation token; each attack succeeds where the one check is left out, and only there."""

import dataclasses
from datetime import UTC, datetime, timedelta

import ear_tokens as make
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ca_service.evidence.ear import EAR_CHECKS, EarEvidence
from ca_service.judgment import UnsafeSkip, Verdict, judge_all, judge_until_failure, replaced
from vtpm.wire.ear import EarToken
from vtpm.wire.encoding import b64std, b64url, canonical
from vtpm.wire.errors import WireError
from vtpm.wire.jwk import EcJwk

NOW = datetime.fromtimestamp(make.ISSUED + 30, UTC)
PINNED = EcJwk.from_key(make.VERIFIER.public_key())
OTHER_TEE = EcJwk.from_key(ec.derive_private_key(61, ec.SECP521R1()).public_key())
IDS = ("ear.present", "ear.signature", "ear.profile", "ear.time", "ear.tee-key", "ear.nonce", "ear.status")


def evidence(compact=None, **changes):
    """What a CA looks at for a token: the right one unless said otherwise."""
    members = {
        "token": EarToken.parse(make.token() if compact is None else compact),
        "signers": (PINNED,),
        "max_age_s": 3600,
        "tee_jkt": make.TEE.thumbprint(),
        "nonce": make.NONCE,
        "at": NOW,
    }
    return EarEvidence(**members | changes)


def claimed(*path, to, **changes):
    return evidence(make.token(make.changed(make.CLAIMS, path, to)), **changes)


def failures(subject):
    return {f.rule for f in judge_all(EAR_CHECKS, subject).findings if f.verdict is Verdict.FAILED}


def stopped_by_one_check_alone(subject, rule):
    """The check refuses, with the sentence for the requester; without it everything else is content."""
    trace = judge_until_failure(EAR_CHECKS, subject)
    assert not trace.admitted
    assert trace.refusal.rule == rule
    assert trace.refusal.reason
    assert judge_until_failure(replaced(EAR_CHECKS, {rule: UnsafeSkip(rule)}), subject).admitted
    return trace.refusal


def test_ids():
    assert tuple(check.id for check in EAR_CHECKS) == IDS


def test_the_right_token():
    trace = judge_until_failure(EAR_CHECKS, evidence())
    assert trace.admitted
    assert [f.verdict for f in trace.findings] == [Verdict.PASSED] * len(IDS)


def test_an_integer_status_and_another_device_that_is_affirmed():
    claims = make.changed(make.CLAIMS, ("submods", "gpu0"), {"ear.status": 2})
    assert judge_until_failure(EAR_CHECKS, evidence(make.token(claims))).admitted


# -- present -----------------------------------------------------------------------------------------------------


def test_no_token():
    subject = evidence(token=None)
    assert judge_until_failure(EAR_CHECKS, subject).refusal.rule == "ear.present"
    # None of the others rests on the first: whoever leaves one out still gets a refusal.
    assert failures(subject) == set(IDS)


# -- signature ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [make.STRANGER, make.VERIFIER], ids=["own-jwk", "pinned-jwk"])
def test_a_foreign_signer(named):
    """The key in the header is the attacker's own, with which the signature holds, or the genuine one."""
    compact = make.token(key=make.STRANGER, head=make.header(named))
    assert EarToken.parse(compact).signed_by(EcJwk.from_key(make.STRANGER.public_key()))
    stopped_by_one_check_alone(evidence(compact), "ear.signature")


def test_a_foreign_signer_with_certificates_and_urls():
    head = make.header(
        make.STRANGER, kid="signer-1", jku="https://evil.example/jwks", x5c=[b64std(b"\x30\x00")]
    )
    stopped_by_one_check_alone(evidence(make.token(key=make.STRANGER, head=head)), "ear.signature")


def test_the_headers_key_exchanged_under_a_genuine_signature():
    genuine = make.token()
    _, payload, signature = genuine.split(".")
    head = make.encoded(make.header(make.STRANGER), "").split(".")[0]
    stopped_by_one_check_alone(evidence(f"{head}.{payload}.{signature}"), "ear.signature")


def test_claims_exchanged_under_a_genuine_signature():
    warned = make.token(make.changed(make.CLAIMS, ("submods", "cpu0", "ear.status"), "warning"))
    head, _, signature = warned.split(".")
    payload = make.token().split(".")[1]
    stopped_by_one_check_alone(evidence(f"{head}.{payload}.{signature}"), "ear.signature")


@pytest.mark.parametrize("alg", ["none", "None", "nOnE", ""])
@pytest.mark.parametrize("signature", ["", "AA"])
def test_alg_none(alg, signature):
    signed = make.encoded(make.header(alg=alg), make.CLAIMS)
    if not alg:
        with pytest.raises(WireError):
            EarToken.parse(f"{signed}.{signature}")
        return
    stopped_by_one_check_alone(evidence(f"{signed}.{signature}"), "ear.signature")


PUBLIC = make.VERIFIER.public_key()
FORMS = serialization.PublicFormat
SECRETS = {
    "pem": PUBLIC.public_bytes(serialization.Encoding.PEM, FORMS.SubjectPublicKeyInfo),
    "der": PUBLIC.public_bytes(serialization.Encoding.DER, FORMS.SubjectPublicKeyInfo),
    "point": PUBLIC.public_bytes(serialization.Encoding.X962, FORMS.UncompressedPoint),
    "x": PINNED.x,
    "jwk": canonical(PINNED.members()),
    "jkt": PINNED.thumbprint().encode(),
    "empty": b"",
}


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_hs256_with_the_public_key_as_secret(secret):
    refusal = stopped_by_one_check_alone(evidence(make.keyed_hash(secret)), "ear.signature")
    assert refusal.expected == "ES256"


@pytest.mark.parametrize("alg", ["ES384", "ES256K", "RS256", "EdDSA", "es256", "HS256"])
def test_another_algorithms_name_over_a_genuine_signature(alg):
    """The signature holds; that the signer did not write ES256 is reason enough."""
    stopped_by_one_check_alone(evidence(make.token(head=make.header(alg=alg))), "ear.signature")


def test_no_pinned_key():
    stopped_by_one_check_alone(evidence(signers=()), "ear.signature")


def test_one_of_several_pinned_keys():
    older = EcJwk.from_key(make.STRANGER.public_key())
    for signers in ((older, PINNED), (PINNED, older)):
        trace = judge_until_failure(EAR_CHECKS, evidence(signers=signers))
        assert trace.admitted
        assert trace.findings[1].actual == PINNED.thumbprint()


def test_the_requester_does_not_learn_which_keys_are_pinned():
    finding = stopped_by_one_check_alone(evidence(make.token(key=make.STRANGER)), "ear.signature")
    assert PINNED.thumbprint() not in finding.reason
    assert finding.expected == PINNED.thumbprint()
    # What an operator may want to pin, marked as the claim that it is.
    assert finding.actual == f"says: {EcJwk.from_key(make.STRANGER.public_key()).thumbprint()}"


# -- time --------------------------------------------------------------------------------------------------------


def at(seconds):
    return datetime.fromtimestamp(make.ISSUED, UTC) + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("after", "good"), [(0, True), (299, True), (299.9, True), (300, False), (1e6, False)]
)
def test_expired(after, good):
    subject = evidence(at=at(after), max_age_s=10**7)
    if good:
        assert failures(subject) == set()
    else:
        stopped_by_one_check_alone(subject, "ear.time")


@pytest.mark.parametrize(("after", "good"), [(-60, True), (-60.1, False), (-61, False), (-86400, False)])
def test_from_the_future(after, good):
    subject = evidence(at=at(after))
    if good:
        assert failures(subject) == set()
    else:
        stopped_by_one_check_alone(subject, "ear.time")


@pytest.mark.parametrize(("after", "good"), [(0, True), (100, True), (100.5, False), (101, False)])
def test_too_old_for_the_policy(after, good):
    subject = evidence(at=at(after), max_age_s=100)
    if good:
        assert failures(subject) == set()
    else:
        stopped_by_one_check_alone(subject, "ear.time")


@pytest.mark.parametrize(("nbf", "good"), [(0, True), (30, True), (90, True), (91, False), (10**8, False)])
def test_not_before(nbf, good):
    subject = claimed("nbf", to=make.ISSUED + nbf)
    if good:
        assert failures(subject) == set()
    else:
        stopped_by_one_check_alone(subject, "ear.time")


def test_the_last_second_of_all():
    assert failures(claimed("exp", to=253402300799)) == set()
    stopped_by_one_check_alone(claimed("iat", to=253402300799), "ear.time")


# -- key, nonce --------------------------------------------------------------------------------------------------


def test_a_genuine_token_of_another_svsm():
    """The host has one of another VM, or of a session that it opened itself."""
    theirs = {"alg": "ECDH-ES+A256KW", **OTHER_TEE.members()}
    stopped_by_one_check_alone(claimed(*make.RUNTIME, "tee-pubkey", to=theirs), "ear.tee-key")


def test_a_grant_of_another_svsm():
    stopped_by_one_check_alone(evidence(tee_jkt=OTHER_TEE.thumbprint()), "ear.tee-key")
    stopped_by_one_check_alone(evidence(tee_jkt=""), "ear.tee-key")


@pytest.mark.parametrize("nonce", [b64std(bytes(32)), make.NONCE.rstrip("="), make.NONCE.lower(), "x"])
def test_a_genuine_token_of_another_exchange_of_the_same_key(nonce):
    stopped_by_one_check_alone(claimed(*make.RUNTIME, "nonce", to=nonce), "ear.nonce")
    stopped_by_one_check_alone(evidence(nonce=nonce), "ear.nonce")


# -- status ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["none", "warning", "contraindicated", 0, 32, 96])
def test_a_status_short_of_affirming(status):
    stopped_by_one_check_alone(claimed("submods", "cpu0", "ear.status", to=status), "ear.status")


@pytest.mark.parametrize("name", ["gpu0", "a", "zz"])
@pytest.mark.parametrize("status", ["none", "warning", "contraindicated", 96])
def test_another_device_that_is_not_affirmed(name, status):
    refusal = stopped_by_one_check_alone(
        claimed("submods", name, to=make.APPRAISAL | {"ear.status": status}), "ear.status"
    )
    assert f"{name}: " in refusal.actual


def test_nothing_affirmed_at_all():
    """No such token parses; the check does not rely on it."""
    subject = evidence()
    subject = dataclasses.replace(subject, token=dataclasses.replace(subject.token, statuses=()))
    stopped_by_one_check_alone(subject, "ear.status")


# -- two meanings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [0, 1])
def test_a_status_that_stands_twice_has_no_meaning(order):
    """Readers differ in whether the first or the last counts; here neither does."""
    first, second = (("warning", "affirming"), ("affirming", "warning"))[order]
    claims = canonical(make.CLAIMS).replace(
        b'"ear.status":"affirming"', f'"ear.status":"{first}","ear.status":"{second}"'.encode()
    )
    with pytest.raises(WireError) as error:
        EarToken.parse(make.token(claims))
    assert error.value.path == "evidence.ear.claims.submods.cpu0.ear.status"


def test_a_signature_bit_decides():
    signed, _, text = make.token().rpartition(".")
    signature = bytearray(make.parts(f"e30.e30.{text}")[2])
    for bit in range(0, 512, 37):
        signature[bit // 8] ^= 1 << bit % 8
        assert failures(evidence(f"{signed}.{b64url(bytes(signature))}")) == {"ear.signature"}
        signature[bit // 8] ^= 1 << bit % 8
