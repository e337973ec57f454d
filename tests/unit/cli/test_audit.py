"""`vtpm-ca audit` on a CA that really worked."""

import json
import re
import shlex
from pathlib import Path

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca_service.audit import Log
from ca_service.store import live_key, open_store


@pytest.fixture
def logged(ca, worked_ca):
    """The directory of a CA that has worked, everything in its log."""
    authority = worked_ca.authority
    store = open_store(f"sqlite:///{ca}/ca.sqlite3")
    with store.write() as tx:
        Log(authority.log.origin, authority.log_key).catch_up(tx, worked_ca.time)
    store.close()
    return ca


def key_of(here, ca) -> str:
    return json.loads(here("audit", "export", ca.parent / "first", "--dir", ca, "--json").out)["key"]


def edit(ca, statement: str) -> None:
    store = open_store(f"sqlite:///{ca}/ca.sqlite3")
    with store.write() as tx:
        tx.connection.execute(sa.text(statement))
    store.close()


def test_a_ca_in_order(here, logged):
    done = here("audit", "verify", "--dir", logged)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("VALID  test-ca/log: ")
    report = json.loads(here("audit", "verify", "--json", env={"VTPM_CA_DIR": str(logged)}).out)
    assert (report["verdict"], report["findings"], report["leaves"]["certificate"]) == ("VALID", [], 3)
    assert sum(report["leaves"].values()) == report["size"]


def test_what_an_auditor_runs_can_be_pasted(here, logged):
    folder = logged.parent / "for the auditor"
    done = here("audit", "export", folder, "--dir", logged)
    program, *words = shlex.split(done.out.rpartition("An auditor runs: ")[2])
    assert (program, here(*words).code) == ("vtpm-ca", 0)


def test_a_ca_that_was_edited(here, logged):
    edit(logged, "UPDATE decisions SET admitted = 1 WHERE admitted = 0")
    done = here("audit", "verify", "--dir", logged)
    assert done.code == 1
    assert done.out.startswith("INVALID")
    assert "decision.altered" in done.out
    assert "1 thing is not as it was logged" in done.err
    done = here("audit", "verify", "--dir", logged, "--json")
    assert done.code == 1
    assert json.loads(done.out)["counts"] == {"decision.altered": 1}


def test_a_tpm_that_shall_not_be_found_by_its_evidence(here, logged):
    edit(logged, "UPDATE tpms SET ek_set = 'another'")
    done = here("audit", "verify", "--dir", logged, "--json")
    assert (done.code, json.loads(done.out)["counts"]) == (1, {"certificate.misplaced": 3})


def revoke(here, ca) -> str:
    """Revokes the EK certificate; gives its serial."""
    rows = json.loads(here("cert", "list", "--dir", ca, "--json").out)
    serial = next(row["serial"] for row in rows if row["profile"] == "ek")
    assert here("cert", "revoke", serial, "--cause", "theft", "--yes", "--dir", ca).code == 0
    assert here("audit", "verify", "--dir", ca).code == 0
    return serial


def test_an_old_copy_of_the_database(here, logged):
    old = (logged / "ca.sqlite3").read_bytes()
    revoke(here, logged)
    for path in logged.glob("ca.sqlite3*"):
        path.unlink()
    (logged / "ca.sqlite3").write_bytes(old)
    done = here("audit", "verify", "--dir", logged, "--json")
    assert done.code == 1
    counts = json.loads(done.out)["counts"]
    # The list that is kept in the directory says which serial it was.
    assert counts == {"kept.rolled-back": 1, "revocation.missing": 1, "revocation.ignored": 1}


def test_a_revocation_taken_back_with_a_forged_list(here, logged):
    """The list keeps number and times, so nothing is older than what the directory remembers."""
    serial = revoke(here, logged)
    store = open_store(f"sqlite:///{logged}/ca.sqlite3")
    with store.write() as tx:
        row = tx.certificates.get(serial)
        latest = tx.crls.latest(row.issuer)
        crl = x509.load_der_x509_crl(latest.der)
        builder = x509.CertificateRevocationListBuilder(crl.issuer, crl.last_update_utc, crl.next_update_utc)
        for extension in crl.extensions:
            builder = builder.add_extension(extension.value, extension.critical)
        forged = builder.sign(ec.generate_private_key(ec.SECP384R1()), hashes.SHA384())
        values = {
            "issuer": row.issuer,
            "number": latest.number,
            "serial": serial,
            "der": forged.public_bytes(Encoding.DER),
            "live": live_key(row.profile, row.key_name),
        }
        for statement in (
            "UPDATE crls SET der = :der WHERE issuer = :issuer AND number = :number",
            "DELETE FROM revocations WHERE serial = :serial",
            "UPDATE certificates SET state = 'issued', live = :live WHERE serial = :serial",
        ):
            tx.connection.execute(sa.text(statement), values)
    store.close()
    done = here("audit", "verify", "--dir", logged, "--json")
    assert done.code == 1
    counts = json.loads(done.out)["counts"]
    assert counts == {
        "crl.forged": 1,
        "revocation.missing": 1,
        "revocation.ignored": 1,
        "kept.rolled-back": 1,
    }
    done = here("crl", "publish", "--dir", logged)
    assert (done.code, "the database is older than what this CA has done" in done.err) == (3, True)


