"""The root's revocation list: made by the ceremony, and again by whoever brings the root's key."""

import json
import os
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import operations_stage as s
import pytest
from cryptography import x509

from ca_service.judgment import BadRequest, NotFound, Unavailable
from ca_service.keys import CeremonyConfig, files, load_public, load_root
from ca_service.operations import init, publish_root_list, read_root_list, root_list_warning

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
PASSPHRASE = s.w.PASSPHRASE
BOUNDED = '[validity]\nkind = "bounded"\nroot_days = 100\nissuing_days = 90\ndevice_days = 30\n'


@pytest.fixture(scope="module")
def bounded(tmp_path_factory):
    """A CA whose root ends before a list of a year would."""
    directory = tmp_path_factory.mktemp("bounded") / "ca"
    config = CeremonyConfig.from_toml(s.CONFIG + BOUNDED)
    init(directory, config, PASSPHRASE, clock=lambda: NOW, entropy=os.urandom)
    return directory


@pytest.fixture(scope="module")
def root(bounded):
    return load_root(bounded, PASSPHRASE)


@pytest.fixture
def ca(bounded, tmp_path):
    return shutil.copytree(bounded, tmp_path / "ca", copy_function=shutil.copy2)


def read(ca):
    return x509.load_der_x509_crl((ca / "crl" / "root.crl").read_bytes())


def number(crl):
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def verify(ca, role, tmp_path):
    """What `openssl verify` says of an issuing CA under the root's list, at the time of the ceremony."""
    pem = ["openssl", "crl", "-inform", "der", "-in", ca / "crl" / "root.crl", "-out", tmp_path / "crl.pem"]
    subprocess.run(pem, check=True, capture_output=True)
    command = ["openssl", "verify", "-crl_check", "-CRLfile", tmp_path / "crl.pem", "-attime"]
    command += [str(int(NOW.timestamp()) + 60), "-CAfile", ca / "certs" / "root.pem"]
    done = subprocess.run([*command, ca / "certs" / f"{role}-default.pem"], capture_output=True, check=False)
    return done.returncode == 0, done.stdout.decode() + done.stderr.decode()


def test_the_ceremony_makes_the_first(bounded, tmp_path):
    crl = read(bounded)
    assert number(crl) == 1
    assert not list(crl)
    assert crl.next_update_utc == load_public(bounded).root.not_valid_after_utc
    assert verify(bounded, "ek", tmp_path)[0]
    lists = json.loads((bounded / "transcript.json").read_text())["crls"]
    assert [(entry["role"], entry["number"]) for entry in lists] == [
        ("root", 1),
        ("ek", 1),
        ("devid", 1),
        ("ephemeral", 1),
    ]
    assert lists[0]["sha256"] == sha256((bounded / "crl" / "root.crl").read_bytes()).hexdigest()
    assert (
        "Make the root's next revocation list before 2026-11-09" in (bounded / "transcript.txt").read_text()
    )


def test_a_revoked_issuing_ca_falls_and_stays_fallen(ca, root, tmp_path):
    ek = load_public(ca).issuer("ek")
    made = publish_root_list(ca, root, NOW, revoke=[ek.skid], reason="cACompromise")
    assert made.number == 2
    later = publish_root_list(ca, root, NOW + timedelta(days=1), revoke=[ek.skid])
    assert later.number == 3
    (entry,) = read(ca)
    assert entry.serial_number == ek.certificate.serial_number
    assert entry.revocation_date_utc == NOW
    assert entry.extensions[0].value.reason == x509.ReasonFlags.ca_compromise
    publish_root_list(ca, root, NOW)
    good, said = verify(ca, "ek", tmp_path)
    assert not good
    assert "revoked" in said
    assert verify(ca, "devid", tmp_path)[0]


def test_without_a_list_it_is_the_first(ca, root):
    """As in a directory of release 0.3."""
    forget(ca)
    facts = ca / "ca.toml"
    facts.write_text(re.sub(r"list_number = .*\n", "", facts.read_text()))
    assert publish_root_list(ca, root, NOW).number == 1
    assert number(read(ca)) == 1
    assert "list_number = 1\n" in facts.read_text()


def forget(ca):
    shutil.rmtree(ca / "crl")
    (ca / "certs" / "root.crl").unlink()


