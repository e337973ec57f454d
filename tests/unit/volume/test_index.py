"""The inode index: a B+ tree that stays one, whatever is put and removed; and what is refused as none."""

import struct
from itertools import count, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from volumes import layout, rng

from vtpm.volume.errors import VolumeDamaged
from vtpm.volume.extents import NIL, Extent, Pointer, encode_block
from vtpm.volume.index import Entry, Form, Index, IndexDraft, Node, load, parse_leaf, special_entry

LIMIT = 1 << 30
ENTRY_LEAF = 8
FORMS = {
    "128 and 128": Form(layout()),
    "256 and 128": Form(layout(leaf_log2=1)),
    "128 and 256": Form(layout(inner_log2=1)),
    "256 and 512": Form(layout(leaf_log2=1, inner_log2=2)),
    "512 and 256": Form(layout(leaf_log2=2, inner_log2=1)),
}
SMALL = FORMS["128 and 128"]


def entry(number, flags=0, *, indirect=False):
    return Entry(Pointer(Extent(number, number % 64 + 1), indirect=indirect), flags)


def special(form, root=ENTRY_LEAF, *, leaf=True):
    return {1: entry(100), 2: entry(200), 3: Entry(Pointer(Extent(root, form.length(leaf=leaf))))}


def empty(form):
    found = special(form)
    return Index(form, ENTRY_LEAF, ENTRY_LEAF, {ENTRY_LEAF: Node(1, list(found), list(found.values()))})


class Places:
    """Gives places for nodes and notes which are in use."""

    def __init__(self):
        self.next = count(1000, 8)
        self.used = {ENTRY_LEAF}

    def allocate(self, length):
        assert length <= 8
        place = next(self.next)
        self.used.add(place)
        return place

    def free(self, extents):
        for extent in extents:
            self.used.remove(extent.start)


def stored(index):
    """The blocks of an index as they are written, by place."""
    nodes = {extent.start: index.node(extent.start) for extent in index.extents()}
    return {place: index.form.encode(node) for place, node in nodes.items()}


def loaded(form, blocks, entry_leaf=ENTRY_LEAF, limit=LIMIT):
    def read(extent):
        assert len(blocks[extent.start]) <= (extent.length << form.layout.block_shift) - 16
        size = (extent.length << form.layout.block_shift) - 16
        return blocks[extent.start].ljust(size, b"\0")

    return load(form, entry_leaf, read, limit)


def check_tree(index):
    """Fill, order, levels and links, by a walk that does not use `load`."""
    form, leaves = index.form, []

    def walk(block, low, high):
        node = index.node(block)
        most, least = form.most(leaf=node.is_leaf), form.least(leaf=node.is_leaf)
        assert len(node.keys) <= most
        assert block == index.root or len(node.keys) >= least
        assert all(one < other for one, other in pairwise(node.keys))
        assert all(low <= key < high for key in node.keys)
        if node.is_leaf:
            assert len(node.entries) == len(node.keys)
            leaves.append(block)
            return 1
        assert len(node.children) == len(node.keys) + 1
        bounds = [low, *node.keys, high]
        heights = {walk(child, *pair) for child, pair in zip(node.children, pairwise(bounds), strict=True)}
        assert heights == {node.level - 1}
        return node.level

    walk(index.root, 1, 1 << 64)
    assert leaves[0] == index.entry_leaf
    assert [index.node(leaf).following for leaf in leaves] == [*leaves[1:], None]


@pytest.mark.parametrize(
    ("form", "leaf", "inner"),
    # 128-byte nodes are the reference tool's default: 5 entries, 6 keys.
    [("128 and 128", (3, 5), (2, 6)), ("256 and 512", (6, 11), (14, 30)), ("512 and 256", (12, 24), (6, 14))],
)
def test_nodes_hold_as_many_keys_as_the_format_says(form, leaf, inner):
    form = FORMS[form]
    assert (form.least(leaf=True), form.most(leaf=True)) == leaf
    assert (form.least(leaf=False), form.most(leaf=False)) == inner


@given(st.integers(1, 5), st.booleans())
def test_a_leaf_survives(used, linked):
    keys = [1 << 64 - at for at in range(used, 0, -1)]
    keys[-1] = min(keys[-1], (1 << 64) - 1)
    node = Node(1, keys, [entry(50 + at, at * 40, indirect=bool(at % 2)) for at in range(used)])
    node.following = 77 if linked else None
    data = SMALL.encode(node)
    assert len(data) == 8 + 5 * 20 + 4 == 112
    assert SMALL.parse(data, 5, LIMIT, leaf=True) == node


