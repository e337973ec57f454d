"""The authentication tree: its shape against a slow count of nodes, and what its digests bind."""

import hashlib
import hmac
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from volumes import KEY, LAYOUTS, SALT, MemoryDisk, entropy, image, layout, manifest, open_memory

from vtpm.volume.errors import VolumeDamaged
from vtpm.volume.extents import Extent
from vtpm.volume.kdf import Keys
from vtpm.volume.tree import Geometry, RootContext, Shape, Tree, fitting_nodes

LAYOUT = layout()
TINY = layout(tree_node_log2=0, io_block_log2=0, data_block_log2=0, bitmap_block_log2=0)
"""Nodes of 128 bytes: 4 digests each, so that trees of many levels are small."""

SHAPES = {"default": LAYOUT, "tiny": TINY, "strength-256": LAYOUTS["strength-256"], "alloc-4k": LAYOUTS["alloc-4k"],
          "wide-tree": LAYOUTS["wide-tree"], "sha3-camellia": LAYOUTS["sha3-camellia"]}  # fmt: skip


def fan(size, digest):
    """The largest power of two of digests that fits."""
    power = 1
    while power * 2 * digest <= size:
        power *= 2
    return power


def branching(given_layout):
    size = given_layout.tree_node << given_layout.block_shift

    def slot(digest):
        return 1 << (digest - 1).bit_length()

    return fan(size, slot(given_layout.node_hash.digest_size)), fan(
        size, slot(given_layout.data_hash.digest_size)
    )


def walk(given_layout, nodes):
    """A tree of so many nodes, node by node in depth-first order: (level, first data block), and the height.

    The height is the least at which a complete tree has as many nodes or more.
    """
    inner, leaf = branching(given_layout)
    levels = complete = 1
    while complete < nodes:
        complete = complete * inner + 1
        levels += 1
    found = []

    def visit(level, first):
        if len(found) == nodes:
            return
        found.append((level, first))
        if level:
            for child in range(inner):
                visit(level - 1, first + child * leaf * inner ** (level - 1))

    visit(levels - 1, 0)
    return found, levels, leaf


@pytest.mark.parametrize("name", SHAPES)
def test_branching_is_the_largest_power_of_two_that_fits(name):
    shape, (inner, leaf) = Shape(SHAPES[name], 1), branching(SHAPES[name])
    assert (1 << shape.fan_log2, 1 << shape.leaf_log2) == (inner, leaf)


@pytest.mark.parametrize("name", SHAPES)
def test_height_capacity_and_places_equal_a_walk_node_by_node(name):
    given_layout = SHAPES[name]
    for nodes in [*range(1, 160), 273, 274, 341, 342, 1000, 1365, 1366]:
        shape = Shape(given_layout, nodes)
        found, levels, leaf = walk(given_layout, nodes)
        leaves = [first for level, first in found if level == 0]
        assert shape.levels == levels, nodes
        assert shape.capacity == len(leaves) * leaf, nodes
        for number, (level, first) in enumerate(found):
            assert shape.number(level, first) == number
            if level == 0:
                assert shape.number(0, first + leaf - 1) == number


