"""Where the root's key is locked away, and what the transcript tells of a ceremony."""

import hashlib
import itertools
import json
import os
import stat
from pathlib import Path

import pytest

from ca_service.judgment import BadRequest, NotFound, Unavailable
from ca_service.keys import CeremonyConfig, Occasion, Sealer, load_authority, load_root, sign_and_check
from ca_service.keys.ceremony import _Secrets

PASSPHRASE = b"correct horse battery staple"
OTHER = b"the root's own passphrase"
CONFIG = """
mode = "simulation"
organization = "Example Organisation"
publication_url = "http://127.0.0.1:8443"
[root]
key = "{}"
"""


@pytest.fixture
def medium(tmp_path):
    (tmp_path / "medium").mkdir()
    return tmp_path / "medium" / "vault"


def config_for(folder):
    return CeremonyConfig.from_toml(CONFIG.format(folder))


class TestFolder:
    def test_the_key_is_there_and_nowhere_else(self, tmp_path, medium, perform):
        perform(tmp_path / "ca", config_for(medium), root_passphrase=OTHER)
        assert not list((tmp_path / "ca" / "offline").iterdir())
        (key,) = medium.iterdir()
        assert stat.S_IMODE(medium.stat().st_mode) == 0o700
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        root = load_root(tmp_path / "ca", OTHER, key)
        sign_and_check(root.signer, b"data")
        assert load_authority(tmp_path / "ca", PASSPHRASE)
        with pytest.raises(BadRequest) as caught:
            load_root(tmp_path / "ca", PASSPHRASE, key)
        assert caught.value.code == "passphrase"
        with pytest.raises(NotFound) as missing:
            load_root(tmp_path / "ca", OTHER)
        assert "transcript.txt" in missing.value.remedy
        text = (tmp_path / "ca" / "transcript.txt").read_text()
        assert f"sealed file {key}" in text
        assert f"Take {key} off this machine: it lies on the same file system" in text

    def test_a_power_cut_does_not_take_the_new_folder_away(self, tmp_path, medium, perform, monkeypatch):
        flushed, real = [], os.fsync

        def fsync(descriptor):
            flushed.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        perform(tmp_path / "new" / "place" / "ca", config_for(medium))
        made_durable = {str(medium.parent), str(medium), str(tmp_path), str(tmp_path / "new")}
        assert made_durable <= set(flushed)

    def test_two_cas_may_share_a_medium(self, tmp_path, medium, perform):
        perform(tmp_path / "one", config_for(medium))
        perform(tmp_path / "two", config_for(medium))
        assert len(list(medium.iterdir())) == 2

    def test_a_ceremony_that_fails_leaves_nothing_there(self, tmp_path, medium, perform):
        def fail(*_):
            assert len(list(medium.iterdir())) == 1
            raise RuntimeError("no database")

        with pytest.raises(RuntimeError):
            perform(tmp_path / "ca", config_for(medium), finish=fail)
        assert not medium.exists()
        medium.mkdir(mode=0o700)
        (medium / "kept").write_text("x")
        with pytest.raises(ZeroDivisionError):
            perform(tmp_path / "ca", config_for(medium), finish=lambda *_: 1 // 0)
        assert [p.name for p in medium.iterdir()] == ["kept"]

    def test_a_medium_that_is_not_there_is_not_made_up(self, tmp_path, perform):
        with pytest.raises(Unavailable, match="root's key") as caught:
            perform(tmp_path / "ca", config_for(tmp_path / "absent" / "vault"))
        assert caught.value.code == "storage"
        assert not list(tmp_path.iterdir())

    def test_a_folder_that_others_may_read_is_refused(self, tmp_path, medium, perform):
        medium.mkdir(mode=0o755)
        with pytest.raises(BadRequest) as caught:
            perform(tmp_path / "ca", config_for(medium))
        assert caught.value.code == "permissions"
        assert not list(medium.iterdir())

    def test_the_ca_s_own_directory_is_no_safe(self, tmp_path, perform):
        for folder in (tmp_path / "ca", tmp_path / "ca" / "x", tmp_path / "x" / ".." / "ca"):
            with pytest.raises(BadRequest, match=r"root\.key"):
                perform(tmp_path / "ca", config_for(folder))
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("table", "path"),
    [
        ('[root]\nkey = "vault"', "ceremony.root.key"),
        ('[root]\nkey = ""', "ceremony.root.key"),
        ('[root]\nkey = "pkcs11:object=x"', "ceremony.root.key"),
        ('[root]\nkey = "pkcs11:token=x;id=%01"', "ceremony.root.key"),
        ('[root]\nkey = "pkcs11:token=x"', "ceremony"),
        ('[root]\npin = "1234"', "ceremony.root.pin"),
        ('[keys]\nissuing = "token"', "ceremony.keys.issuing"),
        ('[keys]\nissuing = "pkcs11:token=x;object=y"', "ceremony.keys.issuing"),
        ('[keys]\nissuing = "pkcs11:token=x"', "ceremony"),
        ('[pkcs11]\nmodule = "/lib/x.so"', "ceremony"),
        ('[keys]\nissuing = "pkcs11:token=x"\n[pkcs11]\nmodule = "x.so"', "ceremony.pkcs11.module"),
    ],
)
def test_each_member_is_judged(table, path):
    text = 'mode = "simulation"\norganization = "O"\npublication_url = "http://x"\n'
    with pytest.raises(BadRequest) as caught:
        CeremonyConfig.from_toml(text + table)
    assert caught.value.path == path
    assert "1234" not in caught.value.diagnostics()


