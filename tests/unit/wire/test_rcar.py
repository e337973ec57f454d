"""Trustee's broker protocol: its published examples, and its JSON form of a report."""

import copy
import hashlib
import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from hypothesis import given
from hypothesis import strategies as st

from vtpm.wire.encoding import canonical
from vtpm.wire.errors import WireError
from vtpm.wire.jwk import EcJwk
from vtpm.wire.rcar import (
    Attestation,
    auth_request,
    challenge_message,
    kbs_report_data,
    parse_auth_request,
    parse_challenge,
    parse_token,
    problem,
    tee_pubkey,
    token_message,
)
from vtpm.wire.report import Report, pack_report, pack_signature
from vtpm.wire.report_json import report_from_json, report_to_json

SNP = Path(__file__).parents[2] / "vectors" / "snp"
VECTORS = json.loads((SNP / "manifest.json").read_text())["vectors"]
vectors = pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["id"])
# AMD's leaf certificates carry serial number 0, which cryptography warns about.
serial_zero = pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive")
MADE_UP = EcJwk("P-521", b"\x01" + b"\x11" * 65, b"\x00" + b"\x22" * 65)
KEY = EcJwk.from_key(ec.derive_private_key(5, ec.SECP521R1()).public_key())
NONCE = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
MILAN = pack_report(cpuid=(0x19, 1, 1), chip_id=b"\x07" * 64, report_data=b"\x09" * 64) + pack_signature(5, 6)


def raw(vector):
    return (SNP / vector["files"]["report"]).read_bytes()


def attestation_body(**report):
    value = Attestation(NONCE, KEY, MILAN, (("VCEK", b"der"),)).to_json()
    value["tee-evidence"]["primary_evidence"]["attestation_report"] |= report
    return value


def parse(value):
    return Attestation.parse(json.dumps(value).encode())


def test_fixed_report_data():
    assert kbs_report_data(NONCE, MADE_UP).hex() == (
        "acd4ad56c452d6038bfa9f1848682da485ea5d99ffad43e81105e375f083ef0f"
        "6240f8469541571cfce7244fac993860" + "00" * 16
    )


def test_trustees_own_example_of_structured_runtime_data():
    digest = hashlib.sha384(canonical({"b": 1, "a": "test", "c": {"d": "e"}})).hexdigest()
    assert digest == (
        "e71ce8e70d814ba6639c3612ebee0ff1f76f650f8dbb5e47157e0f3f525cd22c4597480a186427c813ca941da78870c3"
    )


def test_opening_messages():
    assert auth_request() == {"version": "0.4.0", "tee": "snp", "extra-params": ""}
    assert parse_auth_request(json.dumps(auth_request()).encode()) == "snp"
    body = {"version": "0.4.0", "tee": "snp", "extra-params": {"supported-hash-algorithms": ["sha384"]}}
    assert parse_auth_request(json.dumps(body).encode()) == "snp"
    assert parse_challenge(json.dumps(challenge_message(NONCE)).encode()) == NONCE


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "0.4.1"},
        {"version": "0.1.0"},
        {"version": "=0.4.0"},
        {"version": None},
        {"tee": "tdx"},
        {"tee": "SNP"},
        {"further": 1},
    ],
)
def test_other_opening_messages_are_refused(changes):
    with pytest.raises(WireError) as caught:
        parse_auth_request(json.dumps(auth_request() | changes).encode())
    assert caught.value.path == f"auth.{next(iter(changes))}"


@pytest.mark.parametrize("nonce", ["", "AA", "AA=", "AB==", "-_8=", 5, "A" * 92])
def test_nonces_that_do_not_survive_the_way_are_refused(nonce):
    """The SVSM sees only the decoded bytes; it could not state another text of the same bytes again."""
    with pytest.raises(WireError) as caught:
        parse_challenge(json.dumps(challenge_message(nonce)).encode())
    assert caught.value.path == "challenge.nonce"


def test_tee_pubkey():
    value = tee_pubkey(KEY)
    assert set(value) == {"alg", "crv", "kty", "x", "y"}
    assert (value["alg"], value["crv"], value["kty"]) == ("ECDH-ES+A256KW", "P-521", "EC")
    assert len(value["x"]) == len(value["y"]) == 88


