"""The auditor's folder: complete, incremental, whole after any interruption, and verified without the CA."""

import base64
import errno
import hashlib
import json
import os
import shutil
import subprocess
import threading

import audit_stage as a
import pytest

from ca_service.audit import Log, audit_folder, export_log, layout, open_checkpoint
from ca_service.audit.policies import MAX_POLICY
from ca_service.judgment import BadRequest, Conflict, Unavailable
from ca_service.policy import load

PEMS = {a.ISSUER: b"issuing", "00" * 20: b"root"}


@pytest.fixture(autouse=True)
def _small_bundles(monkeypatch):
    monkeypatch.setattr(layout, "BUNDLE", 4)


@pytest.fixture
def dest(tmp_path):
    return tmp_path / "export"


def export(stage, dest):
    with stage.store.read() as tx:
        return export_log(tx, stage.log.key, dest, PEMS)


def verify(stage, dest, since=None):
    return audit_folder(dest, stage.log.key, since)


def checkpoint(stage, dest):
    return open_checkpoint((dest / "checkpoint").read_bytes(), stage.log.key)


def tree(folder) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_an_export_holds_everything_and_verifies(filled, dest):
    report = export(filled, dest)
    assert (report.old_size, report.size, report.key) == (0, 11, str(filled.log.key))
    assert json.dumps(report.to_json())
    leaves = b"".join((dest / "leaves" / f"{n:015}.jsonl").read_bytes() for n in (0, 4, 8)).splitlines()
    with filled.store.read() as tx:
        assert leaves == [row.data for row in tx.log.leaves(0, 100)]
        assert (dest / "checkpoint").read_bytes().decode() == tx.log.head().checkpoint
        for leaf in map(json.loads, leaves):
            if leaf["kind"] == "certificate":
                der = (dest / "certificates" / f"{leaf['serial']}.cer").read_bytes()
                assert (der, hashlib.sha256(der).hexdigest()) == (
                    tx.certificates.get(leaf["serial"]).der,
                    leaf["sha256"],
                )
            else:
                row = tx.decisions.get(leaf["id"])
                assert (dest / "evidence" / leaf["evidence"]).read_bytes() == tx.decisions.evidence(
                    row.evidence_digest
                )
                assert (dest / "traces" / f"{row.id}.json").read_text() == row.trace
                assert (dest / "policies" / f"{leaf['policy']}.toml").read_text() == a.POLICY
    assert {path.name: path.read_bytes() for path in (dest / "issuers").iterdir()} == {
        f"{skid}.pem": pem for skid, pem in PEMS.items()
    }
    assert "audit verify" in (dest / "README.md").read_text()
    found = verify(filled, dest)
    assert (found.clean, found.size, found.leaves) == (True, 11, {"decision": 5, "certificate": 6})
    assert not list(dest.rglob("*.new"))


def test_openssl_and_a_few_lines_verify_the_checkpoint(filled, dest, tmp_path):
    export(filled, dest)
    text, _, line = (dest / "checkpoint").read_text().rpartition("\n\n")
    raw = base64.b64decode(line.split(" ")[2])
    (tmp_path / "text").write_text(text + "\n")
    (tmp_path / "signature").write_bytes(raw[-64:])
    # As the folder's README.md says it of KEY.
    public = base64.b64decode(str(filled.log.key).split("+", 2)[2])[-32:]
    (tmp_path / "key.der").write_bytes(bytes.fromhex("302a300506032b6570032100") + public)
    done = subprocess.run(
        [
            *("openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-keyform", "DER"),
            *("-inkey", tmp_path / "key.der", "-in", tmp_path / "text", "-sigfile", tmp_path / "signature"),
        ],
        check=False,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr

    def mth(lines):
        if len(lines) == 1:
            return hashlib.sha256(b"\0" + lines[0]).digest()
        k = 1 << (len(lines) - 1).bit_length() - 1
        return hashlib.sha256(b"\1" + mth(lines[:k]) + mth(lines[k:])).digest()

    lines = b"".join(path.read_bytes() for path in sorted((dest / "leaves").iterdir())).splitlines()
    root = base64.b64encode(mth(lines)).decode()
    assert text.splitlines() == [a.ORIGIN, "11", root]


def test_exporting_again_adds_what_is_new(filled, dest, tmp_path):
    export(filled, dest)
    before, kept = tree(dest), checkpoint(filled, dest)
    again = export(filled, dest)
    assert (again.old_size, again.size, again.written) == (11, 11, 0)
    assert tree(dest) == before
    filled.issue(50)
    more = export(filled, dest)
    assert (more.old_size, more.size, more.written) == (11, 15, 5)
    assert verify(filled, dest, kept).clean
    export(filled, tmp_path / "whole")
    assert tree(dest) == tree(tmp_path / "whole")


def test_an_empty_log_can_be_exported_and_go_on(stage, dest):
    stage.append()
    assert export(stage, dest).size == 0
    assert verify(stage, dest).clean
    stage.policy()
    stage.decide(1)
    assert export(stage, dest).size == 1
    assert verify(stage, dest).clean


def test_a_ca_without_a_log_exports_nothing(stage, dest):
    with pytest.raises(Unavailable):
        export(stage, dest)
    assert not dest.exists()


def test_a_medium_without_permissions(filled, dest, monkeypatch):
    def as_on_fat(_descriptor, _mode):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "fchmod", as_on_fat)
    with pytest.raises(Unavailable, match="kept from others") as error:
        export(filled, dest)
    assert "tar" in error.value.remedy
    assert not (dest / "checkpoint").exists()


