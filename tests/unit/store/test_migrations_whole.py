"""CAs of released versions go on after an upgrade: directory, database, and the TPMs that they know."""

import os
from collections import Counter

import enrollment_world as w
import pytest
from cryptography import x509
from databases import Databases
from old_releases import Release

from ca_service.audit import Issuers, VerifierKey, audit_database
from ca_service.enrollment.replay import Outcome
from ca_service.judgment import Refused
from ca_service.keys import load_authority, upgrade_directory
from ca_service.operations.replay import replay_database
from ca_service.profiles import oids
from ca_service.store import CertificateState, IssuerState, check_invariants, create_store

_CASES = [
    ("0.1", "sqlite"),
    ("0.2", "sqlite"),
    ("0.3", "postgresql"),
    ("0.4", "sqlite"),
    ("0.4", "postgresql"),
    ("0.5", "sqlite"),
    ("0.6", "sqlite"),
    ("0.6", "postgresql"),
    ("0.7", "sqlite"),
]
"""Rows on both databases: test_migrations; release 0.3 on SQLite: the commands' test_upgrade."""


@pytest.fixture(params=_CASES, ids=" on ".join)
def case(request):
    return request.param


@pytest.fixture
def databases(case, request, tmp_path):
    """The kind of database that the case names."""
    kind = case[1]
    made = Databases(kind, tmp_path, request.getfixturevalue("postgres") if kind == "postgresql" else None)
    yield made
    made.close()


@pytest.fixture
def ca(case, databases, tmp_path):
    """A CA of a release after the upgrade and before its first start: the release, its world, its database."""
    released, url = Release(case[0]), databases.new()
    released.put_directory(tmp_path / "world")
    released.put_database(url)
    upgrade_directory(tmp_path / "world" / "ca", released.passphrase, os.urandom)
    store = create_store(url)
    world = released.world(
        tmp_path / "world", url, load_authority(tmp_path / "world" / "ca", released.passphrase)
    )
    yield released, world, store
    world.close()
    store.close()


def audited(world, store):
    with store.read() as tx:
        # The tests' server is not durable, and says so.
        assert {breach.id for breach in check_invariants(tx, world.time)} <= {"database.durable"}
        report = audit_database(
            tx,
            VerifierKey.parse(world.authority.log.verifier),
            Issuers(world.authority.root, {ca.skid: ca.certificate for ca in world.authority.issuers}),
        )
    assert report.findings == ()
    assert report.clean
    return report


def test_it_goes_on(ca):
    released, world, store = ca
    enroller = world.enroller(store)
    # The intent of the process that died under the old release is closed now.
    assert enroller.recover() == 1
    with store.read() as tx:
        issuers = tx.issuers.all()
        assert tx.intents.open() == []
        killed = [row for row in released.rows("certificates") if row["state"] == "intended"]
        assert killed
        assert {tx.certificates.get(row["serial"]).state for row in killed} == {CertificateState.ABANDONED}
    assert {row.skid for row in issuers} == {ca.skid for ca in world.authority.issuers}
    assert {(row.state, row.active is not None) for row in issuers} == {(IssuerState.ACTIVE, True)}

    issued = sum(row["der"] is not None for row in released.rows("certificates"))
    leaves = {"decision": len(released.rows("decisions")), "certificate": issued}
    if "responders" in released.tables:
        # CAs of 0.4 have OCSP responders, which are made when the CA starts.
        leaves["responder"] = 3
    assert audited(world, store).leaves == leaves

    # What later releases ask of a launch, an older policy cannot state.
    if released.version in {"0.1", "0.2"}:
        with pytest.raises(Refused):
            w.issue(world, enroller, released.tpm("good"), released.boot("good"))
        world.apply(store, world.policy())
        leaves["decision"] += 1

    for name in ("good", "after-reset"):
        reply = w.issue(world, enroller, released.tpm(name), released.boot(name))
        assert w.ders(reply) == released.certificates(name)
    for name, rule in (("revoked", "ledger.not-revoked"), ("before-reset", "ledger.instance-occupied")):
        with pytest.raises(Refused) as refusal:
            w.issue(world, enroller, released.tpm(name), released.boot(name))
        assert refusal.value.rule == rule
    with pytest.raises(Refused) as refusal:
        w.issue(world, enroller, released.tpm("good"), released.boot("good", counter=1))
    assert refusal.value.rule == "ledger.counter"

    new = w.Boot(resource="default/vtpm/new", secret=b"a secret of the new guest".ljust(32))
    fresh = w.issue(world, enroller, w.SoftTpm(), new)
    assert len(w.ders(fresh)) == 3
    leaves["decision"] += 6
    leaves["certificate"] += 3
    assert audited(world, store).leaves == leaves
    outcomes = Counter(replayed.outcome for replayed in replay_database(store))
    if released.version in {"0.5", "0.6", "0.7"}:
        # The releases that record what their decisions rest on; one was about the answer to a challenge.
        assert outcomes == {Outcome.BEYOND: 1, Outcome.AGREES: leaves["decision"] - 1}
    else:
        old = len(released.rows("decisions"))
        assert outcomes == {Outcome.UNRECORDED: old, Outcome.AGREES: leaves["decision"] - old}

    # Certificates of releases up to 0.5 have an id that not everybody reads, and keep it until they are replaced.
    w.operate(
        world, store, "instance-reset", kbs="org-kbs", resource="default/vtpm/good", cause="ids", yes=True
    )
    replaced = w.issue(world, enroller, released.tpm("good"), released.boot("good"))
    former, present = (oids.FORMER_PROVENANCE, oids.PROVENANCE)
    then = present if released.version in {"0.6", "0.7"} else former
    assert {provenance_id(der) for der in released.certificates("good")} == {then}
    assert {provenance_id(der) for der in (*w.ders(fresh), *w.ders(replaced))} == {present}


def provenance_id(der):
    ids = {extension.oid for extension in x509.load_der_x509_certificate(der).extensions}
    (found,) = ids & {oids.FORMER_PROVENANCE, oids.PROVENANCE}
    return found
