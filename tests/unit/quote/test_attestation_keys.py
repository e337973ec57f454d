"""Another key than the IAK has signed: it counts if the IAK says that it is in its TPM, and what kind of key it is."""

import struct
from dataclasses import replace
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from quoting_tpm import sized

from ca_service.export.quote import CHECKS, AttestationKey
from ca_service.export.quote.keys import attestation_key, iak_of
from ca_service.judgment import Verdict
from ca_service.residency.attest import Signature
from vtpm.wire.public_area import name, pack_public, parse_public, qualified_name
from vtpm.wire.templates import Role, template

_EK = "0x81010001"


def refused_by(verdict):
    return [f.rule for f in verdict.trace.findings if f.verdict is Verdict.FAILED]


def certified(tools, ak):
    """The IAK's word for a key, as tpm2-tools have it."""
    tools.run(
        "tpm2_certify", "-c", ak, "-C", "0x81020001", "-g", "sha384", "-o", f"{ak}.msg", "-s", f"{ak}.sig"
    )
    return tuple((tools.folder / f"{ak}.{end}").read_bytes() for end in ("msg", "sig"))


@pytest.fixture(scope="module")
def ak(scene):
    """Calls give an attestation key below the EK, the IAK's word for it, and a quote by it."""

    def make(algorithm, hash_, scheme):
        file = f"{algorithm}-{scheme}"
        words = ("-G", algorithm, "-g", hash_, "-s", scheme)
        scene.tools.run("tpm2_flushcontext", "-t")
        scene.tools.run("tpm2_createak", "-C", _EK, "-c", file, *words, "-u", f"{file}.pub")
        scene.tools.run("tpm2_flushcontext", "-t")
        key = AttestationKey((scene.tools.folder / f"{file}.pub").read_bytes(), *certified(scene.tools, file))
        scene.tools.run("tpm2_flushcontext", "-t")
        quote = scene.tools.quote(key=file, hash_=hash_, name=file, extra=("--scheme", scheme))
        scene.tools.run("tpm2_flushcontext", "-t")
        return key, quote

    return make


@pytest.fixture(scope="module")
def ecc(ak):
    return ak("ecc", "sha256", "ecdsa")


def test_an_rsa_key(scene, ak):
    """With RSAPSS; what docs/quotes.md shows is one with RSASSA."""
    key, quote = ak("rsa", "sha256", "rsapss")
    verdict = scene.verify(quote, ak=key)
    assert verdict.admitted, verdict.refusal
    assert [f.rule for f in verdict.quote.findings] == list(CHECKS)
    # Under either padding the octets are as many.
    other = replace(quote, signature=b"\0\x14" + quote.signature[2:])
    assert refused_by(scene.verify(other, ak=key)) == ["quote.scheme", "quote.signature"]
    assert scene.verify(replace(quote, signature=quote.signature[6:]), ak=key).admitted


def test_a_key_as_it_stands_without_its_size(scene, ecc):
    key, quote = ecc
    assert scene.verify(quote, ak=key).admitted
    assert scene.verify(quote, ak=replace(key, public=key.public[2:])).admitted


def test_the_iak_does_not_answer_for_the_ak_nor_the_ak_for_the_iak(scene, ecc):
    key, quote = ecc
    assert "quote.signature" in refused_by(scene.verify(quote))
    assert {"quote.signature", "quote.signer"} <= set(refused_by(scene.verify(scene.quote, ak=key)))


def test_a_key_that_signs_anything(scene):
    """The IAK certifies it gladly: it is in its TPM. But it would sign a quote that no TPM has made."""
    run = scene.tools.run
    run("tpm2_flushcontext", "-t")
    run("tpm2_createprimary", "-C", "e", "-G", "ecc256:ecdsa-sha256", "-c", "free", "-a",
        "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign")  # fmt: skip
    run("tpm2_flushcontext", "-t")
    run("tpm2_readpublic", "-c", "free", "-o", "free.pub")
    run("tpm2_flushcontext", "-t")
    public = (scene.tools.folder / "free.pub").read_bytes()
    key = AttestationKey(public, *certified(scene.tools, "free"))
    run("tpm2_flushcontext", "-t")
    found = refused_by(scene.verify(scene.quote, ak=key))
    assert "quote.ak-attributes" in found
    assert not {"quote.ak-name", "quote.ak-signer", "quote.ak-signature", "quote.ak-certified"} & set(found)


