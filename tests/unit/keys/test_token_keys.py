"""Keys on a real token in software (SoftHSM): made there, used from threads and forks, gone and back."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pkcs11
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from pkcs11 import Attribute, ObjectClass

from ca_service.judgment import BadRequest, Conflict, NotFound, Unavailable, VtpmCaError
from ca_service.keys import (
    CeremonyConfig,
    cryptoki,
    load_authority,
    load_public,
    load_root,
    prepare_issuing,
    sign_and_check,
    token,
)
from ca_service.keys.uri import TokenUri
from ca_service.status import RevokedEntry, build_crl

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
PASSPHRASE = b"correct horse battery staple"
DATA = b"what a CA signs"


@pytest.fixture
def authority(token_ca, softhsm):
    return load_authority(token_ca, PASSPHRASE, lambda: softhsm.pin)


@pytest.fixture
def attempts(monkeypatch):
    """The PINs that reach a token."""
    seen = []
    real = cryptoki._log_in

    def log_in(slotted, pin):
        seen.append(pin)
        return real(slotted, pin)

    monkeypatch.setattr(cryptoki, "_log_in", log_in)
    return seen


def keys_on(softhsm, label):
    """The private keys on a token, as another program sees them."""
    softhsm.forget()
    script = f"""
import pkcs11
from pkcs11 import Attribute, ObjectClass
session = pkcs11.lib({softhsm.module!r}).get_token(token_label={label!r}).open(user_pin={softhsm.pin.decode()!r})
for key in session.get_objects({{Attribute.CLASS: ObjectClass.PRIVATE_KEY}}):
    print(key.label, key.id.hex(), sep=";")
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return {tuple(line.split(";")) for line in done.stdout.splitlines()}


def names_on(softhsm, label):
    return {name for name, _ in keys_on(softhsm, label)}


class TestCeremony:
    def test_openssl_verifies_what_the_tokens_signed(self, token_ca):
        certs = token_ca / "certs"
        command = ["openssl", "verify", "-x509_strict", "-CAfile", certs / "root.pem"]
        for role in ("ek", "devid", "ephemeral"):
            subprocess.run([*command, certs / f"{role}-default.pem"], check=True, capture_output=True)

    def test_no_key_is_in_the_directory(self, token_ca, softhsm):
        assert not list((token_ca / "offline").iterdir())
        assert sorted(p.name for p in (token_ca / "private").iterdir()) == [
            "activation.sealed",
            "log.sealed",
            "nonce.sealed",
        ]
        for path in token_ca.rglob("*"):
            assert not path.is_file() or softhsm.pin not in path.read_bytes()
        assert "the root" in names_on(softhsm, "root")
        assert {"vtpm-ca ek-default", "vtpm-ca devid-default", "vtpm-ca ephemeral-default"} <= names_on(
            softhsm, "issuing"
        )

    def test_the_private_halves_cannot_leave(self, token_ca, softhsm, authority):
        sign_and_check(authority.issuer("ek").signer, DATA)
        opened = cryptoki.module(softhsm.module).logged_in(cryptoki.TokenUri("issuing"), softhsm.pin.decode())
        keys = list(opened.session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY}))
        assert len(keys) >= 3
        for key in keys:
            assert key[Attribute.NEVER_EXTRACTABLE]
            assert key[Attribute.ALWAYS_SENSITIVE]
            with pytest.raises(pkcs11.AttributeSensitive):
                key[Attribute.VALUE]
            assert not any(key[a] for a in (Attribute.DECRYPT, Attribute.UNWRAP, Attribute.DERIVE))

    def test_the_transcript_says_where_they_are(self, token_ca):
        text = (token_ca / "transcript.txt").read_text()
        assert "token, pkcs11:token=root;object=the%20root;id=" in text
        assert "token, pkcs11:token=issuing;object=vtpm-ca%20ek-default;id=" in text
        assert "Lock the token root away" in text

    def test_a_key_that_is_there_is_never_taken(self, token_ca, softhsm, perform, tmp_path):
        config = softhsm.config(root="pkcs11:token=root;object=the%20root")
        before = keys_on(softhsm, "root")
        with pytest.raises(Conflict) as caught:
            perform(tmp_path / "ca", config, root_pin=lambda: softhsm.pin)
        assert caught.value.code == "exists"
        assert keys_on(softhsm, "root") == before
        assert not list(tmp_path.iterdir())

    def test_one_that_fails_leaves_no_key(self, softhsm, perform, tmp_path):
        config = softhsm.config(root="pkcs11:token=root;object=another", issuing="pkcs11:token=issuing")
        before = keys_on(softhsm, "root"), keys_on(softhsm, "issuing")

        def fail(authority, root):
            sign_and_check(root.signer, DATA)
            assert keys_on(softhsm, "issuing") != before[1]
            raise RuntimeError("no database")

        with pytest.raises(RuntimeError):
            perform(
                tmp_path / "ca", config, finish=fail, pin=lambda: softhsm.pin, root_pin=lambda: softhsm.pin
            )
        assert (keys_on(softhsm, "root"), keys_on(softhsm, "issuing")) == before
        assert not list(tmp_path.iterdir())

    def test_without_a_pin_nothing_is_made(self, softhsm, perform, tmp_path):
        with pytest.raises(BadRequest) as caught:
            perform(tmp_path / "ca", softhsm.config(issuing="pkcs11:token=issuing"))
        assert caught.value.code == "pin-missing"
        assert "VTPM_CA_PKCS11_PIN_FILE" in caught.value.remedy
        assert not list(tmp_path.iterdir())

    def test_a_token_that_is_not_there_is_named(self, softhsm, perform, tmp_path):
        config = softhsm.config(root="pkcs11:token=nowhere")
        with pytest.raises(Unavailable, match="nowhere"):
            perform(tmp_path / "ca", config, root_pin=lambda: softhsm.pin)


