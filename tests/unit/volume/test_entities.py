"""The three shapes of encrypted things."""

import hmac
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.padding import PKCS7
from hypothesis import given, settings
from hypothesis import strategies as st
from volumes import KEY, SALT, entropy, layout, pattern

from vtpm.volume.errors import VolumeDamaged, VolumeKeyError
from vtpm.volume.format.entities import Chain, open_block, open_extents, seal_block, seal_extents, sealed_size
from vtpm.volume.format.extents import NIL, Extent, Pointer
from vtpm.volume.format.kdf import Keys, Part, Purpose

LAYOUT = layout()
KEYS = Keys(KEY, LAYOUT, SALT)
CIPHER = KEYS.cipher(16)
LIMIT = 10_000


def chain(*, tagged=True, header=0, unit=1, given_layout=LAYOUT, domain=5, tells_key=True):
    keys = Keys(KEY, given_layout, SALT)
    return Chain(
        part="chain",
        layout=given_layout,
        cipher=keys.cipher(domain),
        tag=keys.preauth(domain) if tagged else None,
        associated=b"associated",
        tells_key=tells_key,
        header=header,
        unit=unit,
    )


class Heap:
    """Gives extents for a chain, at places that are in no order, and keeps what is sealed into them."""

    def __init__(self, longest=64, step=-70):
        self.at, self.longest, self.step = 5000, longest, step
        self.data = {}

    def take(self, length):
        self.at += self.step
        return Extent(self.at, min(length, self.longest))

    def read(self, extent):
        return self.data[extent]


def sealed(kind, payload, heap, header=b"", seed=0):
    extents = kind.place(len(payload), heap.take)
    heap.data = dict(zip(extents, kind.seal(payload, extents, entropy(seed), header), strict=True))
    return extents


@given(st.binary(max_size=112), st.integers(0, 99))
def test_a_block_gives_its_payload_back(payload, seed):
    data = seal_block(CIPHER, payload, 128, entropy(seed))
    assert len(data) == 128
    assert open_block(CIPHER, data).startswith(payload)
    assert len(open_block(CIPHER, data)) == 112


@settings(max_examples=50)
@given(st.one_of(st.integers(0, 50), st.integers(100, 130), st.integers(1000, 1100)), st.integers(0, 3))
def test_extents_give_their_payload_back_however_long_they_are(length, spare):
    payload = pattern(length)
    size = -(-sealed_size(length) // 128) * 128 + spare * 128
    data = seal_extents(CIPHER, payload, size, entropy(length))
    assert len(data) == size
    assert open_extents(CIPHER, data, "file") == payload


def test_a_payload_that_ends_in_zeros_or_padding_keeps_them():
    for payload in (bytes(16), bytes(40), b"\1", b"\x10" * 16, b"a" * 15 + b"\1", b"x" + bytes(31)):
        data = seal_extents(CIPHER, payload, 256, entropy())
        assert open_extents(CIPHER, data, "file") == payload


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 111, 112, 113])
def test_what_extents_hold_is_iv_pkcs7_and_zero_blocks(length):
    payload = pattern(length)
    data = seal_extents(CIPHER, payload, 256, lambda size: b"I" * size)
    pad = PKCS7(128).padder()
    padded = pad.update(payload) + pad.finalize()
    assert sealed_size(length) == 16 + len(padded)
    assert data[:16] == b"I" * 16
    assert CIPHER.decrypt_cbc(data[:16], data[16:]) == padded.ljust(240, b"\0")


@pytest.mark.parametrize(
    "plain",
    [
        bytes(112),
        b"a" * 112,
        b"a" * 111 + b"\x02",
        b"a" * 95 + b"\x11" + bytes(16),
        b"a" * 94 + b"\x03\x02" + bytes(16),
        b"a" * 100 + b"\x01" + bytes(11),
        b"a" * 111 + b"\xff",
        b"\x10" * 15 + bytes(97),
    ],
)
def test_padding_that_nobody_writes_is_refused(plain):
    iv = bytes(16)
    with pytest.raises(VolumeDamaged, match="padding") as refused:
        open_extents(CIPHER, iv + CIPHER.encrypt_cbc(iv, plain), "file 0x10")
    assert refused.value.part == "file 0x10"


def test_no_two_writes_of_the_same_content_look_alike():
    random = entropy()
    assert seal_extents(CIPHER, b"same", 128, random) != seal_extents(CIPHER, b"same", 128, random)
    assert seal_block(CIPHER, b"same", 128, random) != seal_block(CIPHER, b"same", 128, random)


