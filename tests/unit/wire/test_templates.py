import contextlib
import hashlib
import struct

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from tpm2_pytss import TPM2_ALG, TPM2B_PUBLIC, TPMT_PUBLIC
from tpm2_pytss.internal.templates import ek_template

from vtpm.wire import policy_digests
from vtpm.wire.errors import WireError
from vtpm.wire.public_area import ALG_NULL, pack_public
from vtpm.wire.templates import (
    DEFAULT_TEMPLATES,
    Role,
    Template,
    Unique,
    devid_branches,
    differences,
    iak_policy,
    idevid_policy,
    name,
    parse_public,
    policy_a,
    policy_b,
    policy_c,
    qualified_name,
    template,
    templates,
)

ALL = [t for role in Role for t in templates(role)]
IDS = [f"{t.role}-{t.id}" for t in ALL]


def instance(of: Template, seed: int = 1) -> bytes:
    """A public area that is an instance of the template, with made-up key bits of the right length."""
    area = parse_public(of.public)
    size = (of.bits + 7) // 8
    filler = bytes([seed]) * size
    key = (filler,) if of.kind == "rsa" else (filler, filler)
    return pack_public(
        type(area)(
            area.kind,
            area.name_alg,
            area.attributes,
            area.policy,
            area.symmetric,
            area.scheme,
            area.bits,
            area.curve,
            area.exponent,
            area.kdf,
            key,
        )
    )


PUBLISHED = {
    (policy_a, "sha256"): "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa",
    (policy_a, "sha384"): "8bbf2266537c171cb56e403c4dc1d4b64f432611dc386e6f532050c3278c930e"
    "143e8bb1133824ccb431053871c6db53",
    (policy_a, "sha512"): "1e3b76502c8a1425aa0b7b3fc646a1b0fae063b03b5368f9c4cddecaff0891dd"
    "682bac1a85d4d832b781ea451915de5fc5bf0dc4a1917cd42fa041e3f998e0ee",
    (policy_c, "sha256"): "3767e2edd43ff45a3a7e1eaefcef78643dca964632e7aad82c673a30d8633fde",
    (policy_c, "sha384"): "d6032ce61f2fb3c240eb3cf6a33237ef2b6a16f4293c22b455e261cffd217ad5"
    "b4947c2d73e63005eed2dc2b3593d165",
    (policy_c, "sha512"): "589ee1e146544716e8deafe6db247b01b81e9f9c7dd16b814aa159138749105f"
    "ba5388dd1dea702f35240c184933121e2c61b8f50d3ef91393a49a38c3f73fc8",
    (policy_b, "sha256"): "ca3d0a99a2b93906f7a3342414efcfb3a385d44cd1fd459089d19b5071c0b7a0",
    (policy_b, "sha384"): "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419ca"
    "cb47ba09699646150f9fc000f3f80e12",
    (policy_b, "sha512"): "b8221ca69e8550a4914de3faa6a18c072cc01208073a928d5d66d59ef79e49a4"
    "29c41a6b269571d57edb25fbdb1838425608b413cd616a5f6db5b6071af99bea",
    (idevid_policy, "sha256"): "ad6b3a2284fd698a0710bf5cc1b9bdf15e2532e3f601fa4b93a6a8fa8de579ea",
    (idevid_policy, "sha384"): "4db1aa836d0b5615df6ee53a40ef70c61c217f4303d44695925972bc927006cf"
    "a5cbdf6dc18c4dbe329b2f1542c3dd33",
    (idevid_policy, "sha512"): "7dd7500fd6c1b94f97a6af910da147301ef28f662fee06f225a4ccadda3b4e6b"
    "38e66b2f3ad5dee1a0503cd2daedb1e68cfe4f84b03a8cd22bb6a976f071a72f",
    (iak_policy, "sha256"): "5437182326e414fca797d5f174615a1641f61255797c3a2b22c21d120b2d1e07",
    (iak_policy, "sha384"): "129d94ebf84556652c6eef43bbb757512ac87e52be7b349ca6ce4d826f749fcf"
    "672f51716c5cbb605f313bf345aab312",
    (iak_policy, "sha512"): "8060d1fb31716a29e48a6e5fece088bcfc1b278fc162255e81c3eca3544cd44a"
    "f94410c3715d561cccd9e39a6cb2646d43535bb54ea88710deb5f7836bd9b586",
}


