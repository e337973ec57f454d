import hashlib
import json
from dataclasses import replace

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from vtpm.wire.encoding import b64url, canonical
from vtpm.wire.errors import WireError
from vtpm.wire.jwk import EcJwk
from vtpm.wire.runtime_data import (
    MAX_RUNTIME_DATA,
    PROFILE,
    SESSION_PROFILE,
    KbsStatement,
    KeyStatement,
    RuntimeData,
    SessionData,
    StoreStatement,
    TpmSpec,
    TpmStatement,
    certify_qualifier,
    report_data,
)
from vtpm.wire.templates import Role, template, templates


def jwk(curve=None, scalar=7):
    return EcJwk.from_key(ec.derive_private_key(scalar, curve or ec.SECP256R1()).public_key())


def key(role, template_id):
    return KeyStatement(template_id, template(role, template_id).public)


PERSISTENT = StoreStatement(
    mode="persistent",
    format="cocoonfs/1",
    salt=bytes(range(16)),
    created="earlier",
    key_id=b64url(bytes(32)),
    counter=2**127 + 5,
    root=bytes(48),
)
VOLATILE = StoreStatement(
    mode="volatile",
    format="none",
    salt=b"",
    created="this-boot",
    key_id=b64url(bytes(32)),
    counter=0,
    root=b"",
)
SAMPLE = RuntimeData(
    aud="ca.example",
    nonce="bm9uY2U",
    session=jwk(),
    tpm=TpmStatement(
        eks=(key(Role.EK, "L-1"), key(Role.EK, "H-3")),
        iak=key(Role.IAK, "H-3"),
        idevid=key(Role.IDEVID, "H-2"),
        manufacturer="49424d00",
        vendor="SW   TPM",
        firmware="2019102300163636",
        spec=TpmSpec("2.0", "0", "164"),
        origin="manufactured",
    ),
    kbs=KbsStatement(jwk(ec.SECP384R1()), "e30.e30.c2ln"),
    store=PERSISTENT,
)
SESSION = SessionData(
    aud="witness.example",
    nonce="bm9uY2U",
    session=jwk(),
    kbs=SAMPLE.kbs,
    salt=b"\x01",
    key_id=b64url(bytes(32)),
)


def changed(path, value):
    """The sample's canonical bytes with the member at `path` set to `value`, or dropped for `...`."""
    document = SAMPLE.to_json()
    at = document = json.loads(json.dumps(document))
    for step in path[:-1]:
        at = at[step]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return canonical(document)


def refusal(data, parse=RuntimeData.parse):
    with pytest.raises(WireError) as caught:
        parse(data, "runtime_data")
    return caught.value


@pytest.mark.parametrize(
    "sample",
    [
        SAMPLE,
        replace(SAMPLE, store=VOLATILE),
        replace(SAMPLE, store=replace(PERSISTENT, receipt="a.b.c", counter=0, created="this-boot")),
        replace(SAMPLE, kbs=KbsStatement(jwk(), "a.b.c")),
    ],
)
def test_round_trip(sample):
    assert RuntimeData.parse(sample.canonical()) == sample


def test_round_trip_of_a_session():
    assert SessionData.parse(SESSION.canonical()) == SESSION


def test_canonical_bytes_are_those_of_rfc8785():
    assert SAMPLE.canonical() == rfc8785.dumps(SAMPLE.to_json())
    assert json.loads(SAMPLE.canonical())["profile"] == PROFILE == "svsm-vtpm-ca:1"


@pytest.mark.parametrize("role", list(Role))
def test_every_template_of_every_role_is_taken(role):
    for each in templates(role):
        statement = KeyStatement(each.id, each.public)
        assert KeyStatement.parse(statement.to_json(), role, "pub") == statement


def test_report_data_is_sha384_and_16_zeros():
    data = report_data(b"canonical")
    assert data == hashlib.sha384(b"canonical").digest() + b"\x00" * 16
    assert len(data) == 64


def test_certify_qualifier_is_labelled():
    wanted = hashlib.sha256(b"svsm-vtpm-ca:1 certify" + b"\x00" + b"canonical").digest()
    assert certify_qualifier(b"canonical") == wanted


PUB = b64url(template(Role.IAK, "H-3").public)
OFF_CURVE = {"crv": "P-256", "kty": "EC", "x": b64url(bytes(32)), "y": b64url(bytes(31) + b"\x01")}

