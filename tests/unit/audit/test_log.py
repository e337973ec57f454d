"""Appending: proofs without further reads, one history, nothing without its transaction."""

import contextlib

import audit_stage as a
import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ca_service.audit import Log, decision_leaf, open_checkpoint
from ca_service.audit.merkle import EMPTY_ROOT, consistency, verify_consistency
from ca_service.judgment import NotFound, Unavailable, VtpmCaError
from ca_service.store import Taken, schema


def leaves(first: int, count: int):
    return [decision_leaf(a.decision(first + i)) for i in range(count)]


def opened(stage, receipt):
    return open_checkpoint(receipt.checkpoint, stage.log.key)


def sql(stage, *statements: str) -> None:
    with stage.store.write() as tx:
        for statement in statements:
            tx.connection.execute(sa.text(statement))


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_every_append_proves_its_leaves_and_the_whole_history_is_one(new_stage, sizes):
    stage = new_stage()
    store = stage.store
    total, older, checkpoints = 0, [], []
    for size in sizes:
        receipt = stage.append(*leaves(total, size))
        checkpoint = opened(stage, receipt)
        assert (receipt.size, checkpoint.size, checkpoint.origin) == (total + size, total + size, a.ORIGIN)
        assert [proof.position for proof in receipt.proofs] == list(range(total, total + size))
        assert all(proof.holds(checkpoint) for proof in receipt.proofs)
        assert all(
            proof.leaf == leaf.data for proof, leaf in zip(receipt.proofs, leaves(total, size), strict=True)
        )
        total += size
        checkpoints.append(checkpoint)
        with store.read() as tx:
            stage.log.check_head(tx)
            nodes = tx.log.nodes(consistency(checkpoints[0].size, total).places())
        old = checkpoints[0]
        path = consistency(old.size, total).path(nodes)
        assert verify_consistency(old.size, total, old.root, checkpoint.root, path)
        older += [("decision", a.decision(i).id) for i in range(total - size, total)]
        if older:
            with store.read() as tx:
                again = stage.log.proofs(tx, older)
            assert again.checkpoint == receipt.checkpoint
            assert [proof.position for proof in again.proofs] == list(range(total))
            assert all(proof.holds(checkpoint) for proof in again.proofs)


def test_the_first_append_without_leaves_signs_the_empty_tree(stage):
    receipt = stage.append()
    assert (receipt.size, receipt.proofs) == (0, ())
    assert opened(stage, receipt).root == EMPTY_ROOT
    assert stage.append().checkpoint == receipt.checkpoint


def test_what_is_rolled_back_was_never_logged(stage):
    stage.append(*leaves(0, 3))
    with contextlib.suppress(RuntimeError), stage.store.write() as tx:
        stage.log.append(tx, leaves(3, 2), a.AT)
        raise RuntimeError
    receipt = stage.append(*leaves(5, 1))
    assert receipt.size == 4
    assert receipt.proofs[0].holds(opened(stage, receipt))


def test_two_appends_in_one_transaction(stage):
    with stage.store.write() as tx:
        stage.log.append(tx, leaves(0, 2), a.AT)
        second = stage.log.append(tx, leaves(2, 3), a.AT)
        both = stage.log.proofs(tx, [("decision", a.decision(i).id) for i in range(5)])
    assert second.size == 5
    assert both.checkpoint == second.checkpoint
    assert all(proof.holds(opened(stage, second)) for proof in both.proofs)


def test_a_subject_is_logged_once(stage):
    stage.append(*leaves(0, 2))
    with pytest.raises(Taken):
        stage.append(*leaves(1, 1))
    with stage.store.read() as tx:
        assert stage.log.check_head(tx).size == 2


def test_two_processes_append_to_one_history(stage):
    other = Log(a.ORIGIN, a.KEY)
    for i in range(6):
        with stage.store.write() as tx:
            (stage.log if i % 2 else other).append(tx, leaves(i, 1), a.AT)
    with stage.store.read() as tx:
        assert stage.log.check_head(tx).size == 6


def test_there_is_no_proof_of_what_is_not_logged(stage):
    with stage.store.read() as tx, pytest.raises(NotFound, match="empty"):
        stage.log.proofs(tx, [("decision", "none")])
    stage.append(*leaves(0, 1))
    with stage.store.read() as tx, pytest.raises(NotFound, match="no such leaf"):
        stage.log.proofs(tx, [("certificate", a.decision(0).id)])