def test_tokens_and_problems():
    assert parse_token(json.dumps(token_message("a.b.c")).encode()) == "a.b.c"
    for body in (b"{}", b'{"token":""}', b'{"token":5}', b'{"token":"a","b":1}'):
        with pytest.raises(WireError):
            parse_token(body)
    assert problem("PolicyDeny", "why") == {
        "type": "https://github.com/confidential-containers/kbs/errors/PolicyDeny",
        "detail": "why",
    }


@vectors
def test_genuine_reports_survive_their_json_form(vector):
    value = json.loads(json.dumps(report_to_json(Report.parse(raw(vector)))))
    assert report_from_json(value) == raw(vector)
    assert value["policy"] == int(vector["guest_policy"], 16)
    named = {key: number for key, number in vector["tcb"]["reported"].items() if key != "raw"}
    assert value["reported_tcb"] == {"fmc": None} | named
    assert (value["cpuid_fam_id"] is None) is (vector["report_version"] == 2)
    assert (value["launch_mit_vector"] is None) is (vector["report_version"] < 5)


@serial_zero
def test_trustees_own_evidence():
    """Written by the sev crate: its bytes must be rebuilt exactly, or the processor's signature fails."""
    evidence = json.loads((SNP / "trustee-evidence.json").read_text())
    report = Report.parse(report_from_json(evidence["attestation_report"]))
    leaf = x509.load_der_x509_certificate(bytes(evidence["cert_chain"][0]["data"])).public_key()
    signature = utils.encode_dss_signature(report.signature_r, report.signature_s)
    leaf.verify(signature, report.signed_bytes, ec.ECDSA(hashes.SHA384()))
    absent = {"launch_mit_vector": None, "current_mit_vector": None}
    assert report_to_json(report) == evidence["attestation_report"] | absent


def test_trustees_own_evidence_in_a_body():
    evidence = json.loads((SNP / "trustee-evidence.json").read_text())
    value = attestation_body()
    value["tee-evidence"]["primary_evidence"] = evidence
    read = parse(value)
    assert read.report == report_from_json(evidence["attestation_report"])
    assert [kind for kind, _ in read.chain] == ["VCEK"]
    assert read.to_json()["tee-evidence"]["primary_evidence"]["cert_chain"] == evidence["cert_chain"]


@pytest.mark.parametrize(
    "chain", [(), (("VCEK", b"leaf"),), (("VLEK", b"leaf"), ("ASK", b"x"), ("ARK", b"y"))]
)
@pytest.mark.parametrize("crv", [ec.SECP521R1(), ec.SECP256R1()], ids=lambda c: c.name)
def test_body_round_trip(chain, crv):
    key = EcJwk.from_key(ec.derive_private_key(5, crv).public_key())
    body = Attestation(NONCE, key, MILAN, chain)
    assert parse(body.to_json()) == body


def test_body_form():
    value = attestation_body()
    assert set(value) == {"init-data", "runtime-data", "tee-evidence"}
    assert value["init-data"] is None
    assert value["runtime-data"] == {"nonce": NONCE, "tee-pubkey": tee_pubkey(KEY)}
    assert set(value["tee-evidence"]) == {"primary_evidence", "additional_evidence"}
    assert value["tee-evidence"]["additional_evidence"] == ""
    primary = value["tee-evidence"]["primary_evidence"]
    assert primary["cert_chain"] == [{"cert_type": "VCEK", "data": [100, 101, 114]}]
    assert Attestation(NONCE, KEY, MILAN).to_json()["tee-evidence"]["primary_evidence"]["cert_chain"] is None
    del value["init-data"]
    assert parse(value).report == MILAN


RESERVED = [0x4C, 0x18B, 0x19F, 0x1EB, 0x1EF, 0x1F8, 0x200, 0x208, 0x29F, 0x330, 0x49F]
TCB_RESERVED = [0x3A, 0x3D, 0x182, 0x185, 0x1E2, 0x1F5]


@pytest.mark.parametrize("offset", RESERVED + TCB_RESERVED)
def test_bytes_that_the_form_would_lose_are_refused(offset):
    data = bytearray(MILAN)
    data[offset] = 1
    with pytest.raises(WireError, match="does not carry"):
        Attestation(NONCE, KEY, bytes(data)).to_json()


