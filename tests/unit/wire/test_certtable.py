"""The certificate table that a host attaches to a report: hostile input until proven otherwise."""

import struct
import uuid
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from vtpm.wire.certtable import MAX_TABLE, CertKind, pack_table, parse_table
from vtpm.wire.errors import WireError

SNP = Path(__file__).parents[2] / "vectors" / "snp"
VCEK = uuid.UUID("63da758d-e664-4564-adc5-f4b93be8accd").bytes
OTHER = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff").bytes
END = bytes(24)


def entry(guid, offset, length):
    return guid + struct.pack("<II", offset, length)


# AMD's leaf certificates carry serial number 0, which cryptography warns about.
@pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive")
def test_genuine_table():
    folder = SNP / "milan-v3-vcek-veraison-auxblob"
    table = parse_table((folder / "auxblob.bin").read_bytes())
    leaf = x509.load_pem_x509_certificate(table[CertKind.VCEK])
    # AMD makes a new certificate for the same key at each request, so the key is what two copies share.
    assert (
        leaf.public_key() == x509.load_der_x509_certificate((folder / "vcek.der").read_bytes()).public_key()
    )
    assert CertKind.ASK in table
    assert CertKind.ARK in table


def test_written_table_byte_for_byte():
    table = pack_table({CertKind.VCEK: b"leaf", CertKind.CRL: b"list"})
    assert table.hex() == (
        "63da758de6644564adc5f4b93be8accd4800000004000000"
        "92f81bc358114d3d97ffd19f88dc67ea4c00000004000000" + "00" * 24 + b"leaflist".hex()
    )


@given(st.dictionaries(st.sampled_from(CertKind), st.binary(min_size=1, max_size=3000)))
def test_round_trip(entries):
    assert parse_table(pack_table(entries)) == entries


def test_a_host_without_certificates():
    assert parse_table(END) == {}
    assert parse_table(bytes(4096)) == {}


def test_unknown_guids_are_left_out_but_bounded():
    assert parse_table(entry(OTHER, 48, 1) + END + b"x") == {}
    with pytest.raises(WireError, match="within the table"):
        parse_table(entry(OTHER, 48, 2) + END + b"x")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "no closing entry"),
        (bytes(23), "no closing entry"),
        (entry(VCEK, 24, 1), "no closing entry"),
        (entry(VCEK, 48, 0) + END, "must not be empty"),
        (entry(VCEK, 47, 1) + END + b"x", "behind the entries"),
        (entry(VCEK, 0, 1) + END + b"x", "behind the entries"),
        (entry(VCEK, 49, 1) + END + b"x", "within the table"),
        (entry(VCEK, 0xFFFFFFFF, 0xFFFFFFFF) + END + b"x", "within the table"),
        (entry(VCEK, 72, 1) * 2 + END + b"x", "stands twice"),
        (entry(OTHER, 72, 1) * 2 + END + b"x", "stands twice"),
        (entry(VCEK, 72, 2) + entry(OTHER, 73, 1) + END + b"xy", "overlap"),
        (b"".join(entry(bytes([i + 1]) * 16, 500, 1) for i in range(17)) + bytes(200), "at most 16 entries"),
        (bytes(MAX_TABLE + 1), "at most 16384"),
    ],
)
def test_refused(data, problem):
    with pytest.raises(WireError, match=problem) as caught:
        parse_table(data, "evidence.certificates")
    assert caught.value.path.startswith("evidence.certificates")


def test_what_cannot_be_written():
    with pytest.raises(WireError, match="must not be empty"):
        pack_table({CertKind.VCEK: b""})
    with pytest.raises(WireError, match="at most 16384"):
        pack_table({CertKind.VCEK: bytes(MAX_TABLE)})


@given(st.binary(max_size=400))
def test_only_wire_errors_from_any_bytes(data):
    try:
        table = parse_table(data)
    except WireError:
        return
    assert all(content and content in data for content in table.values())


@given(st.data())
def test_only_wire_errors_from_damaged_tables(data):
    table = bytearray(pack_table({CertKind.VCEK: b"leaf", CertKind.ASK: b"intermediate"}))
    for _ in range(data.draw(st.integers(1, 4))):
        table[data.draw(st.integers(0, len(table) - 1))] = data.draw(st.integers(0, 255))
    try:
        parse_table(bytes(table[: data.draw(st.integers(0, len(table)))]))
    except WireError as error:
        assert error.path.startswith("certificates")  # noqa: PT017 - most damage is refused, some is not noticeable
