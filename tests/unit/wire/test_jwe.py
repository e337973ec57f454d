"""The sealed resource: another JOSE library opens ours and seals for us, and every change is noticed."""

import base64
import hashlib
import hmac
import itertools
import json
import os

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwe as joserfc_jwe
from joserfc.jwk import ECKey

from vtpm.wire.encoding import b64url, unb64url
from vtpm.wire.errors import WireError
from vtpm.wire.jwe import (
    MAX_CIPHERTEXT,
    ProtectedHeader,
    SealedResource,
    concat_kdf,
    open_sealed,
    parse_protected,
    protected_header,
    reserialise,
    seal,
)
from vtpm.wire.jwk import EcJwk

CURVES = {"P-521": ec.SECP521R1(), "P-256": ec.SECP256R1()}
RECIPIENT = ec.derive_private_key(1001, ec.SECP521R1())
EPHEMERAL = ec.derive_private_key(2002, ec.SECP521R1())
EPK = EcJwk.from_key(EPHEMERAL.public_key())
SECRET = bytes(range(64))
GRANT = "aaaa.bbbb.cccc"
curves = pytest.mark.parametrize("crv", CURVES)


def counting():
    """Entropy that never repeats within a test and is the same in each run."""
    counter = itertools.count()
    return lambda size: hashlib.shake_256(b"test %d" % next(counter)).digest(size)


def sealed(crv="P-521", extra=None):
    key = ec.derive_private_key(1001, CURVES[crv])
    ephemeral = ec.derive_private_key(2002, CURVES[crv])
    extra = {"kbs_grant": GRANT} if extra is None else extra
    return key, seal(SECRET, EcJwk.from_key(key.public_key()), ephemeral, extra=extra, entropy=counting())


def parts(resource):
    return {
        "aad": resource.protected.encode(),
        "wrapped_cek": resource.encrypted_key,
        "iv": resource.iv,
        "ciphertext": resource.ciphertext,
        "tag": resource.tag,
    }


def test_fixed_key_derivation():
    assert (
        concat_kdf(b"\x5a" * 66).hex() == "57e7bb4034377b993fb8b5041a3139687b4e9d5c8e42619118d5207b052ea558"
    )


@given(st.binary(min_size=1, max_size=66))
def test_key_derivation_agrees_with_another_implementation(z):
    info = b"\0\0\0\x0eECDH-ES+A256KW" + bytes(8) + b"\0\0\x01\0"
    assert concat_kdf(z) == ConcatKDFHash(hashes.SHA256(), 32, info).derive(z)


@curves
def test_seal_and_open(crv):
    key, resource = sealed(crv)
    header = parse_protected(resource.protected.encode())
    assert header.grant == GRANT
    assert open_sealed(key, header.epk, **parts(resource)) == SECRET


@curves
def test_another_library_opens_ours(crv):
    key, resource = sealed(crv)
    opened = joserfc_jwe.decrypt_json(
        resource.to_json(),
        ECKey.import_key(key),
        registry=joserfc_jwe.JWERegistry(algorithms=["ECDH-ES+A256KW", "A256GCM"], strict_check_header=False),
    )
    assert opened.plaintext == SECRET


@curves
def test_we_open_what_another_library_sealed(crv):
    key = ec.derive_private_key(1001, CURVES[crv])
    compact = joserfc_jwe.encrypt_compact(
        {"alg": "ECDH-ES+A256KW", "enc": "A256GCM"},
        SECRET,
        ECKey.import_key(key.public_key()),
        algorithms=["ECDH-ES+A256KW", "A256GCM"],
    )
    protected, wrapped, iv, ciphertext, tag = compact.split(".")
    header = parse_protected(protected.encode())
    assert header.grant is None
    opened = open_sealed(
        key,
        header.epk,
        aad=protected.encode(),
        wrapped_cek=unb64url(wrapped, "", size=40),
        iv=unb64url(iv, "", size=12),
        ciphertext=unb64url(ciphertext, ""),
        tag=unb64url(tag, "", size=16),
    )
    assert opened == SECRET


def test_header_byte_for_byte():
    epk = f'{{"crv":"P-521","kty":"EC","x":"{b64url(EPK.x)}","y":"{b64url(EPK.y)}"}}'
    rest = f'"epk":{epk},"kbs_grant":"g"'
    assert protected_header(EPK, {"kbs_grant": "g"}).decode() == (
        f'{{"alg":"ECDH-ES+A256KW","enc":"A256GCM",{rest}}}'
    )
    assert protected_header(EPK, {"zz": "2", "aa": "1", "kbs_grant": "g"}).decode() == (
        f'{{"alg":"ECDH-ES+A256KW","enc":"A256GCM","aa":"1",{rest},"zz":"2"}}'
    )


NAMES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=12).filter(
    lambda name: name not in ("alg", "enc", "epk")
)
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40)