class TestALostList:
    """Whoever loses or exchanges a file must not thereby take a revocation back."""

    @pytest.fixture
    def revoked(self, ca, root):
        ek = load_public(ca).issuer("ek")
        publish_root_list(ca, root, NOW, revoke=[ek.skid], reason="cACompromise")
        return ek.certificate.serial_number

    def test_the_copy_takes_its_place(self, ca, root, revoked):
        shutil.rmtree(ca / "crl")
        assert publish_root_list(ca, root, NOW).number == 3
        assert [entry.serial_number for entry in read(ca)] == [revoked]

    @pytest.mark.parametrize("stays", [True, False])
    def test_an_older_one_does_not(self, ca, bounded, root, revoked, stays):
        shutil.copy(bounded / "crl" / "root.crl", ca / "crl" / "root.crl")
        if stays:
            assert publish_root_list(ca, root, NOW).number == 3
            assert [entry.serial_number for entry in read(ca)] == [revoked]
        else:
            (ca / "certs" / "root.crl").unlink()
            self.refused(ca, root, "number 2 is missing; what is there is number 1")

    def test_one_number_given_twice_takes_nothing_back(self, ca, bounded, root, revoked, tmp_path):
        """Two nodes made one each, and one file was copied."""
        node = shutil.copytree(bounded, tmp_path / "node")
        devid = load_public(node).issuer("devid")
        assert publish_root_list(node, root, NOW, revoke=[devid.skid]).number == 2
        shutil.copy(node / "crl" / "root.crl", ca / "crl" / "root.crl")
        assert publish_root_list(ca, root, NOW).number == 3
        assert {entry.serial_number for entry in read(ca)} == {revoked, devid.certificate.serial_number}

    def test_without_any_there_is_no_first(self, ca, root, revoked):
        published = (ca / "crl" / "root.crl").read_bytes()
        forget(ca)
        self.refused(ca, root, "number 2 is missing")
        (ca / "crl").mkdir()
        (ca / "crl" / "root.crl").write_bytes(published)
        assert publish_root_list(ca, root, NOW).number == 3
        assert [entry.serial_number for entry in read(ca)] == [revoked]

    @pytest.mark.parametrize("last", [1, 2, 3])
    def test_after_a_failure_at_any_write_nothing_is_forgotten(self, ca, root, last, monkeypatch):
        ek = load_public(ca).issuer("ek")
        count, real = 0, files.write_new

        def write_new(path, data, mode):
            nonlocal count
            count += 1
            real(path, data, mode)
            if count == last:
                raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(files, "write_new", write_new)
            with pytest.raises(Unavailable):
                publish_root_list(ca, root, NOW, revoke=[ek.skid])
        made = publish_root_list(ca, root, NOW)
        assert (made.number, len(list(read(ca)))) == ((2, 0) if last == 1 else (3, 1))

    def refused(self, ca, root, match):
        with pytest.raises(Unavailable, match=match) as caught:
            publish_root_list(ca, root, NOW)
        assert caught.value.code == "crl"
        assert "backup" in caught.value.remedy
        with pytest.raises(Unavailable):
            read_root_list(load_public(ca))


def test_a_damaged_list_is_not_forgotten(ca, root, tmp_path):
    path, other = ca / "crl" / "root.crl", tmp_path / "other"
    der = path.read_bytes()
    init(other, CeremonyConfig.from_toml(s.CONFIG), PASSPHRASE, clock=lambda: NOW, entropy=os.urandom)
    for content in (
        b"",
        der[:-1],
        der[:-1] + bytes([der[-1] ^ 1]),
        (other / "crl" / "root.crl").read_bytes(),
    ):
        path.write_bytes(content)
        with pytest.raises(Unavailable) as caught:
            publish_root_list(ca, root, NOW)
        assert caught.value.code == "crl"
        assert path.read_bytes() == content
    path.write_bytes(der)
    with pytest.raises(BadRequest, match="not the root"):
        publish_root_list(other, root, NOW)


def test_what_it_is_asked_for_must_be_there(ca, root):
    before = (ca / "crl" / "root.crl").read_bytes()
    with pytest.raises(NotFound):
        publish_root_list(ca, root, NOW, revoke=["00" * 20])
    with pytest.raises(BadRequest, match="reason"):
        publish_root_list(ca, root, NOW, revoke=[load_public(ca).issuer("ek").skid], reason="whim")
    with pytest.raises(BadRequest, match="expired"):
        publish_root_list(ca, root, NOW + timedelta(days=101))
    assert (ca / "crl" / "root.crl").read_bytes() == before


def test_its_end_is_announced_in_time(ca, root):
    def warning(days):
        return root_list_warning(load_public(ca), NOW + timedelta(days=days))

    # The root of these tests ends after 100 days, and its list with it.
    assert warning(39) is None
    assert "ends at 2026-11-09T12:00:00Z" in warning(41)
    assert "has ended" in warning(100)
    published = ca / "crl" / "root.crl"
    older = published.read_bytes()
    publish_root_list(ca, root, NOW)
    published.write_bytes(older)
    assert "not the root's newest" in warning(0)
    published.unlink()
    assert "not the root's newest" in warning(0)
    published.write_bytes(b"junk")
    assert "damaged" in warning(0)
    forget(ca)
    assert "number 2 is missing" in warning(0)
    (ca / "ca.toml").write_text((ca / "ca.toml").read_text().replace("list_number = 2\n", ""))
    assert "made no revocation list" in warning(0)
