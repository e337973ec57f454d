"""Every published vector says what the code does, and the generator still writes the published bytes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tpm2_pytss import TPM2B_PUBLIC, TPMS_ATTEST, TPMT_PUBLIC, TPMT_SIGNATURE

from vtpm.wire import aproxy, enrollment, rcar, templates
from vtpm.wire.encoding import canonical
from vtpm.wire.errors import WireError
from vtpm.wire.grant import Grant, key_id
from vtpm.wire.jwe import SealedResource, open_sealed, parse_protected
from vtpm.wire.jwk import EcJwk
from vtpm.wire.runtime_data import RuntimeData, SessionData, certify_qualifier, report_data
from vtpm.wire.templates import Role, devid_branches, name, parse_public, qualified_name, template

ROOT = Path(__file__).parents[3]
VECTORS = ROOT / "tests" / "vectors" / "protocol"


def load(file):
    return json.loads((VECTORS / file).read_text())


def each(file, *lists):
    """One parameter set per vector of the lists, named after it."""
    document = load(file)
    return [
        pytest.param(vector, id=f"{part}-{vector.get('name') or vector.get('policy') or i}")
        for part in lists
        for i, vector in enumerate(document[part])
    ]


def dump(document):
    return json.dumps(document).encode()


def test_the_generator_writes_these_files():
    result = subprocess.run(
        [sys.executable, str(VECTORS / "make_vectors.py"), "--check"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_file_is_looked_at_here():
    """Or in test_evidence_vectors.py, test_amd_evidence.py and test_log_document.py."""
    assert {path.name for path in VECTORS.glob("*.json")} == {
        "amd_evidence.json",
        "evidence.json",
        "grant.json",
        "kbs.json",
        "log.json",
        "messages.json",
        "relay.json",
        "runtime_data.json",
        "tpm.json",
    }


# tpm.json


@pytest.mark.parametrize("vector", each("tpm.json", "policies"))
def test_policy(vector):
    assert getattr(templates, vector["policy"])(vector["hash"]).hex() == vector["digest"]


@pytest.mark.parametrize("vector", each("tpm.json", "branches"))
def test_branches(vector):
    digests = devid_branches(Role(vector["role"]), vector["hash"])
    assert [digest.hex() for digest in digests] == vector["digests"]


@pytest.mark.parametrize("vector", each("tpm.json", "templates"))
def test_template(vector):
    found = template(Role(vector["role"]), vector["id"])
    assert found.public.hex() == vector["public"]
    assert (f"{found.nv_index:08x}", f"{found.persistent:08x}") == (vector["nv_index"], vector["persistent"])
    other, consumed = TPMT_PUBLIC.unmarshal(bytes.fromhex(vector["public"]))
    assert consumed == len(found.public)
    assert f"{int(other.objectAttributes):08x}" == f"{found.attributes:08x}"


@pytest.mark.parametrize("vector", each("tpm.json", "valid"))
def test_public_area(vector):
    public = bytes.fromhex(vector["public"])
    area = parse_public(public)
    fields = vector["fields"]
    assert (area.kind, area.name_alg, area.bits) == (fields["kind"], fields["name_alg"], fields["bits"])
    assert (f"{area.attributes:08x}", area.policy.hex()) == (fields["attributes"], fields["policy"])
    assert [part.hex() for part in area.unique] == fields["unique"]
    assert (list(area.symmetric), list(area.scheme)) == (fields["symmetric"], fields["scheme"])
    area.public_key()
    assert name(public).hex() == vector["tpm_name"]
    assert bytes(TPM2B_PUBLIC(TPMT_PUBLIC.unmarshal(public)[0]).get_name()).hex() == vector["tpm_name"]
    assert qualified_name(public).hex() == vector["qualified_name"]
    role, template_id = vector["name"].split("-", 1)
    assert templates.differences(public, template(Role(role), template_id)) == []


@pytest.mark.parametrize("vector", each("tpm.json", "invalid"))
def test_malformed_public_area(vector):
    with pytest.raises(WireError) as caught:
        parse_public(bytes.fromhex(vector["public"]), "pub")
    assert caught.value.path == vector["path"]


def test_the_private_halves_belong_to_the_public_ones():
    document = load("tpm.json")
    publics = {vector["name"].replace("-", "/", 1): vector["public"] for vector in document["valid"]}
    for label in ("ek/H-3", "iak/H-3", "idevid/H-3"):
        scalar = int(document["keys"][label], 16)
        own = ec.derive_private_key(scalar, ec.SECP384R1()).public_key()
        assert parse_public(bytes.fromhex(publics[label])).public_key() == own
    p, q = (int(prime, 16) for prime in document["keys"]["ek/L-1"])
    assert parse_public(bytes.fromhex(publics["ek/L-1"])).public_key().public_numbers().n == p * q


# runtime_data.json

PROFILES = {"main": RuntimeData, "session": SessionData}


@pytest.mark.parametrize("vector", each("runtime_data.json", "valid"))
def test_runtime_data(vector):
    text = vector["text"].encode()
    parsed = PROFILES[vector["profile"]].parse(text)
    assert parsed.canonical() == text
    assert report_data(text).hex() == vector["report_data"]
    if vector["profile"] == "main":
        assert certify_qualifier(text).hex() == vector["certify_extra_data"]


@pytest.mark.parametrize("vector", each("runtime_data.json", "invalid"))
def test_malformed_runtime_data(vector):
    with pytest.raises(WireError) as caught:
        PROFILES[vector["profile"]].parse(vector["text"].encode())
    assert caught.value.path == vector["path"]


# grant.json


@pytest.mark.parametrize("vector", each("grant.json", "valid"))
def test_grant(vector):
    parsed = Grant.parse(vector["compact"])
    assert parsed.signature_holds()
    assert parsed.claims.to_json() == vector["claims"]
    assert (parsed.alg, parsed.jwk.thumbprint()) == (vector["alg"], vector["jwk_thumbprint"])


@pytest.mark.parametrize("vector", each("grant.json", "invalid"))
def test_malformed_grant(vector):
    with pytest.raises(WireError) as caught:
        Grant.parse(vector["compact"])
    assert caught.value.path == vector["path"]


@pytest.mark.parametrize("vector", each("grant.json", "unsigned"))
def test_unsigned_grant(vector):
    assert not Grant.parse(vector["compact"]).signature_holds()


def test_key_id():
    document = load("grant.json")
    assert key_id(bytes.fromhex(document["secret"])) == document["key_id"]


# kbs.json

TEE_KEY = ec.derive_private_key(int(load("kbs.json")["keys"]["tee"], 16), ec.SECP521R1())


def opened(jwe):
    sealed = SealedResource.parse(dump(jwe))
    aad = sealed.protected.encode()
    header = parse_protected(aad)
    return header, open_sealed(
        TEE_KEY,
        header.epk,
        aad=aad,
        wrapped_cek=sealed.encrypted_key,
        iv=sealed.iv,
        ciphertext=sealed.ciphertext,
        tag=sealed.tag,
    )


@pytest.mark.parametrize("vector", each("kbs.json", "valid"))
def test_sealed_resource(vector):
    header, secret = opened(vector["jwe"])
    assert secret.hex() == vector["secret"]
    assert header.epk.thumbprint() == vector["epk_jkt"]
    if header.grant is not None:
        assert Grant.parse(header.grant).claims.epk_jkt == vector["epk_jkt"]
        assert Grant.parse(header.grant).claims.tee_jkt == EcJwk.from_key(TEE_KEY.public_key()).thumbprint()


@pytest.mark.parametrize("vector", each("kbs.json", "unopened"))
def test_resource_that_must_not_open(vector):
    with pytest.raises(WireError) as caught:
        opened(vector["jwe"])
    assert caught.value.path == vector["path"]


@pytest.mark.parametrize("vector", each("kbs.json", "invalid_headers"))
def test_malformed_protected_header(vector):
    with pytest.raises(WireError) as caught:
        parse_protected(vector["protected"].encode())
    assert caught.value.path == vector["path"]


def test_kbs_report_data():
    vector = load("kbs.json")["report_data"]
    tee = EcJwk.parse(vector["tee_pubkey"], "tee", curves=("P-521",), alg="ECDH-ES+A256KW")
    assert rcar.kbs_report_data(vector["nonce"], tee).hex() == vector["report_data"]
    members = {"additional-evidence": "", "nonce": vector["nonce"], "tee-pubkey": vector["tee_pubkey"]}
    assert canonical(members).decode() == vector["canonical"]


# relay.json


@pytest.mark.parametrize("vector", each("relay.json", "requests"))
def test_relay_request(vector):
    request = aproxy.parse_first(vector["text"].encode())
    assert request == aproxy.RelayRequest(vector["method"], vector["path"], bytes.fromhex(vector["body"]))
    data = bytes.fromhex(vector["frame"])
    assert aproxy.frame_length(data[:8]) == len(data) - 8
    assert data[8:].decode() == vector["text"]


@pytest.mark.parametrize("vector", each("relay.json", "responses"))
def test_relay_response(vector):
    response = aproxy.RelayResponse.parse(vector["text"].encode())
    assert response == aproxy.RelayResponse(vector["status"], bytes.fromhex(vector["body"]))


@pytest.mark.parametrize("vector", each("relay.json", "invalid_requests", "invalid_responses"))
def test_malformed_relay_message(vector):
    response = vector["error"].startswith("relay_response")
    parse = aproxy.RelayResponse.parse if response else aproxy.parse_first
    with pytest.raises(WireError) as caught:
        parse(vector["text"].encode())
    assert caught.value.path == vector["error"]


@pytest.mark.parametrize("vector", each("relay.json", "invalid_frame_headers"))
def test_malformed_frame_header(vector):
    with pytest.raises(WireError) as caught:
        aproxy.frame_length(bytes.fromhex(vector["header"]))
    assert caught.value.path == vector["error"]


# messages.json


@pytest.mark.parametrize("vector", each("messages.json", "valid"))
def test_message(vector):
    message = getattr(enrollment, vector["message"])
    assert message.parse(dump(vector["document"])).to_json() == vector["document"]


@pytest.mark.parametrize("vector", each("messages.json", "invalid"))
def test_malformed_message(vector):
    with pytest.raises(WireError) as caught:
        getattr(enrollment, vector["message"]).parse(dump(vector["document"]))
    assert caught.value.path == vector["path"]


def test_attest():
    vector = load("messages.json")["attest"]
    data = RuntimeData.parse(canonical(vector["runtime_data"]))
    attest, consumed = TPMS_ATTEST.unmarshal(bytes.fromhex(vector["attest"]))
    assert consumed == len(vector["attest"]) // 2
    assert (
        bytes(attest.extraData) == certify_qualifier(data.canonical()) == bytes.fromhex(vector["extra_data"])
    )
    assert bytes(attest.qualifiedSigner) == qualified_name(data.tpm.iak.public)
    assert bytes(attest.attested.certify.name) == name(data.tpm.idevid.public)
    assert bytes(attest.attested.certify.qualifiedName) == qualified_name(data.tpm.idevid.public)
    signature, _ = TPMT_SIGNATURE.unmarshal(bytes.fromhex(vector["signature"]))
    iak = parse_public(data.tpm.iak.public).public_key()
    signature.verify_signature(iak, bytes.fromhex(vector["attest"]))