def proxys_form(header):
    """What libaproxy's types do to a header, written down independently: two named fields, then a sorted map."""

    def ordered(value):
        return {name: ordered(value[name]) for name in sorted(value)} if isinstance(value, dict) else value

    rest = json.loads(header)
    first = {"alg": rest.pop("alg"), "enc": rest.pop("enc")}
    return json.dumps(first | ordered(rest), separators=(",", ":"), ensure_ascii=False).encode()


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_the_proxy_keeps_our_header_as_it_is(extra):
    header = protected_header(EPK, extra)
    assert reserialise(header) == header
    assert proxys_form(header) == header


def test_the_proxy_changes_a_header_in_another_order():
    other = json.dumps({"epk": EPK.members(), "enc": "A256GCM", "alg": "ECDH-ES+A256KW"}).encode()
    assert reserialise(other) != other
    assert reserialise(other) == proxys_form(other) == protected_header(EPK, {})
    assert reserialise(b'{"enc":"A256GCM","alg":"x"}') == b'{"alg":"x","enc":"A256GCM"}'


@pytest.mark.parametrize("header", [b"[]", b"{}", b'{"alg":"x"}', b'{"alg":1,"enc":"x"}', b"x"])
def test_what_the_proxy_cannot_read(header):
    with pytest.raises(WireError):
        reserialise(header)


@pytest.mark.parametrize("name", ["alg", "enc", "epk"])
def test_further_members_cannot_replace_the_headers_own(name):
    with pytest.raises(WireError, match="stands twice"):
        protected_header(EPK, {name: "x"})


@pytest.mark.parametrize("extra", [{"a": "\n"}, {"ä": "x"}, {"a": "ä"}])
def test_further_members_are_printable_ascii(extra):
    with pytest.raises(WireError, match="printable ASCII"):
        protected_header(EPK, extra)


def test_a_header_has_a_limit():
    with pytest.raises(WireError, match="at most 16384"):
        protected_header(EPK, {"kbs_grant": "x" * 16384})


def header_with(**changes):
    value = json.loads(protected_header(EPK, {"kbs_grant": GRANT})) | changes
    return b64url(json.dumps({k: v for k, v in value.items() if v is not None}).encode()).encode()


def test_header_is_read():
    assert parse_protected(header_with()) == ProtectedHeader(EPK, GRANT)
    assert parse_protected(header_with(kbs_grant=None)) == ProtectedHeader(EPK, None)
    assert parse_protected(header_with(kid="x", cty="y")) == ProtectedHeader(EPK, GRANT)


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"alg": "ECDH-ES"}, "h.alg"),
        ({"alg": "dir"}, "h.alg"),
        ({"alg": None}, "h.alg"),
        ({"enc": "A128GCM"}, "h.enc"),
        ({"enc": None}, "h.enc"),
        ({"epk": None}, "h.epk"),
        ({"epk": "x"}, "h.epk"),
        ({"epk": {**EPK.members(), "d": "AA"}}, "h.epk.d"),
        ({"epk": {**EPK.members(), "y": EPK.members()["x"]}}, "h.epk"),
        ({"epk": {**EPK.members(), "crv": "P-384"}}, "h.epk.crv"),
        ({"epk": {**EPK.members(), "x": b64url(EPK.x[1:])}}, "h.epk.x"),
        ({"apu": "QQ"}, "h.apu"),
        ({"apv": "QQ"}, "h.apv"),
        ({"crit": ["kbs_grant"]}, "h.crit"),
        ({"zip": "DEF"}, "h.zip"),
        ({"kbs_grant": {"nested": "x"}}, "h.kbs_grant"),
        ({"kbs_grant": 1}, "h.kbs_grant"),
        ({"further": ["x"]}, "h.further"),
    ],
)
def test_other_headers_are_refused(changes, path):
    with pytest.raises(WireError) as caught:
        parse_protected(header_with(**changes), "h")
    assert caught.value.path == path


@pytest.mark.parametrize("aad", [b"", b"\xff", b"e30=", b"e30", b"AAAA", b"A" * 30000])
def test_other_bytes_are_no_header(aad):
    with pytest.raises(WireError):
        parse_protected(aad)


def test_a_header_with_a_member_twice_is_refused():
    """Two readers could take different keys out of it."""
    doubled = protected_header(EPK, {})[:-1] + b',"epk":' + json.dumps(EPK.members()).encode() + b"}"
    with pytest.raises(WireError, match="stands twice") as caught:
        parse_protected(b64url(doubled).encode(), "h")
    assert caught.value.path == "h.epk"


def test_resource_round_trip():
    _, resource = sealed()
    sent = json.dumps(resource.to_json()).encode()
    assert SealedResource.parse(sent) == resource
    assert set(resource.to_json()) == {"protected", "encrypted_key", "iv", "ciphertext", "tag"}


