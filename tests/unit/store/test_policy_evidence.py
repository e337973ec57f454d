"""Recorded evidence for tests of policy documents: each file once, and what each document means by a path."""

import hashlib
from datetime import timedelta

import sqlalchemy as sa

from ca_service.store import schema

ONE, OTHER = b"one", b"other"


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def test_files_are_kept_once_and_each_document_has_its_own_names(store, at):
    with store.write() as tx:
        tx.policy_evidence.keep("aa", {"a.json": ONE, "b.json": ONE, "c.json": OTHER}, at)
        tx.policy_evidence.keep("bb", {"a.json": OTHER}, at + timedelta(days=1))
        tx.policy_evidence.keep("cc", {}, at)
    with store.read() as tx:
        assert tx.policy_evidence.files("aa") == {
            "a.json": digest(ONE),
            "b.json": digest(ONE),
            "c.json": digest(OTHER),
        }
        assert tx.policy_evidence.files("bb") == {"a.json": digest(OTHER)}
        assert tx.policy_evidence.files("cc") == tx.policy_evidence.files("dd") == {}
        assert [tx.policy_evidence.get(digest(body)) for body in (ONE, OTHER, b"")] == [ONE, OTHER, None]
        kept = tx.connection.execute(sa.select(schema.policy_evidence.c.kept_at)).scalars().all()
        assert kept == [at, at]


def test_a_document_means_what_it_was_given_last(store, at):
    for body in (ONE, OTHER, ONE):
        with store.write() as tx:
            tx.policy_evidence.keep("aa", {"a.json": body}, at)
        with store.read() as tx:
            assert tx.policy_evidence.files("aa") == {"a.json": digest(body)}
            assert tx.policy_evidence.get(digest(ONE)) == ONE
