"""Key derivation: the reference implementation's keys, and KDFa as `cryptography` has it."""

from dataclasses import fields, replace

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode
from hypothesis import given
from hypothesis import strategies as st
from volumes import CAMELLIA, KEY, SALT, SHA3_256, layout, vectors

from vtpm.volume import DEFAULT, Layout
from vtpm.volume.algorithms import hash_named
from vtpm.volume.kdf import Keys, Part, Purpose, kdfa

KEY_SETS = sorted(vectors()["keys"])
INDEPENDENT = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
    "sm3": hashes.SM3(),
    "sha3_256": hashes.SHA3_256(),
    "sha3_384": hashes.SHA3_384(),
    "sha3_512": hashes.SHA3_512(),
}


def keys_of(name):
    entry = vectors()["keys"][name]
    given_layout = Layout.parse(bytes.fromhex(entry["layout"]))
    return entry, Keys(bytes.fromhex(entry["key"]), given_layout, bytes.fromhex(entry["salt"]))


@pytest.mark.parametrize("name", KEY_SETS)
def test_root_key_and_subkeys_are_the_reference_implementations(name):
    entry, keys = keys_of(name)
    assert keys._root.hex() == entry["root_key"]
    assert len(entry["subkeys"]) == 12
    for subkey in entry["subkeys"]:
        purpose, part = Purpose(subkey["purpose"]), Part(subkey["subdomain"])
        assert keys.subkey(purpose, subkey["domain"], part).hex() == subkey["key"], subkey["use"]
        expected = Part.EXTENTS if "extents list" in subkey["use"] else Part.DATA
        assert part == (Part.NONE if purpose in {Purpose.TREE_ROOT, Purpose.TREE_DATA} else expected)


@given(
    name=st.sampled_from(sorted(INDEPENDENT)),
    key=st.binary(min_size=1, max_size=300),
    label=st.binary(min_size=1, max_size=8).filter(lambda label: b"\0" not in label),
    context=st.binary(max_size=300),
    size=st.integers(1, 200),
)
def test_kdfa_is_the_counter_mode_kdf_of_sp_800_108(name, key, label, context, size):
    independent = KBKDFHMAC(
        algorithm=INDEPENDENT[name],
        mode=Mode.CounterMode,
        length=size,
        rlen=4,
        llen=4,
        location=CounterLocation.BeforeFixed,
        label=label,
        context=context,
        fixed=None,
    )
    assert kdfa(hash_named(name), key, label, context, size) == independent.derive(key)


def changed_layouts():
    for field in fields(DEFAULT):
        if field.name.endswith("_hash"):
            yield field.name, replace(DEFAULT, **{field.name: SHA3_256})
    yield "cipher", replace(DEFAULT, cipher=CAMELLIA)


@pytest.mark.parametrize(("name", "changed"), list(changed_layouts()))
def test_another_algorithm_in_the_header_gives_another_root_key(name, changed):
    assert Keys(KEY, DEFAULT, SALT)._root != Keys(KEY, changed, SALT)._root


def test_another_salt_or_secret_gives_another_root_key():
    roots = {
        Keys(secret, DEFAULT, salt)._root
        for secret in (KEY, KEY + b"\1", b"k")
        for salt in (b"", b"\0", SALT, bytes(255))
    }
    assert len(roots) == 12


def test_sizes_in_the_layout_are_not_in_the_keys():
    # They are bound by the root HMAC; a key does not tell them apart.
    assert Keys(KEY, DEFAULT, SALT)._root == Keys(KEY, layout(leaf_log2=2), SALT)._root


def test_no_two_uses_share_a_key():
    keys = Keys(KEY, DEFAULT, SALT)
    derived = {
        keys.subkey(purpose, domain, part)
        for purpose in Purpose
        for part in Part
        for domain in (1, 2, 3, 5, 6, 16, 1 << 32, (1 << 64) - 1)
    }
    assert len(derived) == len(Purpose) * len(Part) * 8


@pytest.mark.parametrize(
    ("purpose", "size"),
    [
        (Purpose.DERIVATION, 32),
        (Purpose.TREE_ROOT, 32),
        (Purpose.TREE_DATA, 64),
        (Purpose.PREAUTH, 32),
        (Purpose.ENCRYPTION, 32),
    ],
)
def test_a_key_has_the_size_its_algorithm_takes(purpose, size):
    assert len(Keys(KEY, layout(strength=256), SALT).subkey(purpose, 1, Part.DATA)) == size


def test_a_cipher_is_derived_once_for_each_part():
    keys = Keys(KEY, DEFAULT, SALT)
    assert keys.cipher(7) is keys.cipher(7)
    assert keys.cipher(7) is not keys.cipher(7, Part.EXTENTS)
    iv = bytes(16)
    assert keys.cipher(7).encrypt_cbc(iv, iv) != keys.cipher(7, Part.EXTENTS).encrypt_cbc(iv, iv)