@pytest.mark.parametrize(
    ("policy", "name_alg"), list(PUBLISHED), ids=[f"{p.__name__}-{a}" for p, a in PUBLISHED]
)
def test_policy_digests_are_the_published_ones(policy, name_alg):
    assert policy(name_alg).hex() == PUBLISHED[policy, name_alg]


@pytest.mark.parametrize(
    ("role", "name_alg", "wanted"),
    [
        (
            Role.IDEVID,
            "sha256",
            (
                "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa",
                "b2a69e6391e2684a0fe752d39e14acd2e5cb922e4bd035830eea31f2aabe9870",
                "cd9917cf18c3848c3a2e606986a066c68142f9bc2710a278287a650ca3bbf245",
                "629c50b05f1adb5b4297feb241549d4217a1c792c162feb861022def88fa9501",
            ),
        ),
        (
            Role.IAK,
            "sha256",
            (
                "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa",
                "b2a69e6391e2684a0fe752d39e14acd2e5cb922e4bd035830eea31f2aabe9870",
                "cd9917cf18c3848c3a2e606986a066c68142f9bc2710a278287a650ca3bbf245",
                "101e689dadf145222412c05b76e14532af1e5c74208e0ae7cdb0cff1906c8a09",
            ),
        ),
        (
            Role.IDEVID,
            "sha384",
            (
                "8bbf2266537c171cb56e403c4dc1d4b64f432611dc386e6f532050c3278c930e143e8bb1133824ccb431053871c6db53",
                "ad6007596907528f059a6121a5293c8ea3539f025640bc0920e1c9f779085934ef907a94469e25df22dbec6663b4f128",
                "0a55d64c633cff7b4c782ee5464d0868a8c4d18d636f2d91f0cfc7b1beaadc1edeb6b4f545aace6d5c5cfc80c0a82492",
                "0275fc2ac8ae37dc923f5c1fe9bf07bde08ccf5140d437de379a522b8c5efe31a7274415c7e8b1be1e9535003975cbcc",
            ),
        ),
        (
            Role.IAK,
            "sha384",
            (
                "8bbf2266537c171cb56e403c4dc1d4b64f432611dc386e6f532050c3278c930e143e8bb1133824ccb431053871c6db53",
                "ad6007596907528f059a6121a5293c8ea3539f025640bc0920e1c9f779085934ef907a94469e25df22dbec6663b4f128",
                "0a55d64c633cff7b4c782ee5464d0868a8c4d18d636f2d91f0cfc7b1beaadc1edeb6b4f545aace6d5c5cfc80c0a82492",
                "471a7ab7d988de1e558e4db956a27f57a7e569038376984363a347001e615381d25f3c9cda70971de027571f3ddb09ca",
            ),
        ),
    ],
)
def test_branch_digests_are_the_published_ones(role, name_alg, wanted):
    assert tuple(digest.hex() for digest in devid_branches(role, name_alg)) == wanted


def test_an_ek_has_no_policy_branches():
    with pytest.raises(ValueError):
        devid_branches(Role.EK, "sha256")


