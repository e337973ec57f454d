"""A directory of release 0.3 gets a log key, once, and nothing else changes."""

import os
import re
import stat

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ca_service.judgment import BadRequest, NotFound, Unavailable
from ca_service.keys import files, load_authority, load_public, upgrade_directory
from vtpm.wire.note import VerifierKey

PASSPHRASE = b"correct horse battery staple"


@pytest.fixture
def old(ca, cheap):
    """As release 0.3 wrote it: without what later releases have added."""
    (ca / "private" / "log.sealed").unlink()
    (ca / "transcript.txt").unlink()
    (ca / "crl").rmdir()
    text = (ca / "ca.toml").read_text()
    text = re.sub(r"\[(log|keys)\]\n[^\[]*", "", text)
    (ca / "ca.toml").write_text(text.replace("generation = 1\n", ""))
    return ca


def test_its_public_side_is_read(old):
    public = load_public(old)
    assert public.log is None
    assert [issuer.generation for issuer in public.issuers] == [1, 1, 1]


def test_it_does_not_work_before(old):
    with pytest.raises(Unavailable) as caught:
        load_authority(old, PASSPHRASE)
    assert caught.value.code == "upgrade"
    assert caught.value.remedy == "Run `vtpm-ca db upgrade`."


def test_it_works_afterwards(old):
    before = {p: p.read_bytes() for p in old.rglob("*") if p.is_file() and p.name != "ca.toml"}
    (said,) = upgrade_directory(old, PASSPHRASE, os.urandom)
    authority = load_authority(old, PASSPHRASE)
    assert authority.log.origin == f"{authority.ca_id}/log"
    assert authority.log.origin in said
    key = Ed25519PublicKey.from_public_bytes(authority.log.public)
    key.verify(authority.log_key.sign(b"checkpoint"), b"checkpoint")
    assert VerifierKey.parse(authority.log.verifier).public == authority.log.public
    assert stat.S_IMODE((old / "private" / "log.sealed").stat().st_mode) == 0o600
    assert {p: p.read_bytes() for p in before} == before
    assert "log_key" not in repr(authority)


def test_once_is_enough(old):
    assert upgrade_directory(old, PASSPHRASE, os.urandom)
    first = load_public(old).log
    assert upgrade_directory(old, PASSPHRASE, os.urandom) == []
    assert load_public(old).log == first


def test_a_mistyped_passphrase_changes_nothing(old):
    with pytest.raises(BadRequest) as caught:
        upgrade_directory(old, b"mistyped", os.urandom)
    assert caught.value.code == "passphrase"
    assert load_public(old).log is None
    assert not (old / "private" / "log.sealed").exists()


def test_after_a_failure_it_can_be_done_again(old, monkeypatch):
    real = files.replace_file

    def fail(path, data, mode):
        if path.name == "ca.toml":
            raise OSError(28, "No space left on device")
        real(path, data, mode)

    monkeypatch.setattr(files, "replace_file", fail)
    with pytest.raises(Unavailable):
        upgrade_directory(old, PASSPHRASE, os.urandom)
    assert load_public(old).log is None
    monkeypatch.undo()
    assert upgrade_directory(old, PASSPHRASE, os.urandom)
    assert load_authority(old, PASSPHRASE).log_key


def test_another_log_key_is_refused(ca, pristine, config, perform, tmp_path):
    perform(tmp_path / "other", config)
    (ca / "private" / "log.sealed").write_bytes((tmp_path / "other" / "private" / "log.sealed").read_bytes())
    with pytest.raises(BadRequest, match="log key") as caught:
        load_authority(ca, PASSPHRASE)
    assert caught.value.code == "authority"


def test_no_ca_is_not_found(tmp_path):
    with pytest.raises(NotFound):
        upgrade_directory(tmp_path, PASSPHRASE, os.urandom)