class TestSigning:
    def test_a_signature_is_one_of_openssl_s_kind(self, authority):
        ca = authority.issuer("devid")
        ca.certificate.public_key().verify(ca.signer.sign(DATA), DATA, ec.ECDSA(hashes.SHA384()))

    def test_revocation_lists_of_root_and_issuing_ca(self, token_ca, softhsm, authority):
        root = load_root(token_ca, PASSPHRASE, pin=lambda: softhsm.pin)
        for ca in (root, authority.issuer("ek")):
            der = build_crl(ca, [RevokedEntry(7, NOW)], 1, NOW, NOW + timedelta(days=1))
            assert x509.load_der_x509_crl(der).is_signature_valid(ca.certificate.public_key())

    def test_the_next_generation_lives_there_too(self, token_ca, softhsm, tmp_path):
        ca = shutil.copytree(token_ca, tmp_path / "ca", copy_function=shutil.copy2)
        root = load_root(ca, PASSPHRASE, pin=lambda: softhsm.pin)
        with pytest.raises(BadRequest) as caught:
            prepare_issuing(ca, root, ["ek"], passphrase=PASSPHRASE, clock=lambda: NOW, entropy=os.urandom)
        assert caught.value.code == "pin-missing"
        (made,) = prepare_issuing(
            ca,
            root,
            ["ek"],
            passphrase=PASSPHRASE,
            clock=lambda: NOW,
            entropy=os.urandom,
            pin=lambda: softhsm.pin,
        )
        authority = load_authority(ca, PASSPHRASE, lambda: softhsm.pin)
        sign_and_check(authority.issuer_of(made.skid).signer, DATA)
        assert not list((ca / "private").glob("ek*"))

    def test_threads(self, authority):
        wrong = []

        def work(ca):
            for _ in range(15):
                try:
                    sign_and_check(ca.signer, DATA)
                except Exception as error:  # noqa: BLE001 - whatever it is, it is wrong
                    wrong.append(error)

        threads = [
            threading.Thread(target=work, args=(ca,)) for ca in (*authority.issuers, *authority.issuers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not wrong

    def test_forks_while_threads_sign(self, authority):
        """As gunicorn does it: opened before the fork, used in parent and child."""
        signer, stop, wrong = authority.issuer("ek").signer, threading.Event(), []

        def work():
            while not stop.is_set():
                try:
                    sign_and_check(signer, DATA)
                except Exception as error:  # noqa: BLE001 - whatever it is, it is wrong
                    wrong.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            children = []
            for _ in range(4):
                child = os.fork()
                if child == 0:
                    code = 1
                    try:
                        signal.alarm(30)
                        sign_and_check(signer, DATA)
                        code = 0
                    finally:
                        os._exit(code)
                children.append(child)
            assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0, 0]
        finally:
            stop.set()
            thread.join(60)
        assert not wrong

    def test_a_token_that_was_away(self, authority, softhsm, monkeypatch):
        monkeypatch.setattr(token, "_AWAY_S", 0.0)
        signer, away = authority.issuer("ek").signer, softhsm.folder.with_name("away")
        sign_and_check(signer, DATA)
        softhsm.folder.rename(away)
        try:
            for _ in range(2):
                with pytest.raises(Unavailable) as caught:
                    sign_and_check(signer, DATA)
                assert caught.value.code == "token"
        finally:
            away.rename(softhsm.folder)
        sign_and_check(signer, DATA)

    def test_a_session_that_died_is_replaced_unnoticed(self, authority, softhsm):
        signer = authority.issuer("ek").signer
        sign_and_check(signer, DATA)
        library = cryptoki.module(softhsm.module)._library
        library.finalize()
        library.initialize()
        sign_and_check(signer, DATA)

    def test_while_it_is_away_it_is_looked_for_once_a_second(self, authority, softhsm, monkeypatch):
        monkeypatch.setattr(token, "_AWAY_S", 3600.0)
        signer, away = authority.issuer("ek").signer, softhsm.folder.with_name("away")
        softhsm.folder.rename(away)
        try:
            with pytest.raises(Unavailable):
                signer.sign(DATA)
        finally:
            away.rename(softhsm.folder)
        with pytest.raises(Unavailable, match="a moment ago"):
            signer.sign(DATA)

    def test_a_faulty_token_never_gets_through(self, authority, monkeypatch):
        signer = authority.issuer("ek").signer
        for answer in (bytes(95), bytes(96), b"\1" * 96):
            monkeypatch.setattr(token.Token, "sign_digest", lambda *_, answer=answer: answer)
            with pytest.raises(VtpmCaError) as caught:
                sign_and_check(signer, DATA)
            assert caught.value.code == "signer"


class TestPin:
    def test_a_wrong_one_is_tried_once(self, token_ca, softhsm, attempts):
        softhsm.forget()
        wrong = b"not the pin"
        for _ in range(3):
            with pytest.raises(BadRequest) as caught:
                load_authority(token_ca, PASSPHRASE, lambda: wrong)
            assert caught.value.code == "pin"
            assert wrong.decode() not in caught.value.diagnostics()
        assert attempts == [wrong.decode()]
        assert load_authority(token_ca, PASSPHRASE, lambda: softhsm.pin)

    def test_one_that_was_changed_is_tried_once_by_who_signs(self, authority, softhsm, attempts, monkeypatch):
        """The server is at work when somebody changes the PIN: its clients hear 503, and the token is left alone."""
        sign_and_check(authority.issuer("ek").signer, DATA)
        softhsm.forget()
        monkeypatch.setattr(cryptoki.Module, "logged_in", refusing(cryptoki.Module.logged_in))
        for ca in (*authority.issuers, *authority.issuers):
            with pytest.raises(Unavailable) as caught:
                ca.signer.sign(DATA)
            assert caught.value.code == "token"
            assert softhsm.pin.decode() not in caught.value.diagnostics()
        assert len(attempts) == 1

    @pytest.mark.parametrize("flag", [pkcs11.TokenFlag.USER_PIN_FINAL_TRY, pkcs11.TokenFlag.USER_PIN_LOCKED])
    def test_the_last_try_is_left_to_people(self, flag, attempts):
        class Slotted:
            flags = flag

            def open(self, **_):
                raise AssertionError("a PIN was tried")

        with pytest.raises(cryptoki.PinRefusedError):
            cryptoki._log_in(Slotted(), "1234")

    def test_it_must_be_text(self, token_ca):
        with pytest.raises(BadRequest) as caught:
            load_authority(token_ca, PASSPHRASE, lambda: b"\xff")
        assert caught.value.code == "pin"

    def test_it_shows_nowhere(self, token_ca, softhsm, authority):
        root = load_root(token_ca, PASSPHRASE, pin=lambda: softhsm.pin)
        shown = repr(authority) + repr(root) + repr(authority.issuer("ek").signer) + repr(root.signer._token)
        assert softhsm.pin.decode() not in shown


def refusing(real):
    """`Module.logged_in` on a token whose PIN is another one by now."""

    def logged_in(self, uri, pin):
        return real(self, uri, f"{pin} of yesterday")

    return logged_in


class TestOpening:
    def edited(self, token_ca, tmp_path, old, new):
        ca = shutil.copytree(token_ca, tmp_path / "ca", copy_function=shutil.copy2)
        text = (ca / "ca.toml").read_text()
        assert old in text
        (ca / "ca.toml").write_text(text.replace(old, new))
        return ca

    def key_of(self, token_ca, role):
        lines = (token_ca / "ca.toml").read_text().split(f'role = "{role}"')[1].splitlines()
        return next(line.split('"')[1] for line in lines if line.startswith("key = "))

    def test_the_key_of_another_certificate_is_refused(self, token_ca, softhsm, tmp_path):
        ek, devid = self.key_of(token_ca, "ek"), self.key_of(token_ca, "devid")
        ca = self.edited(token_ca, tmp_path, ek, "swap")
        text = (ca / "ca.toml").read_text().replace(devid, ek).replace("swap", devid)
        (ca / "ca.toml").write_text(text)
        with pytest.raises(BadRequest) as caught:
            load_authority(ca, PASSPHRASE, lambda: softhsm.pin)
        assert caught.value.code == "authority"

    def test_a_key_that_is_not_there_is_named(self, token_ca, softhsm, tmp_path):
        ca = self.edited(token_ca, tmp_path, self.key_of(token_ca, "ek"), "pkcs11:token=issuing;id=%00%01")
        with pytest.raises(BadRequest, match="exactly one key") as caught:
            load_authority(ca, PASSPHRASE, lambda: softhsm.pin)
        assert caught.value.code == "authority"

    @pytest.mark.parametrize("path", ["/nowhere/libnone.so", "/bin/true", "/etc/hostname"])
    def test_what_is_no_module_is_named(self, token_ca, softhsm, tmp_path, path):
        ca = self.edited(token_ca, tmp_path, softhsm.module, path)
        with pytest.raises(BadRequest, match=path) as caught:
            load_authority(ca, PASSPHRASE, lambda: softhsm.pin)
        assert caught.value.code == "pkcs11"

    def test_without_the_package_the_remedy_is_named(self, token_ca, softhsm, monkeypatch):
        monkeypatch.delitem(sys.modules, "ca_service.keys.token")
        monkeypatch.delitem(sys.modules, "ca_service.keys.cryptoki")
        monkeypatch.setitem(sys.modules, "pkcs11", None)
        with pytest.raises(Unavailable) as caught:
            load_authority(token_ca, PASSPHRASE, lambda: softhsm.pin)
        assert caught.value.code == "pkcs11"
        assert "vtpm-ca[pkcs11]" in caught.value.remedy
        assert load_public(token_ca).issuers

    def test_who_has_no_token_does_not_load_the_package(self):
        script = "import sys, ca_service.keys; sys.exit('pkcs11' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0

    def test_a_root_on_a_token_has_no_file(self, token_ca, softhsm, tmp_path):
        with pytest.raises(BadRequest, match="token"):
            load_root(token_ca, PASSPHRASE, tmp_path / "root.sealed", lambda: softhsm.pin)

    def test_the_mode_of_a_root_on_a_token(self, softhsm, perform, tmp_path):
        text = f"""
mode = "production"
organization = "Org"
publication_url = "http://ca.example"
[root]
key = "pkcs11:token=root"
[pkcs11]
module = "{softhsm.module}"
"""
        perform(tmp_path / "ca", CeremonyConfig.from_toml(text), root_pin=lambda: softhsm.pin)
        assert load_public(tmp_path / "ca").mode == "production"
        assert "SIMULATION" not in (tmp_path / "ca" / "transcript.txt").read_text()
        with pytest.raises(NotFound):
            load_public(tmp_path / "none")


def test_one_key_that_cannot_be_destroyed_does_not_save_the_others():
    tried = []

    class Token:
        def destroy(self, identity):
            tried.append(identity)
            if len(tried) == 1:
                raise Unavailable("away for a moment", code="token")

        def generate(self, label, identity, *, alone):
            raise Unavailable("away", code="token")

        uri = TokenUri("t")

    custody = token.TokenCustody(Token(), os.urandom)
    for name in "abc":
        with pytest.raises(Unavailable):
            custody.generate(name, name)
    custody.discard()
    assert len(tried) == 3