@given(st.integers(1, 6), st.integers(2, 64))
def test_an_inner_node_survives(used, level):
    node = Node(level, [10 * at + 5 for at in range(used)], children=[100 + at for at in range(used + 1)])
    data = SMALL.encode(node)
    assert len(data) == 8 * 7 + 8 * 6 + 4
    assert SMALL.parse(data, 5, LIMIT, leaf=False) == node


def test_a_leaf_is_what_the_format_says():
    node = Node(1, [1, 2], [entry(3, 7), entry(4, 255)], following=9)
    pointers = encode_block(9) + entry(3).pointer.encode() + entry(4).pointer.encode() + NIL * 3
    assert SMALL.encode(node) == pointers + struct.pack("<5Q5II", 1, 2, 0, 0, 0, 7, 255, 0, 0, 0, 1)


steps = st.lists(
    st.tuples(st.sampled_from(["put", "put", "remove"]), st.integers(16, 120), st.integers(0, 255)),
    max_size=120,
)


@pytest.mark.parametrize("name", FORMS)
@settings(max_examples=25)
@given(steps=steps)
def test_puts_and_removes_equal_a_dict_after_each_step(name, steps):
    form = FORMS[name]
    index, expected, places = empty(form), dict(special(form)), Places()
    for what, inode, flags in steps:
        draft = IndexDraft(index, places.allocate)
        before = stored(index)
        if what == "put":
            expected[inode] = entry(inode * 300 + flags + 1, flags)
            draft.put(inode, expected[inode])
        elif inode in expected:
            del expected[inode]
            draft.remove(inode)
        assert stored(index) == before, "a draft has changed the index below it"
        index.replace(draft)
        places.free(draft.freed)
        expected[3] = index.get(3)
        assert dict(index.items()) == expected
        check_tree(index)
        assert {extent.start for extent in index.extents()} == places.used
        assert index.get(inode) == expected.get(inode)
    assert dict(loaded(form, stored(index)).items()) == expected


