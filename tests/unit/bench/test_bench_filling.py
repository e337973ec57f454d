"""A filled database is one that the CA goes on with: what the bench measures on it is no artefact."""

import importlib.util
import sqlite3
from pathlib import Path

import enrollment_world as w
import operations_stage as stage
import pytest

from ca_service.store import open_store, schema
from vtpm.wire.log import open_checkpoint
from vtpm.wire.merkle import leaf_hash, verify_inclusion

BENCH = Path(__file__).parents[2] / "bench"


def bench_module(name):
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_ca_goes_on_with_a_filled_database(tmp_path):
    world = stage.new(tmp_path)
    store = open_store(world.url)
    world.apply(store, world.policy())
    store.close()
    filling = bench_module("filling")
    filling.fill(world, 31)

    with sqlite3.connect(world.url.removeprefix("sqlite:///")) as database:
        tables = ("certificates", "tpms", "decisions", "evidence", "log_leaves")
        counts = [len(database.execute(f"SELECT 1 FROM {table}").fetchall()) for table in tables]  # noqa: S608 - names of ours
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        made = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}
    assert counts == [33, 11, 11, 11, 44]
    assert {index.name for table in schema.metadata.tables.values() for index in table.indexes} <= made

    store = open_store(world.url)
    try:
        enroller = world.enroller(store)
        enroller.recover()
        log = enroller.desk.log
        with store.read() as tx:
            assert log.check_head(tx).size == 44
        w.issue(world, enroller, w.SoftTpm())
        with store.read() as tx:
            assert log.check_head(tx).size == 48
            receipt = log.proofs(tx, [("certificate", filling._serial(3, 1, 11))])
        root = open_checkpoint(receipt.checkpoint, log.key).root
        (proof,) = receipt.proofs
        assert verify_inclusion(leaf_hash(proof.leaf), proof.position, receipt.size, proof.path, root)
    finally:
        store.close()

    with pytest.raises(SystemExit, match="new CA"):
        filling.fill(world, 3)
