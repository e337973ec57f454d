"""The tree against the recursive definitions of RFC 6962 and its well-known roots."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca_service.audit.merkle import (
    EMPTY_ROOT,
    Frontier,
    Recipe,
    consistency,
    inclusion,
    leaf_hash,
    node_hash,
    nodes_in,
    verify_consistency,
    verify_inclusion,
)

LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
"""Leaves and roots (of the first 0 to 8 leaves) that the Certificate Transparency implementations share."""


def below(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def mth(leaves: list[bytes]) -> bytes:
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    k = below(len(leaves))
    return hashlib.sha256(b"\1" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(m: int, leaves: list[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    k = below(len(leaves))
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m: int, leaves: list[bytes], known: bool) -> list[bytes]:
    if m == len(leaves):
        return [] if known else [mth(leaves)]
    k = below(len(leaves))
    if m <= k:
        return [*subproof(m, leaves[:k], known), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), mth(leaves[:k])]


def grown(leaves: list[bytes]):
    frontier, nodes = Frontier(), {}
    for leaf in leaves:
        frontier, made = frontier.append(leaf_hash(leaf))
        nodes |= {(level, position): hash_ for level, position, hash_ in made}
    return frontier, nodes


@given(st.integers(0, 70), st.lists(st.binary(max_size=4), max_size=9))
def test_leaves_at_once_are_leaves_one_after_the_other(size, leaves):
    start, _ = Frontier().append(*[leaf_hash(b"%d" % i) for i in range(size)])
    one, nodes = start, []
    for leaf in leaves:
        one, made = one.append(leaf_hash(leaf))
        nodes += made
    assert start.append(*map(leaf_hash, leaves)) == (one, tuple(nodes))
    assert start.append()[0] == start


def numbered(size: int) -> list[bytes]:
    return [b"leaf %d" % i for i in range(size)]


sizes = st.integers(1, 70)
hashes = st.binary(min_size=32, max_size=32)
anything = st.binary(max_size=40)


def test_well_known_roots():
    frontier = Frontier()
    assert frontier.root().hex() == ROOTS[0] == EMPTY_ROOT.hex()
    for leaf, root in zip(LEAVES, ROOTS[1:], strict=True):
        frontier, _ = frontier.append(leaf_hash(leaf))
        assert frontier.root().hex() == root


@pytest.mark.parametrize(
    ("position", "size", "expected"),
    [
        (0, 1, ()),
        (
            0,
            8,
            (
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ),
        ),
        (
            5,
            8,
            (
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ),
        ),
        (2, 3, ("fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",)),
    ],
)
def test_well_known_inclusion_paths(position, size, expected):
    _, nodes = grown(LEAVES)
    assert tuple(h.hex() for h in inclusion(position, size).path(nodes)) == expected


@pytest.mark.parametrize(
    ("old", "size", "expected"),
    [
        (1, 1, ()),
        (
            1,
            8,
            (
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ),
        ),
        (
            6,
            8,
            (
                "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ),
        ),
        (
            2,
            5,
            (
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ),
        ),
    ],
)
def test_well_known_consistency_paths(old, size, expected):
    _, nodes = grown(LEAVES)
    assert tuple(h.hex() for h in consistency(old, size).path(nodes)) == expected


@given(sizes)
def test_growing_gives_root_and_nodes_of_the_definition(size):
    leaves = numbered(size)
    frontier, nodes = grown(leaves)
    assert frontier.root() == mth(leaves)
    assert len(nodes) == nodes_in(size)
    for (level, position), hash_ in nodes.items():
        assert hash_ == mth(leaves[position << level : (position + 1) << level])
    assert Frontier.from_bytes(size, frontier.to_bytes()) == frontier


@given(sizes, st.data())
def test_inclusion_is_as_defined_and_verifies(size, data):
    position = data.draw(st.integers(0, size - 1))
    leaves = numbered(size)
    frontier, nodes = grown(leaves)
    found = inclusion(position, size).path(nodes)
    assert list(found) == path(position, leaves)
    assert verify_inclusion(leaf_hash(leaves[position]), position, size, found, frontier.root())


@given(st.integers(0, 70), st.integers(0, 20))
def test_the_paths_of_what_was_appended_last_are_as_defined(size, more):
    leaves = numbered(size + more)
    before, _ = grown(leaves[:size])
    found = before.last_paths([leaf_hash(leaf) for leaf in leaves[size:]])
    assert [list(one) for one in found] == [path(i, leaves) for i in range(size, size + more)]


@given(sizes, st.data())
def test_consistency_is_as_defined_and_verifies(size, data):
    old = data.draw(st.integers(1, size))
    leaves = numbered(size)
    frontier, nodes = grown(leaves)
    found = consistency(old, size).path(nodes)
    assert list(found) == subproof(old, leaves, True)
    assert verify_consistency(old, size, mth(leaves[:old]), frontier.root(), found)


def test_the_empty_tree_is_the_beginning_of_every_tree():
    assert consistency(0, 5) == Recipe(())
    root = mth(numbered(5))
    assert verify_consistency(0, 5, EMPTY_ROOT, root, ())
    assert not verify_consistency(0, 5, root, root, ())
    assert not verify_consistency(0, 5, EMPTY_ROOT, root, (root,))


@given(sizes, st.data())
def test_no_other_proof_of_inclusion_verifies(size, data):
    position = data.draw(st.integers(0, size - 1))
    leaves = numbered(size)
    frontier, nodes = grown(leaves)
    found = list(inclusion(position, size).path(nodes))
    root, leaf = frontier.root(), leaf_hash(leaves[position])
    assert not verify_inclusion(leaf_hash(b"another"), position, size, found, root)
    assert not verify_inclusion(leaf, position, size, [*found, root], root)
    other = data.draw(st.integers(-2, 2 * size).filter(lambda i: i != position))
    assert not verify_inclusion(leaf, other, size, found, root)
    if found:
        assert not verify_inclusion(leaf, position, size, found[:-1], root)
        place = data.draw(st.integers(0, len(found) - 1))
        found[place] = data.draw(hashes.filter(lambda h: h != found[place]))
        assert not verify_inclusion(leaf, position, size, found, root)


@given(st.integers(2, 70), st.data())
def test_a_path_must_go_all_the_way(size, data):
    position = data.draw(st.integers(0, size - 1))
    leaves = numbered(size)
    _, nodes = grown(leaves)
    found = inclusion(position, size).path(nodes)
    first, end = 0, size
    subtrees = [mth(leaves)]
    while end - first > 1:
        middle = first + below(end - first)
        first, end = (first, middle) if position < middle else (middle, end)
        subtrees.append(mth(leaves[first:end]))
    for length, root in enumerate(reversed(subtrees)):
        holds = verify_inclusion(leaf_hash(leaves[position]), position, size, found[:length], root)
        assert holds == (length == len(found))


@given(st.integers(2, 70), st.data())
def test_no_other_history_verifies(size, data):
    old = data.draw(st.integers(1, size - 1))
    leaves = numbered(size)
    frontier, nodes = grown(leaves)
    found = list(consistency(old, size).path(nodes))
    changed = data.draw(st.integers(0, old - 1))
    forged = [*leaves[:changed], b"forged", *leaves[changed + 1 : old]]
    assert not verify_consistency(old, size, mth(forged), frontier.root(), found)
    assert not verify_consistency(size, old, frontier.root(), mth(leaves[:old]), found)
    assert not verify_consistency(old, size, mth(leaves[:old]), frontier.root(), [*found, mth(leaves)])
    assert not verify_consistency(old, size, mth(leaves[:old]), frontier.root(), found[:-1])
    place = data.draw(st.integers(0, len(found) - 1))
    found[place] = data.draw(hashes.filter(lambda h: h != found[place]))
    assert not verify_consistency(old, size, mth(leaves[:old]), frontier.root(), found)


numbers = st.one_of(st.integers(-3, 20), st.integers(-(2**70), 2**70))


@given(numbers, numbers, anything, anything, st.lists(anything, max_size=70))
def test_the_verifiers_always_answer(one, two, first, second, found):
    assert verify_inclusion(first, one, two, found, second) in (True, False)
    assert verify_consistency(one, two, first, second, found) in (True, False)


@given(st.integers(0, 2**62), st.lists(hashes, max_size=64))
def test_the_verifiers_answer_about_the_largest_trees(size, found):
    root = hashlib.sha256(b"root").digest()
    assert not verify_inclusion(root, size, size + 1, found, EMPTY_ROOT)
    assert not verify_consistency(size + 1, size + 2, root, EMPTY_ROOT, found)


@pytest.mark.parametrize(
    ("size", "data"),
    [(1, b""), (0, bytes(32)), (3, bytes(32)), (1, bytes(33)), (-1, b""), (1 << 63, bytes(32))],
)
def test_what_is_no_frontier(size, data):
    with pytest.raises(ValueError):
        Frontier.from_bytes(size, data)


@pytest.mark.parametrize(("position", "size"), [(-1, 1), (1, 1), (0, 0), (0, 1 << 63)])
def test_there_is_no_path_of_a_leaf_that_is_not_there(position, size):
    with pytest.raises(ValueError):
        inclusion(position, size)


@pytest.mark.parametrize(("old", "size"), [(-1, 1), (2, 1)])
def test_there_is_no_path_from_a_larger_tree(old, size):
    with pytest.raises(ValueError):
        consistency(old, size)


def test_nodes_and_leaves_hash_apart():
    assert node_hash(bytes(32), bytes(32)) != leaf_hash(bytes(64))
