"""RFC 6962 Merkle trees: leaf and node hashing, a growing tree in O(log n) state, and proofs.

Section numbers are those of RFC 6962. A `Frontier` is the list of roots of the complete subtrees that a
tree of `size` leaves is made of, largest first: enough to append and to compute the root, so that an
append never reads history.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from aigovtool.codec import Message
from aigovtool.errors import LogError
from aigovtool.ids import Units

HASH_BYTES = 32
#: More levels than 2**63 leaves could need.
MAX_PROOF_HASHES = 63


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf (section 2.1)."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node (section 2.1)."""
    return sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True, slots=True)
class Subtree:
    """The root of a complete subtree: that of the leaves from `index * 2**level`, 2**level of them."""

    level: int
    index: int
    hash: bytes


class Frontier(Message):
    """A Merkle tree reduced to what appending needs."""

    size: Units = 0
    roots: tuple[bytes, ...] = ()

    def append(self, leaf: bytes) -> "Frontier":
        """Return the tree with one more leaf *hash*."""
        return self.grow(leaf)[0]

    def grow(self, leaf: bytes) -> tuple["Frontier", tuple[Subtree, ...]]:
        """Return the tree with one more leaf hash, and the subtrees that it completes, smallest first."""
        roots, node, position, level = list(self.roots), leaf, self.size, 0
        completed: list[Subtree] = []
        while position & 1:
            node = node_hash(roots.pop(), node)
            position, level = position >> 1, level + 1
            completed.append(Subtree(level, position, node))
        return Frontier(size=self.size + 1, roots=(*roots, node)), tuple(completed)

    def root(self) -> bytes:
        """Return the Merkle tree hash; that of the empty tree is the hash of nothing (section 2.1)."""
        if not self.roots:
            return sha256(b"").digest()
        node = self.roots[-1]
        for left in reversed(self.roots[:-1]):
            node = node_hash(left, node)
        return node


def root_of(leaves: Sequence[bytes]) -> bytes:
    """Return the Merkle tree hash of leaf hashes."""
    frontier = Frontier()
    for leaf in leaves:
        frontier = frontier.append(leaf)
    return frontier.root()


def _split(size: int) -> int:
    """Return the largest power of two smaller than `size`."""
    return 1 << (size - 1).bit_length() - 1


#: Gives the root of the complete subtree at (level, index), as `Subtree` counts them; level 0 is a leaf hash.
NodeAt = Callable[[int, int], bytes]


def nodes_of(leaves: Sequence[bytes]) -> NodeAt:
    """Return a source of subtrees over leaf hashes that are all in memory."""
    return lambda level, index: root_of(leaves[index << level : (index + 1) << level])


def range_root(node: NodeAt, first: int, count: int) -> bytes:
    """Return the Merkle tree hash of `count` leaves from `first`, where RFC 6962 splits its trees."""
    if count & (count - 1) == 0:
        level = count.bit_length() - 1
        return node(level, first >> level)
    middle = _split(count)
    return node_hash(range_root(node, first, middle), range_root(node, first + middle, count - middle))


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return the audit path of a leaf hash among `leaves` (section 2.1.1).

    Raises:
        LogError: when the tree has no such leaf.
    """
    return inclusion_path(nodes_of(leaves), index, len(leaves))


def inclusion_proofs(leaves: Sequence[bytes]) -> tuple[bytes, list[list[bytes]]]:
    """Return the Merkle tree hash of leaf hashes and the audit path of each, as `root_of` and `inclusion_proof` do.

    All at once it takes as many hashes as the tree has nodes.

    Raises:
        LogError: when there is no leaf.
    """
    if not leaves:
        raise LogError("the tree has no leaf 0", reason="no_such_leaf")
    paths: list[list[bytes]] = [[] for _ in leaves]

    def root(first: int, count: int) -> bytes:
        if count == 1:
            return leaves[first]
        middle = _split(count)
        left, right = root(first, middle), root(first + middle, count - middle)
        for path in paths[first : first + middle]:
            path.append(right)
        for path in paths[first + middle : first + count]:
            path.append(left)
        return node_hash(left, right)

    return root(0, len(leaves)), paths


def inclusion_path(node: NodeAt, index: int, size: int) -> list[bytes]:
    """Return the audit path of a leaf in a tree of `size` leaves, reading O(log n) subtrees (section 2.1.1).

    Raises:
        LogError: when the tree has no such leaf.
    """
    if not 0 <= index < size:
        raise LogError(f"the tree has no leaf {index}", reason="no_such_leaf")
    path: list[bytes] = []
    first, count = 0, size
    while count > 1:
        middle = _split(count)
        if index < first + middle:
            path.append(range_root(node, first + middle, count - middle))
            count = middle
        else:
            path.append(range_root(node, first, middle))
            first, count = first + middle, count - middle
    return path[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check an audit path (RFC 9162 section 2.1.3.2 gives the algorithm).

    Raises:
        LogError: with reason `inclusion` unless the leaf is at `index` in the tree of `size` with `root`.
    """
    failure = LogError("an inclusion proof does not verify", reason="inclusion")
    if not 0 <= index < size or len(proof) > MAX_PROOF_HASHES or not _are_hashes(leaf, root, *proof):
        raise failure
    position, last, node = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise failure
        if position & 1 or position == last:
            node = node_hash(sibling, node)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            node = node_hash(node, sibling)
        position, last = position >> 1, last >> 1
    if last != 0 or node != root:
        raise failure


def _are_hashes(*values: bytes) -> bool:
    """Return whether all have the length of a hash: with others a node's bytes could be divided in another place."""
    return all(len(value) == HASH_BYTES for value in values)


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> list[bytes]:
    """Return the proof that the first `old_size` leaves are a prefix of the tree (section 2.1.2).

    Raises:
        LogError: unless 0 < old_size <= number of leaves.
    """
    return consistency_path(nodes_of(leaves), old_size, len(leaves))


def consistency_path(node: NodeAt, old_size: int, size: int) -> list[bytes]:
    """Return the proof that a tree of `old_size` leaves is a prefix of one of `size` (section 2.1.2).

    Raises:
        LogError: unless 0 < old_size <= size.
    """
    if not 0 < old_size <= size:
        raise LogError(f"the tree has no prefix of {old_size} leaves", reason="no_such_prefix")
    path: list[bytes] = []
    first, count, complete = 0, size, True
    while first + count != old_size:
        middle = _split(count)
        if old_size <= first + middle:
            path.append(range_root(node, first + middle, count - middle))
            count = middle
        else:
            path.append(range_root(node, first, middle))
            first, count, complete = first + middle, count - middle, False
    if not complete:
        path.append(range_root(node, first, count))
    return path[::-1]


def verify_consistency(  # noqa: C901 - the algorithm as the RFC states it
    old_size: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]
) -> None:
    """Check a consistency proof (RFC 9162 section 2.1.4.2).

    Raises:
        LogError: with reason `consistency` unless the new tree extends the old one.
    """
    failure = LogError("a consistency proof does not verify: the log was rewritten", reason="consistency")
    if not 0 < old_size <= size or len(proof) > 2 * MAX_PROOF_HASHES or not _are_hashes(old_root, root, *proof):
        raise failure
    if old_size == size:
        if proof or old_root != root:
            raise failure
        return
    path = list(proof)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)
    if not path:
        raise failure
    position, last = old_size - 1, size - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    old_node = node = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise failure
        if position & 1 or position == last:
            old_node, node = node_hash(sibling, old_node), node_hash(sibling, node)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            node = node_hash(node, sibling)
        position, last = position >> 1, last >> 1
    if last != 0 or old_node != old_root or node != root:
        raise failure