@pytest.fixture
def other(new_stage):
    """A log of the same key with other decisions."""
    stage = new_stage()
    stage.policy()
    for number in range(100, 112):
        stage.decide(number)
    return stage


def test_a_fork_is_named_and_nothing_is_overwritten(filled, other, dest):
    export(filled, dest)
    before = tree(dest)
    with pytest.raises(Conflict, match="forked") as error:
        export(other, dest)
    assert error.value.code == "fork"
    assert tree(dest) == before


def test_a_truncated_log_is_named(filled, new_stage, dest):
    export(filled, dest)
    shorter = new_stage()
    shorter.policy()
    shorter.decide(1)
    with pytest.raises(Conflict, match="truncated") as error:
        export(shorter, dest)
    assert error.value.code == "fork"
    assert verify(filled, dest).clean


def test_the_folder_of_another_log(filled, dest):
    export(filled, dest)
    filled.log = Log("other/log", a.KEY)
    for statement in ("DELETE FROM log_head", "DELETE FROM log_leaves"):
        filled.edit(statement)
    with filled.store.write() as tx:
        filled.log.catch_up(tx, a.AT)
    with pytest.raises(Conflict, match="not this log's"):
        export(filled, dest)


@pytest.mark.parametrize("name", ["leaves/000000000000004.jsonl", "leaves/000000000000008.jsonl"])
def test_a_folder_that_was_changed_is_not_gone_on_with(filled, dest, name):
    export(filled, dest)
    (dest / name).write_bytes(b"{}\n" + (dest / name).read_bytes())
    with pytest.raises(Conflict, match="not those of its checkpoint"):
        export(filled, dest)


def test_a_folder_of_something_else_is_left_alone(filled, dest):
    dest.mkdir()
    (dest / "thesis.txt").write_text("mine")
    with pytest.raises(BadRequest, match="does not belong to an export"):
        export(filled, dest)
    assert tree(dest) == {"thesis.txt": b"mine"}


def test_links_lead_nowhere(filled, dest, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    dest.mkdir()
    (dest / "evidence").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadRequest, match="not a link"):
        export(filled, dest)
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(
    "name", ["checkpoint", "checkpoint.new", "evidence/x", "leaves/000000000000008.jsonl.new"]
)
def test_a_link_in_the_folder_is_not_written_through(filled, dest, tmp_path, name):
    export(filled, dest)
    filled.decide(60)
    precious = tmp_path / "precious"
    precious.write_bytes(b"mine")
    (dest / name).unlink(missing_ok=True)
    (dest / name).symlink_to(precious)
    with pytest.raises(BadRequest, match="not a link"):
        export(filled, dest)
    assert precious.read_bytes() == b"mine"
    assert (dest / name).is_symlink()


def test_a_link_that_comes_meanwhile_is_not_written_through(filled, dest, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "checkpoint.new").write_bytes(b"mine")
    prepare = layout.Folder.prepare

    def swapped(folder):
        prepare(folder)
        (dest / "checkpoint.new").symlink_to(elsewhere / "checkpoint.new")
        (dest / "evidence").rename(tmp_path / "aside")
        (dest / "evidence").symlink_to(elsewhere)

    monkeypatch.setattr(layout.Folder, "prepare", swapped)
    export(filled, dest)
    assert [(path.name, path.read_bytes()) for path in elsewhere.iterdir()] == [("checkpoint.new", b"mine")]
    assert not (dest / "checkpoint").is_symlink()


def test_an_export_is_nobody_elses_to_read(filled, dest):
    old = os.umask(0)
    try:
        export(filled, dest)
        (dest / "traces").chmod(0o755)
        export(filled, dest)
    finally:
        os.umask(old)
    modes = {path: path.stat().st_mode & 0o777 for path in (dest, *dest.rglob("*"))}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if not path.is_dir()} == {0o600}


