"""Backups of a ledger: changed as a file and as a database, and read by hand."""

import json
import sqlite3
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Final

from conformance.malformed import edits

from aigovtool.codec import encode
from aigovtool.errors import LogError
from aigovtool.ledger.merkle import Frontier
from aigovtool.operator.backup import require_whole
from assurance.parsers.audit_log import (
    SIZES,
    checkpoint,
    log_entries,
)
from assurance.parsers.files import in_file
from assurance.parsers.merkle_reading import leaf
from assurance.parsers.parser import Kind, Parts

#: In the place of the log; for whoever reads all of it, it could as well be without an end.
_LONG: Final = (
    "CREATE VIEW log AS WITH RECURSIVE counting(at) AS (SELECT 0 UNION ALL SELECT at + 1 FROM counting "
    "WHERE at < 2000000) SELECT -at AS idx, x'00' AS leaf, x'00' AS root, x'00' AS body FROM counting"
)


@cache
def _ledgers() -> tuple[Parts, ...]:
    """Return files of SQLite with the two tables that are compared with the checkpoint."""
    with closing(sqlite3.connect(":memory:")) as ledger:
        ledger.execute("PRAGMA page_size=512")
        ledger.execute("CREATE TABLE log (idx BIGINT PRIMARY KEY, leaf BLOB, root BLOB, body BLOB, kind TEXT)")
        ledger.execute("CREATE TABLE head (id INTEGER PRIMARY KEY, schema INTEGER, body BLOB)")
        frontier = Frontier()
        for at, one in enumerate(log_entries()):
            frontier = frontier.append(leaf(one))
            ledger.execute("INSERT INTO log VALUES (?, ?, ?, ?, 'x')", (at, leaf(one), frontier.root(), one))
        head = b'{"frontier":%b,"generation":0,"epoch":1}' % encode(frontier)
        ledger.execute("INSERT INTO head VALUES (1, 4, ?)", (head,))
        ledger.commit()
        return ((ledger.serialize(),),)


def _edit_ledger(parts: Parts, chance: Random) -> Parts:
    """Change pages as bytes, or what is in the tables."""
    if chance.random() < 0.6:
        (data,) = parts
        for _ in range(chance.choice((1, 1, 2, 5))):
            data = edits.edit(data, chance)
        return (data,)
    with closing(sqlite3.connect(":memory:")) as ledger:
        ledger.deserialize(parts[0])
        at = chance.randrange(len(log_entries()))
        value = chance.choice((None, 1, "text", b"", bytes(32), chance.randbytes(40), 1.5, log_entries()[at - 1]))
        column = chance.choice(("idx", "leaf", "root", "body"))
        ways = (
            (f"UPDATE log SET {column} = ? WHERE idx = ?", (value, at)),  # noqa: S608 - one of the names above
            ("DELETE FROM log WHERE idx = ?", (at,)),
            ("UPDATE head SET body = ?", (value,)),
            ("DELETE FROM head", ()),
            ("INSERT INTO log VALUES (?, x'00', x'00', x'00', '')", (chance.choice((-1, SIZES[0], SIZES[0] + 1)),)),
            ("UPDATE log SET idx = idx + 1 WHERE idx = ?", (len(log_entries()) - 1,)),
            (f"ALTER TABLE {chance.choice(('log', 'head'))} RENAME TO other", ()),
            (_LONG, ()),
        )
        statement, values = chance.choice(ways)
        if statement == _LONG:
            ledger.execute("DROP TABLE log")
        with suppress(sqlite3.IntegrityError):  # there is such an index
            ledger.execute(statement, values)
        ledger.commit()
        return (ledger.serialize(),)


def _check_ledger(parts: Parts) -> None:
    in_file(parts[0], lambda path: require_whole(path, checkpoint(SIZES[0])))


def _wrong_ledger(parts: Parts, _value: object) -> str | None:
    def rows(path: Path) -> tuple[list[Any], list[Any]]:
        with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as ledger:
            found = ledger.execute("SELECT body FROM log ORDER BY idx").fetchall()
            return found, ledger.execute("SELECT body FROM head").fetchall()

    log, head = in_file(parts[0], rows)
    if [body for (body,) in log] != list(log_entries()):
        return "a backup with another log was taken for whole"
    read = json.loads(head[0][0])
    size, generation = read["frontier"]["size"], read.get("generation", 0)
    return None if (size, generation) == (SIZES[0], 0) else "a backup with another head was taken for whole"


def kind() -> Kind:
    """Return the kind of inputs that are backups."""
    return Kind(
        name="backups",
        genuine=_ledgers(),
        edit=_edit_ledger,
        read=_check_ledger,
        wrong=_wrong_ledger,
        refusals=(LogError,),
        weight=3,
    )
