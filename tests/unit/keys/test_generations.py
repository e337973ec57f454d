"""The next generation of issuing CAs: all of it or nothing, whatever a try that died has left."""

import os
import signal
import stat
import subprocess
from datetime import UTC, datetime, timedelta

import pytest

from ca_service.judgment import BadRequest, Conflict, NotFound, Unavailable
from ca_service.keys import (
    CeremonyConfig,
    files,
    load_authority,
    load_public,
    load_root,
    prepare_issuing,
    sign_and_check,
)
from ca_service.keys.layout import issuer_purpose, issuer_stem
from ca_service.profiles import ca_name

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
PASSPHRASE = b"correct horse battery staple"


@pytest.fixture(scope="module")
def root(pristine):
    return load_root(pristine, PASSPHRASE)


@pytest.fixture
def prepare(ca, root, cheap):
    def run(*roles, **changes):
        values = {"passphrase": PASSPHRASE, "clock": lambda: NOW, "entropy": os.urandom}
        pair = {"pair": changes.pop("pair")} if "pair" in changes else {}
        return prepare_issuing(
            ca, changes.pop("root", root), roles or ("ek", "devid"), **pair, **(values | changes)
        )

    return run


def content(ca):
    return {
        p.relative_to(ca): p.read_bytes() for p in ca.rglob("*") if p.is_file() and p.parent.name != "run"
    }


def test_old_and_new_sign_side_by_side(ca, prepare):
    before = {issuer.skid for issuer in load_public(ca).issuers}
    made = prepare()
    authority = load_authority(ca, PASSPHRASE)
    assert [(i.role, i.pair, i.generation) for i in made] == [("ek", "default", 2), ("devid", "default", 2)]
    assert {i.skid for i in authority.issuers} == before | {i.skid for i in made}
    for issuer in authority.issuers:
        sign_and_check(issuer.signer, b"data")
        assert authority.issuer_of(issuer.skid) is issuer
    assert authority.issuer("ek").generation == 1
    assert load_public(ca).issuer_of(made[0].skid).generation == 2
    with pytest.raises(NotFound):
        authority.issuer_of("00" * 20)