@settings(max_examples=25)
@given(
    st.lists(st.integers(16, 1 << 63), min_size=1, max_size=80, unique=True),
    st.randoms(use_true_random=False),
)
def test_many_changes_in_one_draft_equal_a_dict(inodes, choose):
    index, places = empty(SMALL), Places()
    draft = IndexDraft(index, places.allocate)
    expected = special(SMALL)
    for inode in inodes:
        expected[inode] = entry(inode % 10_000 + 1)
        draft.put(inode, expected[inode])
    for inode in choose.sample(inodes, len(inodes) // 2):
        del expected[inode]
        draft.remove(inode)
    index.replace(draft)
    expected[3] = index.get(3)
    assert dict(index.items()) == expected
    check_tree(index)
    places.free(draft.freed)
    assert {extent.start for extent in index.extents()} == places.used
    assert dict(loaded(SMALL, stored(index)).items()) == expected


def grown(inodes=200, seed=3):
    """An index of several levels."""
    index, places = empty(SMALL), Places()
    draft = IndexDraft(index, places.allocate)
    numbers = rng(seed).sample(range(16, 10_000), inodes)
    for inode in numbers:
        draft.put(inode, entry(inode))
    index.replace(draft)
    return index, places, sorted(numbers)


def test_an_index_of_many_levels_grows_and_shrinks_back_to_its_entry_leaf():
    index, places, numbers = grown()
    check_tree(index)
    assert index.node(index.root).level >= 4
    for inode in rng(4).sample(numbers, len(numbers)):
        draft = IndexDraft(index, places.allocate)
        draft.remove(inode)
        index.replace(draft)
        places.free(draft.freed)
        check_tree(index)
    assert (index.root, [inode for inode, _ in index.items()]) == (ENTRY_LEAF, [1, 2, 3])
    assert places.used == {ENTRY_LEAF}


def test_a_draft_that_is_dropped_leaves_no_trace():
    index, places, numbers = grown()
    before = stored(index)
    draft = IndexDraft(index, places.allocate)
    for inode in numbers[::2]:
        draft.remove(inode)
    for inode in range(20_000, 20_050):
        draft.put(inode, entry(inode))
    assert stored(index) == before
    check_tree(index)


def test_what_is_not_there_is_none():
    index, _, numbers = grown()
    for inode in set(range(16, 200)) - set(numbers):
        assert index.get(inode) is None


# Below: what is stored is changed so that it is no such tree any more.


def refused(blocks, match, form=SMALL, limit=LIMIT):
    with pytest.raises(VolumeDamaged, match=match) as error:
        loaded(form, blocks, limit=limit)
    assert error.value.part == "inode index"


def two_levels():
    """A root with three leaves, at 8 (the entry leaf), 16 and 24; the root is at 32."""
    leaves = {
        8: Node(1, [1, 2, 3], list(special(SMALL, 32, leaf=False).values()), following=16),
        16: Node(1, [20, 21, 22], [entry(20), entry(21), entry(22)], following=24),
        24: Node(1, [30, 31, 32], [entry(30), entry(31), entry(32)]),
    }
    return {**leaves, 32: Node(2, [20, 30], children=[8, 16, 24])}


def changed(**nodes):
    found = two_levels() | {int(place[1:]): node for place, node in nodes.items()}
    return {place: node if isinstance(node, bytes) else SMALL.encode(node) for place, node in found.items()}


def test_the_tree_that_is_changed_below_is_one():
    assert [inode for inode, _ in loaded(SMALL, changed()).items()] == [1, 2, 3, 20, 21, 22, 30, 31, 32]


def leaf(keys, following=24, flags=()):
    flags = [*flags, *[0] * (len(keys) - len(flags))]
    return Node(1, keys, [Entry(entry(key + 1).pointer, flag) for key, flag in zip(keys, flags, strict=True)],
                following=following)  # fmt: skip


def patched(node, at, value):
    data = bytearray(SMALL.encode(node))
    data[at : at + len(value)] = value
    return bytes(data)


def quad(value):
    return struct.pack("<Q", value)


MALFORMED_LEAVES = {
    "keys out of order": (leaf([21, 20, 22]), "order"),
    "a key twice": (leaf([20, 20, 22]), "order"),
    "a hole in the keys": (patched(leaf([20, 21, 22]), 48 + 8, quad(0)), "order"),
    "no keys": (leaf([]), "order"),
    "too few keys": (leaf([20, 21]), "too few"),
    "a key of the leaf before": (leaf([19, 20, 21]), "belong elsewhere"),
    "a key of the leaf after": (leaf([20, 21, 30]), "belong elsewhere"),
    "a level of 0": (patched(leaf([20, 21, 22]), 108, struct.pack("<I", 0)), "level"),
    "a level of 2": (patched(leaf([20, 21, 22]), 108, struct.pack("<I", 2)), "level"),
    "a level of 2^31": (patched(leaf([20, 21, 22]), 108, struct.pack("<I", 1 << 31)), "level"),
    "flags of more than 8 bits": (patched(leaf([20, 21, 22]), 88, struct.pack("<I", 256)), "flags"),
    "flags without a key": (patched(leaf([20, 21, 22]), 100, struct.pack("<I", 1)), "flags"),
    "a pointer without a key": (patched(leaf([20, 21, 22]), 32, quad(5 << 7)), "without a key"),
    "a key without a pointer": (patched(leaf([20, 21, 22]), 8, NIL), "without a pointer"),
    "a pointer outside of the image": (patched(leaf([20, 21, 22]), 8, quad(LIMIT << 7)), "outside"),
    "a pointer to block 0": (patched(leaf([20, 21, 22]), 8, quad(0)), "outside"),
    "the next leaf outside of the image": (leaf([20, 21, 22], LIMIT), "outside"),
    "reserved bits in the next leaf's pointer": (
        patched(leaf([20, 21, 22]), 0, quad(24 << 7 | 2)),
        "reserved",
    ),
    "no next leaf": (leaf([20, 21, 22], None), "linked"),
    "itself as the next leaf": (leaf([20, 21, 22], 16), "linked"),
    "the first leaf as the next": (leaf([20, 21, 22], 8), "linked"),
}


@pytest.mark.parametrize("what", MALFORMED_LEAVES)
def test_a_malformed_leaf_is_refused(what):
    node, match = MALFORMED_LEAVES[what]
    refused(changed(_16=node), match)


INNER = Node(2, [20, 30], children=[8, 16, 24])
MALFORMED_INNER = {
    "keys out of order": (Node(2, [30, 20], children=[8, 16, 24]), "order"),
    "no keys": (Node(2, [], children=[8]), "order"),
    "children that belong elsewhere": (Node(2, [20, 30], children=[8, 24, 16]), "belong elsewhere"),
    "a separator above its leaf": (Node(2, [21, 30], children=[8, 16, 24]), "belong elsewhere"),
    "a child twice": (Node(2, [20, 30], children=[8, 16, 16]), "belong elsewhere"),
    "the first leaf twice": (Node(2, [20, 30], children=[8, 8, 24]), "belong elsewhere"),
    "itself as a child": (Node(2, [20, 30], children=[8, 32, 24]), "order|level"),
    "another first leaf": (Node(2, [20], children=[16, 24]), "belong elsewhere"),
    "a level of 3": (Node(3, [20, 30], children=[8, 16, 24]), "level"),
    "a level of 1": (patched(INNER, 104, struct.pack("<I", 1)), "level"),
    "a level of 65": (patched(INNER, 104, struct.pack("<I", 65)), "level"),
    "a child outside of the image": (patched(INNER, 8, quad(LIMIT << 7)), "outside"),
    "a child without a key": (patched(INNER, 24, quad(5 << 7)), "without a key"),
    "a key without a child": (patched(INNER, 16, NIL), "without a pointer"),
    "reserved bits in a child's pointer": (patched(INNER, 8, quad(16 << 7 | 1)), "reserved"),
}


@pytest.mark.parametrize("what", MALFORMED_INNER)
def test_a_malformed_inner_node_is_refused(what):
    node, match = MALFORMED_INNER[what]
    refused(changed(_32=node), match)


def test_a_leaf_missing_from_the_links_is_refused():
    first = two_levels()[8]
    first.following = 24
    refused(changed(_8=first), "linked")


@pytest.mark.parametrize("last", [8, 16, 24, 40])
def test_a_last_leaf_with_a_next_one_is_refused(last):
    refused(changed(_24=leaf([30, 31, 32], last)), "linked")


def root_pointer(pointer):
    first = two_levels()[8]
    first.entries[2] = Entry(pointer)
    return changed(_8=first)


@pytest.mark.parametrize("pointer", [Pointer(Extent(32, 1), indirect=True), Pointer(Extent(32, 2))])
def test_a_pointer_to_the_root_that_is_none_is_refused(pointer):
    refused(root_pointer(pointer), "pointer to the root")


def test_a_root_that_leaves_the_first_leaf_out_is_refused():
    nodes = two_levels()
    nodes[16].following = 24
    found = changed(_32=Node(2, [30], children=[16, 24]))
    refused(found, "linked")


def test_a_lone_leaf_that_names_another_is_refused():
    found = special(SMALL)
    refused({8: SMALL.encode(Node(1, list(found), list(found.values()), following=16))}, "linked")


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_an_entry_leaf_without_one_of_its_three_inodes_is_refused(missing):
    found = special(SMALL) | {17: entry(17)}
    del found[missing]
    refused({8: SMALL.encode(Node(1, list(found), list(found.values())))}, "lacks an inode")


def test_the_special_entries_are_those_of_their_inodes():
    found = special(SMALL)
    node = parse_leaf(SMALL, 8, lambda _: SMALL.encode(Node(1, list(found), list(found.values()))), LIMIT)
    assert [special_entry(node, inode, 8) for inode in (1, 2, 3)] == list(found.values())


@pytest.mark.parametrize("levels", [2, 3, 63])
def test_a_tower_of_inner_nodes_that_leads_back_up_is_refused(levels):
    # Every inner node names the one above it again; levels must fall, so there is an end.
    first = Node(1, [1, 2, 3], list(special(SMALL, 1000, leaf=False).values()))
    blocks = {8: SMALL.encode(first)}
    for at in range(levels):
        place, above = 1000 + 8 * at, 1000 + 8 * max(at - 1, 0)
        below = place + 8 if at < levels - 1 else 1000
        blocks[place] = SMALL.encode(Node(64 - at, [40, 50], children=[below, above, above]))
    refused(blocks, "level|elsewhere|twice")


@settings(max_examples=200)
@given(st.sampled_from([8, 16, 24, 32]), st.integers(0, 111), st.integers(1, 255))
def test_any_changed_byte_gives_another_tree_or_damage(place, at, xor):
    blocks = changed()
    data = bytearray(blocks[place].ljust(112, b"\0"))
    data[at] ^= xor
    try:
        index = loaded(SMALL, blocks | {place: bytes(data)}, limit=200)
    except (VolumeDamaged, KeyError):  # the latter: a node that is not among these
        return
    check_tree(index)
