"""The services manifest of the guest-facing protocol, against fixed bytes."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtpm.wire.errors import WireError
from vtpm.wire.services import (
    MAX_MANIFEST,
    UEFI_MM_SERVICE,
    VTPM_SERVICE,
    pack_services,
    parse_services,
    services_report_data,
)

EK = b"\xaa" * 314
MANIFEST = pack_services({VTPM_SERVICE: EK})


def changed(offset, data):
    return MANIFEST[:offset] + data + MANIFEST[offset + len(data) :]


def test_fixed_manifest():
    assert len(MANIFEST) == 362
    assert MANIFEST[:48].hex() == (
        "bb9e8463923d7046a1ff58f9c94b87bb6a01000001000000ebf176c42301a5459641b4e7dde5bfe3300000003a010000"
    )
    assert MANIFEST[48:] == EK


def test_fixed_report_data():
    assert services_report_data(bytes(64), MANIFEST).hex() == (
        "b4b0bc89d20455625adc7428a5f22c0b840d4843f526382e271fbe6297781648"
        "c069974935f6b58a065f83603a8f15c2d8c0afa7f75222bace8bc0ac96d78bab"
    )
    assert services_report_data(bytes(64), EK).hex() == (
        "f3260d1c83e03b8be3d5117eebdc209153bbd04802ce43c3030b356cc7259a61"
        "afca5efecc03e1a12cd10e9f710a56adaa373f8ffaef3bb1bebe611a86831eab"
    )


@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_nonce_must_be_64_bytes(size):
    with pytest.raises(WireError, match="must be 64 bytes"):
        services_report_data(bytes(size), MANIFEST)


@given(st.dictionaries(st.uuids(), st.binary(max_size=300), max_size=16))
def test_round_trip_keeps_services_and_order(services):
    parsed = parse_services(pack_services(services))
    assert list(parsed.items()) == list(services.items())


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "must be 24 to"),
        (MANIFEST[:23], "must be 24 to"),
        (bytes(MAX_MANIFEST + 1), "must be 24 to"),
        (changed(0, b"\x00"), "must begin with the GUID"),
        (uuid.UUID("63849ebb-3d92-4670-a1ff-58f9c94b87bb").bytes + MANIFEST[16:], "must begin with the GUID"),
        (MANIFEST[:-1], "must be its size"),
        (MANIFEST + b"x", "must be its size"),
        (changed(20, b"\x00"), "belong to no service"),
        (changed(20, b"\x02"), "must follow"),
        (changed(20, b"\x10"), "too short"),
        (changed(20, b"\x11"), "at most 16 services"),
        (changed(20, b"\xff\xff\xff\xff"), "at most 16 services"),
        (changed(40, b"\x2f"), "must follow"),
        (changed(40, b"\x31"), "must follow"),
        (changed(44, b"\x3b"), "within the manifest"),
        (changed(44, b"\x39"), "belong to no service"),
        (changed(44, b"\xff\xff\xff\xff"), "within the manifest"),
    ],
)
def test_refused(data, problem):
    with pytest.raises(WireError, match=problem):
        parse_services(data)


def test_too_short_for_its_services():
    head = MANIFEST[:16] + (24).to_bytes(4, "little") + (1).to_bytes(4, "little")
    with pytest.raises(WireError, match="too short"):
        parse_services(head)


def test_a_gap_before_a_service_is_refused():
    """It would be the place for bytes that the report covers and no reader sees."""
    with pytest.raises(WireError, match="must follow"):
        parse_services(changed(40, bytes.fromhex("3100000039010000")))


def test_a_service_twice_is_refused():
    manifest = bytearray(pack_services({VTPM_SERVICE: b"a", UEFI_MM_SERVICE: b"b"}))
    manifest[48:64] = manifest[24:40]
    with pytest.raises(WireError, match="stands twice"):
        parse_services(bytes(manifest))


def test_what_cannot_be_written():
    with pytest.raises(WireError, match="at most 16 services"):
        pack_services({uuid.UUID(int=i): b"" for i in range(17)})
    with pytest.raises(WireError, match="at most 65536"):
        pack_services({VTPM_SERVICE: bytes(MAX_MANIFEST)})


@given(st.data())
def test_what_is_accepted_has_one_form_only(data):
    manifest = bytearray(pack_services({VTPM_SERVICE: b"ek", UEFI_MM_SERVICE: b"flags"}))
    for _ in range(data.draw(st.integers(0, 3))):
        manifest[data.draw(st.integers(0, len(manifest) - 1))] = data.draw(st.integers(0, 255))
    sent = bytes(manifest[: data.draw(st.integers(0, len(manifest)))])
    try:
        services = parse_services(sent)
    except WireError:
        return
    assert pack_services(services) == sent
