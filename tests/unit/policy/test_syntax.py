"""Syntax: what is no TOML is refused at a line and column, and no text takes more time than its length deserves."""

import contextlib
import re
import time
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ca_service.judgment import BadRequest
from ca_service.policy import example_document, load
from ca_service.policy.document.syntax import MAX_DOCUMENT, MOST_PARTS, parse

LONG = "x." * MOST_PARTS + "x"
"""A key of one part too many."""

WRONG = [
    ("schema = 1\n[grant]\nmax_age_s = = 3\n", "is not TOML: Invalid value (at line 3, column 13)"),
    ("schema = 1\nschema = 2\n", "is not TOML: Cannot overwrite a value (at line 2, column 11)"),
    ("schema = 1\n\n[grant]\n[grant]\n", "is not TOML: Cannot declare ('grant',) twice (at line 4, column 7)"),
    (
        "schema = 1\n[kbs",
        "is not TOML: Expected ']' at the end of a table declaration (at line 2, column 5, the end of the document)",
    ),
    ('a = """b', "is not TOML: Unterminated string (at line 1, column 9, the end of the document)"),
    ("a = [1,\n", "is not TOML: Invalid value (at line 2, column 1, the end of the document)"),
    ("a = 2026-02-30", "is not TOML: Invalid date or datetime (at line 1, column 5)"),
    ("\ufeffa = 1", "is not TOML: Invalid statement (at line 1, column 1)"),
    ("a = 1\n# \x00", r"is not TOML: Found invalid character '\x00' (at line 2, column 3)"),
    ("\n  a = " + "9" * 4301, "is not TOML: a number of too many digits (at line 2, column 7)"),
    ('s = "' + "9" * 5000 + '"\nb = -' + "9" * 4301, "is not TOML: a number of too many digits (at line 2, column 6)"),
    ("\na = " + "[" * 50_000, "is not TOML: nested too deeply (at line 2, column 50004)"),
    ("\n" + LONG + " = 1", f"a key of more than {MOST_PARTS} parts (at line 2, column 1)"),
    ("[" + LONG + "]", f"a key of more than {MOST_PARTS} parts (at line 1, column 2)"),
    ("a = { b = 1, " + LONG + " = 1 }", f"a key of more than {MOST_PARTS} parts (at line 1, column 14)"),
    ('"=".' * MOST_PARTS + "a = 1", f"a key of more than {MOST_PARTS} parts (at line 1, column 1)"),
    ("a = '''it's''' # don't\n" + LONG + " = 'q'", f"a key of more than {MOST_PARTS} parts (at line 2, column 1)"),
    ('a = """b"""""\n' + LONG + ' = "q"', f"a key of more than {MOST_PARTS} parts (at line 2, column 1)"),
    ('a = { b = """c"""", ' + LONG + ' = "d" }', f"a key of more than {MOST_PARTS} parts (at line 1, column 21)"),
    ("a = { b = '''c''''', " + LONG + " = 'd' }", f"a key of more than {MOST_PARTS} parts (at line 1, column 22)"),
    ('a = "\\\\"\n' + LONG + ' = "q"', f"a key of more than {MOST_PARTS} parts (at line 2, column 1)"),
    ("#" * (MAX_DOCUMENT + 1), f"must be at most {MAX_DOCUMENT} characters long"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "detail"), WRONG, ids=range(len(WRONG)))
def test_what_is_no_toml_is_refused_at_its_place(text, detail):
    with pytest.raises(BadRequest) as caught:
        parse(text)
    assert caught.value.code == "policy-invalid"
    assert caught.value.path == ""
    assert caught.value.detail.endswith(detail)


