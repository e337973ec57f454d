"""Bodies that are not what they should be: 400 with the path of the member, wherever it is, and little memory."""

import io
import json
import tracemalloc

import enrollment_world as w
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ca_service.api import Services, create_app
from ca_service.operations import MAX_REQUEST
from vtpm.wire.enrollment import MAX_BODY, Problem

JSON = {"content_type": "application/json"}
OPERATOR = {"environ_overrides": {"vtpm_ca.operator": "alice"}}
ENROLMENTS, ACTIVATION, OPERATION = "/v1/enrollments", "/v1/enrollments/00/activation", "/operator/v1/echo"


@pytest.fixture(scope="module")
def client(ceremony):
    """None of these requests gets as far as to change anything."""
    world = w.World(ceremony.directory, ceremony.authority)
    store = world.new_store()
    enroller = world.enroller(store)
    yield create_app(Services(store, enroller, lambda _name, _by, parameters: parameters)).test_client()
    store.close()


def refused(client, path: str, body: bytes, status: int = 400) -> Problem:
    response = client.post(path, data=body, **JSON, **(OPERATOR if path == OPERATION else {}))
    assert response.status_code == status, response.data
    assert response.content_type == "application/problem+json"
    return Problem.parse(response.data)


MANY = b"9" * 5000
WRONG = {
    "no JSON": (b"{", "", "must be JSON"),
    "nothing": (b" ", "", "must be JSON"),
    "garbage after it": (b'{"evidence":{}}x', "", "must be JSON"),
    "two of them": (b"{}{}", "", "must be JSON"),
    "a comma too many": (b'{"a":{},}', "", "must be JSON"),
    "a comment": (b"{/**/}", "", "must be JSON"),
    "single quotes": (b"{'a':1}", "", "must be JSON"),
    "a raw control character": (b'{"a":"\x01"}', "", "must be JSON"),
    "a zero byte after it": (b"{}\x00", "", "must be JSON"),
    "a byte order mark": (b"\xef\xbb\xbf{}", "", "must be JSON"),
    "UTF-16": ('{"a":"x"}'.encode("utf-16"), "", "must be UTF-8 text"),
    "UTF-16 without a mark": ('{"a":"x"}'.encode("utf-16-le"), "", "must be JSON"),
    "UTF-32": ('{"a":"x"}'.encode("utf-32"), "", "must be UTF-8 text"),
    "Latin-1": (b'{"a":"\xe4"}', "", "must be UTF-8 text"),
    "overlong UTF-8": (b'{"a":"\xc0\xaf"}', "", "must be UTF-8 text"),
    "a surrogate in UTF-8": (b'{"a":"\xed\xa0\x80"}', "", "must be UTF-8 text"),
    "half a pair": (rb'{"a":"\ud800"}', "", "must be UTF-8 text"),
    "half a pair in a name": (rb'{"\udfff":1}', "", "must be UTF-8 text"),
    "a member twice": (b'{"a":{"b":[0,{"c":1,"c":1}]}}', "a.b[1].c", "the member stands twice"),
    "a member twice, spelled otherwise": (rb'{"a":{"x":1,"\u0078":1}}', "a.x", "the member stands twice"),
    "NaN": (b'{"a":[NaN]}', "a[0]", "numbers must be"),
    "Infinity": (b'{"a":{"b":-Infinity}}', "a.b", "numbers must be"),
    "a fraction": (b'{"a":{"b":1.5}}', "a.b", "numbers must be"),
    "an exponent": (b'{"a":1e3}', "a", "numbers must be"),
    "minus nothing": (b'{"a":-0}', "a", "numbers must be"),
    "an unsafe integer": (b'{"a":{"b":[1,9007199254740992]}}', "a.b[1]", "numbers must be"),
    "a huge integer": (b'{"a":{"b":' + MANY + b"}}", "a.b", "numbers must be"),
    "a huge exponent": (b'{"a":1e' + MANY + b"}", "a", "numbers must be"),
    "deep arrays": (b'{"a":' + b"[" * 2000 + b"]" * 2000 + b"}", "", "is nested more than"),
    "deep objects": (b'{"a":' * 2000 + b"1" + b"}" * 2000, "", "is nested more than"),
    "deep and unfinished": (b"[" * 60_000, "", "is nested more than"),
    "an array": (b"[]", "", "must be a JSON object"),
    "a string": (b'"x"', "", "must be a JSON object"),
    "null": (b"null", "", "must be a JSON object"),
    "a number": (b"1", "", "must be a JSON object"),
}


@pytest.mark.parametrize("path", [ENROLMENTS, ACTIVATION, OPERATION])
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_message(client, path, wrong):
    body, pointer, problem = WRONG[wrong]
    found = refused(client, path, body)
    assert (found.code, found.pointer) == ("malformed", pointer)
    assert problem in found.detail
    assert not found.retryable