@settings(max_examples=60)
@given(
    length=st.integers(0, 3000),
    tagged=st.booleans(),
    header=st.sampled_from([0, 49, 57]),
    longest=st.integers(2, 64),
    step=st.sampled_from([-70, 70]),
)
def test_a_chain_gives_its_payload_back_over_any_number_of_extents(length, tagged, header, longest, step):
    kind, heap, payload = chain(tagged=tagged, header=header), Heap(longest, step), pattern(length)
    front = bytes(range(header))
    extents = sealed(kind, payload, heap, front)
    assert kind.open(extents[0], heap.read, LIMIT) == (payload, extents)
    assert heap.data[extents[0]].startswith(front)
    assert all(len(data) == extent.length * 128 for extent, data in heap.data.items())


@pytest.mark.parametrize("tagged", [True, False])
@pytest.mark.parametrize("unit", [1, 4, 16])
def test_a_chain_takes_no_more_extents_than_its_payload_needs(tagged, unit):
    kind = chain(tagged=tagged, unit=unit)
    for length in (*range(0, 700, 7), 8000, 20_000):
        heap = Heap(step=-100)
        extents = kind.place(length, heap.take)
        assert all(extent.length % unit == 0 for extent in extents)
        room = [kind.capacity(extent.length, first=not at) for at, extent in enumerate(extents)]
        assert sum(room) > length, "no room for the padding"
        assert sum(room[:-1]) <= length, "the last extent is not needed"
        if len(extents) == 1 and kind.capacity(extents[0].length - unit, first=True) > 0:
            assert kind.capacity(extents[0].length - unit, first=True) <= length


def test_a_chain_whose_first_extent_is_given_uses_it_first():
    kind, heap, head = chain(unit=4), Heap(), Extent(8, 4)
    short, long = kind.place(10, heap.take, head), kind.place(1000, heap.take, head)
    assert short == [head]
    assert (long[0], len(long)) == (head, 2)