@pytest.mark.parametrize(
    "text",
    [
        f'a = "{LONG}"',
        f"a = '{LONG}' # {LONG}",
        f'a = """\n{LONG}"\n\\"""{LONG}"""',
        f"a = '''{LONG}\n''{LONG}'''",
        "a = [" + "1.5, " * 1000 + "]",
        f"{LONG.removeprefix('x.')} = 1",
        'a = { b = "1.55.29" }\n' * 0 + "c = [" + '{ d = "1.55.29", e.f = 1 }, ' * 100 + "]",
    ],
)
def test_dots_elsewhere_than_in_keys_do_not_count(text):
    assert parse(text) == tomllib.loads(text)


_PIECES = st.sampled_from(
    [
        '"',
        "'",
        '"""',
        "'''",
        "\\",
        "\n",
        "#",
        "=",
        ".",
        ",",
        "{",
        "}",
        "[",
        "]",
        "a",
        "1",
        " ",
        "a.b",
        "x = 1",
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(_PIECES, max_size=40).map("".join))
def test_whatever_the_reader_takes_is_taken_and_means_the_same(text):
    try:
        wanted = tomllib.loads(text)
    except ValueError:
        with pytest.raises(BadRequest, match=r"line \d+, column \d+"):
            parse(text)
        return
    assert parse(text) == wanted


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(['"=".', "'{'.", '"#".', "a . ", '"\\"".', "b."]), min_size=1, max_size=30),
    st.sampled_from(["", "x = '''it's'''\n", 'x = """a"""""\n', 'x = ["#"] # "\n', "x = {y = 'q'}\n"]),
)
def test_no_key_of_too_many_parts_hides_in_quotes(parts, before):
    text = before + "".join(parts) + "c = 1"
    if len(parts) < MOST_PARTS:
        assert parse(text) == tomllib.loads(text)
    else:
        with pytest.raises(BadRequest, match="of more than"):
            parse(text)


def seconds(text):
    start = time.process_time()
    with contextlib.suppress(BadRequest):
        load(text)
    return time.process_time() - start


@pytest.mark.parametrize(
    "piece",
    [
        '\\"""\n', "x'''\n", '"""\\\n', '\\"', "'a\n", '"a\n', 'a = "\\\n', '"' * 7, "'" * 7, "9" * 4000 + "\n", "1.",
        "[", "{", "a = {", "[[kbs]]\n", "[kbs]\n", "\\" * 9,
        "".join(f"{chr(97 + i)}." for i in range(MOST_PARTS - 2)) + '"\\\\" = 1\n',
    ],
)  # fmt: skip
def test_twice_the_text_takes_no_four_times_the_time(piece):
    def text(size):
        return piece * (size // len(piece)) + "\nb = " + "9" * 5000

    small, large = (min(seconds(text(size)) for _ in range(2)) for size in (12_000, 96_000))
    # Eight times the length: a quadratic step would take 64 times the time.
    assert large < 24 * small + 0.05


_NAME = re.compile(r"[a-z_]+")


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_a_mutated_example_is_a_policy_or_refused(data):
    text = example_document(data.draw(st.sampled_from(["simulation.toml", "production.toml"])))
    text = re.sub(r"(?m)^# (\[|[a-z_]+ = )", r"\1", text)
    lines = text.splitlines(keepends=True)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(lines) - 1))
        kind = data.draw(st.sampled_from(["drop", "twice", "swap", "cut", "insert", "name"]))
        line = lines[at]
        other = data.draw(st.integers(0, len(lines) - 1))
        spot = data.draw(st.integers(0, len(line)))
        lines[at] = {
            "drop": "",
            "twice": line * 2,
            "swap": lines[other],
            "cut": line[:spot],
            "insert": line[:spot] + data.draw(st.text(max_size=3) | _PIECES) + line[spot:],
            "name": _NAME.sub(
                data.draw(st.sampled_from(["kbs", "x", "from", "id", "schema"])), line, count=1
            ),
        }[kind]
    start = time.process_time()
    said = "loaded"
    try:
        load("".join(lines))
    except BadRequest as error:
        said = error.detail
    assert said.isascii()
    assert said.isprintable()
    assert time.process_time() - start < 2