@pytest.mark.parametrize(
    "flipped",
    [
        pytest.param(0, id="none"),
        pytest.param(0x00000002, id="fixedTPM"),
        pytest.param(0x00000010, id="fixedParent"),
        pytest.param(0x00000020, id="sensitiveDataOrigin"),
        pytest.param(0x00010000, id="restricted"),
        pytest.param(0x00020000, id="decrypt"),
        pytest.param(0x00040000, id="sign"),
    ],
)
def test_each_attribute(scene, flipped):
    soft = scene.enrol("H-3")
    area = parse_public(soft.tpm.iak.public)
    public = pack_public(replace(area, attributes=area.attributes ^ flipped))
    called = qualified_name(public)
    attest = (
        struct.pack(">IH", 0xFF544347, 0x8017)
        + sized(qualified_name(soft.tpm.iak.public))
        + sized(b"")
        + struct.pack(">QIIBQ", 1000, 1, 0, 1, 7)
        + sized(name(public))
        + sized(called)
    )
    key = AttestationKey(public, attest, soft.tpm._signature(attest))
    found = refused_by(scene.verify(soft.quote(signer=called), ak=key, **soft.given))
    assert found == (["quote.ak-attributes"] if flipped else [])


def test_another_key_than_the_certified_one(scene, ecc):
    key, quote = ecc
    area = bytearray(key.public)
    area[-1] ^= 1
    for other in (scene.tpm.keys.iak.public, scene.tpm.keys.idevid.public):
        assert "quote.ak-name" in refused_by(scene.verify(quote, ak=replace(key, public=other)))
    assert {"quote.ak-form"} <= set(refused_by(scene.verify(quote, ak=replace(key, public=bytes(area)))))


def test_a_restricted_mark_that_the_key_has_not(scene, ecc):
    """The Name covers the attributes."""
    key, quote = ecc
    attributes = key.public[6:10]
    other = replace(key, public=key.public[:6] + bytes([attributes[0], attributes[1] ^ 1]) + key.public[8:])
    assert {"quote.ak-attributes", "quote.ak-name"} <= set(refused_by(scene.verify(quote, ak=other)))


def test_a_flipped_bit_in_any_octet_of_the_iaks_word(scene, ecc):
    key, _ = ecc
    iak = attestation_key(scene.tpm.keys.iak.public)
    assert Signature.read(key.signature).holds(iak.key, key.attest)
    for place in range(0, len(key.attest), 7):
        changed = bytearray(key.attest)
        changed[place] ^= 1 << place % 8
        assert "quote.ak-signature" in refused_by(
            scene.verify(scene.quote, ak=replace(key, attest=bytes(changed)), ek=None, idevid=None)
        )


def test_another_tpms_word(scene, ecc):
    key, quote = ecc
    soft = scene.enrol("H-3")
    statement = soft.tpm.certify(bytes(32))
    other = replace(key, attest=statement.attest, signature=statement.signature)
    found = refused_by(scene.verify(quote, ak=other))
    assert {"quote.ak-name", "quote.ak-signer", "quote.ak-signature", "quote.signer"} <= set(found)


@pytest.mark.parametrize(("bits", "good"), [(1024, False), (2048, True)])
def test_an_rsa_key_that_can_be_broken(bits, good):
    area = parse_public(template(Role.IAK, "H-1").public)
    modulus = (1 << bits) - 1
    public = pack_public(replace(area, bits=bits, unique=(modulus.to_bytes(bits // 8, "big"),)))
    assert (attestation_key(public) is not None) == good


def test_junk(scene):
    junk = AttestationKey(b"", b"", b"")
    found = refused_by(scene.verify(ak=junk))
    assert set(found) > {rule for rule in CHECKS if rule.startswith("quote.ak-")}


@pytest.mark.parametrize("iak", ["H-1", "H-2", "H-3", "H-4"])
def test_a_certificate_gives_the_whole_public_area(scene, iak):
    public = scene.enrol(iak).tpm.iak.public
    key = parse_public(public).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert iak_of(SimpleNamespace(spki=spki)).public == public


def test_the_real_iaks_area(scene):
    spki = parse_public(scene.tpm.keys.iak.public).spki()
    assert iak_of(SimpleNamespace(spki=spki)).public == scene.tpm.keys.iak.public
