"""Notes, keys, checkpoints and proofs: the specifications' own examples, and whatever bytes may come."""

import base64
import contextlib
import json

import audit_stage as a
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from ca_service.audit import Log, decision_leaf, verifier_key
from ca_service.audit.merkle import Frontier, leaf_hash
from ca_service.audit.note import sign_note
from vtpm.wire.errors import WireError
from vtpm.wire.log import MAX_LEAF, Checkpoint, Proof, open_checkpoint
from vtpm.wire.merkle import MAX_PATH, MAX_TREE_SIZE
from vtpm.wire.note import MAX_NOTE, VerifierKey, open_note

EXAMPLE_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
EXAMPLE_TEXT = "This is an example message.\n"
EXAMPLE_LINE = (
    "\N{EM DASH} example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONn"
    "cAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
EXAMPLE = (EXAMPLE_TEXT + "\n" + EXAMPLE_LINE).encode()
"""From the specification of signed notes (C2SP signed-note, "Verifier keys")."""

KEY = VerifierKey.parse(EXAMPLE_KEY)
OTHERS = "".join(
    f"\N{EM DASH} witness{i}.example {base64.b64encode(bytes([i]) * 20).decode()}\n" for i in range(16)
)


def test_the_example_of_the_specification():
    assert str(KEY) == EXAMPLE_KEY
    assert (KEY.name, KEY.id.hex()) == ("example.com/foo", "530d903a")
    assert open_note(EXAMPLE, [KEY]) == EXAMPLE_TEXT


def test_signing_gives_the_form_of_the_specification():
    key = verifier_key("ca.test/log", a.KEY)
    note = sign_note("text\n\nmore\n", key, a.KEY)
    text, _, line = note.decode().rpartition("\n\n")
    assert text + "\n" == "text\n\nmore\n"
    assert line.startswith("\N{EM DASH} ca.test/log ")
    signature = base64.b64decode(line.split(" ")[2])
    assert signature[:4] == key.id
    a.KEY.public_key().verify(signature[4:], b"text\n\nmore\n")
    assert open_note(note, [key]) == "text\n\nmore\n"
    assert open_note(note, [KEY, key]) == "text\n\nmore\n"


def test_signatures_of_others_are_ignored():
    both = EXAMPLE_TEXT + "\n" + OTHERS + EXAMPLE_LINE
    assert open_note(both.encode(), [KEY]) == EXAMPLE_TEXT
    same_name = EXAMPLE_LINE.replace("Uw2Q", "AAAA")
    assert open_note((EXAMPLE_TEXT + "\n" + same_name + EXAMPLE_LINE).encode(), [KEY]) == EXAMPLE_TEXT
    with pytest.raises(WireError, match="not signed"):
        open_note((EXAMPLE_TEXT + "\n" + same_name).encode(), [KEY])


def test_one_wrong_signature_of_a_known_key_makes_the_note_worthless():
    wrong = "\N{EM DASH} example.com/foo " + base64.b64encode(KEY.id + bytes(64)).decode() + "\n"
    with pytest.raises(WireError, match="does not verify"):
        open_note((EXAMPLE_TEXT + "\n" + EXAMPLE_LINE + wrong).encode(), [KEY])


BAD_NOTES = {
    "empty": b"",
    "text only": EXAMPLE_TEXT.encode(),
    "no signatures": (EXAMPLE_TEXT + "\n").encode(),
    "no separator": (EXAMPLE_TEXT + EXAMPLE_LINE).encode(),
    "no line end": EXAMPLE[:-1],
    "trailing line": EXAMPLE + b"\n",
    "other line": EXAMPLE + b"signed, me\n",
    "hyphen": EXAMPLE.replace("\N{EM DASH}".encode(), b"-"),
    "text changed": EXAMPLE.replace(b"example message", b"example massage"),
    "carriage return": EXAMPLE.replace(b"message.", b"message.\r"),
    "zero byte": EXAMPLE.replace(b"message.", b"message.\0"),
    "no text at all": EXAMPLE[len(EXAMPLE_TEXT) + 1 :],
    "not UTF-8": EXAMPLE.replace(b"message.", b"message.\xff"),
    "base64 not canonical": EXAMPLE.replace(b"aQM=", b"aQN="),
    "base64 without padding": EXAMPLE.replace(b"aQM=", b"aQM"),
    "signature too short": EXAMPLE + "\N{EM DASH} x AAAA\n".encode(),
    "name with a plus": EXAMPLE + "\N{EM DASH} x+y AAAAAAAA\n".encode(),
    "name with a space": EXAMPLE + "\N{EM DASH} x\N{NO-BREAK SPACE}y AAAAAAAA\n".encode(),
    "name empty": EXAMPLE + "\N{EM DASH}  AAAAAAAA\n".encode(),
    "too many signatures": EXAMPLE + OTHERS.encode() * 4,
    "too long": b"x" * MAX_NOTE + EXAMPLE,
}


@pytest.mark.parametrize("note", BAD_NOTES.values(), ids=BAD_NOTES)
def test_what_is_no_note(note):
    with pytest.raises(WireError):
        open_note(note, [KEY])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.com/foo",
        EXAMPLE_KEY + "=",
        EXAMPLE_KEY[:-1],
        EXAMPLE_KEY.replace("530d903a", "530D903A"),
        EXAMPLE_KEY.replace("530d903a", "530d903b"),
        EXAMPLE_KEY.replace("example.com/foo", "example.com/bar"),
        EXAMPLE_KEY.replace("example.com/foo", ""),
        EXAMPLE_KEY.replace("example.com/foo", "example.com /foo"),
        EXAMPLE_KEY.replace("+AekyeRr", "+AukyeRr"),
        "x" * 300 + EXAMPLE_KEY,
        "\udcff+00000000+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
    ],
)
def test_what_is_no_key(text):
    with pytest.raises(WireError):
        VerifierKey.parse(text)