@given(st.binary(min_size=1184, max_size=1184), st.sampled_from([2, 3, 4, 5]))
def test_no_report_is_changed_on_the_way(data, version):
    report = version.to_bytes(4, "little") + data[4:]
    try:
        value = report_to_json(Report.parse(report))
    except WireError:
        return
    assert report_from_json(value) == report


@given(st.data())
def test_every_carried_byte_survives(data):
    """As above, but with zeros where the form has nothing, so that most examples get through."""
    fill = st.binary(min_size=64, max_size=64)
    chip = data.draw(fill)
    version = data.draw(st.integers(2, 5))
    cpuid = (0, 0, 0) if version == 2 else (0x19, 0x11, data.draw(st.integers(0, 255)))
    tcb = data.draw(st.binary(min_size=4, max_size=4))
    safe = st.integers(0, 2**53 - 1)
    report = pack_report(
        version=version,
        guest_svn=data.draw(st.integers(0, 2**32 - 1)),
        policy=data.draw(safe),
        vmpl=data.draw(st.integers(0, 2**32 - 1)),
        current_tcb=tcb[:2] + bytes(4) + tcb[2:],
        launch_tcb=tcb[2:] + bytes(4) + tcb[:2],
        platform_info=data.draw(safe),
        key_flags=data.draw(st.integers(0, 2**32 - 1)),
        report_data=data.draw(fill),
        measurement=data.draw(fill)[:48],
        report_id=data.draw(fill)[:32],
        chip_id=chip[:-1] + b"\x01",
        cpuid=cpuid,
        current_firmware=tuple(tcb[:3]),
        committed_firmware=tuple(tcb[1:]),
        launch_mit_vector=data.draw(safe) if version == 5 else 0,
        current_mit_vector=data.draw(safe) if version == 5 else 0,
    ) + pack_signature(data.draw(st.integers(0, 2**576 - 1)), data.draw(st.integers(0, 2**576 - 1)))
    value = json.loads(json.dumps(report_to_json(Report.parse(report))))
    assert report_from_json(value) == report


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"version": 1}, "version"),
        ({"version": "3"}, "version"),
        ({"version": 2}, "cpuid_fam_id"),
        ({"version": 5}, "launch_mit_vector"),
        ({"launch_mit_vector": 1, "current_mit_vector": 1}, "launch_mit_vector"),
        ({"cpuid_step": None}, "cpuid_fam_id"),
        ({"cpuid_fam_id": 0x17}, ""),
        ({"cpuid_fam_id": 256}, "cpuid_fam_id"),
        ({"policy": -1}, "policy"),
        ({"policy": 2**53}, "policy"),
        ({"policy": {"abi": 1}}, "policy"),
        ({"vmpl": 2**32}, "vmpl"),
        ({"key_info": True}, "key_info"),
        ({"report_data": [0] * 63}, "report_data"),
        ({"report_data": "00" * 64}, "report_data"),
        ({"report_data": [256] + [0] * 63}, "report_data[0]"),
        ({"report_data": [0] * 63 + [True]}, "report_data[63]"),
        ({"report_data": [None] * 64}, "report_data[0]"),
        ({"current_tcb": {"bootloader": 1, "tee": 1, "snp": 1}}, "current_tcb.microcode"),
        ({"current_tcb": {"fmc": 1, "bootloader": 1, "tee": 1, "snp": 1, "microcode": 1}}, "current_tcb.fmc"),
        ({"current_tcb": {"bootloader": 1, "tee": 1, "snp": 1, "microcode": 1, "x": 1}}, "current_tcb.x"),
        ({"current": {"major": 1, "minor": 2}}, "current.build"),
        ({"signature": {"r": [0] * 72}}, "signature.s"),
        ({"signature": {"r": [0] * 48, "s": [0] * 48}}, "signature.r"),
        ({"further": 1}, "further"),
    ],
)
def test_malformed_reports_are_refused(changes, path):
    with pytest.raises(WireError) as caught:
        parse(attestation_body(**changes))
    where = "attestation.tee-evidence.primary_evidence.attestation_report"
    assert caught.value.path == (f"{where}.{path}" if path else where)


