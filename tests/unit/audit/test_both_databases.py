"""The log on each kind of database: the same history, whoever writes it."""

import threading

import audit_stage as a
import pytest
import sqlalchemy as sa

from ca_service.audit import Log, audit_database, audit_folder, decision_leaf, export_log, open_checkpoint
from ca_service.store import Taken, open_store

NODES, APPENDS = 2, 8


@pytest.fixture
def stages(database):
    """Two nodes on one database, each with connections and a log of its own."""
    made = [a.Stage(open_store(database), Log(a.ORIGIN, a.KEY)) for _ in range(NODES)]
    yield made
    for stage in made:
        stage.store.close()


def audit(stage):
    with stage.store.read() as tx:
        stage.log.check_head(tx)
        return audit_database(tx, stage.log.key, a.ISSUERS)


def test_logging_catching_up_and_auditing(stages, tmp_path):
    stage = stages[0]
    stage.policy()
    stage.decide(1)
    stage.issue(10)
    stage.issue(20, logged=False)
    stage.decide(30, logged=False)
    assert audit(stage).counts == {"decision.unlogged": 2, "certificate.unlogged": 3}
    with stage.store.write() as tx:
        assert stage.log.catch_up(tx, a.AT) == 5
    report = audit(stage)
    assert (report.clean, report.size) == (True, 10)
    with stage.store.read() as tx:
        subjects = [(leaf.kind, leaf.subject) for leaf in tx.log.leaves(0, 100)]
        receipt = stage.log.proofs(tx, subjects)
        export_log(tx, stage.log.key, tmp_path / "export", {a.ISSUER: b"pem"})
    checkpoint = open_checkpoint(receipt.checkpoint, stage.log.key)
    assert all(proof.holds(checkpoint) for proof in receipt.proofs)
    assert audit_folder(tmp_path / "export", stage.log.key).clean
    with pytest.raises(Taken):
        stage.append(decision_leaf(a.decision(1)))
    assert audit(stage).clean


def test_an_edit_is_found(stages):
    stage = stages[0]
    stage.policy()
    stage.issue(10)
    with stage.store.write() as tx:
        tx.connection.execute(sa.text("UPDATE certificates SET key_name = '00'"))
        tx.connection.execute(sa.text("UPDATE log_leaves SET hashes = substr(hashes, 1, 32)"))
    assert audit(stage).counts == {
        "certificate.altered": 3,
        "certificate.state": 3,
        "log.node-missing": 3,
    }


def test_nodes_that_write_at_once_write_one_history(stages):
    stages[0].policy()
    receipts, errors = [], []

    def work(stage, number):
        try:
            for i in range(APPENDS):
                row = a.decision(100 * number + i)
                with stage.store.write() as tx:
                    tx.decisions.keep_evidence(
                        row.evidence_digest, b"evidence %d" % (100 * number + i), row.at
                    )
                    tx.decisions.add(row)
                    receipts.append(stage.log.append(tx, [decision_leaf(row)], row.at))
        except BaseException as error:  # noqa: BLE001 - to be shown by the test
            errors.append(error)

    threads = [threading.Thread(target=work, args=(stage, i)) for i, stage in enumerate(stages)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert sorted(receipt.size for receipt in receipts) == list(range(1, NODES * APPENDS + 1))
    for receipt in receipts:
        checkpoint = open_checkpoint(receipt.checkpoint, stages[0].log.key)
        assert receipt.proofs[0].holds(checkpoint)
        with stages[0].store.read() as tx:
            assert audit_database(tx, stages[0].log.key, a.ISSUERS, checkpoint).clean