@pytest.mark.parametrize("text", ["", "no line end", "tab\there\n", "\x1b[1m\n"])
def test_what_cannot_be_signed(text):
    with pytest.raises(WireError):
        sign_note(text, verifier_key("ca.test/log", a.KEY), a.KEY)


CHECKPOINT = Checkpoint("ca.test/log", 7, bytes(range(32)))


def test_a_checkpoint_and_its_text():
    text = "ca.test/log\n7\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"
    assert CHECKPOINT.to_text() == text
    assert Checkpoint.parse(text) == CHECKPOINT
    assert Checkpoint.parse(text + "more\n").extensions == ("more",)
    assert Checkpoint.parse(text + "more\n").to_text() == text + "more\n"


BAD_CHECKPOINTS = [
    "",
    "\n7\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
    "ca.test/log\n7\n",
    "ca.test/log\n07\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
    "ca.test/log\n-7\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
    "ca.test/log\n+7\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
    "ca.test/log\n\N{ARABIC-INDIC DIGIT SEVEN}\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
    f"ca.test/log\n{MAX_TREE_SIZE + 1}\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
    "ca.test/log\n7\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHg==\n",
    "ca.test/log\n7\nnot base64\n",
    "ca.test/log\n7\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n\nmore\n",
    "ca.test/log\n7\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
]


@pytest.mark.parametrize("text", BAD_CHECKPOINTS)
def test_what_is_no_checkpoint(text):
    with pytest.raises(WireError):
        Checkpoint.parse(text)


def test_a_checkpoint_of_another_log_under_the_same_key():
    key = verifier_key("ca.test/log", a.KEY)
    note = sign_note(Checkpoint("other", 7, bytes(32)).to_text(), key, a.KEY)
    with pytest.raises(WireError, match="another log"):
        open_checkpoint(note, key)
    assert open_checkpoint(sign_note(CHECKPOINT.to_text(), key, a.KEY), key) == CHECKPOINT
    stranger = verifier_key("ca.test/log", Ed25519PrivateKey.generate())
    with pytest.raises(WireError, match="not signed"):
        open_checkpoint(sign_note(CHECKPOINT.to_text(), key, a.KEY), stranger)


@given(st.binary(max_size=300))
def test_reading_any_bytes_as_a_note(data):
    for note in (data, EXAMPLE_TEXT.encode() + b"\n" + data, data + EXAMPLE):
        try:
            text = open_note(note, [KEY])
        except WireError:
            continue
        assert text == EXAMPLE_TEXT


@given(st.text(max_size=200))
def test_reading_any_text_as_key_and_checkpoint(text):
    for sample in (text, EXAMPLE_KEY + text, EXAMPLE_KEY[: len(text)] + text):
        with contextlib.suppress(WireError):
            assert str(VerifierKey.parse(sample)) == sample
    for sample in (text, CHECKPOINT.to_text() + text, text + CHECKPOINT.to_text()):
        with contextlib.suppress(WireError):
            assert Checkpoint.parse(sample).to_text() == sample


@given(st.integers(0, len(EXAMPLE) * 8 - 1))
def test_every_bit_of_a_note_counts(bit):
    changed = bytearray(EXAMPLE)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(WireError):
        open_note(bytes(changed), [KEY])


@given(
    st.integers(0, MAX_TREE_SIZE),
    st.binary(min_size=1, max_size=MAX_LEAF),
    st.lists(st.binary(min_size=32, max_size=32), max_size=MAX_PATH),
)
def test_proofs_survive_the_wire(position, leaf, path):
    proof = Proof(leaf, position, tuple(path))
    assert Proof.parse(json.loads(proof.text()), "log") == proof


GOOD = {"leaf": "AA", "position": "0", "path": ["A" * 43]}


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"leaf": ""}, "log.leaf"),
        ({"leaf": "A" * 2800}, "log.leaf"),
        ({"leaf": 1}, "log.leaf"),
        ({"position": 0}, "log.position"),
        ({"position": "00"}, "log.position"),
        ({"position": "-1"}, "log.position"),
        ({"position": "9223372036854775808"}, "log.position"),
        ({"path": "A" * 43}, "log.path"),
        ({"path": ["A" * 42]}, "log.path[0]"),
        ({"path": ["A" * 43] * 64}, "log.path"),
        ({"path": [None]}, "log.path[0]"),
        ({"size": "1"}, "log.size"),
    ],
)
def test_what_is_no_proof(change, path):
    assert Proof.parse(GOOD, "log").position == 0
    with pytest.raises(WireError) as error:
        Proof.parse(GOOD | change, "log")
    assert error.value.path == path


def test_a_proof_holds_for_one_checkpoint():
    leaf = decision_leaf(a.decision(1))
    frontier, _ = Frontier().append(leaf_hash(leaf.data))
    proof = Proof(leaf.data, 0, ())
    assert proof.holds(Checkpoint("x", 1, frontier.root()))
    assert not proof.holds(Checkpoint("x", 1, bytes(32)))
    assert not proof.holds(Checkpoint("x", 2, frontier.root()))


def test_a_log_shows_no_key():
    assert repr(Log(a.ORIGIN, a.KEY)) == f"Log({verifier_key(a.ORIGIN, a.KEY)})"
