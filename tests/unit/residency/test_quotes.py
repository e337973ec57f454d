"""Our reader of quotes and signatures beside the TSS's: what ours reads, that reads too, and as the same values."""

import struct

from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st
from tpm2_pytss import TPMS_ATTEST, TPMT_SIGNATURE

from ca_service.residency.quote import MAX_QUOTE, Quoted
from ca_service.residency.signature import KeySignature
from vtpm.wire.public_area import Scheme

_HEAD = bytes.fromhex("ff5443478018")
_OWN = Scheme(0x0018, 0x000B)


def sized(data):
    return struct.pack(">H", len(data)) + data


SELECTION = st.tuples(st.sampled_from([0x0004, 0x000B, 0x000C, 0x000D, 0x0012]), st.binary(max_size=5)).map(
    lambda pair: struct.pack(">HB", pair[0], len(pair[1])) + pair[1]
)
QUOTES = st.builds(
    lambda signer, extra, clock, safe, selections, digest, tail: (
        _HEAD
        + sized(signer)
        + sized(extra)
        + clock
        + bytes([safe])
        + bytes(8)
        + struct.pack(">I", len(selections))
        + b"".join(selections)
        + sized(digest)
        + tail
    ),
    st.binary(max_size=70),
    st.binary(max_size=70),
    st.binary(min_size=16, max_size=16),
    st.sampled_from([0, 1, 1, 2]),
    st.lists(SELECTION, max_size=18),
    st.binary(max_size=66),
    st.sampled_from([b"", b"", b"\0"]),
)


def whole(kind, raw):
    parsed, used = kind.unmarshal(raw)
    assert used == len(raw)
    assert parsed.marshal() == raw
    return parsed


@given(QUOTES | st.binary(max_size=300).map(lambda tail: _HEAD + tail))
def test_quotes(raw):
    info = Quoted.read(raw).info
    if info is None:
        return
    theirs = whole(TPMS_ATTEST, raw)
    quote = theirs.attested.quote
    assert bytes(theirs.qualifiedSigner) == info.qualified_signer
    assert bytes(theirs.extraData) == info.extra_data
    assert int(theirs.firmwareVersion) == info.firmware
    assert (int(theirs.clockInfo.clock), int(theirs.clockInfo.safe)) == (info.clock, info.safe)
    assert (int(theirs.clockInfo.resetCount), int(theirs.clockInfo.restartCount)) == (
        info.reset_count,
        info.restart_count,
    )
    assert bytes(quote.pcrDigest) == info.pcr_digest
    masks = [bytes(one.pcrSelect)[: one.sizeofSelect] for one in quote.pcrSelect]
    numbers = [tuple(n for n in range(8 * len(mask)) if mask[n // 8] & 1 << n % 8) for mask in masks]
    assert [(int(one.hash), chosen) for one, chosen in zip(quote.pcrSelect, numbers, strict=True)] == [
        (one.hash_algorithm, one.pcrs) for one in info.selections
    ]


@given(st.binary(max_size=1100))
def test_no_octets_raise(raw):
    for start in (b"", _HEAD):
        found = Quoted.read(start + raw)
        assert found.info is None or len(start + raw) <= MAX_QUOTE
    KeySignature.read(raw, _OWN)


@given(
    st.sampled_from([0x0014, 0x0016, 0x0018, 0x0005, 0x0010]),
    st.sampled_from([0x0004, 0x000B, 0x000C, 0x000D, 0x0012]),
    st.lists(st.binary(max_size=70), min_size=1, max_size=3),
)
def test_signatures(algorithm, hash_algorithm, numbers):
    raw = struct.pack(">HH", algorithm, hash_algorithm) + b"".join(map(sized, numbers))
    found = KeySignature.read(raw, _OWN)
    good = algorithm in (0x0014, 0x0016, 0x0018) and hash_algorithm in (0x000B, 0x000C, 0x000D)
    assert (found is not None) == (good and len(numbers) == (2 if algorithm == 0x0018 else 1))
    if found is not None:
        assert found.scheme == (algorithm, hash_algorithm)
        assert found.numbers == tuple(numbers)
        whole(TPMT_SIGNATURE, raw)


@given(st.integers(1, 2**384), st.integers(1, 2**384), st.data())
def test_bare_ecdsa_signatures_have_one_form(r, s, data):
    raw = encode_dss_signature(r, s)
    found = KeySignature.read(raw, _OWN)
    assert tuple(int.from_bytes(number, "big") for number in found.numbers) == (r, s)
    place = data.draw(st.integers(0, len(raw) - 1))
    changed = bytearray(raw)
    changed[place] ^= 1 << data.draw(st.integers(0, 7))
    other = KeySignature.read(bytes(changed), _OWN)
    assert other is None or other.numbers != found.numbers