@settings(max_examples=200)
@given(st.sampled_from(sorted(SHAPES)), st.integers(1, 1 << 15))
def test_the_smallest_tree_that_fits_is_found(name, units):
    given_layout = SHAPES[name]
    size = units * given_layout.io_block

    def fits(length):
        return (
            Shape(given_layout, length // given_layout.tree_node).capacity * given_layout.data_block
            >= size - length
        )

    unit = max(given_layout.tree_node, given_layout.journal_block)
    length = fitting_nodes(given_layout, size)
    assert length % unit == 0
    assert fits(length)
    assert length == unit or not fits(length - unit)


@pytest.mark.parametrize("name", ["default-aes128.empty", "aes128-alloc4k.files", "aes256-io4k.svsm"])
def test_the_smallest_tree_is_the_one_the_reference_implementation_makes(name):
    with open_memory(MemoryDisk(image(name)), writable=False) as volume:
        length = fitting_nodes(volume.state.static.layout, volume.state.header.size)
    assert [length] == [length for _, length in manifest()[name]["derived"]["auth_tree_extents"]]


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("size", [1 << 20, 100 << 20, 1 << 30, 1 << 40])
def test_trees_of_large_images_vouch_for_all_of_it_and_are_no_larger_than_they_must(name, size):
    given_layout = SHAPES[name]
    blocks = size >> given_layout.block_shift
    length = fitting_nodes(given_layout, blocks)
    shape = Shape(given_layout, length // given_layout.tree_node)
    covered = shape.capacity * given_layout.data_block
    assert covered >= blocks - length
    assert shape.levels >= {1 << 20: 2, 100 << 20: 2, 1 << 30: 3, 1 << 40: 4}[size]
    inner, leaf = branching(given_layout)
    data_blocks = -(-(blocks - length) // given_layout.data_block)
    nodes, level = 0, -(-data_blocks // leaf)
    while True:
        nodes += level
        if level == 1:
            break
        level = -(-level // inner)
    unit = max(given_layout.tree_node, given_layout.journal_block) // given_layout.tree_node
    assert shape.nodes in range(nodes, nodes + unit + 1)


# Geometry: where data blocks lie around the tree.

EXTENTS = (Extent(8, 16), Extent(64, 8), Extent(40, 8))


def geometry(extents=EXTENTS, size=200, given_layout=LAYOUT):
    return Geometry(given_layout, size, extents)


def test_data_blocks_are_numbered_along_the_image_with_the_tree_left_out():
    found, taken = geometry(), {block for extent in EXTENTS for block in extent.blocks()}
    numbers = [block for block in range(0, 200, 4) if block not in taken]
    assert found.data_blocks == len(numbers)
    for number, block in enumerate(numbers):
        assert found.place(number) == block
        assert [found.data_block(block + i) for i in range(4)] == [number] * 4


@pytest.mark.parametrize("block", [8, 23, 40, 71, 200, 5000])
def test_blocks_of_the_tree_and_beyond_the_image_are_in_no_data_block(block):
    with pytest.raises(VolumeDamaged, match="inside the authentication tree"):
        geometry().data_block(block)


@given(st.integers(0, 41), st.integers(0, 41))
def test_runs_are_the_data_blocks_one_after_the_other(first, end):
    found, seen = geometry(), []
    for number, run in found.runs(first, end):
        assert number == first + len(seen)
        seen += range(run.start, run.end, 4)
    assert seen == [found.place(number) for number in range(first, end)]


def test_nodes_lie_in_the_trees_extents_one_after_the_other():
    assert [geometry().node_place(number) for number in range(4)] == [8, 16, 64, 40]


@pytest.mark.parametrize(
    ("extents", "size", "match"),
    [
        ((Extent(9, 8),), 100, "aligned"),
        ((Extent(8, 12),), 100, "aligned"),
        ((), 100, "too small"),
        ((Extent(8, 8),), 8 + 32 * 4 + 4, "too small"),
    ],
)
def test_a_tree_that_cannot_be_one_is_refused(extents, size, match):
    with pytest.raises(VolumeDamaged, match=match):
        geometry(extents, size)
    assert geometry((Extent(8, 8),), 8 + 32 * 4).data_blocks == 32


# The tree itself, with digests made up for the data blocks.

KEYS = Keys(KEY, TINY, SALT)
CONTEXT = RootContext(b"counter of 16 by", 3, (Extent(2, 1),))


def digest_of(number):
    return hashlib.sha256(b"data block %d" % number).digest()


def built(size=300, extents=None):
    """A tree of several levels over made-up digests, and its root HMAC."""
    if extents is None:
        extents = (Extent(10, fitting_nodes(TINY, size)),)
    found = Geometry(TINY, size, extents)
    tree = Tree(found, KEYS, bytearray(128 * found.shape.nodes))
    leaves = {
        first: b"".join(digest_of(n) for n in range(first, min(first + 4, found.data_blocks))).ljust(
            128, b"\0"
        )
        for first in range(0, found.data_blocks, 4)
    }
    tree.apply(tree.rebuilt(leaves))
    return tree, tree.root({}, CONTEXT)


def independent_root(tree):
    """The root HMAC, computed from the digests alone and after the format's description."""
    found = tree.geometry
    data = [digest_of(n) for n in range(found.data_blocks)]

    def node(level, first):
        step = 4**level
        last = first + 3 * step
        if level == 0:
            entries = b"".join(data[first : first + 4])
        else:
            entries = b"".join(
                hashlib.sha256(b"".join(node(level - 1, child)) + b"\0\3").digest()
                for child in range(first, first + 4 * step, step)
                if child < len(data)
            )
        return entries.ljust(128, b"\0"), last.to_bytes(8, "little")

    key = KEYS.subkey(2, 1, 0)
    entries, last = node(found.shape.levels - 1, 0)
    extents = b""
    for places in (found.extents, CONTEXT.bitmap):
        end = 0
        for extent in places:
            gap, length = extent.start - end, extent.length
            assert gap in range(-64, 64)
            extents += bytes([gap & 127]) + (
                bytes([length]) if length < 128 else bytes([length & 127 | 128, length >> 7])
            )
            end = extent.end
        extents += b"\0\0"
    image_context = (
        b"COCOONFS\1"
        + TINY.encode()
        + (CONTEXT.leaf << 7).to_bytes(8, "little")
        + found.size.to_bytes(8, "little")
        + extents
        + b"\0\1"
    )
    image_digest = hmac.new(key, image_context, "sha256").digest()
    return hmac.new(key, entries + last + CONTEXT.counter + image_digest + b"\0\2", "sha256").digest()


@pytest.mark.parametrize("size", [5, 12, 30, 300, 1000])
def test_the_root_is_the_one_that_the_formats_description_gives(size):
    tree, root = built(size)
    assert root == independent_root(tree)
    tree.verify(root, CONTEXT)


def test_there_are_trees_of_many_levels_here():
    assert [built(size)[0].geometry.shape.levels for size in (5, 30, 300, 1000)] == [1, 3, 4, 5]


def test_the_digests_come_out_as_they_went_in():
    tree, _ = built()
    total = tree.geometry.data_blocks
    assert tree.digests(0, total) == [digest_of(n) for n in range(total)]
    for first, number in ((0, 1), (3, 2), (5, 9), (total - 1, 1)):
        assert tree.digests(first, number) == [digest_of(n) for n in range(first, first + number)]


def test_a_tree_in_several_extents_is_the_same_but_for_where_it_lies():
    length = fitting_nodes(TINY, 300)
    split = (Extent(50, 20), Extent(10, length - 40), Extent(90, 20))
    tree, root = built(extents=split)
    tree.verify(root, CONTEXT)
    whole, other = built()
    assert tree.nodes == whole.nodes
    assert root != other
    assert root == independent_root(tree)


def test_any_flipped_bit_in_a_used_entry_is_refused():
    tree, root = built(60)
    found, shape = tree.geometry, tree.geometry.shape
    used = set()
    for level in range(shape.levels):
        span = 1 << shape.span_log2(level)
        below = 1 << (shape.span_log2(level - 1) if level else 0)
        for first in range(0, found.data_blocks, span):
            at = shape.number(level, first) * 128
            used.update(range(at, at + 32 * len(range(first, min(first + span, found.data_blocks), below))))
    assert len(used) > 1800
    for byte in used:
        tree.nodes[byte] ^= 1 << byte % 8
        with pytest.raises(VolumeDamaged, match="authentication tree"):
            tree.verify(root, CONTEXT)
        tree.nodes[byte] ^= 1 << byte % 8
    tree.verify(root, CONTEXT)


@pytest.mark.parametrize(
    "context",
    [replace(CONTEXT, counter=bytes(16)), replace(CONTEXT, leaf=4), replace(CONTEXT, bitmap=(Extent(2, 2),))],
)
def test_the_root_binds_its_context(context):
    tree, root = built()
    with pytest.raises(VolumeDamaged, match="root HMAC"):
        tree.verify(root, context)


def test_the_root_binds_the_key_the_size_of_the_image_and_the_place_of_the_tree():
    tree, root = built()
    nodes = bytearray(tree.nodes)
    (extent,) = tree.geometry.extents
    others = [
        Tree(tree.geometry, Keys(b"another", TINY, SALT), nodes),
        Tree(replace(tree.geometry, extents=(Extent(extent.start + 1, extent.length),)), KEYS, nodes),
        Tree(replace(tree.geometry, size=299), KEYS, nodes),
    ]
    for other in others:
        with pytest.raises(VolumeDamaged, match="root HMAC"):
            other.verify(root, CONTEXT)


@settings(max_examples=40)
@given(st.dictionaries(st.integers(0, 150), st.integers(0, 1 << 30), min_size=1, max_size=20))
def test_updating_some_digests_equals_building_the_tree_anew(changes):
    tree, root = built()
    before = bytes(tree.nodes)
    digests = {number: digest_of(value + 10_000) for number, value in changes.items()}
    updated = tree.updated(digests)
    assert tree.nodes == before, "nothing is changed before it is applied"
    assert tree.root(updated, CONTEXT) != root
    new_root = tree.root(updated, CONTEXT)
    leaves = {}
    for first in {number & -4 for number in changes}:
        entries = [
            digests.get(n, digest_of(n)) for n in range(first, min(first + 4, tree.geometry.data_blocks))
        ]
        leaves[first] = b"".join(entries).ljust(128, b"\0")
    assert tree.rebuilt(leaves) == updated
    tree.apply(updated)
    tree.verify(new_root, CONTEXT)


def test_rebuilding_believes_nothing_of_the_nodes_above():
    tree, root = built()
    shape, whole = tree.geometry.shape, bytes(tree.nodes)
    leaves = {first: bytes(tree._node(shape.number(0, first))) for first in (0, 64, 100)}
    random = entropy()
    for level in range(1, shape.levels):
        for first in (0, 64, 100):
            span = shape.span_log2(level)
            number = shape.number(level, first >> span << span)
            tree.nodes[number * 128 : (number + 1) * 128] = random(128)
    tree.apply(tree.rebuilt(leaves))
    tree.verify(root, CONTEXT)
    assert tree.nodes == whole
