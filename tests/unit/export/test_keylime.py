"""The store as keylime sees it: *.pem only, the first certificate of each, one bad file and nothing works."""

import fcntl
import os
import re
import stat
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding
from forked import SCRIPT

from ca_service.export import export_keylime, trusted_issuers
from ca_service.judgment import BadRequest, Unavailable, VtpmCaError
from ca_service.keys import CeremonyConfig, load_public, run_ceremony

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)


def ceremony(directory):
    config = CeremonyConfig(mode="simulation", organization="Example", publication_url="http://ca.example")
    run_ceremony(directory, config, b"passphrase", clock=lambda: NOW, entropy=os.urandom)
    return load_public(directory)


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    return ceremony(tmp_path_factory.mktemp("ours") / "ca")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    return ceremony(tmp_path_factory.mktemp("theirs") / "ca")


def names(public, *roles):
    return sorted(f"vtpm-ca-{r}-default-{public.issuer(r).skid[:16]}.pem" for r in roles)


def keylime_store(folder):
    """What keylime makes of the folder (keylime 7.14.3, reference behaviour)."""
    store = []
    for path in sorted(folder.glob("*.pem")):
        if path.name.startswith("."):
            continue
        text = path.read_text(encoding="utf-8")
        if "-----BEGIN CERTIFICATE-----" in text:
            store.append(x509.load_pem_x509_certificates(text.encode())[0])
    return store


def keylime_trusts(folder, leaf):
    for issuer in keylime_store(folder):
        try:
            leaf.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return True
    return False