@pytest.mark.parametrize("header", [0, 49])
def test_any_flipped_bit_in_a_tagged_chain_is_refused(header):
    kind, heap = chain(header=header), Heap(longest=2)
    extents = sealed(kind, pattern(500), heap, bytes(header))
    assert len(extents) > 2
    for extent in extents:
        original = heap.data[extent]
        for bit in range(len(original) * 8):
            flipped = bytearray(original)
            flipped[bit // 8] ^= 1 << bit % 8
            heap.data[extent] = bytes(flipped)
            with pytest.raises(VolumeDamaged, match="tag does not hold") as refused:
                kind.open(extents[0], heap.read, LIMIT)
            assert refused.value.block == extent.start
        heap.data[extent] = original
    kind.open(extents[0], heap.read, LIMIT)


@pytest.mark.parametrize("tells_key", [True, False])
def test_only_the_first_tag_speaks_of_the_key_and_only_where_it_is_the_first_to_need_it(tells_key):
    kind, heap = chain(tells_key=tells_key), Heap(longest=2)
    extents = sealed(kind, pattern(500), heap)
    for extent in extents:
        original = heap.data[extent]
        heap.data[extent] = original[:-1] + bytes([original[-1] ^ 1])
        with pytest.raises(VolumeDamaged) as refused:
            kind.open(extents[0], heap.read, LIMIT)
        assert isinstance(refused.value, VolumeKeyError) == (tells_key and extent == extents[0])
        heap.data[extent] = original


def test_a_tagged_chain_is_bound_to_its_key_its_associated_data_and_its_cipher():
    kind, heap = chain(), Heap()
    extents = sealed(kind, b"payload", heap)
    others = [
        chain(domain=6),
        chain(given_layout=layout(strength=192)),
        replace(kind, associated=b"associated\0"),
        replace(kind, associated=b""),
        replace(kind, layout=layout(strength=192)),
    ]
    for other in others:
        with pytest.raises(VolumeKeyError):
            other.open(extents[0], heap.read, LIMIT)


@pytest.mark.parametrize("header", [0, 49])
def test_tags_are_over_what_the_reference_implementation_puts_into_them(header):
    kind, heap = chain(header=header), Heap(longest=2)
    extents = sealed(kind, pattern(500), heap, bytes(range(header)))
    key = KEYS.subkey(Purpose.PREAUTH, 5, Part.DATA)
    context = b"associated" + (10).to_bytes(8, "little") + bytes.fromhex("00060080")
    previous, carried = bytes(32), b""
    for number, extent in enumerate(extents):
        data, at = heap.data[extent], 0 if number else header
        covered = data[:at] + previous + data[at + 32 :]
        which = b"\1" if number else b"\0"
        tag = hmac.new(key, covered + carried + context + which + b"\0\5", "sha256").digest()
        assert data[at : at + 32] == tag
        previous, carried = tag, data[-16:]


def test_the_parts_of_two_tagged_chains_do_not_mix():
    kind, heap, other = chain(), Heap(longest=2), Heap(longest=2)
    extents = sealed(kind, pattern(500), heap, seed=1)
    assert sealed(kind, pattern(500), other, seed=2) == extents
    for extent in extents:
        mixed = {**heap.data, extent: other.data[extent]}
        with pytest.raises(VolumeDamaged, match="tag does not hold"):
            kind.open(extents[0], mixed.__getitem__, LIMIT)


def test_a_later_extent_is_no_beginning_of_a_chain():
    kind, heap = chain(), Heap(longest=2)
    extents = sealed(kind, pattern(500), heap)
    with pytest.raises(VolumeKeyError):
        kind.open(extents[1], heap.read, LIMIT)


def linked(order, kind):
    """Extents of an untagged chain, each naming the one that `order` says; none ends."""
    iv, data = bytes(16), {}
    for extent, following in order:
        size = kind._cipher_size(extent.length * 128, first=not data)
        plain = Pointer(following).encode() + bytes(size - 8)
        encrypted = kind.cipher.encrypt_cbc(iv, plain)
        front = iv if not data else b""
        data[extent] = front.ljust(extent.length * 128 - size, b"\0") + encrypted
        iv = encrypted[-16:]
    return data


@pytest.mark.parametrize("back_to", [0, 1, 2])
def test_a_chain_that_runs_in_a_circle_is_refused(back_to):
    kind = chain(tagged=False)
    extents = [Extent(start, 2) for start in (10, 20, 30)]
    data = linked([*zip(extents, [*extents[1:], extents[back_to]], strict=True)], kind)
    with pytest.raises(VolumeDamaged, match="does not end"):
        kind.open(extents[0], data.__getitem__, LIMIT)


def test_an_endless_chain_of_ever_new_extents_is_refused_in_bounded_time():
    kind, reads = chain(tagged=False), []

    def read(extent):
        # Overlapping extents: 64 different ones begin at each block, so that none repeats.
        reads.append(extent)
        number = len(reads)
        following = Extent(1 + number % 50, 1 + number // 50 % 40)
        size = kind._cipher_size(extent.length * 128, first=number == 1)
        iv = previous[0]
        encrypted = kind.cipher.encrypt_cbc(iv, Pointer(following).encode() + bytes(size - 8))
        previous[0] = encrypted[-16:]
        front = iv if number == 1 else b""
        return front.ljust(extent.length * 128 - size, b"\0") + encrypted

    previous = [bytes(16)]
    with pytest.raises(VolumeDamaged, match="does not end"):
        kind.open(Extent(60, 1), read, 100)
    assert len(reads) <= 101


def test_a_chain_may_not_point_outside_of_the_image_or_to_another_list():
    kind = chain(tagged=False)
    head = Extent(10, 2)
    with pytest.raises(VolumeDamaged, match="outside"):
        kind.open(head, linked([(head, Extent(100, 1))], kind).__getitem__, 100)
    iv, size = bytes(16), 240
    plain = Pointer(Extent(20, 2), indirect=True).encode() + bytes(size - 8)
    data = {head: iv + kind.cipher.encrypt_cbc(iv, plain)}
    with pytest.raises(VolumeDamaged, match="does not end"):
        kind.open(head, data.__getitem__, 100)


def test_an_extent_without_room_for_a_cipher_block_is_refused():
    kind = chain(header=100)
    with pytest.raises(VolumeDamaged, match="too short"):
        kind.open(Extent(10, 1), lambda _: bytes(128), LIMIT)


def test_an_untagged_chain_whose_padding_was_not_written_is_refused():
    kind, iv = chain(tagged=False), bytes(16)
    data = iv + kind.cipher.encrypt_cbc(iv, NIL + b"a" * 104)
    with pytest.raises(VolumeDamaged, match="padding"):
        kind.open(Extent(10, 1), lambda _: data, LIMIT)
