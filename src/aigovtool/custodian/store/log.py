"""The audit log's rows: appended in the transaction of the effect, never changed.

There is one writer at a time, so the order of entries is the order of commits. Beside each entry stands the root of
the tree that ends with it, and the roots of complete subtrees from `NODE_LEVEL` up: proofs and comparisons with
somebody's checkpoint cost the same whether the log has a thousand entries or ten million.
"""

from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Final

import msgspec
from sqlalchemy import Select, bindparam, insert, select, tuple_

from aigovtool.codec import encode
from aigovtool.custodian.store.schema import log, log_kinds, log_nodes
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import LogError, TooLargeError
from aigovtool.ledger.audit import MAX_ENTRY_BYTES
from aigovtool.ledger.entry import Entry, EntryBody, LeaseClosed, LeaseGranted
from aigovtool.ledger.merkle import Frontier, NodeAt, leaf_hash, nodes_of

#: Smaller subtrees are hashed again from at most 2**4 leaves when somebody asks; kept are n/16 + n/32 + ... rows.
NODE_LEVEL: Final = 5
#: Nearly all entries are of these two kinds. They are not looked up by their kind, and cost no row for it.
EVERYDAY: Final = (LeaseGranted, LeaseClosed)
#: All that there is, for whoever does not answer anybody with it.
_ANY_BYTES: Final = 1 << 62
_NODES: Final = select(log_nodes.c.level, log_nodes.c.idx, log_nodes.c.hash).where(
    tuple_(log_nodes.c.level, log_nodes.c.idx).in_(bindparam("nodes", expanding=True))
)
_ROOT: Final = select(log.c.root).where(log.c.idx == bindparam("last"))
_LEAVES: Final = select(log.c.idx, log.c.leaf).where(log.c.idx.in_(bindparam("leaves", expanding=True)))

_Place = tuple[int, int]


def append(transaction: Transaction, at_ms: int, body: EntryBody) -> int:
    """Append one entry and return its index.

    Raises:
        TooLargeError: `entry_too_large`: whoever verifies a copy of the log would not read it, nor anything after it.
    """
    before = transaction.head.frontier
    entry = Entry(index=before.size, at_ms=at_ms, generation=transaction.head.generation, body=body)
    content = encode(entry)
    if len(content) > MAX_ENTRY_BYTES:
        raise TooLargeError(f"{len(content):,} bytes are too many for the audit log", reason="entry_too_large")
    leaf = leaf_hash(content)
    frontier, completed = before.grow(leaf)
    transaction.lines.append({"idx": entry.index, "leaf": leaf, "root": frontier.root(), "body": content})
    transaction.nodes.extend(
        {"level": tree.level, "idx": tree.index, "hash": tree.hash} for tree in completed if tree.level >= NODE_LEVEL
    )
    transaction.head = msgspec.structs.replace(transaction.head, frontier=frontier)
    if not isinstance(body, EVERYDAY):
        transaction.execute(insert(log_kinds).values(kind=kind_of(type(body)), idx=entry.index))
    return entry.index


def kind_of(body: type[EntryBody]) -> str:
    """Return the name of a kind of entries."""
    return str(body.__struct_config__.tag)


def head(transaction: Transaction) -> Frontier:
    """Return the tree as it stands."""
    return transaction.head.frontier


def page(transaction: Transaction, start: int, limit: int, *, enough_bytes: int = _ANY_BYTES) -> list[bytes]:
    """Return up to `limit` entries from index `start`, in order, and none once there are enough bytes."""
    transaction.flush()
    statement = select(log.c.body).where(log.c.idx >= start).order_by(log.c.idx).limit(limit)
    return _read_bodies(transaction, statement, enough_bytes)


def newest_of(
    transaction: Transaction, kind: str, before: int, limit: int, *, enough_bytes: int = _ANY_BYTES
) -> list[bytes]:
    """Return up to `limit` entries of a kind that is not of every day, from before index `before`, newest first.

    None once there are enough bytes.
    """
    transaction.flush()
    statement = (
        select(log.c.body)
        .join(log_kinds, log_kinds.c.idx == log.c.idx)
        .where(log_kinds.c.kind == kind, log_kinds.c.idx < before)
        .order_by(log_kinds.c.idx.desc())
        .limit(limit)
    )
    return _read_bodies(transaction, statement, enough_bytes)


def _read_bodies(transaction: Transaction, statement: Select[tuple[bytes]], enough_bytes: int) -> list[bytes]:
    found: list[bytes] = []
    with closing(transaction.execute(statement)) as result:
        for (body,) in result:
            found.append(bytes(body))
            enough_bytes -= len(body)
            if enough_bytes <= 0:
                break
    return found


def entry_at(transaction: Transaction, index: int) -> bytes:
    """Return one entry in its only encoding.

    Raises:
        LogError: there is none at `index`.
    """
    transaction.flush()
    body = transaction.execute(select(log.c.body).where(log.c.idx == index)).scalar_one_or_none()
    if body is None:
        raise LogError(f"the log has no entry {index}", reason="no_such_leaf")
    return bytes(body)


def root_at(transaction: Transaction, size: int) -> bytes:
    """Return the root that the tree had when it had `size` leaves.

    Raises:
        LogError: it never had so many.
    """
    if size == 0:
        return Frontier().root()
    transaction.flush()
    root = transaction.execute(_ROOT, {"last": size - 1}).scalar_one_or_none()
    if root is None:
        raise LogError(f"the log has no {size} entries", reason="no_such_prefix")
    return bytes(root)


def proof(transaction: Transaction, path: Callable[[NodeAt], list[bytes]]) -> list[bytes]:
    """Return the proof that `path` makes of subtrees, all of which are read at once: anybody may ask for proofs.

    Raises:
        LogError: as `path`.
    """
    wanted: set[_Place] = set()

    def wish(level: int, index: int) -> bytes:
        wanted.add((level, index))
        return b""

    path(wish)  # which subtrees are needed depends on sizes alone
    found = _read(transaction, wanted)
    return path(lambda level, index: found[level, index])


def _read(transaction: Transaction, wanted: Iterable[_Place]) -> dict[_Place, bytes]:
    transaction.flush()
    kept = [place for place in wanted if place[0] >= NODE_LEVEL]
    made = [place for place in wanted if place[0] < NODE_LEVEL]
    found: dict[_Place, bytes] = {}
    if kept:
        rows = transaction.execute(_NODES, {"nodes": kept})
        found = {(row.level, row.idx): bytes(row.hash) for row in rows}
    if made:
        numbers = {number for level, index in made for number in range(index << level, (index + 1) << level)}
        leaves = {row.idx: bytes(row.leaf) for row in transaction.execute(_LEAVES, {"leaves": sorted(numbers)})}
        for level, index in made:
            below = [leaves[number] for number in range(index << level, (index + 1) << level)]
            found[level, index] = nodes_of(below)(level, 0)
    return found