def test_turin_needs_its_fmc_and_version_2_its_chip_id():
    turin = copy.deepcopy(attestation_body(cpuid_fam_id=0x1A, cpuid_mod_id=2))
    with pytest.raises(WireError) as caught:
        parse(turin)
    assert caught.value.path.endswith("current_tcb.fmc")
    masked = pack_report(version=2) + pack_signature(1, 1)
    with pytest.raises(WireError, match="masked chip id"):
        Attestation(NONCE, KEY, masked).to_json()


def test_a_version_2_report_of_a_turin_has_turins_tcb():
    report = pack_report(
        version=2, chip_id=b"\x07" * 8 + bytes(56), reported_tcb=bytes.fromhex("0102030400000005")
    ) + pack_signature(1, 1)
    value = report_to_json(Report.parse(report))
    assert value["reported_tcb"] == {"fmc": 1, "bootloader": 2, "tee": 3, "snp": 4, "microcode": 5}
    assert report_from_json(value) == report


@pytest.mark.parametrize(
    ("keys", "new", "path"),
    [
        (["init-data"], {"format": "toml", "body": ""}, "init-data"),
        (["runtime-data", "nonce"], "AB==", "runtime-data.nonce"),
        (["runtime-data", "tee-pubkey", "alg"], "RSA-OAEP", "runtime-data.tee-pubkey.alg"),
        (["runtime-data", "tee-pubkey", "crv"], "P-384", "runtime-data.tee-pubkey.crv"),
        (["runtime-data", "tee-pubkey", "x"], "AA", "runtime-data.tee-pubkey.x"),
        (["runtime-data", "tee-pubkey"], tee_pubkey(MADE_UP), "runtime-data.tee-pubkey"),
        (["tee-evidence", "additional_evidence"], "{}", "tee-evidence.additional_evidence"),
        (["tee-evidence", "additional_evidence"], None, "tee-evidence.additional_evidence"),
        (["tee-evidence", "primary_evidence"], "{}", "tee-evidence.primary_evidence"),
        (
            ["tee-evidence", "primary_evidence", "cert_chain"],
            [{"cert_type": "VCEK", "data": []}],
            "tee-evidence.primary_evidence.cert_chain[0].data",
        ),
        (
            ["tee-evidence", "primary_evidence", "cert_chain"],
            [{"cert_type": {"OTHER": "x"}, "data": [1]}],
            "tee-evidence.primary_evidence.cert_chain[0].cert_type",
        ),
        (
            ["tee-evidence", "primary_evidence", "cert_chain"],
            [{"cert_type": "VCEK", "data": [1]}, {"cert_type": "VCEK", "data": [2]}],
            "tee-evidence.primary_evidence.cert_chain[1].cert_type",
        ),
    ],
)
def test_malformed_bodies_are_refused(keys, new, path):
    value = attestation_body()
    node = value
    for name in keys[:-1]:
        node = node[name]
    node[keys[-1]] = new
    with pytest.raises(WireError) as caught:
        parse(value)
    assert caught.value.path == f"attestation.{path}"


def test_the_largest_honest_body_fits():
    chain = (
        ("VCEK", b"\xff" * 4096),
        ("ASK", b"\xff" * 4096),
        ("ARK", b"\xff" * 4096),
        ("CRL", b"\xff" * 4096),
    )
    report = pack_report(cpuid=(0x19, 1, 1), report_data=b"\xff" * 64) + pack_signature(
        2**576 - 1, 2**576 - 1
    )
    body = Attestation(NONCE, KEY, report, chain)
    assert parse(body.to_json()) == body


JSON = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.lists(st.integers(), max_size=3)
)


@given(st.data())
def test_only_wire_errors_from_changed_bodies(data):
    value = attestation_body()
    node = value
    while True:
        keys = sorted(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(node[key], dict | list) and node[key] and data.draw(st.integers(0, 3)):
            node = node[key]
            continue
        node[key] = data.draw(JSON)
        break
    sent = json.dumps(value).encode()
    try:
        read = Attestation.parse(sent)
    except WireError:
        return
    assert len(read.report) == 1184
    assert parse(read.to_json()) == read


@given(st.binary(max_size=200))
def test_only_wire_errors_from_any_bytes(data):
    for reader in (Attestation.parse, parse_auth_request, parse_challenge, parse_token):
        with pytest.raises(WireError):
            reader(data)