def test_files_are_on_the_disk_before_they_get_their_names(filled, dest, monkeypatch):
    flushed, renamed = set(), []
    fsync, rename = os.fsync, os.rename

    def watched_fsync(descriptor):
        flushed.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def watched_rename(old, new, **folders):
        assert os.stat(old, dir_fd=folders["src_dir_fd"]).st_ino in flushed
        if new == "checkpoint":
            # The names of all the others are durable by now.
            assert {path.stat().st_ino for path in (dest, *dest.iterdir()) if path.is_dir()} <= flushed
        renamed.append(new)
        rename(old, new, **folders)
        flushed.discard(os.fstat(folders["dst_dir_fd"]).st_ino)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "rename", watched_rename)
    export(filled, dest)
    assert renamed[-1] == "checkpoint"
    assert {path.stat().st_ino for path in (dest, *dest.iterdir()) if path.is_dir()} <= flushed


def test_a_disk_that_does_not_flush_is_named_and_nothing_is_sealed(filled, dest, monkeypatch):
    export(filled, dest)
    before = tree(dest)
    filled.issue(60)

    def broken(_descriptor):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(Unavailable, match="Input/output error"):
            export(filled, dest)
    assert tree(dest) == before


def test_two_exports_do_not_mix(filled, dest):
    export(filled, dest)
    entered, leave = threading.Event(), threading.Event()
    original = layout.Folder.seal

    def slow(self, note):
        entered.set()
        assert leave.wait(30)
        original(self, note)

    filled.decide(60)
    layout.Folder.seal, first = slow, threading.Thread(target=export, args=(filled, dest))
    try:
        first.start()
        assert entered.wait(30)
        with pytest.raises(Conflict) as error:
            export(filled, dest)
        assert error.value.code == "busy"
    finally:
        leave.set()
        first.join(30)
        layout.Folder.seal = original
    assert verify(filled, dest).clean


@pytest.mark.parametrize("step", range(1, 30, 3))
def test_an_interrupted_export_is_as_complete_as_its_checkpoint_says(filled, dest, monkeypatch, step):
    export(filled, dest)
    kept = checkpoint(filled, dest)
    for number in (60, 70, 80):
        filled.issue(number)
    rename, calls = os.rename, 0

    def broken(*names, **folders):
        nonlocal calls
        calls += 1
        if calls == step:
            raise KeyboardInterrupt
        return rename(*names, **folders)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", broken)
        try:
            export(filled, dest)
        except KeyboardInterrupt:
            assert checkpoint(filled, dest) == kept
            assert set(verify(filled, dest).counts) <= {"log.leaf-surplus"}
    assert export(filled, dest).size == 23
    assert verify(filled, dest, kept).clean


def test_a_full_disk_is_no_damage(filled, dest, monkeypatch):
    export(filled, dest)
    before = tree(dest)
    filled.issue(60)

    def full(*_arguments, **_folders):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", full)
        with pytest.raises(Unavailable, match="No space left"):
            export(filled, dest)
    assert tree(dest) == before


DATABASE_DAMAGE = {
    "trace": "UPDATE decisions SET trace = '[]' WHERE stage = 'enroll'",
    "evidence": "DELETE FROM evidence",
    "certificate": "UPDATE certificates SET der = x'00'",
    "policy": "UPDATE policies SET digest = 'ff'",
    "leaf": "DELETE FROM log_leaves WHERE position = 5",
    "leaf nonsense": "UPDATE log_leaves SET data = x'00' WHERE position = 5",
    "leaf altered": "UPDATE log_leaves SET data = (SELECT data FROM log_leaves WHERE position = 6) WHERE position = 5",
    "head": "UPDATE log_head SET size = 10",
}


@pytest.mark.parametrize("statement", DATABASE_DAMAGE.values(), ids=DATABASE_DAMAGE)
def test_what_is_not_as_logged_is_not_exported(filled, dest, statement):
    filled.edit(statement)
    with pytest.raises(Unavailable) as error:
        export(filled, dest)
    assert error.value.code == "log"
    assert not (dest / "checkpoint").exists()


def _first(dest, pattern: str):
    return min(dest.glob(pattern))


def _append(path, data: bytes) -> None:
    path.write_bytes(path.read_bytes() + data)