def test_openssl_verifies_them_and_their_names_differ(ca, prepare):
    prepare()
    prepare("ek")
    prepare("ek", pair="blue")
    prepare("ek", pair="blue")
    names = []
    for stem in ("ek-default", "ek-default.g2", "ek-default.g3", "devid-default.g2", "ek-blue", "ek-blue.g2"):
        path = ca / "certs" / f"{stem}.pem"
        subprocess.run(
            ["openssl", "verify", "-x509_strict", "-CAfile", ca / "certs" / "root.pem", path],
            check=True,
            capture_output=True,
        )
        command = ["openssl", "x509", "-in", path, "-noout", "-subject", "-nameopt", "multiline"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        names.append(done.stdout.split("commonName")[1].strip(" =\n"))
    assert names == [
        "SIMULATION vTPM EK CA",
        "SIMULATION vTPM EK CA G2",
        "SIMULATION vTPM EK CA G3",
        "SIMULATION vTPM DevID CA G2",
        "SIMULATION vTPM EK CA blue",
        "SIMULATION vTPM EK CA blue G2",
    ]


def test_the_first_generation_is_what_it_always_was():
    assert ca_name("O", "production", "ek", "default", 1) == ca_name("O", "production", "ek", "default")
    assert ca_name("O", "production", "ek", "default").rfc4514_string() == "CN=vTPM EK CA,O=O"
    assert issuer_purpose("ek", "default") == "ek CA key, pair default"
    assert issuer_stem("ek", "default") == "ek-default"
    assert len(issuer_purpose("ephemeral", "x" * 24, 999)) <= 64


def test_permissions(ca, prepare):
    prepare()
    assert stat.S_IMODE((ca / "private" / "ek-default.g2.sealed").stat().st_mode) == 0o600
    assert stat.S_IMODE((ca / "certs" / "ek-default.g2.pem").stat().st_mode) == 0o644
    assert stat.S_IMODE((ca / "ca.toml").stat().st_mode) == 0o644


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for another user")
def test_root_does_not_lock_the_owner_out(ca, prepare):
    """Root is refused on a CA of somebody else's, and leaves no lock behind that only root can take."""
    for path in (ca, *ca.rglob("*")):
        os.chown(path, 65534, 65534)
    with pytest.raises(BadRequest) as caught:
        prepare("ek")
    assert caught.value.code == "permissions"
    assert {path.stat().st_uid for path in (ca, *ca.rglob("*"))} == {65534}


class TestAllOrNothing:
    @pytest.mark.parametrize("last", range(1, 6))
    def test_a_failure_at_any_write_leaves_what_was_there(self, ca, prepare, monkeypatch, last):
        before, count, real = content(ca), 0, files.write_new

        def write_new(path, data, mode):
            nonlocal count
            count += 1
            if count == last:
                raise OSError(28, "No space left on device")
            real(path, data, mode)

        monkeypatch.setattr(files, "write_new", write_new)
        with pytest.raises(Unavailable) as caught:
            prepare()
        assert caught.value.code == "storage"
        assert content(ca) == before
        monkeypatch.undo()
        assert len(prepare()) == 2

    @pytest.mark.parametrize("last", range(1, 6))
    def test_killed_at_any_write_it_can_be_done_again(self, ca, prepare, last):
        """The fifth write is that of the next ca.toml, which a kill leaves beside the present one."""
        child = os.fork()
        if child == 0:
            count, real = 0, files.write_new

            def write_new(path, data, mode):
                nonlocal count
                count += 1
                real(path, data, mode)
                if count == last:
                    os.kill(os.getpid(), signal.SIGKILL)

            try:
                files.write_new = write_new
                prepare()
            finally:
                os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        assert len(load_authority(ca, PASSPHRASE).issuers) == 3
        assert [i.generation for i in prepare()] == [2, 2]
        assert len(load_authority(ca, PASSPHRASE).issuers) == 5

    def test_a_key_is_put_aside_and_never_deleted(self, ca, prepare):
        """A key whose certificate is missing may be the only one of an issuing CA that signs elsewhere."""
        left = ca / "private" / "ek-default.g2.sealed"
        left.touch(mode=0o600)
        left.write_bytes(b"somebody's key")
        prepare("ek")
        assert [p.read_bytes() for p in left.parent.glob("ek-default.g2.sealed.left-*")] == [
            b"somebody's key"
        ]
        assert len(load_authority(ca, PASSPHRASE).issuers) == 4

    def test_files_of_an_issuing_ca_that_the_database_knows_are_not_touched(self, ca, prepare, tmp_path):
        """Copied from another node, but for ca.toml."""
        facts = (ca / "ca.toml").read_bytes()
        (made,) = prepare("ek")
        (ca / "ca.toml").write_bytes(facts)
        before = content(ca)
        with pytest.raises(Conflict, match="which the database knows") as caught:
            prepare("devid", "ek", known=[made.skid])
        assert caught.value.code == "issuer"
        assert content(ca) == before
        (again,) = prepare("ek", known=["00" * 20])
        assert again.skid != made.skid

    def test_two_that_asked_at_once_make_one(self, ca, prepare):
        allowed = {"generations": {"ek": 2, "devid": 2}}
        assert len(prepare(**allowed)) == 2
        before = content(ca)
        with pytest.raises(Conflict, match="meanwhile") as caught:
            prepare(**allowed)
        assert caught.value.code == "rollover"
        assert content(ca) == before

    def test_a_number_that_the_database_has_seen_is_not_given_twice(self, ca, prepare):
        assert [i.generation for i in prepare("ek", generations={"ek": 7})] == [7]
        with pytest.raises(BadRequest, match="999 generations"):
            prepare("ek", generations={"ek": 1000})

    def test_another_passphrase_makes_nothing(self, ca, prepare):
        before = content(ca)
        with pytest.raises(BadRequest) as caught:
            prepare(passphrase=b"mistyped")
        assert caught.value.code == "passphrase"
        assert content(ca) == before

    def test_the_root_of_another_ca_makes_nothing(self, ca, prepare, config, perform, tmp_path):
        perform(tmp_path / "other", config)
        before = content(ca)
        with pytest.raises(BadRequest, match="not the root") as caught:
            prepare(root=load_root(tmp_path / "other", PASSPHRASE))
        assert caught.value.code == "authority"
        assert content(ca) == before

    def test_an_expired_root_makes_nothing(self, perform, tmp_path):
        bounded = """
        mode = "simulation"
        organization = "Example Organisation"
        publication_url = "http://127.0.0.1:8443"
        [validity]
        kind = "bounded"
        root_days = 30
        issuing_days = 20
        device_days = 10
        """
        perform(tmp_path / "bounded", CeremonyConfig.from_toml(bounded))
        before = content(tmp_path / "bounded")
        for days in (30, 31):
            with pytest.raises(BadRequest, match="expired") as caught:
                prepare_issuing(
                    tmp_path / "bounded",
                    load_root(tmp_path / "bounded", PASSPHRASE),
                    passphrase=PASSPHRASE,
                    clock=lambda days=days: NOW + timedelta(days=days),
                    entropy=os.urandom,
                )
            assert caught.value.code == "authority"
        assert content(tmp_path / "bounded") == before

    @pytest.mark.parametrize("pair", ["", "G", "a b", "-a", "x" * 25, "g2", "g10", "a.g2", "../x"])
    def test_other_names_of_pairs_are_refused(self, ca, prepare, pair):
        before = content(ca)
        with pytest.raises(BadRequest, match="pair"):
            prepare(pair=pair)
        assert content(ca) == before

    def test_each_role_once(self, prepare):
        with pytest.raises(BadRequest, match="role"):
            prepare("ek", "ek")

    def test_one_at_a_time(self, ca, prepare, monkeypatch):
        monkeypatch.setattr(files, "_PATIENCE_S", 0.2)
        with files.locked(ca / "run" / "keys.lock"), pytest.raises(Unavailable) as caught:
            prepare()
        assert caught.value.code == "busy"

    def test_no_ca_is_not_found(self, root, tmp_path):
        (tmp_path / "run").mkdir()
        with pytest.raises(NotFound):
            prepare_issuing(tmp_path, root, passphrase=PASSPHRASE, clock=lambda: NOW, entropy=os.urandom)


class TestFacts:
    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("generation = 2", "generation = 1"),
            ("generation = 2", "generation = 3"),
            ("generation = 2", "generation = 0"),
            ('certificate = "ek-default.g2.pem"', 'certificate = "ek-default.pem"'),
            ('key = "ek-default.g2.sealed"', 'key = "ek-default.sealed"'),
            ('key = "ek-default.g2.sealed"', 'key = "pkcs11:token=x;id=%01"'),
            ('key = "ek-default.g2.sealed"', 'key = "pkcs11:token=x"'),
            ('key = "ek-default.g2.sealed"', 'key = "../x"'),
        ],
    )
    def test_edited_ones_are_refused(self, ca, prepare, old, new):
        prepare("ek")
        text = (ca / "ca.toml").read_text()
        assert old in text
        (ca / "ca.toml").write_text(text.replace(old, new))
        with pytest.raises(BadRequest):
            load_authority(ca, PASSPHRASE)

    def test_roles_that_are_swapped_are_seen(self, ca):
        """The certificates' names have the last word: an EK CA must not sign DevIDs."""
        text = (ca / "ca.toml").read_text()
        text = text.replace('role = "ek"', 'role = "x"').replace('role = "devid"', 'role = "ek"')
        (ca / "ca.toml").write_text(text.replace('role = "x"', 'role = "devid"'))
        with pytest.raises(BadRequest, match="another role"):
            load_public(ca)
