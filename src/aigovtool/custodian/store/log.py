"""The audit log's rows: appended in the transaction of the effect, never changed."""

from sqlalchemy import Connection, insert, select

from aigovtool.codec import encode
from aigovtool.custodian.store import facts
from aigovtool.custodian.store.schema import log
from aigovtool.ledger.entry import Entry, EntryBody
from aigovtool.ledger.merkle import Frontier


def append(connection: Connection, at_ms: int, body: EntryBody) -> int:
    """Append one entry and return its index."""
    frontier = head(connection)
    generation = facts.get_int(connection, facts.GENERATION)
    entry = Entry(index=frontier.size, at_ms=at_ms, generation=generation, body=body)
    leaf = entry.leaf()
    connection.execute(insert(log).values(idx=entry.index, leaf=leaf, body=encode(entry)))
    facts.put(connection, facts.FRONTIER, frontier.append(leaf))
    return entry.index


def head(connection: Connection) -> Frontier:
    """Return the tree as it stands."""
    return facts.get(connection, facts.FRONTIER, Frontier) or Frontier()


def page(connection: Connection, start: int, limit: int) -> list[bytes]:
    """Return up to `limit` entries from index `start`, in order."""
    statement = select(log.c.body).where(log.c.idx >= start).order_by(log.c.idx).limit(limit)
    return list(connection.execute(statement).scalars())
