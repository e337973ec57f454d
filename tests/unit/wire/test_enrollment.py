import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtpm.wire import enrollment
from vtpm.wire.encoding import b64url, canonical
from vtpm.wire.enrollment import (
    MAX_BODY,
    ActivationRequest,
    CertificateEntry,
    CertificatesReply,
    Certify,
    Challenge,
    ChallengeReply,
    Directory,
    DirectoryIssuer,
    EnrollmentRequest,
    EnrollmentState,
    Evidence,
    NonceReply,
    Problem,
    parse_time,
    time_text,
)
from vtpm.wire.errors import WireError
from vtpm.wire.log import Proof
from vtpm.wire.runtime_data import PROFILE

EVIDENCE = Evidence(PROFILE, b"{}", bytes(1184), b"table", "a.b.c")
ENTRY = CertificateEntry("H-3", b"leaf", (b"issuing", b"root"))
EXPIRES = "2026-01-31T23:59:59Z"
MESSAGES = [
    NonceReply("nonce", "ca.example", EXPIRES),
    EnrollmentRequest(EVIDENCE, Certify(b"attest", b"signature")),
    EnrollmentRequest(Evidence(PROFILE, b"{}", bytes(1184)), None),
    ChallengeReply(
        "e1_-", (Challenge(bytes(34), b"blob", b"secret"), Challenge(bytes(50), b"b", b"s")), EXPIRES
    ),
    ActivationRequest((b"one", b"two")),
    CertificatesReply("e1", "d1", (ENTRY, ENTRY), ENTRY, ENTRY),
    EnrollmentState("e1", "challenged", "d1", EXPIRES),
    Problem(
        "urn:vtpm-ca:error:refused", "Refused", 403, "No.", "refused", "snp.vmpl", "d1", "a.b", True, "i"
    ),
    Problem("urn:vtpm-ca:error:malformed", "", 400, "", "malformed"),
    Directory(
        "ca.example",
        "simulation",
        (PROFILE,),
        (DirectoryIssuer("root", "", "00" * 32, "http://ca/root.cer"),),
        {"nonces": "/v1/nonces"},
        {"body_bytes": MAX_BODY},
    ),
]
OPEN = (Problem, Directory)


def dump(document):
    return json.dumps(document).encode()


def members(entry: CertificateEntry) -> dict[str, object]:
    found = {
        "template": entry.template,
        "certificate": b64url(entry.certificate),
        "chain": [b64url(certificate) for certificate in entry.chain],
    }
    if entry.log is not None:
        found["log"] = {
            "leaf": b64url(entry.log.leaf),
            "position": str(entry.log.position),
            "path": [b64url(hash_) for hash_ in entry.log.path],
        }
    return found


some_bytes = st.binary(max_size=40)
some_text = st.text(max_size=9)
chains = st.lists(some_bytes, max_size=3).map(tuple)
proofs = st.builds(Proof, some_bytes, st.integers(0, 2**63), chains)
entries = st.builds(CertificateEntry, some_text, some_bytes, chains, st.none() | proofs)


@given(some_text, some_text, st.lists(entries, max_size=2), entries, entries, st.none() | some_bytes)
def test_certificates_are_written_in_the_canonical_form(id_, decision_id, ek, iak, idevid, checkpoint):
    expected = {
        "id": id_,
        "decision_id": decision_id,
        "ek": [members(entry) for entry in ek],
        "iak": members(iak),
        "idevid": members(idevid),
    }
    if checkpoint is not None:
        expected["checkpoint"] = b64url(checkpoint)
    reply = CertificatesReply(id_, decision_id, tuple(ek), iak, idevid, checkpoint)
    assert reply.to_bytes() == canonical(expected)
    assert reply.to_json() == expected


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_round_trip(message):
    assert type(message).parse(dump(message.to_json())) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_an_unknown_member_is_refused_unless_the_document_may_grow(message):
    data = dump({**message.to_json(), "extra": 1})
    if isinstance(message, OPEN):
        assert type(message).parse(data) == message
    else:
        with pytest.raises(WireError) as caught:
            type(message).parse(data)
        assert caught.value.path == "extra"


OPTIONAL = {
    EnrollmentRequest: {"certify"},
    Problem: {"title", "detail", "rule", "decision_id", "pointer", "instance", "retryable"},
}


