"""Merkle trees against the vectors of certificate transparency; proofs verify, and nothing near them does."""

from collections.abc import Sequence
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigovtool.codec import decode, encode
from aigovtool.errors import LogError
from aigovtool.ledger import merkle
from aigovtool.ledger.merkle import (
    MAX_PROOF_HASHES,
    Frontier,
    consistency_path,
    consistency_proof,
    inclusion_path,
    inclusion_proof,
    inclusion_proofs,
    leaf_hash,
    node_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)

# The eight inputs, the roots of their prefixes and the proofs that the reference implementation of certificate
# transparency tests itself with (google/certificate-transparency, merkle_tree_test.cc).
INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LEAVES = [leaf_hash(bytes.fromhex(text)) for text in INPUTS]
SIZES = st.integers(1, 70)


def leaves_of(count: int) -> list[bytes]:
    return [leaf_hash(b"%d" % number) for number in range(count)]


def raw(texts: Sequence[str]) -> list[bytes]:
    return [bytes.fromhex(text) for text in texts]


# --- Known answers -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", range(1, 9))
def test_known_roots(size: int) -> None:
    """The root of each prefix of the eight reference leaves, computed at once and by appending."""
    frontier = Frontier()
    for leaf in LEAVES[:size]:
        frontier = frontier.append(leaf)
    assert root_of(LEAVES[:size]).hex() == ROOTS[size - 1]
    assert frontier.root().hex() == ROOTS[size - 1]
    assert frontier.size == size


def test_the_empty_tree_hashes_nothing() -> None:
    """RFC 6962 section 2.1: the hash of an empty list is the hash of an empty string."""
    assert root_of([]) == Frontier().root() == sha256(b"").digest()