def listing(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def test_both_issuing_cas_and_never_the_root(public, tmp_path):
    report = export_keylime(tmp_path / "store", public.issuers, None)
    assert sorted(p.name for p in (tmp_path / "store").iterdir()) == names(public, "ek", "devid")
    assert list(report.written) == names(public, "ek", "devid")
    assert report.in_order
    store = keylime_store(tmp_path / "store")
    assert {c.subject for c in store} == {public.issuer(r).certificate.subject for r in ("ek", "devid")}
    # With the root in the store, the Ephemeral CA would count as a TPM.
    assert not keylime_trusts(tmp_path / "store", public.issuer("ephemeral").certificate)


def test_files_are_readable_by_the_keylime_user(public, tmp_path):
    before = os.umask(0o077)
    try:
        export_keylime(tmp_path / "store", public.issuers, None)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o755
    for path in (tmp_path / "store").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        assert path.read_bytes().count(b"BEGIN") == 1


@pytest.mark.parametrize("role", ["ek", "devid"])
def test_a_host_may_want_one_role_only(role, public, tmp_path):
    export_keylime(tmp_path, public.issuers, None)
    report = export_keylime(tmp_path, public.issuers, role)
    assert sorted(listing(tmp_path)) == names(public, role)
    assert list(report.removed) == names(public, "devid" if role == "ek" else "ek")


def test_a_second_export_changes_nothing(public, tmp_path):
    export_keylime(tmp_path, public.issuers, None)
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    report = export_keylime(tmp_path, public.issuers, None)
    assert (report.written, report.removed) == ((), ())
    assert list(report.unchanged) == names(public, "ek", "devid")
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before


def test_a_file_that_was_changed_is_mended(public, tmp_path):
    export_keylime(tmp_path, public.issuers, None)
    (name,) = names(public, "ek")
    good = (tmp_path / name).read_bytes()
    for bad in (b"", b"\xff\xfe", good[:-30], good + good):
        (tmp_path / name).write_bytes(bad)
        assert export_keylime(tmp_path, public.issuers, None, check=True).written == (name,)
        with (tmp_path / name).open("rb") as reader:  # who reads meanwhile sees the old file, whole
            assert export_keylime(tmp_path, public.issuers, None).written == (name,)
            assert reader.read() == bad
        assert (tmp_path / name).read_bytes() == good


def test_a_retired_issuer_is_pruned(public, tmp_path):
    issuer = public.issuer("ek")
    retired = tmp_path / "vtpm-ca-ek-old-0123456789abcdef.pem"
    retired.write_bytes(issuer.certificate.public_bytes(Encoding.PEM))
    report = export_keylime(tmp_path, public.issuers, None)
    assert report.removed == (retired.name,)
    assert not retired.exists()


def test_only_own_files_are_pruned(public, stranger, tmp_path):
    pem = public.issuer("ek").certificate.public_bytes(Encoding.PEM)
    theirs = names(stranger, "ek")[0]
    others = {
        "swtpm.pem": pem,
        "vtpm-ca-mine.pem": pem,
        "VTPM-CA-EK-DEFAULT-0123456789ABCDEF.pem": pem,
        "vtpm-ca-ek-default-0123456789abcdef.pem.bak": pem,
        "notes.txt": b"\xff",
        theirs: stranger.issuer("ek").certificate.public_bytes(Encoding.PEM),
    }
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
    report = export_keylime(tmp_path, public.issuers, None)
    assert report.foreign == (theirs,)
    assert report.removed == ()
    assert report.in_order
    assert {n: c for n, c in listing(tmp_path).items() if n in others} == others


def test_a_broken_file_under_our_name_is_cleared_away(public, tmp_path):
    broken = tmp_path / "vtpm-ca-devid-old-0123456789abcdef.pem"
    broken.write_bytes(b"\xff half a file")
    with pytest.raises(UnicodeDecodeError):
        keylime_store(tmp_path)
    assert export_keylime(tmp_path, public.issuers, None).removed == (broken.name,)
    assert len(keylime_store(tmp_path)) == 2


def test_what_disables_the_store_is_named(public, tmp_path):
    (tmp_path / "der.pem").write_bytes(b"\xff" + public.issuer("ek").certificate.public_bytes(Encoding.DER))
    (tmp_path / "folder.pem").mkdir()
    (tmp_path / "torn.pem").write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    (tmp_path / "empty.pem").write_bytes(b"")
    for check in (True, False):
        report = export_keylime(tmp_path, public.issuers, None, check=check)
        assert report.hazards == ("der.pem", "folder.pem", "torn.pem")
        assert not report.in_order
    assert (tmp_path / "folder.pem").is_dir()


class TestCheck:
    def test_it_changes_nothing(self, public, tmp_path):
        store = tmp_path / "store"
        report = export_keylime(store, public.issuers, None, check=True)
        assert list(report.written) == names(public, "ek", "devid")
        assert not report.in_order
        assert not store.exists()
        export_keylime(store, public.issuers, None)
        before = listing(store)
        assert export_keylime(store, public.issuers, None, check=True).in_order
        surplus = export_keylime(store, public.issuers, "ek", check=True)
        assert list(surplus.removed) == names(public, "devid")
        assert not surplus.in_order
        assert listing(store) == before

    def test_the_report_is_plain(self, public, tmp_path):
        plain = export_keylime(tmp_path, public.issuers, "ek", check=True).to_json()
        assert plain["written"] == names(public, "ek")
        assert plain["in_order"] is False


def test_a_reader_never_sees_half_a_file(public, tmp_path, forks):
    """Killed at any moment: at the flush, with the bytes written and the name not yet given."""
    script = """
import os, signal, sys
from pathlib import Path
from ca_service.export import export_keylime
from ca_service.keys import load_public
left = int(sys.argv[3])
genuine = os.fsync
def fsync(descriptor):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    genuine(descriptor)
os.fsync = fsync
export_keylime(Path(sys.argv[1]), load_public(Path(sys.argv[2])).issuers, None)
"""
    for flushes in range(3):
        store = tmp_path / str(flushes)
        result = forks.run(SCRIPT, (script, store, public.directory, flushes), env={})
        assert result.returncode == -9, result.stderr
        assert len(keylime_store(store)) == flushes
        export_keylime(store, public.issuers, None)
        assert len(keylime_store(store)) == 2


def test_a_failed_write_leaves_the_old_file(public, tmp_path, monkeypatch):
    export_keylime(tmp_path, public.issuers, None)
    (name,) = names(public, "ek")
    (tmp_path / name).write_bytes(b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(Unavailable, match="No space") as caught:
            export_keylime(tmp_path, public.issuers, None)
    assert caught.value.code == "storage"
    assert sorted(listing(tmp_path)) == names(public, "ek", "devid")
    assert (tmp_path / name).read_bytes() == b"old"


def test_a_root_is_never_exported(public, tmp_path):
    pretended = replace(public.issuer("ek"), certificate=public.root)
    with pytest.raises(BadRequest, match="root"):
        export_keylime(tmp_path, [pretended], None)
    assert not list(tmp_path.iterdir())


def test_an_empty_export_is_refused(public, tmp_path):
    """It would take all trust from the store."""
    export_keylime(tmp_path, public.issuers, None)
    for issuers in ([], [public.issuer("ephemeral")]):
        with pytest.raises(BadRequest):
            export_keylime(tmp_path, issuers, None)
    assert len(keylime_store(tmp_path)) == 2


class TestTrustedIssuers:
    def entries(self, public):
        return [
            {
                "role": ca.role,
                "pair": ca.pair,
                "pem": ca.certificate.public_bytes(Encoding.PEM).decode("ascii"),
            }
            for ca in public.issuers
        ]

    def test_what_the_database_names_is_exported(self, public, tmp_path):
        issuers = trusted_issuers(public, self.entries(public)[1:])
        assert [ca.skid for ca in issuers] == [ca.skid for ca in public.issuers[1:]]
        export_keylime(tmp_path, public.issuers, None)
        assert list(export_keylime(tmp_path, issuers, None).removed) == names(public, "ek")

    def test_nothing_that_the_root_did_not_sign(self, public, stranger):
        """Whoever can write the database must not thereby decide what counts as a TPM."""
        for foreign in (self.entries(stranger)[0], {**self.entries(public)[0], "pem": ""}):
            with pytest.raises(VtpmCaError, match="this root did not sign"):
                trusted_issuers(public, [*self.entries(public), foreign])
        root = public.root.public_bytes(Encoding.PEM).decode("ascii")
        with pytest.raises(VtpmCaError, match="another role"):
            trusted_issuers(public, [{"role": "ek", "pair": "default", "pem": root}])

    @pytest.mark.parametrize(
        "change", [{"role": "ek"}, {"role": "devid"}, {"pair": "blue"}, {"role": "root"}]
    )
    def test_what_it_is_the_certificate_says(self, public, change):
        """Else one changed row would have keylime take ephemeral TPMs for persistent ones."""
        *others, ephemeral = self.entries(public)
        with pytest.raises(VtpmCaError, match="another role or pair") as caught:
            trusted_issuers(public, [*others, {**ephemeral, **change}])
        assert caught.value.code == "store"


class TestOneAtATime:
    def test_it_waits_for_another_export(self, public, tmp_path):
        store, waited = tmp_path / "store", []
        store.mkdir()
        descriptor = os.open(store, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)

        def wait(seconds):
            waited.append(seconds)
            if len(waited) == 3:
                os.close(descriptor)

        assert export_keylime(store, public.issuers, None, wait=wait).in_order
        assert len(waited) == 3
        assert sorted(listing(store)) == names(public, "ek", "devid")

    def test_but_not_for_ever(self, public, tmp_path):
        waited = []
        descriptor = os.open(tmp_path, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            # Who only looks needs no lock.
            assert export_keylime(tmp_path, public.issuers, None, check=True).written
            with pytest.raises(Unavailable, match="another export") as caught:
                export_keylime(tmp_path, public.issuers, None, wait=waited.append)
        finally:
            os.close(descriptor)
        assert caught.value.code == "storage"
        assert sum(waited) == pytest.approx(10)
        assert listing(tmp_path) == {}


def test_a_link_in_place_of_our_temporary_file_leads_nowhere(public, tmp_path):
    """Whoever owns the folder may be less than who exports into it."""
    victim, store = tmp_path / "victim", tmp_path / "store"
    victim.write_bytes(b"untouched")
    store.mkdir()
    for name in names(public, "ek", "devid"):
        (store / f".{name}.{os.getpid()}.tmp").symlink_to(victim)
    (store / f".{names(public, 'ek')[0]}.1.tmp").mkdir()  # cannot be cleared away like a file
    assert export_keylime(store, public.issuers, None).in_order
    assert victim.read_bytes() == b"untouched"
    assert sorted(listing(store)) == names(public, "ek", "devid")


def test_a_link_that_comes_after_clearing_up_is_not_written_through(public, tmp_path, monkeypatch):
    victim, store = tmp_path / "victim", tmp_path / "store"
    victim.write_bytes(b"untouched")
    store.mkdir()
    for name in names(public, "ek", "devid"):
        (store / f".{name}.{os.getpid()}.tmp").symlink_to(victim)
    # As if they had not been there yet when the folder was cleared up.
    monkeypatch.setattr("ca_service.export.keylime._LEFT_OVER", re.compile(r"(?!)"))
    with pytest.raises(Unavailable, match="exists"):
        export_keylime(store, public.issuers, None)
    assert victim.read_bytes() == b"untouched"
