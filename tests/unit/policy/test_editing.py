"""Edits of key brokers change one entry and nothing else: neither what else the document says nor how it is written."""

import json
import tomllib
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ca_service.judgment import BadRequest, Conflict, NotFound, VtpmCaError
from ca_service.policy import load
from ca_service.policy.editing.brokers import (
    Terms,
    compromised,
    suspended,
    trusted,
    with_broker,
)
from ca_service.policy.editing.key_file import read_key
from ca_service.policy.editing.layout import entries
from vtpm.wire.jwk import EcJwk

AT = datetime(2026, 11, 26, 12, tzinfo=UTC)
PRIVATE = [ec.derive_private_key(2001 + n, ec.SECP384R1()) for n in range(9)]
KEYS = [EcJwk.from_key(key.public_key()) for key in PRIVATE]
PEMS = [
    key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode() for key in PRIVATE
]
TERMS = Terms(("new/vtpm/*",), ("kbs-generated",), shared=("new/pool/*",))
NAMES = ("one", "two", "three")

comments = st.sampled_from(
    [
        "# plain",
        "# [[kbs]]",
        '# "quoted',
        "# it's",
        "#",
        "# status = 'trusted'",
        "# ]} \N{EURO SIGN}",
        '# """',
    ]
)
notes = st.lists(comments | st.just(""), max_size=2)
ends = st.just("") | comments.map(lambda comment: f"  {comment}")
labels = st.sampled_from(['"[[kbs]]"', "'# no comment'", '"a \\" ["', '"""x \\\n  y"""', "'''z''a'''"])


@st.composite
def headed(draw, name: str, key: int):
    """An entry under headers of its own."""
    lines = [draw(st.sampled_from(["[[kbs]]", "  [[kbs]]"])) + draw(ends), f'id = "{name}"']
    status = draw(st.sampled_from(["trusted", "suspended", "compromised"]))
    more = [f'status = "{status}"' + draw(ends), "origins = [ # why\n  'provisioned', # ]\n]"]
    more += [f"label = {draw(labels)}"] if draw(st.booleans()) else []
    more += ["compromised_since = 2026-01-01T00:00:00Z"] if status == "compromised" else []
    for line in draw(st.permutations(more)):
        lines += [*draw(notes), line]
    if draw(st.booleans()):
        lines += ['key = [{ pem = """', PEMS[key] + '""" }]' + draw(ends)]
        parts = []
    else:
        table = f'pem = """\n{PEMS[key]}"""' if draw(st.booleans()) else _jwk(KEYS[key])
        parts = [["[[kbs.key]]" + draw(ends), table]]
    parts.append(["[[kbs.resource]]", *draw(notes), f'pattern = "{name}/vtpm/*"' + draw(ends)])
    for part in draw(st.permutations(parts)):
        lines += [*draw(notes), *part]
    return "\n".join([*lines, *draw(notes)]) + "\n"


def _jwk(key: EcJwk) -> str:
    return "jwk = { " + ", ".join(f'{name} = "{value}"' for name, value in key.members().items()) + " }"


@st.composite
def documents(draw):
    """The text of a document, the names that it lists, and whether each of them has a header."""
    names = NAMES[: draw(st.integers(1, 3))]
    others = ["[grant]\nmax_age_s = 60 # s\n", '[[unsafe]]\nname = "UnsafeAllowAnyOrigin"\ngives_up = "[x"\n']
    if draw(st.integers(0, 4)) == 0:
        rows = [
            f'{{ id = "{name}", status = "trusted", origins = ["provisioned"], key = [{{ {_jwk(KEYS[n])} }}], '
            f'resource = [{{ pattern = "{name}/vtpm/*" }}] }}, {draw(comments)}\n'
            for n, name in enumerate(names)
        ]
        text, in_headers = "schema = 1\nkbs = [\n" + "".join(rows) + "]\n" + "".join(others), False
    else:
        parts = [draw(headed(name, n)) for n, name in enumerate(names)]
        for other in others:
            parts.insert(draw(st.integers(0, len(parts))), "\n".join([*draw(notes), other]))
        text, in_headers = "\n".join(["# head", "schema = 1", *draw(notes), ""]) + "".join(parts), True
    if draw(st.booleans()):
        text = text.replace("\n", "\r\n")
    if draw(st.booleans()):
        text = text.rstrip("\r\n")
    names = [entry["id"] for entry in tomllib.loads(text)["kbs"]]
    return text, names, in_headers


def suspend(text, name):
    return suspended(text, name)


def trust(text, name):
    return trusted(text, name)


def compromise(text, name):
    return compromised(text, name, AT - timedelta(days=1), AT)


def add_key(text, name):
    return with_broker(text, name, KEYS[7:9], None)


def renew(text, name):
    return trusted(text, name, KEYS[7:9])


def allow(text, _name):
    return with_broker(text, "new", KEYS[6:7], TERMS)


MEANT = {
    suspend: {"status": "suspended"},
    trust: {"status": "trusted"},
    compromise: {"status": "compromised", "compromised_since": AT - timedelta(days=1)},
}


