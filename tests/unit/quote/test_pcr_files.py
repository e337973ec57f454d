"""Files of PCR values as tpm2-tools write them, and what is none."""

import struct
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tpm2_pytss import TPML_DIGEST, TPML_PCR_SELECTION

from ca_service.export.quote import ExpectedPcrs, PcrValues, read_pcrs
from ca_service.export.quote.pcrs import BANKS, LARGEST_PCR_FILE, selection_of
from ca_service.judgment import BadRequest
from ca_service.residency.quote import PcrSelection

_LIST = "sha1:3,23+sha256:all+sha512:7"
_BANKS = {"sha1": (3, 23), "sha256": tuple(range(24)), "sha512": (7,)}
_SIZES = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}


@pytest.fixture(scope="module")
def written(scene):
    """The same values as tpm2-tools write them in each format."""
    tools, found = scene.tools, {}
    for name in ("serialized", "values"):
        found[f"quote {name}"] = tools.quote(_LIST, name="all", extra=("-F", name)).pcrs
        tools.run("tpm2_pcrread", _LIST, "-o", "pcrread", "-F", name)
        found[f"pcrread {name}"] = (tools.folder / "pcrread").read_bytes()
    return found


def marshaled(values):
    """As tpm2-tools 5.6 write it with -F marshaled."""
    selections = "+".join(f"{bank}:{','.join(map(str, numbers))}" for bank, numbers in values.banks.items())
    digests = [value for _, _, value in values]
    lists = [TPML_DIGEST(digests[at : at + 8]) for at in range(0, len(digests), 8)]
    head = TPML_PCR_SELECTION.parse(selections).marshal() + struct.pack(">I", len(lists))
    return head + b"".join(one.marshal() for one in lists)


def test_all_formats_are_read_alike(written):
    read = {name: read_pcrs(content, selection_of(_BANKS)) for name, content in written.items()}
    values = read["quote serialized"]
    assert {bank: tuple(numbers) for bank, numbers in values.banks.items()} == _BANKS
    assert set(map(str, read.values())) == {str(values)}
    assert read_pcrs(marshaled(values), ()) == values
    assert len(written["quote serialized"]) > len(written["quote values"])


def test_bare_values_of_other_pcrs(written):
    fewer = selection_of({**_BANKS, "sha512": ()})
    for selections in (fewer, ()):
        with pytest.raises(BadRequest, match="pcrs: is no file of PCR values"):
            read_pcrs(written["quote values"], selections)


def test_a_file_that_ends_anywhere_else(written):
    for name in ("quote serialized", "quote values"):
        content = written[name]
        for changed in (content[:-1], content + b"\0", content[1:], b""):
            with pytest.raises(BadRequest, match="pcrs"):
                read_pcrs(changed, selection_of(_BANKS))


def test_two_values_of_one_pcr():
    selections = (PcrSelection(0x000B, (1,)), PcrSelection(0x000B, (1,)))
    assert read_pcrs(bytes(64), selections) == PcrValues({"sha256": {1: bytes(32)}})
    with pytest.raises(BadRequest, match="pcrs"):
        read_pcrs(bytes(32) + bytes([1]) * 32, selections)


def test_too_long():
    with pytest.raises(BadRequest, match="more than"):
        read_pcrs(bytes(LARGEST_PCR_FILE + 1), selection_of(_BANKS))


@given(st.binary(max_size=1500), st.integers(0, 3))
def test_made_up(content, lists):
    for head in (
        b"",
        struct.pack("<IHB5x", 1, 0x000B, 3),
        struct.pack("<IHBB4x120xI", 1, 0x000B, 3, 1, lists),
    ):
        try:
            found = read_pcrs(head + content, selection_of({"sha256": (0, 1)}))
        except BadRequest:
            continue
        assert all(len(value) == _SIZES[bank] for bank, _, value in found)


@settings(max_examples=50)
@given(
    st.dictionaries(
        st.sampled_from(sorted(BANKS.values())), st.sets(st.integers(0, 23), min_size=1), min_size=1
    ),
    st.integers(0, 2**32),
)
def test_round_trips(banks, seed):
    made = Random(seed)  # noqa: S311 - any values will do
    values = PcrValues({bank: {n: made.randbytes(_SIZES[bank]) for n in ns} for bank, ns in banks.items()})
    selections = selection_of(values.banks)
    bare = b"".join(value for _, _, value in values)
    assert read_pcrs(bare, selections) == values
    assert read_pcrs(marshaled(values), ()) == values
    again = ExpectedPcrs.read(str(values.to_json()).replace("'", '"').encode())
    assert again == ExpectedPcrs.exactly(values)


@pytest.mark.parametrize(
    ("banks", "path"),
    [
        ({"sha3": {0: bytes(32)}}, "pcrs.sha3"),
        ({"sha256": {32: bytes(32)}}, "pcrs.sha256.32"),
        ({"sha256": {-1: bytes(32)}}, "pcrs.sha256.-1"),
        ({"sha256": {0: bytes(20)}}, "pcrs.sha256.0"),
        ({"sha256": {True: bytes(32)}}, "pcrs.sha256.True"),
    ],
)
def test_no_such_pcr(banks, path):
    with pytest.raises(BadRequest) as refused:
        PcrValues(banks)
    assert refused.value.path == path


def test_what_was_given_cannot_be_changed_afterwards():
    given_banks = {"sha256": {0: bytes(32)}}
    values = PcrValues(given_banks)
    given_banks["sha256"][0] = bytes([1]) * 32
    assert values.value("sha256", 0) == bytes(32)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "names no PCR"),
        ("[sha256]\n", "names no PCR"),
        ("nonsense", "neither JSON nor TOML"),
        ('{"sha256": {"0": "00"}, "sha256": {}}', "stands there twice"),
        ('{"sha256": {"0": "00"}}', "expected.sha256.0: must have 32 octets"),
        ('{"sha256": {"00": "00"}}', "sha256.00: is no number"),
        ('{"sha256": {"x": "00"}}', "sha256.x: is no number"),
        ('{"sha256": {"0": []}}', "sha256.0: has no good value"),
        ('{"sha256": {"0": 7}}', "sha256.0: must be hex digits"),
        ('{"sha256": {"0": "zz"}}', "sha256.0: must be hex digits"),
        ('{"sha256": []}', "sha256: must be a table"),
        ('{"sha9": {"0": "00"}}', "expected.sha9: is no bank"),
        ("[" * 100_000, "neither JSON nor TOML"),
    ],
)
def test_expectations_that_are_none(text, word):
    with pytest.raises(BadRequest) as refused:
        ExpectedPcrs.read(text.encode())
    assert word in refused.value.detail


def test_expectations_that_are_no_text():
    with pytest.raises(BadRequest, match="UTF-8"):
        ExpectedPcrs.read(b"\xff")
