"""The profiles of AMD's attestation protocol: published vectors, fixed hashes, parsers against hostile bytes."""

import hashlib
import json
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca_service.enrollment.judge import Judge
from ca_service.enrollment.submission import Submission
from ca_service.judgment import BadRequest, Verdict
from ca_service.policy import load
from vtpm.wire.amd_evidence import (
    MAX_EVIDENCE_MANIFEST,
    MAX_KBS_SERVICE,
    SERVICES_PROFILE,
    VTPM_PROFILE,
    AmdBody,
    ServicesManifest,
    nonce64,
    parse_vtpm_manifest,
)
from vtpm.wire.encoding import Members, canonical, parse_json
from vtpm.wire.enrollment import EnrollmentRequest, Evidence
from vtpm.wire.errors import WireError
from vtpm.wire.message_fields import parse_time
from vtpm.wire.runtime_data import PROFILE
from vtpm.wire.services import KBS_SERVICE, UEFI_MM_SERVICE, VTPM_SERVICE, pack_services, parse_services

FOLDER = Path(__file__).parents[2] / "vectors" / "protocol"
VECTORS = json.loads((FOLDER / "amd_evidence.json").read_text())
REQUESTS = {
    **VECTORS["requests"],
    PROFILE: json.loads((FOLDER / "evidence.json").read_text())["request"],
}
JUDGE = Judge.of(VECTORS["ca_id"], VECTORS["mode"])
NONCE_KEY = bytes.fromhex(VECTORS["nonce_key"])
POLICY = load(VECTORS["policy"])
AT = parse_time(VECTORS["at"], "at")


def named(part):
    return [pytest.param(vector, id=vector["name"]) for vector in VECTORS[part]]


def changed(document, changes):
    """A copy with the dotted members set, or left out for null."""
    copy = json.loads(json.dumps(document))
    for path, value in changes.items():
        *way, last = path.split(".")
        holder = copy
        for step in way:
            holder = holder[step]
        if value is None:
            del holder[last]
        else:
            holder[last] = value
    return copy


def body(name):
    """The body of a valid vector."""
    (vector,) = (v for v in VECTORS["valid"] if v["name"] == name)
    return AmdBody.parse(Members(vector["body"]))


SERVICES, VTPM = body("services-with-kbs"), body("vtpm-rsa")
EVIDENCE = {
    profile: EnrollmentRequest.parse(canonical(REQUESTS[profile])).evidence
    for profile in (SERVICES_PROFILE, VTPM_PROFILE, PROFILE)
}


def test_the_services_are_those_of_the_code():
    assert VECTORS["services"] == {"vtpm": str(VTPM_SERVICE), "kbs": str(KBS_SERVICE)}
    assert (KBS_SERVICE.version, KBS_SERVICE.variant) == (4, uuid.RFC_4122)


@pytest.mark.parametrize("vector", named("valid"))
def test_what_follows_from_a_body(vector):
    found = AmdBody.parse(Members(vector["body"]))
    assert found.to_json() == vector["body"]
    # By the words of the document, with nothing of the code but JSON.
    label = f"svsm-vtpm-ca\0{found.aud}\0{found.nonce}".encode()
    nonce = hashlib.sha512(label).digest()
    report_data = hashlib.sha512(nonce + found.manifest).digest()
    tpm = json.dumps(vector["body"]["tpm"], sort_keys=True, separators=(",", ":")).encode()
    qualifier = hashlib.sha256(b"svsm-vtpm-ca certify\0" + report_data + tpm).digest()
    assert nonce64(found.aud, found.nonce).hex() == vector["nonce64"] == nonce.hex()
    assert found.report_data().hex() == vector["report_data"] == report_data.hex()
    assert found.certify_qualifier().hex() == vector["certify_extra_data"] == qualifier.hex()
    if vector["profile"] == SERVICES_PROFILE:
        manifest = ServicesManifest.parse(found.manifest)
        assert (manifest.ek.hex(), manifest.kbs is not None) == (vector["ek"], vector["kbs"])
    else:
        assert parse_vtpm_manifest(found.manifest).hex() == vector["ek"]
        assert not vector["kbs"]


@pytest.mark.parametrize("vector", named("invalid"))
def test_a_malformed_one_is_refused_where_it_is_malformed(vector):
    request = REQUESTS[vector["base"]]
    assert Submission.parse(canonical(request))
    spoilt = {**request, "evidence": changed(request["evidence"], vector["changes"])}
    with pytest.raises(BadRequest) as caught:
        Submission.parse(canonical(spoilt))
    assert caught.value.path == vector["path"]


def failing(vector):
    document = changed(VECTORS["requests"][vector["base"]], vector["changes"])
    submission = Submission.parse(canonical(document))
    trace = JUDGE.judge_nonce(submission, NONCE_KEY, AT)
    if trace.admitted:
        trace += JUDGE.authenticate(submission, AT)
    if trace.admitted:
        trace += JUDGE.decide(submission, POLICY, AT, certify=True)
    return [finding.rule for finding in trace.findings if finding.verdict is Verdict.FAILED]


@pytest.mark.parametrize("vector", named("refused"))
def test_an_enrolment_fails_by_exactly_the_named_rules(vector):
    assert vector["failed"]
    assert failing(vector) == vector["failed"]


@pytest.mark.parametrize("vector", named("admitted"))
def test_an_honest_enrolment_is_admitted_where_the_policy_names_its_profile(vector):
    assert failing(vector) == []