def lines(text) -> Counter:
    return Counter(line.strip() for line in text.splitlines())


def _same_layout(text, edited, number, *, keys):
    """Of the lines at most those with the status are other ones, and all outside the entry stand where they stood."""
    lost = lines(text) - lines(edited)
    if not keys:
        assert lost.total() <= 2
        # An array on one line grows where it is.
        assert all(any(word in line for word in ("status", "compromised_since", "}]")) for line in lost)
    found = entries(text, "kbs")
    if number is not None:
        assert edited.startswith(text[: found[number].start])
        assert edited.endswith(text[found[number].end :])
        return
    assert not lost
    assert edited.startswith(text[: found[-1].end])
    assert edited.endswith(text[found[-1].end :])


@settings(max_examples=50, deadline=None)
@given(documents(), st.data(), st.sampled_from([suspend, trust, compromise, renew, add_key, allow]))
def test_one_entry_is_changed_and_nothing_else(document, data, edit):
    text, names, in_headers = document
    name = data.draw(st.sampled_from(names))
    try:
        edited = edit(text, name)
    except Conflict:
        status = {entry.id: entry.status for entry in load(text).kbs.values()}[name]
        assert status == "compromised"
        assert edit in (suspend, trust, add_key)
        return
    before, after = tomllib.loads(text), tomllib.loads(edited)
    entry = before["kbs"][names.index(name)]
    if edit is allow:
        assert names == [row["id"] for row in after["kbs"][:-1]]
        assert load(edited).kbs[KEYS[6].thumbprint()].id == "new"
        before["kbs"].append(after["kbs"][-1])
    elif edit is renew:
        entry |= {"status": "trusted", "key": [{"jwk": key.members()} for key in KEYS[7:9]]}
        entry.pop("compromised_since", None)
    elif edit is add_key:
        entry["key"] += [{"jwk": key.members()} for key in KEYS[7:9]]
    else:
        # One that is compromised since January stays so.
        entry |= {} if edit is compromise and entry["status"] == "compromised" else MEANT[edit]
    assert before == after
    if in_headers:
        _same_layout(text, edited, None if edit is allow else names.index(name), keys=edit is renew)
    for comment in ("# head", "# why"):
        assert text.count(comment) == edited.count(comment)
    assert ("\r\n" in text) == ("\r\n" in edited)


@settings(max_examples=10, deadline=None)
@given(documents(), st.data())
def test_what_is_done_already_changes_no_byte(document, data):
    text, names, _ = document
    name = data.draw(st.sampled_from(names))
    for edit in (suspend, compromise):
        try:
            done = edit(text, name)
        except Conflict:
            continue
        assert edit(done, name) == done
    grown = allow(text, name)
    assert with_broker(grown, "new", KEYS[6:7], None) == grown


@settings(max_examples=10, deadline=None)
@given(documents(), st.data())
def test_back_to_trusted_is_the_document_as_it_was(document, data):
    text, names, _ = document
    name = data.draw(st.sampled_from(names))
    assume({entry.id: entry.status for entry in load(text).kbs.values()}[name] == "trusted")
    assert trusted(suspended(text, name), name) == text


def test_where_entries_stand():
    first = '  [[kbs]] # [[kbs]]\nid = "a"\nx = [\n[1],\n[2]]\ny = """\n\n[[kbs]]\n"""\n# own\n'
    second = "[[ kbs ]]\n[kbs.ear]\n[[kbs.key]]\n"
    text = f"# [[kbs]]\na = 1\n{first}\n# next\n[[kbsx]]\n{second}# of the store\n[store]\n[[kbs]]\n# last"
    found = entries(text, "kbs")
    assert [text[one.start : one.end] for one in found] == [first, second, "[[kbs]]\n# last"]
    assert [text[one.end : one.upto] for one in found] == ["\n# next\n", "# of the store\n", ""]
    assert entries("schema = 1\n", "kbs") == []


def test_what_is_added_stands_with_what_it_belongs_to():
    entry = (
        '[[kbs]]\nid = "one"\nstatus = "trusted"\norigins = ["provisioned"]\n[[kbs.resource]]\npattern = "a/b/c"\n'
        f"[[kbs.key]]\n{_jwk(KEYS[0])}\n# the key's own\n"
    )
    store = '[store]\nformats = ["cocoonfs/1"]\n'
    text = "schema = 1\n" + entry + "\n# about stores\n" + store
    made = with_broker(text, "one", KEYS[1:2], None)
    assert made.startswith("schema = 1\n" + entry + '\n[[kbs.key]]\njwk = { kty = "EC", ')
    assert made.endswith('" }\n\n# about stores\n' + store)
    tight = text.replace("\n\n#", "\n#")
    assert allow(tight, "").endswith("shared = true\n\n# the key's own\n# about stores\n" + store)


DOCUMENT = allow("schema = 1\n", "")


