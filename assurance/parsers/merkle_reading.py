"""Merkle proofs, verified as RFC 6962 defines them (2.1.1 and 2.1.2): by recursion over how trees are divided."""

from collections.abc import Sequence
from hashlib import sha256


class NoProofError(Exception):
    """The hashes are too many, too few, or none."""


def leaf(data: bytes) -> bytes:
    """Return the hash of a leaf."""
    return sha256(b"\0" + data).digest()


def root_of(leaves: Sequence[bytes]) -> bytes:
    """Return the hash of the tree with these leaf hashes."""
    if len(leaves) <= 1:
        return leaves[0] if leaves else sha256(b"").digest()
    middle = _middle(len(leaves))
    return _node(root_of(leaves[:middle]), root_of(leaves[middle:]))


def root_from_path(leaf_hash: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """Return the root of the tree of a size in which a leaf is at an index, by its audit path.

    Raises:
        NoProofError: it is not the path of such a leaf.
    """
    if not 0 <= index < size or any(len(one) != 32 for one in (leaf_hash, *path)):
        raise NoProofError("no such leaf, or no hashes")
    if size == 1 or not path:
        if path or size != 1:
            raise NoProofError("too many hashes, or too few")
        return leaf_hash
    middle, (*rest, last) = _middle(size), path
    if index < middle:
        return _node(root_from_path(leaf_hash, index, middle, rest), last)
    return _node(last, root_from_path(leaf_hash, index - middle, size - middle, rest))


def roots_from_proof(
    old_size: int, size: int, old_root: bytes, proof: Sequence[bytes], *, complete: bool = True
) -> tuple[bytes, bytes]:
    """Return the roots of the old and of the new tree, by a consistency proof; `old_root` stands for a complete tree.

    Raises:
        NoProofError: it is not the proof for such trees.
    """
    if not 0 < old_size <= size or any(len(one) != 32 for one in (old_root, *proof)):
        raise NoProofError("no such trees, or no hashes")
    if old_size == size:
        if len(proof) != (not complete):
            raise NoProofError("too many hashes, or too few")
        whole = old_root if complete else proof[0]
        return whole, whole
    if not proof:
        raise NoProofError("too few hashes")
    middle, (*rest, last) = _middle(size), proof
    if old_size <= middle:
        old, new = roots_from_proof(old_size, middle, old_root, rest, complete=complete)
        return old, _node(new, last)
    old, new = roots_from_proof(old_size - middle, size - middle, old_root, rest, complete=False)
    return _node(last, old), _node(last, new)


def _middle(size: int) -> int:
    """Return the largest power of two below a size."""
    found = 1
    while 2 * found < size:
        found *= 2
    return found


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()