@pytest.mark.parametrize(
    ("message", "member"),
    [(m, name) for m in MESSAGES for name in m.to_json()],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_member_that_is_missing_or_null_is_named(message, member):
    document = {**message.to_json(), member: None}
    with pytest.raises(WireError) as caught:
        type(message).parse(dump(document))
    assert caught.value.path == member
    del document[member]
    if member in OPTIONAL.get(type(message), ()):
        type(message).parse(dump(document))
        return
    with pytest.raises(WireError) as caught:
        type(message).parse(dump(document))
    assert caught.value.path == member


def refusal(message, path, value):
    document = json.loads(dump(message.to_json()))
    at = document
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    with pytest.raises(WireError) as caught:
        type(message).parse(dump(document))
    return caught.value.path


NONCE, REQUEST, _, CHALLENGES, ACTIVATION, CERTIFICATES, STATE, PROBLEM, _, DIRECTORY = MESSAGES

BAD = [
    (NONCE, ("nonce",), "n" * 257, "nonce"),
    (NONCE, ("expires",), "2026-01-31T23:59:59+00:00", "expires"),
    (NONCE, ("expires",), "2026-02-30T23:59:59Z", "expires"),
    (NONCE, ("expires",), "2026-01-31 23:59:59Z", "expires"),
    (REQUEST, ("evidence", "profile"), "svsm-vtpm-session:1", "evidence.profile"),
    (REQUEST, ("evidence", "runtime_data"), "", "evidence.runtime_data"),
    (REQUEST, ("evidence", "runtime_data"), "A" * 21848, "evidence.runtime_data"),
    (REQUEST, ("evidence", "report"), b64url(bytes(1183)), "evidence.report"),
    (REQUEST, ("evidence", "report"), b64url(bytes(1185)), "evidence.report"),
    (REQUEST, ("evidence", "certificates"), b64url(bytes(16385)), "evidence.certificates"),
    (REQUEST, ("evidence", "ear"), "token", "evidence.ear"),
    (REQUEST, ("evidence", "policy"), "x", "evidence.policy"),
    (REQUEST, ("certify", "attest"), "", "certify.attest"),
    (REQUEST, ("certify", "signature"), b64url(bytes(1025)), "certify.signature"),
    (REQUEST, ("certify", "scheme"), "x", "certify.scheme"),
    (CHALLENGES, ("id",), "a/b", "id"),
    (CHALLENGES, ("id",), "a" * 65, "id"),
    (CHALLENGES, ("challenges",), [], "challenges"),
    (CHALLENGES, ("challenges",), [{}] * 5, "challenges"),
    (CHALLENGES, ("challenges", 1, "ek"), "00" * 35, "challenges[1].ek"),
    (CHALLENGES, ("challenges", 0, "ek"), "00" * 67, "challenges[0].ek"),
    (CHALLENGES, ("challenges", 0, "credential_blob"), b64url(bytes(257)), "challenges[0].credential_blob"),
    (CHALLENGES, ("challenges", 0, "secret"), "", "challenges[0].secret"),
    (ACTIVATION, ("secrets",), [], "secrets"),
    (ACTIVATION, ("secrets",), ["AA"] * 5, "secrets"),
    (ACTIVATION, ("secrets", 1), "", "secrets[1]"),
    (ACTIVATION, ("secrets", 0), 7, "secrets[0]"),
    (ACTIVATION, ("secrets", 0), b64url(bytes(65)), "secrets[0]"),
    (ACTIVATION, ("secrets", 0), "AB", "secrets[0]"),
    (CERTIFICATES, ("ek",), [], "ek"),
    (CERTIFICATES, ("ek", 1, "chain"), [], "ek[1].chain"),
    (CERTIFICATES, ("iak", "chain", 1), "", "iak.chain[1]"),
    (CERTIFICATES, ("idevid", "certificate"), b64url(bytes(4097)), "idevid.certificate"),
    (CERTIFICATES, ("decision_id",), "", "decision_id"),
    (STATE, ("state",), "done", "state"),
    (PROBLEM, ("status",), 200, "status"),
    (PROBLEM, ("status",), "403", "status"),
    (PROBLEM, ("detail",), "No\n", "detail"),
    (PROBLEM, ("retryable",), "yes", "retryable"),
    (DIRECTORY, ("mode",), "test", "mode"),
    (DIRECTORY, ("profiles",), [1], "profiles[0]"),
    (DIRECTORY, ("issuers", 0, "sha256"), "00", "issuers[0].sha256"),
    (DIRECTORY, ("urls",), [], "urls"),
    (DIRECTORY, ("urls",), {"a\n": "/"}, "urls"),
    (DIRECTORY, ("urls",), {"a": 1}, "urls.a"),
    (DIRECTORY, ("limits",), {"a": -1}, "limits.a"),
]


@pytest.mark.parametrize(
    ("message", "path", "value", "wanted"), BAD, ids=[f"{i}-{b[3]}" for i, b in enumerate(BAD)]
)
def test_a_malformed_member_is_named(message, path, value, wanted):
    assert refusal(message, path, value) == wanted


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_a_body_above_the_limit_is_refused(message):
    data = dump(message.to_json())
    assert type(message).parse(data + b" " * (MAX_BODY - len(data))) == message
    with pytest.raises(WireError):
        type(message).parse(data + b" " * (MAX_BODY - len(data) + 1))


def test_secrets_are_not_shown():
    assert b"one".hex() not in repr(ACTIVATION)
    assert "one" not in repr(ACTIVATION)


def test_a_problem_leaves_out_what_it_does_not_say():
    assert MESSAGES[8].to_json() == {
        "type": "urn:vtpm-ca:error:malformed",
        "status": 400,
        "code": "malformed",
        "retryable": False,
    }


def test_time_is_utc_in_whole_seconds():
    moment = datetime(2026, 2, 1, 0, 59, 59, 999999, timezone(timedelta(hours=1)))
    assert time_text(moment) == EXPIRES
    assert parse_time(EXPIRES, "at") == datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC)