def test_a_new_entry_says_all_that_was_given():
    terms = Terms(
        patterns=("a/b/*",),
        origins=("kbs-generated", "provisioned"),
        shared=("a/c/*",),
        release_policies=("ab" * 32,),
        label='Frankfurt, "east" \\',
        pair="second",
        valid_from=AT,
        valid_to=AT + timedelta(days=1),
    )
    entry = load(with_broker(DOCUMENT, "full", KEYS[:2], terms)).kbs[KEYS[1].thumbprint()]
    assert entry.thumbprints == tuple(key.thumbprint() for key in KEYS[:2])
    assert (entry.label, entry.pair, entry.status) == (terms.label, "second", "trusted")
    assert (entry.valid_from, entry.valid_to) == (terms.valid_from, terms.valid_to)
    assert entry.resources == {("a", "b", "*"): False, ("a", "c", "*"): True}
    assert entry.origins == {"kbs-generated", "provisioned"}
    assert entry.release_policies == {"ab" * 32}


def _refused(kind, edit, *arguments) -> VtpmCaError:
    with pytest.raises(kind) as error:
        edit(*arguments)
    return error.value


def test_what_cannot_be_meant_is_refused_by_name():
    assert "It lists new." in _refused(NotFound, suspended, DOCUMENT, "old").remedy
    assert "It lists none." in _refused(NotFound, add_key, "schema = 1\n", "old").remedy
    assert "is in the policy already" in _refused(Conflict, allow, DOCUMENT, "").detail
    twice = _refused(BadRequest, with_broker, DOCUMENT, "other", KEYS[6:7], TERMS)
    assert (twice.path, "under new" in twice.detail) == (f"the key {KEYS[6].thumbprint()}", True)
    overlap = Terms(("a/b/*",), ("provisioned",), shared=("a/*/c",))
    assert "overlaps" in _refused(BadRequest, with_broker, DOCUMENT, "other", KEYS[:1], overlap).detail
    assert _refused(BadRequest, with_broker, DOCUMENT, "No Id", KEYS[:1], TERMS).path == "kbs[1].id"
    assert _refused(BadRequest, suspended, "schema = ", "new").code == "policy-invalid"
    future = _refused(BadRequest, compromised, DOCUMENT, "new", AT + timedelta(seconds=1), AT)
    assert (future.path, "kbs suspend" in future.remedy) == ("compromised_since", True)
    assert "compromised_since" in compromised(DOCUMENT, "new", AT, AT)


def test_an_earlier_beginning_of_a_compromise_takes_the_place_of_a_later_one():
    once = compromise(DOCUMENT, "new")
    assert compromised(once, "new", AT, AT) == once
    again = compromised(once, "new", AT - timedelta(days=9, microseconds=-1), AT)
    assert load(again).kbs[KEYS[6].thumbprint()].compromised_since == AT - timedelta(days=9)
    assert again.count("compromised_since") == 1


def test_a_compromised_one_comes_back_with_new_keys_only():
    grown = with_broker(DOCUMENT, "new", KEYS[:3], None).replace("[[kbs.key]]", "[[kbs.key]] # Frankfurt", 1)
    lost = compromise(grown, "new")
    for keys in ((), KEYS[2:4]):
        _refused((Conflict, BadRequest), trusted, lost, "new", keys)
    back = trusted(lost, "new", KEYS[3:5])
    entry = load(back).kbs[KEYS[3].thumbprint()]
    assert (entry.status, entry.compromised_since) == ("trusted", None)
    assert entry.thumbprints == tuple(key.thumbprint() for key in KEYS[3:5])
    assert "[[kbs.key]] # Frankfurt" in back
    other = with_broker(lost, "other", KEYS[4:5], TERMS)
    assert "under other" in _refused(BadRequest, trusted, other, "new", KEYS[3:5]).detail


def test_a_document_that_the_library_would_change_elsewhere_is_left_to_people(monkeypatch):
    monkeypatch.setattr("tomlkit.dumps", lambda _document: 'schema = 1\nkbs = []\n# oh, "' + "\n")
    error = _refused(BadRequest, suspended, DOCUMENT, "new")
    assert (error.code, "by hand" in error.remedy) == ("policy-layout", True)


class TestKeyFiles:
    def test_both_forms_are_one_key(self):
        jwk = json.dumps(KEYS[0].members())
        assert read_key(jwk, "f") == read_key(f"\n {jwk}\n", "f") == read_key(PEMS[0], "f") == KEYS[0]

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{}",
            "{",
            "[]",
            PEMS[0][:80],
            json.dumps(KEYS[0].members() | {"crv": "P-256"}),
            json.dumps(KEYS[0].members() | {"d": "c2VjcmV0"}),
            json.dumps(EcJwk.from_key(ec.derive_private_key(5, ec.SECP521R1()).public_key()).members()),
            PRIVATE[0].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
            rsa.generate_private_key(65537, 2048)
            .public_key()
            .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            .decode(),
        ],
    )
    def test_nothing_else_is_one_and_no_error_shows_it(self, text):
        error = _refused(BadRequest, read_key, text, "broker.pem")
        assert error.path == "broker.pem"
        assert "c2VjcmV0" not in error.diagnostics()
        assert "MI" not in error.diagnostics()