@pytest.mark.parametrize(
    ("index", "size", "proof"),
    [
        (0, 1, []),
        (
            0,
            8,
            [
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ],
        ),
        (
            5,
            8,
            [
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
        (2, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
    ],
)
def test_known_inclusion_proofs(index: int, size: int, proof: list[str]) -> None:
    """The reference audit paths are what is made, and verify."""
    assert inclusion_proof(LEAVES[:size], index) == raw(proof)
    verify_inclusion(LEAVES[index], index, size, raw(proof), bytes.fromhex(ROOTS[size - 1]))


@pytest.mark.parametrize(
    ("old", "size", "proof"),
    [
        (1, 1, []),
        (
            1,
            8,
            [
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ],
        ),
        (
            6,
            8,
            [
                "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
    ],
)
def test_known_consistency_proofs(old: int, size: int, proof: list[str]) -> None:
    """The reference consistency proofs are what is made, and verify."""
    assert consistency_proof(LEAVES[:size], old) == raw(proof)
    verify_consistency(old, bytes.fromhex(ROOTS[old - 1]), size, bytes.fromhex(ROOTS[size - 1]), raw(proof))


# --- Properties --------------------------------------------------------------------------------


@given(SIZES)
def test_appending_equals_hashing_everything(size: int) -> None:
    """A frontier, also after it was written and read back, has the root of all its leaves."""
    leaves, frontier = leaves_of(size), Frontier()
    for leaf in leaves:
        frontier = decode(encode(frontier.append(leaf)), Frontier)
    assert frontier.root() == root_of(leaves)
    assert len(frontier.roots) == size.bit_count()


def test_appending_leaves_the_old_tree_alone() -> None:
    """A frontier is a value: two branches from one tree do not disturb each other."""
    base = Frontier().append(LEAVES[0])
    left, right = base.append(LEAVES[1]), base.append(LEAVES[2])
    assert base.root() == LEAVES[0]
    assert left.root() == node_hash(LEAVES[0], LEAVES[1])
    assert right.root() == node_hash(LEAVES[0], LEAVES[2])


@given(SIZES, st.data())
def test_every_leaf_is_proved_to_be_where_it_is_and_nowhere_else(size: int, data: st.DataObject) -> None:
    """An audit path verifies for its leaf at its place in its tree, and at no other place."""
    index, other = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size - 1))
    leaves = leaves_of(size)
    proof, root = inclusion_proof(leaves, index), root_of(leaves)
    verify_inclusion(leaves[index], index, size, proof, root)
    if other != index:
        with pytest.raises(LogError):
            verify_inclusion(leaves[other], index, size, proof, root)
        with pytest.raises(LogError):
            verify_inclusion(leaves[index], other, size, proof, root)


@given(SIZES, st.data())
def test_every_prefix_is_proved_to_be_one(size: int, data: st.DataObject) -> None:
    """A tree extends each of its prefixes, and no tree with another leaf in the prefix."""
    old = data.draw(st.integers(1, size))
    leaves = leaves_of(size)
    proof, root = consistency_proof(leaves, old), root_of(leaves)
    verify_consistency(old, root_of(leaves[:old]), size, root, proof)
    rewritten = root_of([*leaves[: old - 1], leaf_hash(b"rewritten")])
    with pytest.raises(LogError) as caught:
        verify_consistency(old, rewritten, size, root, proof)
    assert caught.value.reason == "consistency"


# --- Nothing near a proof verifies -------------------------------------------------------------


def flips(data: bytes) -> list[bytes]:
    number = int.from_bytes(data, "big")
    return [(number ^ 1 << bit).to_bytes(len(data), "big") for bit in range(8 * len(data))]


def test_no_single_bit_of_an_inclusion_proof_can_change() -> None:
    """Each of the 1,280 bits of leaf, root and path matters."""
    proof, root = inclusion_proof(LEAVES, 5), root_of(LEAVES)
    attempts = [(leaf, proof, root) for leaf in flips(LEAVES[5])] + [(LEAVES[5], proof, bad) for bad in flips(root)]
    for place, sibling in enumerate(proof):
        attempts += [(LEAVES[5], [*proof[:place], bad, *proof[place + 1 :]], root) for bad in flips(sibling)]
    assert len(attempts) == 1_280
    for leaf, path, top in attempts:
        with pytest.raises(LogError) as caught:
            verify_inclusion(leaf, 5, 8, path, top)
        assert caught.value.reason == "inclusion"


@pytest.mark.parametrize(("old", "size"), [(6, 8), (4, 7), (3, 5)])
def test_no_single_bit_of_a_consistency_proof_can_change(old: int, size: int) -> None:
    """Each bit of both roots and of the proof matters, for prefixes that are and are not complete trees."""
    leaves = LEAVES[:size]
    proof, before, root = consistency_proof(leaves, old), root_of(leaves[:old]), root_of(leaves)
    attempts = [(bad, root, proof) for bad in flips(before)] + [(before, bad, proof) for bad in flips(root)]
    for place, sibling in enumerate(proof):
        attempts += [(before, root, [*proof[:place], bad, *proof[place + 1 :]]) for bad in flips(sibling)]
    for first, second, path in attempts:
        with pytest.raises(LogError) as caught:
            verify_consistency(old, first, size, second, path)
        assert caught.value.reason == "consistency"


@pytest.mark.parametrize("change", ["shorter", "longer", "reversed", "cut", "moved"])
def test_a_proof_of_another_shape_does_not_verify(change: str) -> None:
    """Hashes left out, added, swapped, cut, or with bytes moved from one to the next are refused."""
    proof, root = inclusion_proof(LEAVES, 5), root_of(LEAVES)
    old = consistency_proof(LEAVES, 6)
    for path in (proof, old):
        shapes = {
            "shorter": path[:-1],
            "longer": [*path, LEAVES[0]],
            "reversed": path[::-1],
            "cut": [path[0][:-1], *path[1:]],
            "moved": [path[0][1:], path[1] + path[0][:1], *path[2:]],
        }
        with pytest.raises(LogError):
            if path is proof:
                verify_inclusion(LEAVES[5], 5, 8, shapes[change], root)
            else:
                verify_consistency(6, root_of(LEAVES[:6]), 8, root, shapes[change])


def test_what_has_not_the_length_of_a_hash_is_none() -> None:
    """Attack: roots and hashes whose bytes are divided otherwise, so that the same bytes are hashed for a node."""
    first, second = LEAVES[:2]
    root = node_hash(first, second)
    for old, proof in ((first[:-1], [first[-1:] + second]), (first + second[:1], [second[1:]])):
        with pytest.raises(LogError) as caught:
            verify_consistency(1, old, 2, root, proof)
        assert caught.value.reason == "consistency"
    for old, new in ((b"", b""), (root + b"x", root + b"x")):
        with pytest.raises(LogError):
            verify_consistency(2, old, 2, new, [])
    for leaf, proof in ((first[:-1], [first[-1:] + second]), (first + second[:1], [second[1:]])):
        with pytest.raises(LogError) as caught:
            verify_inclusion(leaf, 0, 2, proof, root)
        assert caught.value.reason == "inclusion"
    with pytest.raises(LogError):
        verify_inclusion(b"x", 0, 1, [], b"x")


@pytest.mark.parametrize(("index", "size"), [(-1, 8), (8, 8), (0, 0), (5, 16), (5, 4)])
def test_a_place_outside_the_tree_is_refused(index: int, size: int) -> None:
    """An index or a size that does not belong to the proof never verifies."""
    with pytest.raises(LogError):
        verify_inclusion(LEAVES[5], index, size, inclusion_proof(LEAVES, 5), root_of(LEAVES))


@pytest.mark.parametrize(("old", "size"), [(0, 8), (9, 8), (-1, 8), (6, 16)])
def test_a_prefix_outside_the_tree_is_refused(old: int, size: int) -> None:
    """Nothing is consistent with an empty prefix, a longer one, or another size."""
    with pytest.raises(LogError):
        verify_consistency(old, root_of(LEAVES[:6]), size, root_of(LEAVES), consistency_proof(LEAVES, 6))


def test_equal_sizes_need_equal_roots_and_no_proof() -> None:
    """A tree is consistent with itself without any hash."""
    root = root_of(LEAVES)
    verify_consistency(8, root, 8, root, [])
    for other, proof in ((LEAVES[0], []), (root, [root])):
        with pytest.raises(LogError):
            verify_consistency(8, other, 8, root, proof)


def test_a_proof_of_any_length_is_refused_quickly() -> None:
    """No tree needs more hashes than its size has bits; more are refused before any is hashed."""
    with pytest.raises(LogError):
        verify_inclusion(LEAVES[0], 0, 2**62, [LEAVES[0]] * (MAX_PROOF_HASHES + 1), LEAVES[0])
    with pytest.raises(LogError):
        verify_consistency(3, LEAVES[0], 2**62, LEAVES[0], [LEAVES[0]] * (2 * MAX_PROOF_HASHES + 1))


def test_proofs_of_what_is_not_there_cannot_be_made() -> None:
    """There is no path to a leaf, and no proof for a prefix, that the tree does not have."""
    for index in (-1, 8):
        with pytest.raises(LogError) as caught:
            inclusion_proof(LEAVES, index)
        assert caught.value.reason == "no_such_leaf"
    for old in (0, 9):
        with pytest.raises(LogError) as caught:
            consistency_proof(LEAVES, old)
        assert caught.value.reason == "no_such_prefix"


def test_a_node_is_never_taken_for_a_leaf() -> None:
    """Leaves and nodes are hashed apart, so that the encoding of two nodes is no leaf of the same hash."""
    assert leaf_hash(LEAVES[0] + LEAVES[1]) != node_hash(LEAVES[0], LEAVES[1])


def test_growing_names_each_complete_subtree_once() -> None:
    """What a store keeps of them is enough for every proof: no leaf below them is read again."""
    leaves = [leaf_hash(bytes([number])) for number in range(70)]
    kept: dict[tuple[int, int], bytes] = {}
    frontier = Frontier()
    for number, leaf in enumerate(leaves):
        kept[0, number] = leaf
        frontier, completed = frontier.grow(leaf)
        for tree in completed:
            assert (tree.level, tree.index) not in kept
            kept[tree.level, tree.index] = tree.hash
    for (level, index), found in kept.items():
        assert found == root_of(leaves[index << level : (index + 1) << level])
    for size in range(1, 71):
        for index in range(size):
            proof = inclusion_path(lambda level, place: kept[level, place], index, size)
            verify_inclusion(leaves[index], index, size, proof, root_of(leaves[:size]))
        path = consistency_path(lambda level, place: kept[level, place], size, 70)
        verify_consistency(size, root_of(leaves[:size]), 70, frontier.root(), path)


@pytest.mark.parametrize("size", range(1, 41))
def test_all_proofs_at_once_are_those_of_each_leaf(size: int) -> None:
    """Root and audit paths are what is made of one leaf at a time, and verify."""
    leaves = leaves_of(size)
    root, paths = inclusion_proofs(leaves)
    assert root == root_of(leaves)
    assert paths == [inclusion_proof(leaves, index) for index in range(size)]
    for index, path in enumerate(paths):
        verify_inclusion(leaves[index], index, size, path, root)


def test_all_proofs_at_once_take_as_many_hashes_as_there_are_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch costs its server what it must, and not a tree for each of its leaves."""
    made: list[bytes] = []

    def counted(left: bytes, right: bytes) -> bytes:
        made.append(node_hash(left, right))
        return made[-1]

    monkeypatch.setattr(merkle, "node_hash", counted)
    for size in (1, 2, 7, 40):
        made.clear()
        _ = inclusion_proofs(leaves_of(size))
        assert len(made) == size - 1


def test_there_are_no_proofs_of_no_leaves() -> None:
    """An empty batch has nothing to prove, and its root is not signed by mistake."""
    with pytest.raises(LogError) as caught:
        inclusion_proofs([])
    assert caught.value.reason == "no_such_leaf"