@pytest.mark.parametrize(
    "changes",
    [
        {"protected": "e30="},
        {"protected": ""},
        {"encrypted_key": "AAAA"},
        {"iv": b64url(bytes(11))},
        {"tag": b64url(bytes(15))},
        {"tag": None},
        {"ciphertext": "AA=="},
        {"aad": "AA"},
        {"ciphertext": b64url(bytes(MAX_CIPHERTEXT + 1))},
    ],
)
def test_other_resources_are_refused(changes):
    _, resource = sealed()
    with pytest.raises(WireError) as caught:
        SealedResource.parse(json.dumps(resource.to_json() | changes).encode())
    assert caught.value.path in {f"resource.{name}" for name in changes} | {"resource"}


@pytest.mark.parametrize("name", ["aad", "wrapped_cek", "iv", "ciphertext", "tag"])
def test_every_flipped_bit_is_noticed(name):
    key, resource = sealed()
    good = parts(resource)
    for bit in range(8 * min(len(good[name]), 64)):
        bad = bytearray(good[name])
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(WireError) as caught:
            open_sealed(key, EPK, **good | {name: bytes(bad)})
        assert (caught.value.path, caught.value.problem) == ("decryption", "does not decrypt")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("iv", b""),
        ("iv", bytes(11)),
        ("iv", bytes(16)),
        ("tag", b""),
        ("tag", bytes(12)),
        ("tag", bytes(17)),
        ("wrapped_cek", b""),
        ("wrapped_cek", bytes(7)),
        ("wrapped_cek", bytes(24)),
        ("wrapped_cek", bytes(48)),
        ("ciphertext", bytes(MAX_CIPHERTEXT + 1)),
    ],
)
def test_lengths_are_checked_first(name, value):
    key, resource = sealed()
    with pytest.raises(WireError, match="must be") as caught:
        open_sealed(key, EPK, **parts(resource) | {name: value})
    assert caught.value.path == f"decryption.{name}"


def test_another_ephemeral_key_does_not_open():
    key, resource = sealed()
    other = EcJwk.from_key(ec.derive_private_key(7, ec.SECP521R1()).public_key())
    with pytest.raises(WireError, match="does not decrypt"):
        open_sealed(key, other, **parts(resource))


def test_points_elsewhere_are_refused():
    key, resource = sealed()
    on_p256 = EcJwk.from_key(ec.derive_private_key(7, ec.SECP256R1()).public_key())
    off_curve = EcJwk("P-521", EPK.x, EPK.x)
    for epk, problem in ((on_p256, "must be on P-521"), (off_curve, "the point is not on P-521")):
        with pytest.raises(WireError, match=problem) as caught:
            open_sealed(key, epk, **parts(resource))
        assert caught.value.path == "decryption.epk"
        with pytest.raises(WireError) as caught:
            seal(SECRET, epk, EPHEMERAL, extra={}, entropy=counting())
        assert caught.value.path == "recipient"


def test_secrets_have_a_limit():
    recipient = EcJwk.from_key(RECIPIENT.public_key())
    for size in (0, MAX_CIPHERTEXT):
        resource = seal(bytes(size), recipient, EPHEMERAL, extra={}, entropy=os.urandom)
        assert open_sealed(RECIPIENT, EPK, **parts(resource)) == bytes(size)
    with pytest.raises(WireError, match="at most 65536"):
        seal(bytes(MAX_CIPHERTEXT + 1), recipient, EPHEMERAL, extra={}, entropy=os.urandom)


def test_sealing_takes_key_and_iv_from_the_entropy_given():
    recipient = EcJwk.from_key(RECIPIENT.public_key())
    asked = []

    def entropy(size):
        asked.append(size)
        return bytes([len(asked)]) * size

    resource = seal(SECRET, recipient, EPHEMERAL, extra={}, entropy=entropy)
    assert asked == [32, 12]
    assert resource.iv == b"\x02" * 12


def test_an_svsm_of_today_opens_it_after_the_proxy():
    """The whole way: JWE JSON, the proxy's re-serialisation, the proxy's copy of the epk, decryption."""
    key, resource = sealed()
    received = SealedResource.parse(json.dumps(resource.to_json()).encode())
    header = base64.urlsafe_b64decode(received.protected + "=" * (-len(received.protected) % 4))
    aad = b64url(proxys_form(header)).encode()
    assert hmac.compare_digest(aad, resource.protected.encode())
    assert open_sealed(key, EPK, **parts(received) | {"aad": aad}) == SECRET


@given(st.binary(max_size=300))
def test_only_wire_errors_from_any_bytes(data):
    for parse in (parse_protected, SealedResource.parse, lambda d: parse_protected(b64url(d).encode())):
        with pytest.raises(WireError):
            parse(data)


@given(st.text(max_size=50), st.sampled_from(["alg", "enc", "epk", "kbs_grant", "kid"]))
def test_only_wire_errors_from_changed_headers(text, name):
    try:
        header = parse_protected(header_with(**{name: text}))
    except WireError:
        return
    assert name in ("kbs_grant", "kid")
    assert header.epk == EPK