def counted():
    """Entropy that is the same every time."""
    counter = itertools.count()

    def entropy(size):
        return hashlib.shake_256(next(counter).to_bytes(4, "big")).digest(size)

    return entropy


class TestTranscript:
    def test_who_when_and_with_what(self, tmp_path, config, perform):
        perform(tmp_path / "ca", config, occasion=Occasion("alice", "vtpm-ca 1.2.3", "ab" * 32))
        stored = json.loads((tmp_path / "ca" / "transcript.json").read_text())
        assert (stored["by"], stored["tool"], stored["config_sha256"]) == (
            "alice",
            "vtpm-ca 1.2.3",
            "ab" * 32,
        )
        text = (tmp_path / "ca" / "transcript.txt").read_text()
        for word in ("alice", "vtpm-ca 1.2.3", "ab" * 32, "2026-08-01T12:00:00Z", stored["log"]["verifier"]):
            assert word in text
        for entry in stored["certificates"]:
            for name in ("subject", "serial", "skid", "sha256", "not_before", "not_after", "key"):
                assert entry[name] in text
        assert f"Move {tmp_path / 'ca' / 'offline' / 'root.sealed'} to a medium" in text
        for step in stored["next_steps"]:
            assert step in text

    def test_it_is_the_same_but_for_key_material(self, tmp_path, config, perform):
        made = []
        for name in ("one", "two"):
            perform(tmp_path / name, config, entropy=counted())
            stored = json.loads((tmp_path / name / "transcript.json").read_text())
            certificates = [
                [entry[n] for n in ("role", "subject", "serial", "not_before", "not_after")]
                for entry in stored["certificates"]
            ]
            made.append((certificates, stored["mode"], stored["at"], stored["log"]["verifier"].split("+")[2]))
        assert made[0] == made[1]

    def test_it_holds_no_secret(self, pristine):
        for name in ("transcript.json", "transcript.txt", "ca.toml"):
            data = (pristine / name).read_bytes()
            assert PASSPHRASE not in data
            assert b"PRIVATE" not in data


def test_no_secret_shows_in_what_the_ceremony_holds():
    shown = repr(_Secrets(Sealer(PASSPHRASE), Sealer(OTHER), lambda: b"1234", lambda: b"1234"))
    assert not any(s.decode() in shown for s in (PASSPHRASE, OTHER, b"1234"))
    assert os.fsdecode(PASSPHRASE) not in repr(Sealer(PASSPHRASE))
