"""Heads of requests, as bytes: what is taken, what is refused, and that no bytes do more than that."""

import json

import pytest
from gunicorn.http.message import Request
from hypothesis import given
from hypothesis import strategies as st

from ca_service.service.request import (
    _REMEMBERED,
    _RULES,
    _SHORT,
    MOST_HEAD,
    Head,
    Refusal,
    _read_before,
    read_head,
)

MOST_BODY = 1000


def read(data: bytes):
    inbox = bytearray(data)
    return read_head(inbox, MOST_BODY), bytes(inbox)


def request(*fields: str, line: str = "POST /v1/nonces HTTP/1.1", host: str = "Host: ca") -> bytes:
    return "\r\n".join((line, *([host] if host else []), *fields, "", "")).encode("latin-1")


def test_a_head_leaves_what_follows_it():
    head, rest = read(request("Content-Length: 5") + b"abc")
    assert (head.length, head.expects, rest) == (5, False, b"abc")
    assert (head.request.method, head.request.path) == ("POST", "/v1/nonces")


def test_no_content_without_a_length():
    assert read(request())[0].length == 0
    assert read(request(line="GET / HTTP/1.0", host=""))[0].length == 0


def test_an_expectation():
    assert read(request("Expect: 100-continue", "Content-Length: 5"))[0].expects
    assert not read(request("Expect: 100-continue", "Content-Length: 0"))[0].expects
    assert not read(request("Expect: 100-continue"))[0].expects


@pytest.mark.parametrize(
    ("fields", "closes"),
    [
        ([], False),
        (["Connection: keep-alive"], False),
        (["Connection: close"], True),
        (["Connection: Keep-Alive, Close"], True),
        (["Connection: keep-alive", "Connection: close"], True),
        (["Connection: closed"], False),
    ],
)
def test_a_client_that_wants_to_close(fields, closes):
    assert read(request(*fields))[0].request.should_close() == closes


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request("Content-Length: 1001"), 413),
        (request("Content-Length: " + "9" * 4500), 400),
        (request("Content-Length: -1"), 400),
        (request("Content-Length: +1"), 400),
        (request("Content-Length: 1", "Content-Length: 1"), 400),
        (request("Content-Length: 1, 1"), 400),
        (request("Content-Length: \u00b2"), 400),
        (request("Content-Length: 1", "Transfer-Encoding: chunked"), 400),
        (request("Transfer-Encoding: chunked"), 411),
        (request("Transfer-Encoding: gzip, chunked"), 411),
        (request("Transfer-Encoding: gzip"), 400),
        (request("Transfer-Encoding: xchunked"), 411),
        (request("Transfer-Encoding : chunked"), 400),
        (request("Content-Encoding: gzip"), 415),
        (request("Content-Encoding: gzip", "Content-Encoding: identity"), 415),
        (request("Expect: 200-maybe"), 417),
        (request(host=""), 400),
        (request("Host: other"), 400),
        (request("X: a\x00b"), 400),
        (request("X: a", " folded"), 400),
        (request("no colon"), 400),
        (request(": empty"), 400),
        (request(line="GET /\x00 HTTP/1.1"), 400),
        (request(line="GET /\u00e9 HTTP/1.1"), 400),
        (request(line="GET  / HTTP/1.1"), 400),
        (request(line="get / HTTP/1.1"), 400),
        (request(line="GET / HTTP/2.0"), 505),
        (request(line="GET / HTTP/0.9"), 505),
        (request(line="GET /"), 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"PROXY TCP4 192.0.2.9 192.0.2.8 1 2\r\n" + request(), 400),
        (b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a" + request(), 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n", 400),
        (b"GET / HTTP/1.1\nHost: ca\n\n", 400),
        (request(line="GET /" + "a" * 5000 + " HTTP/1.1"), 414),
        (b"G" * 4097, 414),
        (request(*["X: y"] * 65), 431),
        (request("X: " + "y" * 8200), 431),
        (request("X: y") + b"", None),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * (MOST_HEAD // 6), 431),
        (request(*["X: " + "y" * 8000] * 3), 431),
    ],
)
def test_what_is_refused(data, status):
    found, _ = read(data)
    assert (found.status if isinstance(found, Refusal) else None) == status


