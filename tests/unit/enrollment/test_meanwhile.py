"""What an operator does while certificates are being signed counts before they leave."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca_service.enrollment import revoke
from ca_service.judgment import Refused, Unavailable
from ca_service.keys import ValidityRule
from ca_service.store import BlockedKeyRow, CertificateState, spki_digest
from vtpm.wire.templates import parse_public


def _blocked(tpm, at) -> BlockedKeyRow:
    key = parse_public(tpm.iak.public).public_key()
    digest = spki_digest(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    return BlockedKeyRow(digest, at, "me", "leaked")


@pytest.mark.parametrize("half", ["enroll", "activate"])
def test_a_key_that_is_blocked_between_look_and_commit_is_refused(half, world, store, tpms, helpers):
    """What the ledger said is looked at again where it is acted upon, whichever half of an enrolment it is."""
    tpm, awaited = tpms(0), []

    def fault(point: str) -> None:
        if point.startswith("before BEGIN") and awaited:
            awaited.clear()
            with store.write() as tx:
                tx.blocked_keys.add(_blocked(tpm, world.time))

    disturbed = world.open_store(fault)
    enroller = world.enroller(disturbed)
    asked = [world.body(enroller.new_nonce().nonce, tpm)]
    if half == "activate":
        asked = [*helpers.answer(tpm, enroller.enroll(*asked).body)]
    awaited.append(half)
    with pytest.raises(Refused) as refused:
        getattr(enroller, half)(*asked)
    assert refused.value.rule == "key.not-blocked"
    assert not awaited
    with store.read() as tx:
        assert tx.certificates.latest() == []
        assert [row.stage for row in tx.decisions.latest() if not row.admitted] == [half]
    disturbed.close()


def test_a_key_that_is_blocked_between_intent_and_issue_gets_nothing(world, store, tpms, helpers):
    tpm, when = tpms(0), []

    def fault(point: str) -> None:
        if point == "after signing idevid" and not when:
            when.append(point)
            with store.write() as tx:
                tx.blocked_keys.add(_blocked(tpm, world.time))

    enroller = world.enroller(store, fault)
    with pytest.raises(Unavailable, match="blocked"):
        helpers.issue(world, enroller, tpm)
    with store.read() as tx:
        assert tx.certificates.latest(state=CertificateState.ISSUED) == []
        assert tx.intents.open() == []
        assert len(tx.certificates.latest(state=CertificateState.ABANDONED)) == 3
    with pytest.raises(Refused):
        helpers.issue(world, enroller, tpm)


def test_a_certificate_that_is_revoked_while_it_is_renewed_has_no_successor(world, store, tpms, helpers):
    world.authority = replace(
        world.authority,
        validity=ValidityRule(kind="bounded", root_days=90, issuing_days=90, device_days=90),
    )
    renewing = []

    def fault(point: str) -> None:
        if renewing and point == "after signing idevid":
            revoke(
                store, world.authority, renewing.pop(), at=world.time, reason="keyCompromise", cause="t",
                limits=enroller.desk.limits,
            )  # fmt: skip

    enroller = world.enroller(store, fault)
    helpers.issue(world, enroller, tpms(0))
    with store.read() as tx:
        (ek,) = [row.serial for row in tx.certificates.latest() if row.profile == "ek"]
    world.later(days=89)
    renewing.append(ek)
    with pytest.raises(Unavailable, match="revoked"):
        helpers.issue(world, enroller, tpms(0))
    with store.read() as tx:
        assert {row.state for row in tx.certificates.latest()} == {
            CertificateState.REVOKED,
            CertificateState.ISSUED,
            CertificateState.ABANDONED,
        }
        assert tx.certificates.get(ek).state is CertificateState.REVOKED
    with pytest.raises(Refused) as refused:
        helpers.issue(world, enroller, tpms(0))
    assert refused.value.rule == "ledger.not-revoked"
