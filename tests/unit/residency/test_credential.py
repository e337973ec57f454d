"""Our TPM2_MakeCredential against tpm2-pytss's: from the same seed both make the same bytes."""

import secrets
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from soft_tpm import SoftTpm
from tpm2_pytss import TPMT_PUBLIC
from tpm2_pytss.internal.crypto import _kdfa
from tpm2_pytss.utils import make_credential as reference

from ca_service.residency.credential import kdfa, make_credential
from vtpm.wire.policy_digests import HASH_ALGORITHMS
from vtpm.wire.public_area import Symmetric, parse_public
from vtpm.wire.templates import Role, name, templates

SECRET = bytes(range(50, 82))


@pytest.mark.parametrize("ek_template", [found.id for found in templates(Role.EK)])
def test_it_makes_what_tpm2_pytss_makes(ek_template, monkeypatch):
    statement = SoftTpm((ek_template,)).statement()
    public, iak = statement.eks[0].public, name(statement.iak.public)
    area = parse_public(public)
    if area.kind == "ecc":
        mine = ec.generate_private_key(area.public_key().curve)
        monkeypatch.setattr(ec, "generate_private_key", lambda *_: mine)
    monkeypatch.setattr(secrets, "token_bytes", lambda size: bytes(range(size)))
    wanted = [part.marshal() for part in reference(TPMT_PUBLIC.unmarshal(public)[0], SECRET, iak)]
    blob, encrypted = make_credential(area, SECRET, iak)
    assert blob == wanted[0]
    # OAEP has randomness of its own; that the seed comes out of it, every enrolment shows.
    assert len(encrypted) == len(wanted[1])
    assert encrypted == wanted[1] or area.kind == "rsa"


@given(
    st.sampled_from(sorted(HASH_ALGORITHMS)),
    st.binary(max_size=70),
    st.binary(min_size=1, max_size=12),
    st.binary(max_size=70),
    st.integers(1, 200),
)
def test_kdfa_is_that_of_tpm2_pytss(hash_name, key, label, context, size):
    wanted = _kdfa(HASH_ALGORITHMS[hash_name], key, label, context, b"", 8 * size)
    assert kdfa(hash_name, key, label, context, 8 * size) == wanted


def test_another_cipher_than_the_templates_is_refused():
    statement = SoftTpm().statement()
    area = replace(parse_public(statement.eks[0].public), symmetric=Symmetric())
    with pytest.raises(ValueError, match="AES in CFB"):
        make_credential(area, SECRET, name(statement.iak.public))