MALFORMED = [
    (("profile",), "svsm-vtpm-ca:2", "profile"),
    (("profile",), SESSION_PROFILE, "profile"),
    (("aud",), "", "aud"),
    (("aud",), "a" * 129, "aud"),
    (("aud",), "ca.exämple", "aud"),
    (("aud",), ..., "aud"),
    (("nonce",), "n\n", "nonce"),
    (("nonce",), "n" * 257, "nonce"),
    (("nonce",), 5, "nonce"),
    (("session",), {}, "session.jwk"),
    (("session", "alg"), "ES256", "session.alg"),
    (("session", "jwk", "alg"), "ES256", "session.jwk.alg"),
    (("session", "jwk", "crv"), "P-384", "session.jwk.crv"),
    (("session", "jwk"), OFF_CURVE, "session.jwk"),
    (("tpm", "ek"), [], "tpm.ek"),
    (("tpm", "ek"), [{}] * 5, "tpm.ek"),
    (("tpm", "ek"), {}, "tpm.ek"),
    (("tpm", "ek", 0, "pub"), "", "tpm.ek[0].pub.type"),
    (("tpm", "ek", 1, "pub"), PUB + "AA", "tpm.ek[1].pub"),
    (("tpm", "ek", 0, "pub"), PUB[:-1] + "=", "tpm.ek[0].pub"),
    (("tpm", "ek", 0, "pub"), "A" * 1368, "tpm.ek[0].pub"),
    (("tpm", "ek", 0, "template"), "R-3072", "tpm.ek[0].template"),
    (("tpm", "ek", 0, "extra"), "x", "tpm.ek[0].extra"),
    (("tpm", "iak"), [], "tpm.iak"),
    (("tpm", "iak", "template"), "L-1", "tpm.iak.template"),
    (("tpm", "idevid", "pub"), ..., "tpm.idevid.pub"),
    (("tpm", "manufacturer"), "49424D00", "tpm.manufacturer"),
    (("tpm", "manufacturer"), "49424d", "tpm.manufacturer"),
    (("tpm", "vendor"), "v" * 17, "tpm.vendor"),
    (("tpm", "vendor"), "", "tpm.vendor"),
    (("tpm", "firmware"), "20191023", "tpm.firmware"),
    (("tpm", "spec", "family"), "2.0.0", "tpm.spec.family"),
    (("tpm", "spec", "level"), "00", "tpm.spec.level"),
    (("tpm", "spec", "revision"), "1.64", "tpm.spec.revision"),
    (("tpm", "spec", "revision"), 164, "tpm.spec.revision"),
    (("tpm", "spec", "errata"), "0", "tpm.spec.errata"),
    (("tpm", "origin"), "cloned", "tpm.origin"),
    (("kbs", "jwk", "crv"), "P-521", "kbs.jwk.crv"),
    (("kbs", "grant"), "e30.e30", "kbs.grant"),
    (("kbs", "grant"), "e30.e30.c2ln=", "kbs.grant"),
    (("kbs", "grant"), "a.b." + "c" * 4093, "kbs.grant"),
    (("kbs", "grant"), None, "kbs.grant"),
    (("store", "mode"), "ephemeral", "store.mode"),
    (("store", "format"), "cocoonfs", "store.format"),
    (("store", "format"), "cocoonfs/01", "store.format"),
    (("store", "format"), "none", "store.format"),
    (("store", "salt"), "", "store.salt"),
    (("store", "salt"), "0", "store.salt"),
    (("store", "salt"), "00" * 256, "store.salt"),
    (("store", "created"), "never", "store.created"),
    (("store", "key_id"), b64url(bytes(31)), "store.key_id"),
    (("store", "key_id"), b64url(bytes(32))[:-1] + "B", "store.key_id"),
    (("store", "counter"), 5, "store.counter"),
    (("store", "counter"), "05", "store.counter"),
    (("store", "counter"), "-5", "store.counter"),
    (("store", "counter"), str(2**128), "store.counter"),
    (("store", "counter"), "1" * 40, "store.counter"),
    (("store", "root"), "00" * 31, "store.root"),
    (("store", "root"), "", "store.root"),
    (("store", "receipt"), None, "store.receipt"),
    (("store", "receipt"), "receipt", "store.receipt"),
    (("store", "lease"), "1", "store.lease"),
    (("extra",), 1, "extra"),
    (("store",), ..., "store"),
]


@pytest.mark.parametrize(
    ("path", "value", "wanted"), MALFORMED, ids=[f"{i}-{m[2]}" for i, m in enumerate(MALFORMED)]
)
def test_a_malformed_member_is_named(path, value, wanted):
    assert refusal(changed(path, value)).path == "runtime_data." + wanted


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("format", "cocoonfs/1"),
        ("salt", "00"),
        ("created", "earlier"),
        ("counter", "1"),
        ("root", "00" * 32),
        ("receipt", "a.b.c"),
    ],
)
def test_a_volatile_store_claims_nothing_of_a_volume(member, value):
    document = json.loads(replace(SAMPLE, store=VOLATILE).canonical())
    document["store"][member] = value
    assert refusal(canonical(document)).path == f"runtime_data.store.{member}"