FOLDER_DAMAGE = {
    "certificate altered": (lambda d: _append(_first(d, "certificates/*"), b"x"), {"certificate.altered": 1}),
    "certificate gone": (lambda d: _first(d, "certificates/*").unlink(), {"certificate.missing": 1}),
    "evidence altered": (lambda d: _append(_first(d, "evidence/*"), b"x"), {"evidence.altered": 1}),
    "evidence gone": (lambda d: _first(d, "evidence/*").unlink(), {"evidence.missing": 1}),
    "trace altered": (lambda d: _append(_first(d, "traces/*"), b"x"), {"trace.altered": 1}),
    "trace gone": (lambda d: shutil.rmtree(d / "traces"), {"trace.missing": 5}),
    "policy altered": (
        lambda d: _append(_first(d, "policies/*"), b"[grant]\nmax_age_s = 60\n"),
        {"policy.altered": 1},
    ),
    "policy unreadable": (lambda d: _append(_first(d, "policies/*"), b"\xff"), {"policy.unreadable": 1}),
    "policy gone": (lambda d: _first(d, "policies/*").unlink(), {"policy.missing": 1}),
    "issuer gone": (lambda d: (d / "issuers" / f"{a.ISSUER}.pem").unlink(), {"issuer.missing": 1}),
    "leaves gone": (lambda d: (d / "leaves/000000000000008.jsonl").unlink(), {"log.leaf-missing": 1}),
    "leaf nonsense": (
        lambda d: (d / "leaves/000000000000008.jsonl").write_bytes(b"{}\n" * 3),
        {"log.leaf-malformed": 3, "log.root": 1},
    ),
    "leaves more": (
        lambda d: _append(d / "leaves/000000000000008.jsonl", b"{}\n"),
        {"log.leaf-surplus": 1},
    ),
    "checkpoint": (
        lambda d: (d / "checkpoint").write_bytes(
            (d / "checkpoint").read_bytes().replace(b"\n11\n", b"\n10\n")
        ),
        {"log.checkpoint": 1},
    ),
    "a pipe for a file": (
        lambda d: (_first(d, "evidence/*").unlink(), os.mkfifo(d / "evidence" / _missing(d))),
        {"evidence.missing": 1},
    ),
    "a link for a file": (
        lambda d: _link(
            d / "traces" / f"{1:032x}.json", (d / "traces" / f"{1:032x}.json").rename(d / "aside")
        ),
        {"trace.missing": 1},
    ),
    "a link to a device": (
        lambda d: (_first(d, "traces/*").unlink(), _link(d / "traces" / f"{1:032x}.json", "/dev/zero")),
        {"trace.missing": 1},
    ),
}


def _link(path, target) -> None:
    path.symlink_to(target)


def _missing(dest) -> str:
    leaves = b"".join(path.read_bytes() for path in sorted((dest / "leaves").iterdir())).splitlines()
    wanted = {leaf["evidence"] for leaf in map(json.loads, leaves) if leaf["kind"] == "decision"}
    (name,) = wanted - {path.name for path in (dest / "evidence").iterdir()}
    return name


@pytest.mark.parametrize(("damage", "expected"), FOLDER_DAMAGE.values(), ids=FOLDER_DAMAGE)
def test_a_changed_folder_is_found(filled, dest, damage, expected):
    export(filled, dest)
    damage(dest)
    assert verify(filled, dest).counts == expected


HOSTILE_POLICIES = {
    "long": b"#" + b"x" * MAX_POLICY,
    "deep": b"a=" + b"[" * 100_000,
    "a key of many parts": b"a." * 100_000 + b"b = 1",
    "a quoted key of many parts": b'"=".' + b"a." * 100_000 + b"b = 1",
    "a table's name of many parts": b"[" + b"a." * 1_000_000 + b"b]",
    "a long number": b"a = " + b"1" * 5000,
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("content", HOSTILE_POLICIES.values(), ids=HOSTILE_POLICIES)
def test_a_policy_that_costs_much_to_read_is_not_read(filled, dest, content):
    export(filled, dest)
    _first(dest, "policies/*").write_bytes(content)
    assert verify(filled, dest).counts == {"policy.unreadable": 1}


def test_what_nobody_signed_does_not_say_what_is_read(filled, dest, monkeypatch):
    export(filled, dest)
    read = []
    monkeypatch.setattr("ca_service.audit.policies.load", lambda text: read.append(text) or load(text))
    assert verify(filled, dest).clean
    assert read == [a.POLICY]
    (dest / "leaves/000000000000008.jsonl").write_bytes(b"")
    assert verify(filled, dest).counts == {"log.leaf-missing": 1}
    (dest / "checkpoint").write_bytes(b"nothing")
    assert verify(filled, dest).counts == {"log.checkpoint": 1}
    assert read == [a.POLICY]


def test_an_older_checkpoint_finds_what_was_computed_anew(filled, other, dest, tmp_path):
    export(filled, dest)
    kept = checkpoint(filled, dest)
    export(other, tmp_path / "other")
    assert verify(other, tmp_path / "other").clean
    assert verify(other, tmp_path / "other", kept).counts == {"since.forked": 1}
    later = checkpoint(other, tmp_path / "other")
    assert verify(filled, dest, later).counts == {"since.truncated": 1}


def test_what_is_no_export(tmp_path, filled):
    with pytest.raises(BadRequest, match="no checkpoint"):
        verify(filled, tmp_path)
    with pytest.raises(BadRequest, match="no checkpoint"):
        verify(filled, tmp_path / "nowhere")