FORMS = {
    "missing": ({}, "evidence", "is missing"),
    "unknown": ({"evidence": None, "subject": "CN=x"}, "evidence", "must be a JSON object"),
    "of another kind": ({"evidence": {"profile": 7}}, "evidence.profile", "must be a string"),
    "null": ({"evidence": {"profile": None}}, "evidence.profile", "must be a string"),
    "of another choice": ({"evidence": {"profile": "x"}}, "evidence.profile", "must be one of"),
    "empty": (
        {"evidence": {"profile": "svsm-vtpm-ca:1", "runtime_data": ""}},
        "evidence.runtime_data",
        "must be 1 to 16384 bytes",
    ),
    "padded": (
        {"evidence": {"profile": "svsm-vtpm-ca:1", "runtime_data": "AA=="}},
        "evidence.runtime_data",
        "must be base64url without padding",
    ),
    "too long": (
        {"evidence": {"profile": "svsm-vtpm-ca:1", "runtime_data": "A" * 21848}},
        "evidence.runtime_data",
        "must be at most 16384 bytes",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_member_that_is_wrong_is_named(client, form):
    document, pointer, problem = FORMS[form]
    found = refused(client, ENROLMENTS, json.dumps(document).encode())
    assert (found.code, found.pointer) == ("malformed", pointer)
    assert problem in found.detail


def test_what_was_sent_is_not_sent_back(client):
    """An answer may be looked at where the request may not: names are cut and made safe, values never appear."""
    name = "<script>\u202e" + "x" * 300
    body = json.dumps({"secrets": ["c2VjcmV0"], name: "hunter2"}, ensure_ascii=False).encode()
    found = refused(client, ACTIVATION, body)
    assert found.pointer.startswith("<script>?x")
    assert len(found.pointer) <= 64
    assert b"hunter2" not in json.dumps(found.to_json()).encode()
    assert b"c2VjcmV0" not in json.dumps(found.to_json()).encode()


@pytest.mark.parametrize(
    ("path", "most"), [(ENROLMENTS, MAX_BODY), (ACTIVATION, MAX_BODY), (OPERATION, MAX_REQUEST)]
)
def test_sizes(client, path, most):
    found = refused(client, path, b" " * (most + 1), 413)
    assert (found.code, found.retryable) == ("too-large", False)
    assert refused(client, path, b" " * most).code == "malformed"


def test_memory_is_bounded_by_the_body(client):
    """A body that would unfold is refused before anything of it is built."""
    deep = b'{"a":' + b"[" * 32_000 + b"]" * 32_000 + b"}"
    wide = b'{"evidence":[' + b"{}," * 20_000 + b"{}]}"
    refused(client, ENROLMENTS, wide)
    tracemalloc.start()
    try:
        for body, most in ((deep, 1 << 20), (wide, 8 << 20), (b'{"a":' + b"9" * 60_000 + b"}", 1 << 20)):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            refused(client, ENROLMENTS, body)
            assert tracemalloc.get_traced_memory()[1] - before < most
    finally:
        tracemalloc.stop()


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.binary(max_size=80)
    | st.lists(
        st.sampled_from(
            [b"{", b"}", b"[", b"]", b'"', b":", b",", b'"evidence"', b'"profile"', b"1", b"\\", b"\xff"]
        ),
        max_size=30,
    ).map(b"".join)
)
def test_whatever_is_sent_there_is_a_problem(client, body):
    for path in (ENROLMENTS, ACTIVATION):
        assert refused(client, path, body).code == "malformed"


class Socket(io.BytesIO):
    """What another server gives to the application: to read beyond the content waits for the next request."""

    def read(self, size=-1):
        if not 0 <= size <= len(self.getvalue()) - self.tell():
            pytest.fail("reads beyond the content")
        return super().read(size)

    def readinto(self, buffer):
        found = self.read(min(len(buffer), len(self.getvalue()) - self.tell()))
        buffer[: len(found)] = found
        return len(found)


@pytest.mark.parametrize("path", [ENROLMENTS, ACTIVATION, OPERATION])
def test_no_more_is_read_than_a_request_has(client, path):
    who = OPERATOR if path == OPERATION else {}
    found = client.post(path, input_stream=Socket(b"[]"), content_length=2, **JSON, **who)
    assert found.status_code == 400


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(("path", "most"), [(ENROLMENTS, MAX_BODY), (OPERATION, MAX_REQUEST)])
def test_what_is_too_long_is_refused_whichever_server_read_it(client, path, most, whole):
    environ = {"wsgi.input_terminated": whole}
    if path == OPERATION:
        environ |= OPERATOR["environ_overrides"]
    for size, status in ((most + 1, 413), (most, 400)):
        assert client.post(path, data=b" " * size, **JSON, environ_overrides=environ).status_code == status
