"""Strict text encodings and strict JSON: one meaning each, and nothing but WireError for the rest."""

import base64
import json
import string

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from vtpm.wire.encoding import (
    _ALPHABET,
    Members,
    b64std,
    b64url,
    b64url_array,
    canonical,
    check_digest,
    is_canonical,
    parse_json,
    quoted,
    spliced,
    unb64std,
    unb64url,
    unhex,
)
from vtpm.wire.errors import WireError

TEXT = st.text(st.characters(), max_size=30)
"""Any Python string, lone surrogates included."""

ENCODED = st.text(string.ascii_letters + string.digits + "-_+/= \n", max_size=12) | TEXT
SAFE = 2**53 - 1
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-SAFE, SAFE) | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


def read(text, **limits):
    data = text if isinstance(text, bytes) else text.encode()
    return parse_json(data, "doc", **{"most": 1 << 20, **limits})


@given(st.binary())
def test_base64_round_trips(data):
    assert unb64url(b64url(data), "p") == data
    assert unb64std(b64std(data), "p") == data
    assert unhex(data.hex(), "p") == data
    assert b64std(data) == base64.b64encode(data).decode()
    assert "=" not in b64url(data)


@given(ENCODED)
@example("AB")
@example("AB==")
@example("A")
@example("AAA=")
@example("AA==")
@example("++__")
@example("AAAA\n")
@example("ÄÄÄÄ")
@example("\ud800")
@example("\u0660\u0660")
@example("00 00")
@example("0A")
def test_each_text_decodes_in_one_way_or_not_at_all(text):
    for decode, encode in ((unb64url, b64url), (unb64std, b64std), (unhex, bytes.hex)):
        try:
            data = decode(text, "p")
        except WireError as error:
            assert error.path == "p"  # noqa: PT017 - refused and accepted texts are both fine, errors of another kind not
        else:
            assert encode(data) == text


@pytest.mark.parametrize("decode", [unb64url, unb64std, unhex])
def test_sizes(decode):
    text = {unb64url: "AAAA", unb64std: "AAAA", unhex: "000000"}[decode]
    assert decode(text, "p", size=3) == decode(text, "p", most=3) == bytes(3)
    for limits in ({"size": 2}, {"size": 4}, {"size": 0}, {"most": 2}, {"most": 0}):
        with pytest.raises(WireError, match="bytes, is 3"):
            decode(text, "p", **limits)


@given(JSON)
def test_json_round_trips(value):
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)):
        assert read(text) == value
    assert read(canonical(value)) == value


@given(st.binary(max_size=100) | TEXT.map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_only_wire_errors_from_any_bytes(data):
    try:
        value = read(data)
    except WireError as error:
        assert error.path.startswith("doc")  # noqa: PT017 - as above
    else:
        assert json.loads(data) == value
        assert read(canonical(value)) == value


@given(JSON, st.data())
def test_only_wire_errors_from_damaged_json(value, data):
    text = bytearray(json.dumps(value).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        text[at : at + data.draw(st.integers(0, 2))] = data.draw(
            st.sampled_from(
                [b"", b'"', b"\\", b"[", b"{", b"}", b",", b"1e9", b"-0", b"\xff", b"\\ud800", b"NaN", b"\0"]
            )
        )
    try:
        read(bytes(text))
    except WireError as error:
        assert error.path.startswith("doc")  # noqa: PT017 - as above


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "{",
        "nul",
        "'a'",
        "[1,]",
        '{"a":1,}',
        '{"a" 1}',
        "1 2",
        "//x\n1",
        "NaN",
        "Infinity",
        "-Infinity",
        "1.0",
        "1e3",
        "1E-3",
        "-0",
        "-0.0",
        "01",
        "+1",
        "0x1",
        '"\t"',
        '"\\x41"',
        '"\\ud800"',
        '{"\\udfff":1}',
        '["\\ud800\\ud800"]',
        b"\xef\xbb\xbf1",
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"\xc0\x80"',
        "1".encode("utf-16"),
        str(2**53),
        str(-(2**53)),
        "1" + "0" * 5000,
    ],
)
def test_texts_that_two_readers_might_read_differently(text):
    with pytest.raises(WireError):
        read(text)


@pytest.mark.parametrize("number", [0, 1, -1, SAFE, -SAFE])
def test_numbers_that_everyone_keeps(number):
    assert read(str(number)) == number


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('{"a":1,"a":1}', "doc.a"),
        ('{"a":1,"\\u0061":2}', "doc.a"),
        ('{"x":{"y":[0,{"b":1,"b":2}]}}', "doc.x.y[1].b"),
        ('[[{"b":1,"b":2}]]', "doc[0][0].b"),
        ('{"a":{"b":1,"b":2},"a":3}', "doc.a"),
        ('{"\\u0000":1,"\\u0000":2}', "doc.?"),
        ('{"":1,"":2}', "doc"),
    ],
)
def test_a_member_twice_is_refused_with_its_path(text, path):
    with pytest.raises(WireError, match="stands twice") as caught:
        read(text)
    assert caught.value.path == path