@pytest.mark.parametrize(
    ("role", "template_id", "unique", "wanted"),
    [
        (Role.IAK, "H-3", Unique.X_AND_Y, "d7da16226ebda347"),
        (Role.IDEVID, "H-3", Unique.X_AND_Y, "c1d525e8b610a87a"),
        (Role.IAK, "H-2", Unique.X_AND_Y, "59e68f5e39564aec"),
        (Role.IDEVID, "H-2", Unique.X_AND_Y, "2959f5f3ccd301d9"),
        (Role.IAK, "H-3", Unique.X_ONLY, "1fe0cc2718fd2d78"),
        (Role.IDEVID, "H-3", Unique.X_ONLY, "d654f6097cdc5156"),
        (Role.IAK, "H-2", Unique.X_ONLY, "a50a958fbbb9598b"),
        (Role.IDEVID, "H-2", Unique.X_ONLY, "5128d15c76265cd0"),
        (Role.IAK, "H-1", Unique.X_AND_Y, "10ca3f39bf69fe4f"),
        (Role.IDEVID, "H-1", Unique.X_AND_Y, "c6c5281791b49ffc"),
        (Role.IAK, "R-3072", Unique.X_ONLY, "0f4d51471564b55d"),
        (Role.IDEVID, "R-3072", Unique.X_ONLY, "618db03d88ed472b"),
    ],
)
def test_identity_templates_are_those_of_rust_keylime_and_swtpm(role, template_id, unique, wanted):
    public = template(role, template_id, unique=unique).public
    assert hashlib.sha256(public).hexdigest()[:16] == wanted


def test_the_marshalled_iak_template_field_by_field():
    wanted = (
        "0023 000c 000500f2 0030" + PUBLISHED[iak_policy, "sha384"] + "0010 0018 000c 0004 0010"
        "0003 49414b 0003 49414b"
    )
    assert template(Role.IAK, "H-3").public == bytes.fromhex(wanted)


@pytest.mark.parametrize("ek", templates(Role.EK), ids=lambda t: t.id)
def test_ek_templates_are_those_of_tpm2_pytss(ek):
    known = ek_template.lookup(ek.id)
    assert ek.public == known.template.publicArea.marshal()
    assert ek.nv_index == int(known.cert_index)


@pytest.mark.parametrize("each", ALL, ids=IDS)
def test_a_template_says_what_its_public_area_says(each):
    other, consumed = TPMT_PUBLIC.unmarshal(each.public)
    assert consumed == len(each.public)
    assert other.marshal() == each.public
    assert int(other.objectAttributes) == each.attributes
    assert bytes(other.authPolicy) == each.policy
    assert int(other.nameAlg) == policy_digests.HASH_ALGORITHMS[each.name_alg]
    if each.kind == "rsa":
        assert int(other.parameters.rsaDetail.keyBits) == each.bits
        assert int(other.parameters.rsaDetail.exponent) == 0
    else:
        assert {3: 256, 4: 384, 5: 521}[int(other.parameters.eccDetail.curveID)] == each.bits


@pytest.mark.parametrize("each", ALL, ids=IDS)
def test_parse_public_and_tpm2_pytss_read_the_same(each):
    area = parse_public(each.public)
    other = TPMT_PUBLIC.unmarshal(each.public)[0]
    detail = other.parameters.rsaDetail if each.kind == "rsa" else other.parameters.eccDetail
    assert area.symmetric.algorithm == int(detail.symmetric.algorithm)
    if area.symmetric.algorithm != ALG_NULL:
        assert area.symmetric.bits == int(detail.symmetric.keyBits.aes)
        assert area.symmetric.mode == int(detail.symmetric.mode.aes)
    assert area.scheme.algorithm == int(detail.scheme.scheme)
    if area.scheme.algorithm != ALG_NULL:
        assert area.scheme.hash_algorithm == int(detail.scheme.details.anySig.hashAlg)
    if each.kind == "ecc":
        assert area.kdf.algorithm == int(detail.kdf.scheme) == ALG_NULL
        assert area.unique == (bytes(other.unique.ecc.x), bytes(other.unique.ecc.y))
    else:
        assert area.unique == (bytes(other.unique.rsa),)
    assert pack_public(area) == each.public


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda c: c.name)
def test_real_ecc_keys_read_the_same_as_in_tpm2_pytss(curve):
    key = ec.derive_private_key(0x1234567, curve).public_key()
    theirs = TPM2B_PUBLIC.from_pem(_pem(key), nameAlg=TPM2_ALG.SHA256)
    public = theirs.publicArea.marshal()
    assert parse_public(public).public_key() == key
    assert name(public) == bytes(theirs.get_name())


