"""What an application hears of a request, and that nothing it says becomes another response than it meant."""

import pytest

from ca_service.service.answer import Client, answer
from ca_service.service.request import BROKEN, read_head

ANYBODY = Client(("192.0.2.1", 4), None, secure=False)


def head(*fields: str, line: str = "GET /a%2Fb%C3%A9?q=%20 HTTP/1.1"):
    return read_head(bytearray("\r\n".join((line, "Host: ca", *fields, "", "")).encode("latin-1")), 100)


def say(status: str, fields: list, *chunks: bytes, line: str = "GET / HTTP/1.1", last: bool = False):
    """The response to a request, when the application says this."""

    def application(_environ, start_response):
        start_response(status, fields)
        return chunks

    return answer(application, head(line=line), b"", ANYBODY, lambda: last)


def heard(*fields: str, client: Client = ANYBODY, content: bytes = b"") -> dict:
    """The environment of a request."""
    found: dict = {}

    def application(environ, start_response):
        found.update(environ, content=environ["wsgi.input"].read())
        start_response("204 No Content", [])
        return []

    answer(application, head(*fields), content, client, lambda: False)
    return found


def test_what_an_application_hears():
    environ = heard("Content-Type: a/b", "Content-Length: 3", "X-Y: 1", "x-y: 2", "X_Y: 3", content=b"abc")
    assert (environ["PATH_INFO"], environ["QUERY_STRING"]) == ("/a/b\u00c3\u00a9", "q=%20")
    assert (environ["CONTENT_TYPE"], environ["CONTENT_LENGTH"], environ["content"]) == ("a/b", "3", b"abc")
    assert environ["HTTP_X_Y"] == "1,2"
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"], environ["vtpm_ca.operator"]) == (
        "192.0.2.1",
        "4",
        None,
    )
    assert "HTTP_CONTENT_TYPE" not in environ
    local = heard(client=Client(None, "root", secure=True))
    assert (local["REMOTE_ADDR"], local["vtpm_ca.operator"], local["wsgi.url_scheme"]) == (
        "",
        "root",
        "https",
    )
    assert "REMOTE_PORT" not in local


def test_the_length_is_that_of_what_there_is():
    found = say("200 OK", [("X", "y")], b"ab", b"", b"c")
    first, content = found.parts
    assert first.startswith(b"HTTP/1.1 200 OK\r\nServer: vtpm-ca\r\nDate: ")
    assert first.endswith(b" GMT\r\nConnection: keep-alive\r\nX: y\r\nContent-Length: 3\r\n\r\n")
    assert (content, found.keep) == (b"abc", True)


def test_what_the_server_says_itself_an_application_does_not():
    fields = [("connection", "close"), ("Date", "x"), ("Server", "x"), ("Transfer-Encoding", "chunked")]
    found = say("200 OK", fields, b"abc")
    assert found.keep
    names = [line.partition(b":")[0].lower() for line in found.parts[0].split(b"\r\n")[1:-2]]
    assert names == [b"server", b"date", b"connection", b"content-length"]
    assert b": x" not in found.parts[0]


@pytest.mark.parametrize(
    ("status", "line", "length"),
    [
        ("200 OK", "HEAD / HTTP/1.1", "3"),
        ("200 OK", "HEAD / HTTP/1.1", None),
        ("204 No Content", "GET / HTTP/1.1", None),
        ("304 Not Modified", "GET / HTTP/1.1", None),
    ],
)
def test_responses_without_content(status, line, length):
    fields = [] if length is None else [("content-length", length)]
    (only,) = say(status, fields, b"abc", line=line).parts
    assert only.endswith(b"\r\n\r\n")
    assert (b"ength: 3" in only) == (length is not None)


@pytest.mark.parametrize(
    ("line", "last", "keep"),
    [
        ("GET / HTTP/1.1", False, True),
        ("GET / HTTP/1.1", True, False),
        ("GET / HTTP/1.0", False, False),
    ],
)
def test_the_connection_is_what_its_field_says(line, last, keep):
    found = say("200 OK", [], b"abc", line=line, last=last)
    assert found.keep == keep
    assert (b"Connection: keep-alive" in found.parts[0], b"Connection: close" in found.parts[0]) == (
        keep,
        not keep,
    )


@pytest.mark.parametrize(
    ("status", "field"),
    [
        ("200 OK", ("X", "y\r\nZ: 1")),
        ("200 OK", ("X", "y\n")),
        ("200 OK", ("X\r\nZ", "1")),
        ("200 OK", ("X: a", "1")),
        ("200 OK", ("", "1")),
        ("200 OK", ("X", "\u20ac")),
        ("200 OK", ("X", "\x00")),
        ("200 OK", ("Content-Length", "4")),
        ("200 OK", ("Content-Length", "+3")),
        ("200 OK\r\nZ: 1", ("X", "y")),
        ("100 Continue", ("X", "y")),
        ("OK", ("X", "y")),
    ],
)
def test_what_would_be_read_as_something_else_is_a_failure(status, field):
    found = say(status, [field], b"abc")
    assert (found.parts, found.keep) == ((BROKEN.response(),), False)


def test_an_application_that_says_nothing_has_failed_and_the_last_word_counts():
    def silent(_environ, _start_response):
        return [b"abc"]

    def wavering(_environ, start_response):
        start_response("200 OK", [])
        start_response("500 Internal Server Error", [])(b"first ")
        return [b"then"]

    asked = [answer(one, head(), b"", ANYBODY, lambda: False) for one in (silent, wavering)]
    assert asked[0].parts == (BROKEN.response(),)
    assert asked[1].parts[0].startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert asked[1].parts[1] == b"first then"