def test_depth_is_bounded_before_the_recursive_reader_sees_the_text():
    deep = "[" * 16 + "]" * 16
    assert read(deep)
    for text in ("[" + deep + "]", "[[]," * 50, "[" * 100_000, '{"a":' * 100_000):
        with pytest.raises(WireError, match="more than 16 levels"):
            read(text)
    with pytest.raises(WireError, match="more than 2 levels"):
        read("[[[]]]", depth=2)


@pytest.mark.parametrize("text", ["[" * 50, '\\"' + "[" * 50, '\\\\","' + "{" * 50, "]" * 50, '"' + "[" * 50])
def test_brackets_within_strings_are_no_nesting(text):
    assert read(json.dumps([text])) == [text]


def test_closing_brackets_do_not_buy_depth():
    for text in ("]" * 50 + "[" * 50, "[]" * 50 + "[" * 50, '"\\"' + "[" * 50):
        with pytest.raises(WireError):
            read(text)


def test_size_is_bounded():
    assert read("[1]", most=3) == [1]
    with pytest.raises(WireError, match="at most 3 bytes, is 4") as caught:
        read("[1] ", most=3)
    assert caught.value.path == "doc"


@given(JSON)
def test_canonical_form_is_a_fixed_point(value):
    form = canonical(value)
    assert canonical(read(form)) == form


ASCII = st.text(st.characters(max_codepoint=0x7F), max_size=12)
ASCII_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | ASCII,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ASCII, inner, max_size=4),
    max_leaves=12,
)


@given(ASCII_JSON | JSON)
@example({'\x7f\x00\n"\\/': ["\x1f\t", -0, 2**53 - 1]})
@example({"a": [{"b": 1.0}, 1e21]})
def test_the_fast_way_to_the_canonical_form_ends_where_the_slow_one_does(value):
    assert canonical(value) == rfc8785.dumps(value)


@given(st.lists(st.binary(max_size=70), max_size=4).map(tuple))
def test_an_array_of_bytes_is_one_of_texts(items):
    assert b64url_array(items).encode() == canonical([b64url(item) for item in items])


@given(st.text(max_size=12), st.text(max_size=12))
@example("\x7f", '\\u0041"')
def test_fragments_are_spliced_to_the_canonical_form(first, second):
    text = f'{{"a":{quoted(first)},"b":[{quoted(second)}]}}'
    assert spliced(text) == rfc8785.dumps({"a": first, "b": [second]})


def test_half_a_character_is_spliced_to_nothing():
    with pytest.raises(WireError, match="no canonical JSON form"):
        spliced(quoted("\ud800"))


def test_canonical_form_of_the_standards_example():
    """RFC 8785 section 3.2.3: members sorted by UTF-16 code units."""
    names = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    order = list(json.loads(canonical(dict.fromkeys(names, 0))))
    assert order == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


@pytest.mark.parametrize(
    "value",
    [
        2**53,
        float("nan"),
        float("inf"),
        b"bytes",
        {1: 2},
        [{"a": [2**53]}],
        [{"a": {1: 2}}],
        pytest.param(object(), id="object"),
        "\ud800",
        {"\ud800": 1},
        [{"a": {"\udc00": 1}}],
    ],
    ids=repr,
)
def test_what_has_no_canonical_form(value):
    with pytest.raises(WireError, match="no canonical JSON form"):
        canonical(value)


OBJECT = {
    "t": "text",
    "n": 5,
    "b": True,
    "o": {"x": 1},
    "a": [1, 2],
    "u": "AAAA",
    "s": "AA==",
    "h": "00ff",
    "z": None,
}


def test_members_are_read():
    members = Members(dict(OBJECT), "doc")
    assert members.text("t") == "text"
    assert members.one_of("t", ("text", "other")) == "text"
    assert members.integer("n", 5, 5) == 5
    assert members.boolean("b") is True
    inner = members.members("o")
    assert inner.integer("x", 0, 1) == 1
    assert inner.path == "doc.o"
    inner.end()
    assert members.array("a", 2, 2) == [(1, "doc.a[0]"), (2, "doc.a[1]")]
    assert members.b64url("u", size=3) == bytes(3)
    assert members.b64std("s", most=1) == bytes(1)
    assert members.hex("h") == b"\x00\xff"
    assert members.unread() == ["z"]
    with pytest.raises(WireError, match="is no member") as caught:
        members.end()
    assert caught.value.path == "doc.z"
    assert members.has("z")
    assert members.value("z") is None
    members.end()
    assert members.unread() == []
    assert not members.has("missing")