def test_a_revocation_taken_back_is_not_published(here, logged):
    revoke(here, logged)
    edit(logged, "DELETE FROM revocations")
    edit(logged, "UPDATE certificates SET state = 'superseded' WHERE state = 'revoked'")
    done = here("crl", "publish", "--dir", logged)
    assert (done.code, "would drop what the last one names" in done.err) == (3, True)


def test_a_memory_that_cannot_be_read(here, logged):
    revoke(here, logged)
    next((logged / "state").glob("crl-*.der")).write_bytes(b"nothing")
    done = here("audit", "verify", "--dir", logged, "--json")
    assert (done.code, json.loads(done.out)["counts"]) == (1, {"kept.unreadable": 1})


def test_export_and_verify_without_the_ca(here, logged, tmp_path):
    dest = tmp_path / "export"
    done = here("audit", "export", dest, "--dir", logged)
    assert done.code == 0
    command = done.out.splitlines()[-1].split("vtpm-ca ")[1].split()
    assert command[:2] == ["audit", "verify"]
    done = here(*command)
    assert (done.code, done.out[:5]) == (0, "VALID")
    assert json.loads(here(*command, "--json").out)["verdict"] == "VALID"
    again = json.loads(here("audit", "export", dest, "--dir", logged, "--json").out)
    assert (again["written"], again["old_size"]) == (0, again["size"])
    next((dest / "evidence").iterdir()).write_bytes(b"")
    done = here(*command)
    assert (done.code, "evidence.altered" in done.out) == (1, True)


def test_an_older_checkpoint(here, logged, worked_ca, tmp_path):
    key = key_of(here, logged)
    kept = logged.parent / "first" / "checkpoint"
    assert here("audit", "verify", "--dir", logged, "--since", kept).code == 0
    assert here("audit", "verify", logged.parent / "first", "--key", key, "--since", kept).code == 0
    # With the log's key, the last leaf is taken back.
    authority = worked_ca.authority
    log = Log(authority.log.origin, authority.log_key)
    store = open_store(f"sqlite:///{logged}/ca.sqlite3")
    with store.write() as tx:
        rows = tx.log.leaves(0, 1000)
        for table in ("log_head", "log_leaves"):
            tx.connection.execute(sa.text(f"DELETE FROM {table}"))  # noqa: S608
        log.append(tx, rows[:-1], worked_ca.time)
    store.close()
    done = here("audit", "verify", "--dir", logged, "--since", kept)
    assert (done.code, "since.truncated" in done.out) == (1, True)
    done = here("audit", "export", logged.parent / "first", "--dir", logged)
    assert (done.code, "truncated" in done.err) == (1, True)
    (tmp_path / "none").write_text("nothing")
    assert here("audit", "verify", "--dir", logged, "--since", tmp_path / "none").code == 2
    assert here("audit", "verify", "--dir", logged, "--since", tmp_path / "nowhere").code == 2


def test_usage(here, tmp_path):
    key = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
    for words, complaint in (
        ((), "--dir"),
        ((tmp_path,), "--key"),
        (("--key", key), "--key is for an export"),
        ((tmp_path, "--key", key[:-1]), "key: must"),
        ((tmp_path, "--key", key), "no checkpoint"),
        ((tmp_path / "nowhere", "--key", key), "no checkpoint"),
        (("--dir", tmp_path), "not the directory of a CA"),
    ):
        done = here("audit", "verify", *words)
        assert (done.code, done.out) == (2, "")
        assert complaint in done.err


def test_the_documented_commands(here, logged, monkeypatch):
    document = (Path(__file__).parents[3] / "docs" / "log.md").read_text()
    (block,) = re.findall(r"<!-- tested: ca -->\n```sh\n(.*?)```", document, re.DOTALL)
    monkeypatch.chdir(logged.parent)
    for line in block.splitlines():
        assert here(*line.split()[1:], env={"VTPM_CA_DIR": str(logged)}).code == 0, line


def test_a_database_that_is_elsewhere_must_be_named(here, logged):
    (logged / "run").mkdir(exist_ok=True)
    (logged / "run" / "server.json").write_text('{"tls": false, "own_database": false}')
    for words in (("verify",), ("export", logged.parent / "dest")):
        done = here("audit", *words, "--dir", logged)
        assert (done.code, "VTPM_CA_DATABASE" in done.err) == (3, True)
    environment = {"VTPM_CA_DATABASE": f"sqlite:///{logged}/ca.sqlite3"}
    assert here("audit", "verify", "--dir", logged, env=environment).code == 0


def test_while_the_server_runs(here, serve, logged, tmp_path):
    server = serve(logged)
    assert here("audit", "verify", "--dir", logged).code == 0
    assert here("audit", "export", tmp_path / "dest", "--dir", logged).code == 0
    assert server.process.poll() is None