@given(st.datetimes(timezones=st.just(UTC)).map(lambda moment: moment.replace(microsecond=0)))
def test_times_are_read_back(moment):
    assert parse_time(time_text(moment), "at") == moment


@given(st.text(max_size=25))
def test_arbitrary_times_raise_wire_errors_only(text):
    with pytest.raises(WireError):
        parse_time(text, "at")


BYTES = st.binary(min_size=1, max_size=64)
ENTRIES = st.builds(
    CertificateEntry,
    st.sampled_from(["L-1", "H-3"]),
    BYTES,
    st.lists(BYTES, min_size=1, max_size=4).map(tuple),
)
PATHS = st.lists(st.binary(min_size=32, max_size=32), max_size=5).map(tuple)
LOGGED = st.builds(replace, ENTRIES, log=st.builds(Proof, BYTES, st.integers(0, 2**63 - 1), PATHS))


@given(
    st.builds(
        CertificatesReply,
        st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True),
        st.just("d"),
        st.lists(ENTRIES, min_size=1, max_size=4).map(tuple),
        ENTRIES,
        ENTRIES,
    )
    | st.builds(
        CertificatesReply, st.just("e"), st.just("d"), st.tuples(LOGGED), LOGGED, LOGGED, checkpoint=BYTES
    )
    | st.builds(ActivationRequest, st.lists(BYTES, min_size=1, max_size=4).map(tuple))
    | st.builds(
        EnrollmentRequest,
        st.builds(
            Evidence,
            st.just(PROFILE),
            BYTES,
            st.binary(min_size=1184, max_size=1184),
            st.none() | st.binary(max_size=100),
            st.none() | st.just("a.b.c"),
        ),
        st.none() | st.builds(Certify, BYTES, BYTES),
    )
)
def test_what_is_written_is_read_back(message):
    assert type(message).parse(dump(message.to_json())) == message


PARSERS = [getattr(enrollment, type(m).__name__).parse for m in MESSAGES]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(PARSERS), st.binary(max_size=200) | JSON.map(dump))
def test_arbitrary_bytes_raise_wire_errors_only(parse, data):
    with pytest.raises(WireError):
        parse(data)


@given(st.sampled_from(MESSAGES), st.data(), JSON)
def test_any_json_in_any_member_raises_wire_errors_only(message, data, value):
    document = json.loads(dump(message.to_json()))
    at, path = document, []
    while isinstance(at, dict | list) and at:
        step = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        path.append((at, step))
        at = at[step]
    holder, step = path[data.draw(st.integers(0, len(path) - 1))]
    holder[step] = value
    try:
        type(message).parse(dump(document))
    except WireError as error:
        assert str(error).isascii()  # noqa: PT017 - a value may happen to fit
