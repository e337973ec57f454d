import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ca_service.evidence.grant import GRANT_CHECKS, GrantEvidence
from ca_service.judgment import judge_all
from vtpm.wire.encoding import b64std
from vtpm.wire.grant import Grant, GrantClaims, key_id, sign_grant
from vtpm.wire.jwk import EcJwk

NOW = datetime(2026, 6, 1, tzinfo=UTC)
KBS = ec.generate_private_key(ec.SECP384R1())
EPK = EcJwk.from_key(ec.generate_private_key(ec.SECP521R1()).public_key())
TEE = EcJwk.from_key(ec.generate_private_key(ec.SECP521R1()).public_key())
CLAIMS = GrantClaims(
    epk_jkt=EPK.thumbprint(),
    tee_jkt=TEE.thumbprint(),
    nonce=b64std(b"\x01" * 32),
    key_id=key_id(b"\x02" * 32),
    resource="default/vtpm/demo",
    origin="kbs-generated",
    report_id=b"\x03" * 32,
    policy="04" * 32,
    iat=int(NOW.timestamp()),
    exp=int(NOW.timestamp()) + 300,
)


def evidence(*, key=KBS, named=None, claims=None, **changes):
    grant = Grant.parse(sign_grant(dataclasses.replace(CLAIMS, **(claims or {})), key))
    members = {
        "grant": grant,
        "kbs_jwk": EcJwk.from_key((named or key).public_key()),
        "report_id": CLAIMS.report_id,
        "store_key_id": CLAIMS.key_id,
        "at": NOW,
    }
    return GrantEvidence(**members | changes)


def failures(subject):
    return {f.rule for f in judge_all(GRANT_CHECKS, subject).findings if f.verdict == "failed"}


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()])
def test_right_grant_passes(curve):
    assert failures(evidence(key=ec.generate_private_key(curve))) == set()


def test_signature_that_does_not_hold():
    right = evidence()
    header, payload, signature = right.grant.compact.split(".")
    other = sign_grant(dataclasses.replace(CLAIMS, resource="default/vtpm/other"), KBS).split(".")[2]
    assert other != signature
    forged = Grant.parse(f"{header}.{payload}.{other}")
    assert failures(dataclasses.replace(right, grant=forged)) == {"grant.signature"}


def test_claims_exchanged_under_a_signature():
    right = evidence()
    header, _, signature = right.grant.compact.split(".")
    other = sign_grant(dataclasses.replace(CLAIMS, policy="05" * 32), KBS).split(".")[1]
    forged = Grant.parse(f"{header}.{other}.{signature}")
    assert failures(dataclasses.replace(right, grant=forged)) == {"grant.signature"}


def test_kbs_key_named_in_the_evidence_is_another():
    assert failures(evidence(named=ec.generate_private_key(ec.SECP384R1()))) == {"grant.key"}


@pytest.mark.parametrize(("ahead", "refused"), [(60, False), (61, True), (86400, True), (-86400, False)])
def test_issued_at(ahead, refused):
    iat = CLAIMS.iat + ahead
    assert failures(evidence(claims={"iat": iat, "exp": iat + 1})) == (
        {"grant.issued-at"} if refused else set()
    )


@pytest.mark.parametrize(("after", "refused"), [(1, False), (0, True), (-1, True)])
def test_expiry_must_follow_issue(after, refused):
    assert failures(evidence(claims={"exp": CLAIMS.iat + after})) == ({"grant.expiry"} if refused else set())


def test_passed_expiry_is_no_refusal():
    assert failures(evidence(at=NOW + timedelta(days=30))) == set()


@pytest.mark.parametrize("claims", [{"report_id": b"\x04" * 32}, {"report_id": bytes(32)}])
def test_grant_for_another_launch(claims):
    assert failures(evidence(claims=claims)) == {"grant.report-id"}


@pytest.mark.parametrize("store_key_id", [key_id(b"\x05" * 32), ""])
def test_grant_for_another_secret(store_key_id):
    assert failures(evidence(store_key_id=store_key_id)) == {"grant.key-id"}


@pytest.mark.parametrize(
    "claims",
    [
        {"tee_jkt": CLAIMS.epk_jkt},
        {"epk_jkt": EcJwk.from_key(KBS.public_key()).thumbprint()},
        {"tee_jkt": EcJwk.from_key(KBS.public_key()).thumbprint()},
    ],
)
def test_one_key_in_two_roles(claims):
    assert failures(evidence(claims=claims)) == {"grant.thumbprints"}


@pytest.mark.parametrize("name", ["epk_jkt", "tee_jkt"])
@pytest.mark.parametrize("value", ["", "AAAA", "not base64url!"])
def test_thumbprint_missing(name, value):
    right = evidence()
    claims = dataclasses.replace(CLAIMS, **{name: value})
    subject = dataclasses.replace(right, grant=dataclasses.replace(right.grant, claims=claims))
    assert failures(subject) == {"grant.thumbprints"}


def test_ids():
    assert [check.id for check in GRANT_CHECKS] == [
        "grant.signature",
        "grant.key",
        "grant.issued-at",
        "grant.expiry",
        "grant.report-id",
        "grant.key-id",
        "grant.thumbprints",
    ]