DAMAGE = {
    "frontier": "UPDATE log_head SET frontier = zeroblob(64)",
    "frontier-size": "UPDATE log_head SET frontier = zeroblob(31)",
    "size": "UPDATE log_head SET size = 2",
    "checkpoint": "UPDATE log_head SET checkpoint = 'none'",
    "checkpoint-size": "UPDATE log_head SET checkpoint = replace(checkpoint, char(10, 51, 10), char(10, 52, 10))",
    "head-gone": "DELETE FROM log_head",
}


@pytest.mark.parametrize("statement", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("known", [False, True], ids=["new-process", "same-process"])
def test_nothing_is_appended_to_a_head_that_was_changed(stage, statement, known):
    stage.append(*leaves(0, 3))
    sql(stage, statement)
    log = stage.log if known else Log(a.ORIGIN, a.KEY)
    with pytest.raises(Unavailable) as error, stage.store.write() as tx:
        log.append(tx, leaves(3, 1), a.AT)
    assert error.value.code == "log"
    with pytest.raises(Unavailable) as error, stage.store.read() as tx:
        log.check_head(tx)
    assert error.value.code == "log"


def test_a_head_of_another_key_is_not_gone_on_with(stage):
    stage.append(*leaves(0, 3))
    stranger = Log(a.ORIGIN, Ed25519PrivateKey.generate())
    with pytest.raises(Unavailable, match="not signed"), stage.store.write() as tx:
        stranger.append(tx, leaves(3, 1), a.AT)


def test_leaves_that_the_head_does_not_count_stop_the_log(stage):
    stage.append(*leaves(0, 3))
    sql(stage, "DELETE FROM log_leaves WHERE position = 2")
    with stage.store.read() as tx, pytest.raises(Unavailable, match="counts other leaves"):
        stage.log.check_head(tx)


def test_a_proof_needs_its_hashes(stage):
    stage.append(*leaves(0, 3))
    sql(stage, "UPDATE log_leaves SET hashes = x'' WHERE position = 1")
    with stage.store.read() as tx, pytest.raises(Unavailable, match="a hash of the tree is missing"):
        stage.log.proofs(tx, [("decision", a.decision(0).id)])


def test_a_signature_that_does_not_verify_leaves_nothing(stage):
    class Faulty:
        def public_key(self):
            return a.KEY.public_key()

        def sign(self, data: bytes) -> bytes:
            return a.KEY.sign(data + b"?")

    with pytest.raises(VtpmCaError) as error, stage.store.write() as tx:
        Log(a.ORIGIN, Faulty()).append(tx, leaves(0, 1), a.AT)
    assert error.value.code == "signer"
    with stage.store.read() as tx:
        assert tx.log.head() is None
        assert tx.log.length() == 0


class TestCatchingUp:
    def test_in_the_order_of_time_decisions_first(self, stage):
        stage.issue(50, logged=False)
        stage.decide(10, logged=False)
        stage.issue(20, logged=False)
        stage.decide(21, logged=False)
        with stage.store.write() as tx:
            assert stage.log.catch_up(tx, a.AT) == 10
        with stage.store.read() as tx:
            kinds = [(leaf.kind, leaf.subject[:30].lstrip("0")) for leaf in tx.log.leaves(0, 20)]
            assert stage.log.check_head(tx).size == 10
        # Of the same second, the decision with number 21 comes before the certificates of 20.
        assert [kind for kind, _ in kinds] == ["decision"] * 3 + ["certificate"] * 3 + ["decision"] + [
            "certificate"
        ] * 3

    def test_a_second_time_there_is_nothing_to_do(self, filled):
        with filled.store.write() as tx:
            before = tx.log.head()
            assert filled.log.catch_up(tx, a.AT) == 0
            assert tx.log.head() == before

    def test_in_batches(self, stage, monkeypatch):
        monkeypatch.setattr("ca_service.audit.log.BATCH", 3)
        for number in range(8):
            stage.decide(number, logged=number < 2)
        stage.issue(40, 5, logged=False)
        with stage.store.write() as tx:
            assert stage.log.catch_up(tx, a.AT) == 12
        with stage.store.read() as tx:
            assert stage.log.check_head(tx).size == 14

    def test_what_was_only_intended_is_not_logged(self, stage):
        stage.issue(1)
        with stage.store.write() as tx:
            tx.connection.execute(
                schema.certificates.update()
                .values(serial="ff", der=None, state="intended")
                .where(schema.certificates.c.serial == f"{1:030x}{0:04x}")
            )
            assert stage.log.catch_up(tx, a.AT) == 0