@pytest.mark.parametrize("bits", [2048, 3072])
def test_real_rsa_keys_read_the_same_as_in_tpm2_pytss(bits):
    key = rsa.generate_private_key(65537, bits).public_key()
    theirs = TPM2B_PUBLIC.from_pem(_pem(key), nameAlg=TPM2_ALG.SHA384)
    public = theirs.publicArea.marshal()
    assert parse_public(public).public_key() == key
    assert parse_public(public).bits == bits
    assert name(public) == bytes(theirs.get_name())


def _pem(key):
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_names_of_a_known_public_area():
    public = template(Role.IAK, "H-3").public
    own = b"\x00\x0c" + hashlib.sha384(public).digest()
    assert name(public) == own
    assert qualified_name(public) == b"\x00\x0c" + hashlib.sha384(b"\x40\x00\x00\x0b" + own).digest()


@pytest.mark.parametrize("public", [b"", b"\x00\x23\x00", b"\x00\x23\x00\x04rest", b"\x00\x23\x00\x10"])
def test_a_name_needs_a_hash_that_we_know(public):
    with pytest.raises(WireError) as caught:
        name(public)
    assert caught.value.path == "nameAlg"


@pytest.mark.parametrize("each", ALL, ids=IDS)
def test_an_instance_does_not_differ_whatever_its_unique(each):
    assert differences(instance(each), each) == []


@pytest.mark.parametrize("each", ALL, ids=IDS)
def test_every_bit_outside_unique_counts(each):
    public = instance(each)
    tail = sum(2 + len(part) for part in parse_public(public).unique)
    for position in range(len(public) - tail):
        for bit in range(8):
            changed = bytearray(public)
            changed[position] ^= 1 << bit
            try:
                assert differences(bytes(changed), each), f"bit {bit} of byte {position}"
            except WireError:
                continue


def test_every_pair_of_templates_of_a_role_differs():
    for role in Role:
        for one in templates(role):
            for other in templates(role):
                assert (differences(instance(one), other) == []) == (one.id == other.id)


@pytest.mark.parametrize(
    ("offset", "value", "field"),
    [
        (4, b"\x00\x04\x00\xf2", "objectAttributes"),
        (10, b"\xff", "authPolicy"),
        (62, b"\x00\x0d", "scheme"),
        (64, b"\x00\x03", "curveID"),
    ],
)
def test_differences_name_the_field(offset, value, field):
    iak = template(Role.IAK, "H-3")
    public = bytearray(instance(iak))
    public[offset : offset + len(value)] = value
    if field == "curveID":  # a smaller curve bounds the coordinates too
        public = public[: 64 + 4] + (b"\x00\x20" + bytes(32)) * 2
        assert differences(bytes(public), iak) == ["curveID", "unique"]
    else:
        assert differences(bytes(public), iak) == [field]


def test_differences_across_kinds_name_all_that_differs():
    found = differences(instance(template(Role.EK, "L-1")), template(Role.IAK, "H-3"))
    assert found[:4] == ["type", "nameAlg", "objectAttributes", "authPolicy"]
    assert {"keyBits", "curveID", "symmetric", "scheme", "unique"} <= set(found)


def test_a_short_unique_differs():
    idevid = template(Role.IDEVID, "H-3")
    assert differences(idevid.public, idevid) == ["unique"]
    ek = template(Role.EK, "H-1")
    assert differences(ek.public, ek) == ["unique"]


def test_unknown_templates_are_refused_with_the_path():
    for role, template_id in [(Role.EK, "H-5"), (Role.EK, "R-3072"), (Role.IAK, "L-1"), (Role.IDEVID, "")]:
        with pytest.raises(WireError) as caught:
            template(role, template_id, "tpm.here")
        assert caught.value.path == "tpm.here"


def test_handles_and_indices():
    iak, idevid = template(Role.IAK, "H-2"), template(Role.IDEVID, "H-2")
    assert (iak.persistent, iak.nv_index) == (0x81020001, 0x01C90100)
    assert (idevid.persistent, idevid.nv_index) == (0x81020000, 0x01C90200)
    assert template(Role.EK, "L-1").persistent == 0x81010001
    assert len({t.persistent for t in templates(Role.EK)}) == len(templates(Role.EK))
    assert {role: template(role, i).bits for role, i in DEFAULT_TEMPLATES.items()} == {
        Role.EK: 2048,
        Role.IAK: 384,
        Role.IDEVID: 384,
    }