@pytest.mark.parametrize(
    ("member", "value"), [("salt", ""), ("key_id", "x"), ("tpm", {}), ("profile", PROFILE), ("aud", ...)]
)
def test_a_malformed_member_of_a_session_is_named(member, value):
    document = json.loads(SESSION.canonical())
    if value is ...:
        del document[member]
    else:
        document[member] = value
    assert refusal(canonical(document), SessionData.parse).path == f"runtime_data.{member}"


def test_a_member_that_stands_twice_is_named():
    data = SAMPLE.canonical().replace(
        b'"origin":"manufactured"', b'"origin":"loaded","origin":"manufactured"'
    )
    assert refusal(data).path == "runtime_data.tpm.origin"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b" " + data,
        lambda data: data + b"\n",
        lambda data: data.replace(b'","', b'", "', 1),
        lambda data: data.replace(b"manufactured", b"m\\u0061nufactured"),
        lambda data: json.dumps(dict(reversed(json.loads(data).items())), separators=(",", ":")).encode(),
    ],
)
def test_other_spellings_of_the_same_document_are_refused(spoil):
    data = spoil(SAMPLE.canonical())
    assert json.loads(data) == json.loads(SAMPLE.canonical())
    error = refusal(data)
    assert (error.path, "canonical" in error.problem) == ("runtime_data", True)


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{", b"\xff", b"{}" + b" " * MAX_RUNTIME_DATA])
def test_what_is_no_document_is_refused(data):
    assert refusal(data).path.startswith("runtime_data")


def test_a_profile_is_not_read_as_the_other():
    assert refusal(SESSION.canonical()).path == "runtime_data.profile"
    assert refusal(SAMPLE.canonical(), SessionData.parse).path == "runtime_data.profile"


PRINTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=16)
STORES = st.builds(
    StoreStatement,
    mode=st.just("persistent"),
    format=st.sampled_from(["cocoonfs/1", "cocoonfs/2"]),
    salt=st.binary(min_size=1, max_size=255),
    created=st.sampled_from(["this-boot", "earlier"]),
    key_id=st.binary(min_size=32, max_size=32).map(b64url),
    counter=st.integers(0, 2**128 - 1),
    root=st.sampled_from([32, 48, 64]).flatmap(lambda n: st.binary(min_size=n, max_size=n)),
    receipt=st.none() | st.just("a.b.c"),
)
DECIMALS = st.integers(0, 10**10 - 1).map(str)
STATEMENTS = st.builds(
    TpmStatement,
    eks=st.lists(
        st.sampled_from([key(Role.EK, t.id) for t in templates(Role.EK)]), min_size=1, max_size=4
    ).map(tuple),
    iak=st.sampled_from([key(Role.IAK, t.id) for t in templates(Role.IAK)]),
    idevid=st.sampled_from([key(Role.IDEVID, t.id) for t in templates(Role.IDEVID)]),
    manufacturer=st.binary(min_size=4, max_size=4).map(bytes.hex),
    vendor=PRINTABLE,
    firmware=st.binary(min_size=8, max_size=8).map(bytes.hex),
    spec=st.builds(TpmSpec, st.just("2.0"), DECIMALS, DECIMALS),
    origin=st.sampled_from(["manufactured", "loaded"]),
)


@given(aud=PRINTABLE, nonce=PRINTABLE, tpm=STATEMENTS, store=STORES | st.just(VOLATILE))
def test_what_is_written_is_read_back(aud, nonce, tpm, store):
    data = replace(SAMPLE, aud=aud, nonce=nonce, tpm=tpm, store=store)
    assert RuntimeData.parse(data.canonical()) == data


@given(st.lists(st.tuples(st.integers(0, 4000), st.binary(max_size=3)), min_size=1, max_size=4))
def test_spoilt_bytes_raise_wire_errors_only(changes):
    data = SAMPLE.canonical()
    for position, filler in changes:
        at = position % len(data)
        data = data[:at] + filler + data[at + len(filler) + 1 :]
    try:
        parsed = RuntimeData.parse(data)
    except WireError as error:
        assert str(error).isascii()  # noqa: PT017 - not every change is an error
        return
    assert parsed.canonical() == data


@given(st.binary(max_size=300))
def test_arbitrary_bytes_raise_wire_errors_only(data):
    for parse in (RuntimeData.parse, SessionData.parse):
        with pytest.raises(WireError):
            parse(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.sampled_from([m[0] for m in MALFORMED if m[1] is not ...]),
    JSON,
)
def test_any_json_in_any_place_raises_wire_errors_only(path, value):
    document = json.loads(SAMPLE.canonical())
    at = document
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    try:
        data = canonical(document)
    except WireError:
        return
    try:
        assert RuntimeData.parse(data).canonical() == data
    except WireError as error:
        assert str(error).isascii()  # noqa: PT017 - a value may happen to fit