def test_a_parser_that_reads_less_than_the_head_is_not_trusted(monkeypatch):
    """What it leaves would be taken for the next request."""

    class Short(Request):
        def parse(self, unreader):
            unreader.unread(super().parse(unreader) + b"GET /smuggled HTTP/1.1")
            return b""

    monkeypatch.setattr("ca_service.service.request.Request", Short)
    assert read(request("X: never read before"))[0].status == 400


def test_what_is_remembered_is_bounded_in_number_and_in_bytes():
    def remembered() -> int:
        return _read_before.cache_info().currsize

    _read_before.cache_clear()
    filler = _SHORT - len(request("X: "))
    read(request("X: " + "y" * (filler + 1)))
    assert remembered() == 0
    read(request("X: " + "y" * filler))
    assert remembered() == 1
    for number in range(2 * _REMEMBERED):
        read(request(f"X: {number}"))
    assert remembered() == _REMEMBERED


def test_the_same_head_is_read_once_for_each_bound_and_means_the_same():
    data = request("Content-Length: 3", "X: z", line="POST /a?b HTTP/1.1")
    first, again = (read_head(bytearray(data), 3) for _ in range(2))
    assert first is again
    assert read_head(bytearray(data), 2).status == 413
    assert (
        read_head(bytearray(request("Content-Length: 4", "X: z", line="POST /a?b HTTP/1.1")), 3).status == 413
    )
    assert first.environ["HTTP_X"] == "z"


def test_a_refusal_is_a_problem_document():
    found, _ = read(request("Content-Length: 1001"))
    head, _, body = found.response().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert json.loads(body)["code"] == "too-large"


def test_no_header_says_who_asks_or_how():
    fields = ("X-Forwarded-Proto: https", "X-Forwarded-Ssl: on", "X-Forwarded-Protocol: ssl")
    found, _ = read(request(*fields, "SCRIPT_NAME: /x", "PATH_INFO: /y"))
    assert found.request.scheme == "http"
    assert {name for name, _ in found.request.headers} == {
        "HOST",
        "X-FORWARDED-PROTO",
        "X-FORWARDED-SSL",
        "X-FORWARDED-PROTOCOL",
    }


def test_what_is_installed_beside_gunicorn_reads_no_request():
    assert _RULES.http_parser == "python"
    assert _RULES.proxy_protocol == "off"
    assert (_RULES.secure_scheme_headers, _RULES.forwarder_headers) == ({}, [])


WORDS = st.sampled_from(
    [
        *(b"GET ", b"POST ", b"/", b" HTTP/1.1", b" HTTP/1.0", b"\r\n", b"\r\n", b"\n", b"\r", b"Host: a"),
        *(b"Content-Length: ", b"3", b"Transfer-Encoding: chunked", b"Expect: 100-continue", b":", b" "),
        *(b"\x00", b"\xff", b"%00", b"a" * 5000),
    ]
)
BYTES = st.one_of(st.binary(max_size=200), st.lists(WORDS, max_size=30).map(b"".join))


@given(BYTES, st.booleans())
def test_any_bytes_are_a_head_a_refusal_or_too_few(data, ended):
    data += b"\r\n\r\n" if ended else b""
    found, rest = read(data)
    assert data.endswith(rest)
    if found is None:
        assert (rest, ended) == (data, False)
    elif isinstance(found, Head):
        assert 0 <= found.length <= MOST_BODY
    else:
        assert 400 <= found.status <= 505


@given(BYTES, st.data())
def test_it_does_not_matter_how_they_trickle_in(data, more):
    """What a client gets does not depend on how the network cuts it up, but for refusals that come earlier."""
    data = request("Content-Length: 3", "X: y", line="POST /a HTTP/1.1") + data
    inbox, found = bytearray(), None
    at = 0
    while found is None and at < len(data):
        step = more.draw(st.integers(1, 40))
        inbox += data[at : at + step]
        at += step
        found = read_head(inbox, MOST_BODY)
    assert isinstance(found, Head)
    assert bytes(inbox) + data[at:] == data[len(data) - len(bytes(inbox) + data[at:]) :]
    assert (found.request.path, found.length) == ("/a", 3)