IAK384 = instance(template(Role.IAK, "H-3"))
EK2048 = instance(template(Role.EK, "L-1"))


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (b"", "pub.type"),
        (b"\x00\x08" + IAK384[2:], "pub.type"),
        (IAK384[:2] + b"\x00\x04" + IAK384[4:], "pub.nameAlg"),
        (IAK384[:7], "pub.objectAttributes"),
        (IAK384[:8] + b"\x00\x41" + bytes(200), "pub.authPolicy"),
        (IAK384[:20], "pub.authPolicy"),
        (IAK384[:58] + b"\x00\x13" + IAK384[60:], "pub.symmetric"),
        (IAK384[:60] + b"\x00\x1a" + IAK384[62:], "pub.scheme"),
        (IAK384[:64] + b"\x00\x20" + IAK384[66:], "pub.curveID"),
        (IAK384[:66] + b"\x00\x23" + IAK384[68:], "pub.kdf"),
        (IAK384[:68] + b"\x00\x31" + IAK384[70:], "pub.unique.x"),
        (IAK384[:-1], "pub.unique.y"),
        (IAK384 + b"\x00", "pub"),
        (EK2048[:50] + b"\x03\xf8" + EK2048[52:], "pub.keyBits"),
        (EK2048[:50] + b"\x08\x01" + EK2048[52:], "pub.keyBits"),
        (EK2048[:50] + b"\x10\x08" + EK2048[52:], "pub.keyBits"),
        (EK2048[:54], "pub.exponent"),
        (EK2048[:-1], "pub.unique"),
        (EK2048[:56] + b"\x01\x01" + bytes(257), "pub.unique"),
        (bytes(1025), "pub"),
    ],
)
def test_malformed_public_areas_name_the_field(data, path):
    with pytest.raises(WireError) as caught:
        parse_public(data, "pub")
    assert caught.value.path == path


def test_public_key_of_a_point_off_the_curve_is_refused():
    with pytest.raises(WireError) as caught:
        parse_public(IAK384).public_key()
    assert caught.value.path == "unique"


def test_public_key_of_an_empty_modulus_is_refused():
    with pytest.raises(WireError):
        parse_public(template(Role.EK, "H-1").public).public_key()


@given(st.binary(max_size=700))
def test_parse_public_raises_wire_errors_only(data):
    try:
        area = parse_public(data, "pub")
    except WireError:
        return
    assert pack_public(area) == data


@given(st.sampled_from(ALL), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6))
def test_a_parsed_public_area_packs_to_the_same_bytes(each, changes):
    data = bytearray(instance(each))
    for position, value in changes:
        data[position % len(data)] = value
    try:
        area = parse_public(bytes(data), "pub")
    except WireError:
        return
    assert pack_public(area) == bytes(data)
    with contextlib.suppress(WireError):
        area.public_key()


def test_the_exponent_zero_means_65537():
    key = rsa.generate_private_key(65537, 2048).public_key()
    modulus = key.public_numbers().n.to_bytes(256, "big")
    public = template(Role.EK, "H-1").public[:-2] + struct.pack(">H", 256) + modulus
    assert parse_public(public).exponent == 0
    assert parse_public(public).public_key() == key


def test_another_exponent_is_taken_as_it_stands():
    public = bytearray(instance(template(Role.EK, "H-1"), seed=0xFF))
    public[52:56] = (3).to_bytes(4, "big")
    area = parse_public(bytes(public))
    assert area.exponent == 3
    assert area.public_key().public_numbers().e == 3
    assert differences(bytes(public), template(Role.EK, "H-1")) == ["exponent"]


def test_a_kdf_differs():
    public = IAK384[:66] + bytes.fromhex("0020000b") + IAK384[68:]
    assert parse_public(public).kdf == (0x0020, 0x000B)
    assert differences(public, template(Role.IAK, "H-3")) == ["kdf"]
