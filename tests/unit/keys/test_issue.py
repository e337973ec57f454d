"""Signing wants the token, the right issuer, and a signer that works."""

import os
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ca_service.judgment import BadRequest, Conflict, VtpmCaError
from ca_service.keys import FileSigner, load_authority, load_root, sign_certificate
from ca_service.profiles import Validity, draft_issuing, draft_root, lint

PASSPHRASE = b"correct horse battery staple"
NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def root(pristine):
    return load_root(pristine, PASSPHRASE)


@pytest.fixture
def draft(pristine, root):
    return draft_issuing(
        "ek",
        pair="next",
        organization="Example Organisation",
        mode="simulation",
        public_key=ec.generate_private_key(ec.SECP384R1()).public_key(),
        serial=load_authority(pristine, PASSPHRASE).new_serial(os.urandom),
        validity=Validity.device_lifetime(NOW),
        issuer=root.info,
    )


def test_the_certificate_carries_the_linted_bytes(draft, root):
    der = sign_certificate(draft.tbs, lint(draft, root.info), root.signer, root.certificate)
    certificate = x509.load_der_x509_certificate(der)
    assert certificate.tbs_certificate_bytes == draft.tbs
    certificate.verify_directly_issued_by(root.certificate)


def test_a_token_signs_once(draft, root):
    token = lint(draft, root.info)
    sign_certificate(draft.tbs, token, root.signer, root.certificate)
    with pytest.raises(Conflict, match="used"):
        sign_certificate(draft.tbs, token, root.signer, root.certificate)


def test_other_bytes_are_not_signed(draft, root):
    class Watching(FileSigner):
        calls = 0

        def sign(self, data):
            self.calls += 1
            return super().sign(data)

    signer = Watching(root.signer._private_key)
    other = draft.tbs.replace(b"next", b"nexd")
    assert other != draft.tbs
    with pytest.raises(Conflict):
        sign_certificate(other, lint(draft, root.info), signer, root.certificate)
    assert signer.calls == 0


def test_another_signer_is_refused(draft, root):
    stranger = FileSigner(ec.generate_private_key(ec.SECP384R1()))
    with pytest.raises(Conflict, match="issuer"):
        sign_certificate(draft.tbs, lint(draft, root.info), stranger, root.certificate)


def test_another_issuer_is_refused(pristine, draft, root):
    issuer = load_authority(pristine, PASSPHRASE).issuer("ek").certificate
    with pytest.raises(VtpmCaError) as caught:
        sign_certificate(draft.tbs, lint(draft, root.info), root.signer, issuer)
    assert caught.value.code == "signer"


def test_an_issuer_of_another_name_is_refused(draft, root):
    """Its key made the signature, but no path building would find it above the certificate."""
    token = lint(draft, root.info)
    other = draft_root(
        organization="Another Organisation",
        mode="simulation",
        public_key=root.signer.public_key(),
        serial=1 << 130,
        validity=Validity.device_lifetime(NOW),
    )
    issuer = x509.load_der_x509_certificate(sign_certificate(other.tbs, lint(other, None), root.signer, None))
    with pytest.raises(VtpmCaError) as caught:
        sign_certificate(draft.tbs, token, root.signer, issuer)
    assert caught.value.code == "signer"


def test_a_faulty_signature_never_leaves(draft, root):
    class Faulty(FileSigner):
        def sign(self, data):
            return super().sign(data + b"!")

    with pytest.raises(VtpmCaError) as caught:
        sign_certificate(
            draft.tbs, lint(draft, root.info), Faulty(root.signer._private_key), root.certificate
        )
    assert caught.value.code == "signer"


def test_a_root_signs_itself_and_nothing_else():
    key = ec.generate_private_key(ec.SECP384R1())
    draft = draft_root(
        organization="O",
        mode="simulation",
        public_key=key.public_key(),
        serial=1 << 130,
        validity=Validity.device_lifetime(NOW),
    )
    der = sign_certificate(draft.tbs, lint(draft, None), FileSigner(key), None)
    certificate = x509.load_der_x509_certificate(der)
    certificate.verify_directly_issued_by(certificate)
    stranger = FileSigner(ec.generate_private_key(ec.SECP384R1()))
    with pytest.raises(Conflict):
        sign_certificate(draft.tbs, lint(draft, None), stranger, None)


def test_a_ca_key_is_on_p_384():
    with pytest.raises(BadRequest, match="P-384"):
        FileSigner(ec.generate_private_key(ec.SECP256R1()))
    small = ec.generate_private_key(ec.SECP256R1())
    pkcs8 = small.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(BadRequest, match="P-384"):
        FileSigner.from_der(pkcs8)
    assert "P-384" in repr(FileSigner(ec.generate_private_key(ec.SECP384R1())))
