"""Opening a CA: what does not belong together is refused."""

import json
import os

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from ca_service.judgment import BadRequest, NotFound
from ca_service.keys import Sealer, load_authority, load_public, load_root

PASSPHRASE = b"correct horse battery staple"


@pytest.fixture(scope="module")
def authority(pristine):
    return load_authority(pristine, PASSPHRASE)


def edit(ca, old, new):
    text = (ca / "ca.toml").read_text()
    assert old in text
    (ca / "ca.toml").write_text(text.replace(old, new))


def refusal(ca, passphrase=PASSPHRASE):
    with pytest.raises(BadRequest) as caught:
        load_authority(ca, passphrase)
    return caught.value


def test_it_can_sign_for_each_role(authority):
    for role in ("ek", "devid", "ephemeral"):
        issuer = authority.issuer(role)
        assert issuer.info.role == role
        assert issuer.skid == issuer.info.key_id.hex()
        signature = issuer.signer.sign(b"data")
        issuer.certificate.public_key().verify(signature, b"data", ec.ECDSA(hashes.SHA384()))
    assert len(authority.nonce_key) == len(authority.activation_key) == 32
    assert authority.nonce_key != authority.activation_key


def test_the_public_side_needs_no_passphrase(pristine, authority):
    public = load_public(pristine)
    assert public.ca_id == authority.ca_id
    assert [i.certificate for i in public.issuers] == [i.certificate for i in authority.issuers]
    assert public.issuer("ek").skid == authority.issuer("ek").skid
    assert not hasattr(public.issuer("ek"), "signer")
    chain = public.chain(public.issuer("ek"))
    assert len(chain) == 2


def test_the_root_is_opened_apart(pristine):
    root = load_root(pristine, PASSPHRASE)
    root.certificate.public_key().verify(root.signer.sign(b"x"), b"x", ec.ECDSA(hashes.SHA384()))
    assert root.skid == root.info.skid


def test_the_ca_works_when_the_root_is_away(ca, tmp_path):
    taken = (ca / "offline" / "root.sealed").rename(tmp_path / "root.sealed")
    tmp_path.chmod(0o700)
    assert load_authority(ca, PASSPHRASE)
    with pytest.raises(NotFound):
        load_root(ca, PASSPHRASE)
    assert load_root(ca, PASSPHRASE, taken).signer


def test_there_is_no_other_issuer(authority):
    with pytest.raises(NotFound):
        authority.issuer("ek", "other")


def test_serials_carry_the_prefix(authority):
    assert authority.new_serial(os.urandom) >> 128 == authority.serial_prefix


def test_no_secret_shows(authority):
    shown = repr(authority)
    assert "nonce_key" not in shown
    assert "activation_key" not in shown
    assert "signer" not in shown
    assert repr(authority.nonce_key) not in shown


def test_no_ca_is_not_found(tmp_path):
    for directory in (tmp_path, tmp_path / "missing"):
        with pytest.raises(NotFound):
            load_public(directory)


def test_another_passphrase_opens_nothing(ca):
    assert refusal(ca, b"wrong").code == "passphrase"
    with pytest.raises(BadRequest) as caught:
        load_root(ca, b"wrong")
    assert caught.value.code == "passphrase"


@pytest.mark.parametrize("name", ["ek-default", "devid-default", "ephemeral-default", "nonce", "activation"])
def test_one_flipped_bit_in_any_secret_is_seen(ca, name):
    path = ca / "private" / f"{name}.sealed"
    members = json.loads(path.read_bytes())
    text = members["ciphertext"]
    members["ciphertext"] = text[:-3] + ("A" if text[-3] != "A" else "B") + text[-2:]
    path.write_text(json.dumps(members))
    assert refusal(ca).code == "passphrase"


@pytest.mark.parametrize(
    ("path", "mode"),
    [("private", 0o750), ("private/ek-default.sealed", 0o640), ("private/nonce.sealed", 0o604)],
)
def test_secrets_that_others_may_touch_are_refused(ca, path, mode):
    (ca / path).chmod(mode)
    error = refusal(ca)
    assert error.code == "permissions"
    assert f"chmod {'700' if path == 'private' else '600'} {ca / path}" in error.remedy


def test_nobody_is_told_to_lock_a_folder_of_the_system(ca, tmp_path):
    """A root's key that was put into /tmp, say."""
    place = tmp_path / "root.sealed"
    place.write_bytes((ca / "offline" / "root.sealed").read_bytes())
    place.chmod(0o600)
    tmp_path.chmod(0o777)
    with pytest.raises(BadRequest) as caught:
        load_root(ca, PASSPHRASE, place)
    assert caught.value.remedy.startswith("If it holds nothing else")
    assert "a directory of its own" in caught.value.remedy