@pytest.mark.parametrize(
    "take",
    [
        lambda m, n: m.value(n),
        lambda m, n: m.text(n),
        lambda m, n: m.one_of(n, ("a",)),
        lambda m, n: m.integer(n, 0, 1),
        lambda m, n: m.boolean(n),
        lambda m, n: m.members(n),
        lambda m, n: m.array(n, 0, 9),
        lambda m, n: m.b64url(n),
        lambda m, n: m.b64std(n),
        lambda m, n: m.hex(n),
    ],
)
@given(value=JSON | st.just(1.5))
def test_only_wire_errors_from_any_member(take, value):
    with pytest.raises(WireError, match="is missing") as caught:
        take(Members({"other": value}, "doc"), "n")
    assert caught.value.path == "doc.n"
    try:
        take(Members({"n": value}, "doc"), "n")
    except WireError as error:
        assert error.path.startswith("doc.n")  # noqa: PT017 - as above


@pytest.mark.parametrize("value", [None, True, 5, "x", [1], []])
def test_only_objects_have_members(value):
    with pytest.raises(WireError, match="must be a JSON object"):
        Members(value, "doc")


@pytest.mark.parametrize("value", [True, False, 1.0, "1", None, -1, 10])
def test_integers_are_integers_within_bounds(value):
    with pytest.raises(WireError):
        Members({"n": value}).integer("n", 0, 9)


@pytest.mark.parametrize("value", [0, 1, None, "true"])
def test_booleans_are_booleans(value):
    with pytest.raises(WireError):
        Members({"n": value}).boolean("n")


@pytest.mark.parametrize("value", ["", "x" * 1025, "\n", "a\x7f", "ä", "\u2028", "\ud800", 5, None])
def test_texts_are_printable_ascii(value):
    with pytest.raises(WireError):
        Members({"n": value}).text("n")


def test_hostile_member_names_are_shown_safely():
    with pytest.raises(WireError) as caught:
        Members({"\x1b[31m\n" + "ä" * 500: 1}, "doc").end()
    assert caught.value.path == "doc.?[31m?" + "?" * 58


def test_errors_move_outwards():
    error = WireError("[0].b", "is wrong").under("a")
    assert (error.path, error.problem, str(error)) == ("a[0].b", "is wrong", "a[0].b: is wrong")
    assert WireError("b", "x").under("a").path == "a.b"
    assert WireError("", "x").under("a").path == "a"
    assert WireError("b", "x").under("").path == "b"
    assert str(WireError("", "x")) == "x"


def has_one_form(text):
    """The definition: what encodes to the text again."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        return None
    return data if base64.urlsafe_b64encode(data).rstrip(b"=").decode() == text else None


@given(
    ENCODED
    | st.binary(max_size=40).map(b64url).flatmap(lambda t: st.sampled_from([t, t + "=", t[:-1], t + "A"]))
)
@example("AA==")
@example("AB")
@example("AAB")
@example("A")
@example("+/-_")
@example("AA\n")
def test_base64url_means_what_encodes_to_it_again(text):
    wanted = has_one_form(text)
    if wanted is None:
        with pytest.raises(WireError):
            unb64url(text, "x")
    else:
        assert unb64url(text, "x") == wanted


DIGEST = st.binary(min_size=32, max_size=32).map(b64url)


@given(
    DIGEST
    | ENCODED
    | st.builds(
        lambda text, last: text[:-1] + last, DIGEST, st.sampled_from([*_ALPHABET, "", "\n", "=", "é"])
    )
    | st.builds(
        lambda text, at, c: text[:at] + c + text[at + 1 :], DIGEST, st.integers(0, 43), st.characters()
    )
)
@example("A" * 43 + "\n")
@example("A" * 42 + "B")
@example("A" * 44)
def test_a_digest_is_a_text_that_stands_for_32_bytes(text):
    try:
        unb64url(text, "p", size=32)
    except WireError as error:
        with pytest.raises(WireError) as caught:
            check_digest(text, "p")
        assert str(caught.value) == str(error)  # noqa: PT017 - the one error says what the other has to
    else:
        assert check_digest(text, "p") == text


@given(JSON, st.sampled_from([None, 1]), st.booleans(), st.booleans())
@example("\x7f", None, True, False)
@example({"\\u007f": "\\"}, None, True, False)
@example({"é": 1, "z": [{}, True]}, None, False, False)
def test_the_canonical_form_is_the_only_one(value, indent, ascii_only, spaced):
    separators = (", ", ": ") if spaced else (",", ":")
    data = json.dumps(value, indent=indent, ensure_ascii=ascii_only, separators=separators).encode()
    read_value = parse_json(data, most=1 << 16, depth=40)
    assert is_canonical(canonical(value), value)
    assert is_canonical(data, read_value) == (canonical(read_value) == data)


@given(st.text('[]{}"\\x', max_size=30), st.integers(0, 4))
def test_brackets_in_strings_do_not_nest(text, depth):
    level = deepest = 0
    inside = escaped = False
    for letter in text:
        if inside:
            inside, escaped = (True, False) if escaped else (letter != '"', letter == "\\")
        elif letter == '"':
            inside = True
        elif letter in "[{":
            level += 1
            deepest = max(deepest, level)
        elif letter in "]}":
            level -= 1
    with pytest.raises(WireError) as refused:
        Members(parse_json(text.encode(), most=100, depth=depth)).text("no such member")
    assert ("nested" in refused.value.problem) == (deepest > depth)