@pytest.mark.parametrize("profile", [SERVICES_PROFILE, VTPM_PROFILE])
def test_evidence_has_the_body_of_its_profile(profile):
    evidence = EVIDENCE[profile]
    for other in (PROFILE, "svsm-vtpm-session:1"):
        with pytest.raises(ValueError, match="the body of its profile"):
            replace(evidence, profile=other)
    with pytest.raises(ValueError, match="the body of its profile"):
        replace(evidence, amd=None)
    with pytest.raises(ValueError, match="and no other"):
        replace(evidence, runtime_data=b"{}")
    with pytest.raises(ValueError, match="the body of its profile"):
        replace(EVIDENCE[PROFILE], profile=profile)


@pytest.mark.parametrize("aud, nonce", [("", "n"), ("a", ""), ("a\0b", "n"), ("a", "b\0c"), ("ä", "n")])  # noqa: PT006
def test_nonce64_takes_printable_text_alone(aud, nonce):
    """A zero byte in one part would let it stand for two pairs."""
    with pytest.raises(WireError):
        nonce64(aud, nonce)


def test_nonce64_is_fixed():
    assert nonce64("ca.example", "nonce").hex() == (
        hashlib.sha512(
            bytes.fromhex("7376736d2d7674706d2d6361 00 63612e6578616d706c65 00 6e6f6e6365")
        ).hexdigest()
    )


def test_the_largest_manifest_and_kbs_service():
    evidence = REQUESTS[SERVICES_PROFILE]["evidence"]
    padding = MAX_EVIDENCE_MANIFEST - len(pack_services({VTPM_SERVICE: VTPM.manifest, UEFI_MM_SERVICE: b""}))
    largest = pack_services({VTPM_SERVICE: VTPM.manifest, UEFI_MM_SERVICE: bytes(padding)})
    members = replace(SERVICES, manifest=largest).to_json()
    found = Evidence.parse(Members({**evidence, **members}))
    assert len(found.amd.manifest) == MAX_EVIDENCE_MANIFEST
    with pytest.raises(WireError, match="at most 16384 bytes"):
        Evidence.parse(Members({**evidence, **replace(SERVICES, manifest=largest + b"x").to_json()}))
    kbs = parse_services(SERVICES.manifest)[KBS_SERVICE]
    spaced = kbs + b" " * (MAX_KBS_SERVICE - len(kbs))
    with pytest.raises(WireError, match="canonical form"):
        ServicesManifest.parse(pack_services({VTPM_SERVICE: VTPM.manifest, KBS_SERVICE: spaced}))
    with pytest.raises(WireError, match="at most 8192 bytes"):
        ServicesManifest.parse(pack_services({VTPM_SERVICE: VTPM.manifest, KBS_SERVICE: spaced + b" "}))


def test_a_services_manifest_has_one_form():
    manifest = ServicesManifest.parse(SERVICES.manifest)
    assert manifest.pack() == SERVICES.manifest
    bare = replace(manifest, kbs=None)
    assert ServicesManifest.parse(bare.pack()) == bare


@given(st.binary(max_size=400) | st.binary(max_size=300).map(lambda tail: SERVICES.manifest[:64] + tail))
def test_arbitrary_manifests_raise_wire_errors_only(data):
    for parse in (ServicesManifest.parse, parse_vtpm_manifest):
        with pytest.raises(WireError):
            parse(data)


KBS_TEXT = parse_services(SERVICES.manifest)[KBS_SERVICE]


@given(
    st.dictionaries(st.uuids(), st.binary(max_size=40), max_size=3),
    st.binary(max_size=60) | st.just(VTPM.manifest),
    st.none() | st.binary(max_size=60) | st.just(KBS_TEXT),
)
def test_any_services_are_read_or_refused(others, ek, kbs):
    """What is accepted is what was put in; the contents of other services play no part."""
    services = {**others, VTPM_SERVICE: ek} | ({} if kbs is None else {KBS_SERVICE: kbs})
    fits = ek == VTPM.manifest and kbs in (None, KBS_TEXT)
    try:
        found = ServicesManifest.parse(pack_services(services))
    except WireError as error:
        assert not fits
        assert error.path.startswith(("evidence.manifest.vtpm", "evidence.manifest.kbs"))  # noqa: PT017 - as above
        return
    assert fits
    assert found.ek == ek
    assert (found.kbs is None) == (kbs is None)


@given(st.data())
def test_a_spoilt_manifest_is_refused_or_means_what_it_says(data):
    """Whatever is accepted of a changed manifest writes back the same bytes: nothing hides in it."""
    manifest = bytearray(SERVICES.manifest)
    for _ in range(data.draw(st.integers(1, 3))):
        manifest[data.draw(st.integers(0, len(manifest) - 1))] = data.draw(st.integers(0, 255))
    sent = bytes(manifest[: data.draw(st.integers(0, len(manifest)) | st.just(len(manifest)))])
    try:
        found = ServicesManifest.parse(sent)
    except WireError as error:
        assert str(error).isascii()  # noqa: PT017 - a changed grant may still have its form
        return
    services = parse_services(sent)
    assert services[VTPM_SERVICE] == found.ek
    if found.kbs is not None:
        assert canonical(found.kbs.to_json()) == services[KBS_SERVICE]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from([SERVICES_PROFILE, VTPM_PROFILE]), st.data(), JSON)
def test_any_json_in_any_member_raises_wire_errors_only(profile, data, value):
    document = json.loads(json.dumps(REQUESTS[profile]))
    at, path = document["evidence"], [(document, "evidence")]
    while isinstance(at, dict | list) and at:
        step = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        path.append((at, step))
        at = at[step]
    holder, step = path[data.draw(st.integers(0, len(path) - 1))]
    holder[step] = value
    try:
        request = EnrollmentRequest.parse(json.dumps(document).encode())
    except WireError as error:
        assert str(error).isascii()  # noqa: PT017 - a value may happen to fit
        return
    assert request.to_json() == parse_json(json.dumps(document).encode(), most=1 << 20)