def test_root_is_told_whose_command_it_is(ca):
    if os.geteuid() != 0:
        pytest.skip("only root can give something away")
    os.chown(ca / "private", 65534, 65534)
    error = refusal(ca)
    assert (error.code, "as that user" in error.remedy) == ("permissions", True)


def test_a_link_instead_of_a_secret_is_refused(ca, tmp_path):
    path = ca / "private" / "nonce.sealed"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert refusal(ca).code == "permissions"


def test_a_missing_secret_is_not_found(ca):
    (ca / "private" / "nonce.sealed").unlink()
    with pytest.raises(NotFound):
        load_authority(ca, PASSPHRASE)


def test_secrets_that_are_swapped_do_not_open(ca):
    one, other = ca / "private" / "nonce.sealed", ca / "private" / "activation.sealed"
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    assert "the sealed nonce key: is a file for activation key" in str(refusal(ca))


def test_a_secret_of_another_kind_is_refused(ca):
    path = ca / "private" / "ek-default.sealed"
    purpose = json.loads(path.read_bytes())["purpose"]
    for secret in (b"no key", b"\x30\x00"):
        path.write_bytes(Sealer(PASSPHRASE, log2_n=14).seal(secret, purpose=purpose, entropy=os.urandom))
        assert "PKCS#8" in str(refusal(ca))
    short = Sealer(PASSPHRASE, log2_n=14).seal(bytes(31), purpose="nonce key", entropy=os.urandom)
    (ca / "private" / "nonce.sealed").write_bytes(short)


def test_a_secret_of_another_length_is_refused(ca):
    short = Sealer(PASSPHRASE, log2_n=14).seal(bytes(31), purpose="nonce key", entropy=os.urandom)
    (ca / "private" / "nonce.sealed").write_bytes(short)
    assert "32 bytes" in str(refusal(ca))


def test_the_key_of_another_certificate_is_refused(ca):
    sealer = Sealer(PASSPHRASE, log2_n=14)
    ek, devid = (ca / "private" / f"{role}-default.sealed" for role in ("ek", "devid"))
    stolen = sealer.unseal(ek.read_bytes(), purpose="ek CA key, pair default")
    devid.write_bytes(sealer.seal(stolen, purpose="devid CA key, pair default", entropy=os.urandom))
    assert refusal(ca).code == "authority"


def test_the_mode_is_what_the_certificates_say(ca):
    edit(ca, 'mode = "simulation"', 'mode = "production"')
    with pytest.raises(BadRequest, match="mode"):
        load_public(ca)


def test_a_replaced_certificate_is_seen(ca):
    (ca / "certs" / "ek-default.pem").write_bytes((ca / "certs" / "devid-default.pem").read_bytes())
    with pytest.raises(BadRequest, match="is not the certificate"):
        load_public(ca)


def test_a_certificate_of_another_ca_is_seen(ca, config, perform, tmp_path):
    other = tmp_path / "other"
    perform(other, config)
    (ca / "certs" / "root.pem").write_bytes((other / "certs" / "root.pem").read_bytes())
    ours, theirs = (json.loads((d / "transcript.json").read_bytes())["certificates"][0] for d in (ca, other))
    edit(ca, ours["sha256"], theirs["sha256"])
    with pytest.raises(BadRequest, match="did not sign"):
        load_public(ca)


@pytest.mark.parametrize("content", [b"", b"no certificate", b"\xff\xfe"])
def test_a_broken_certificate_is_named(ca, content):
    (ca / "certs" / "root.pem").write_bytes(content)
    with pytest.raises(BadRequest, match=r"root\.pem"):
        load_public(ca)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("version = 1", "version = 2"),
        ('certificate = "root.pem"', 'certificate = "../root.pem"'),
        ("serial_prefix = ", "serial_prefix = 1000"),
        ('role = "ek"', 'role = "devid"'),
        ('role = "ek"', 'role = "tls"'),
        ("[validity]", 'surprise = "x"\n[validity]'),
    ],
)
def test_edited_facts_are_refused(ca, old, new):
    edit(ca, old, new)
    with pytest.raises(BadRequest):
        load_public(ca)


def test_facts_that_are_no_text_are_refused(ca):
    (ca / "ca.toml").write_bytes(b"\xff")
    with pytest.raises(BadRequest, match="UTF-8"):
        load_public(ca)
