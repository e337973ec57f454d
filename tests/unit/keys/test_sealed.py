import itertools
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca_service.judgment import BadRequest
from ca_service.keys import Sealer, seal, unseal

SECRET = b"\x00 a secret of some length \xff"
PURPOSE = "nonce key"


def cheap(passphrase=b"passphrase"):
    return Sealer(passphrase, log2_n=14)


@pytest.fixture(scope="module")
def sealed():
    return cheap().seal(SECRET, purpose=PURPOSE, entropy=os.urandom)


def test_what_is_sealed_opens():
    data = seal(SECRET, b"passphrase", purpose=PURPOSE, entropy=os.urandom)
    assert SECRET not in data
    assert json.loads(data)["kdf"]["log2_n"] >= 15
    assert unseal(data, b"passphrase", purpose=PURPOSE) == SECRET


@pytest.mark.parametrize("wrong", [b"Passphrase", b"passphrase ", b"passphras", b"\0"])
def test_another_passphrase_does_not(sealed, wrong):
    with pytest.raises(BadRequest) as caught:
        cheap(wrong).unseal(sealed, purpose=PURPOSE)
    assert caught.value.code == "passphrase"


def test_an_empty_passphrase_is_none():
    with pytest.raises(BadRequest):
        Sealer(b"")


def test_another_purpose_does_not(sealed):
    with pytest.raises(BadRequest, match="the sealed root key: is a file for nonce key") as caught:
        cheap().unseal(sealed, purpose="root key")
    assert caught.value.remedy
    renamed = sealed.replace(b"nonce key", b"other key")
    with pytest.raises(BadRequest) as caught:
        cheap().unseal(renamed, purpose="other key")
    assert caught.value.code == "passphrase"


def test_no_flipped_bit_opens(sealed):
    """Of the whole file: what is not the ciphertext is authenticated with it."""
    sealer = cheap()
    sealer.unseal(sealed, purpose=PURPOSE)
    for offset in range(len(sealed) - 1):
        flipped = sealed[:offset] + bytes([sealed[offset] ^ 1]) + sealed[offset + 1 :]
        with pytest.raises(BadRequest):
            sealer.unseal(flipped, purpose=PURPOSE)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("format", "vtpm-ca-sealed/2"),
        ("cipher", "A128GCM"),
        ("nonce", ""),
        ("ciphertext", ""),
        ("ciphertext", "AAAA"),
        ("kdf", None),
        ("kdf", {"name": "scrypt", "log2_n": 30, "r": 8, "p": 1, "salt": "AAAAAAAAAAAAAAAAAAAAAA"}),
        ("kdf", {"name": "scrypt", "log2_n": 1, "r": 8, "p": 1, "salt": "AAAAAAAAAAAAAAAAAAAAAA"}),
        ("kdf", {"name": "scrypt", "log2_n": 14, "r": 4096, "p": 1, "salt": "AAAAAAAAAAAAAAAAAAAAAA"}),
        ("kdf", {"name": "pbkdf2", "log2_n": 14, "r": 8, "p": 1, "salt": "AAAAAAAAAAAAAAAAAAAAAA"}),
        ("extra", 1),
    ],
)
def test_other_forms_are_refused_before_any_work(sealed, member, value):
    data = json.dumps(json.loads(sealed) | {member: value}).encode()
    with pytest.raises(BadRequest, match=f"the sealed {PURPOSE}: sealed"):
        cheap().unseal(data, purpose=PURPOSE)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(data):
    with pytest.raises(BadRequest):
        Sealer(b"x", log2_n=14).unseal(data, purpose=PURPOSE)


def test_equal_secrets_do_not_look_equal():
    sealer = cheap()
    one, other = (sealer.seal(SECRET, purpose=PURPOSE, entropy=os.urandom) for _ in range(2))
    assert json.loads(one)["nonce"] != json.loads(other)["nonce"]
    assert json.loads(one)["ciphertext"] != json.loads(other)["ciphertext"]
    assert json.loads(one)["kdf"] == json.loads(other)["kdf"]  # one salt per sealer: one derivation opens all


def test_salt_and_nonce_come_from_the_entropy_that_is_handed_in():
    counter = itertools.count()
    drawn = []

    def entropy(size):
        drawn.append(size)
        return bytes([next(counter)]) * size

    cheap().seal(SECRET, purpose=PURPOSE, entropy=entropy)
    assert drawn == [16, 12]


def test_nothing_secret_shows():
    assert repr(cheap(b"hunter2")) == "Sealer()"


def test_the_cost_has_bounds():
    for log2_n in (13, 21):
        with pytest.raises(ValueError, match="log2_n"):
            Sealer(b"x", log2_n=log2_n)
