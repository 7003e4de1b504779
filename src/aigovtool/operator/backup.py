"""A backup of the custodian's ledger: fetched while it is served, verified, and only then given its name.

1. The copy is streamed into a file beside the one to be, mode 0600, that nobody else made.
2. SQLite must find it whole (`integrity_check`), opened so that nothing is written beside it.
3. Its audit log is hashed anew, entry by entry. Size, root and generation must be those of the checkpoint that the
   custodian signed for this very copy, and the head row, from which a custodian starts, must say the same.
4. It is synced, takes its name in one step that fails when the name is taken, and the directory is synced.

So a file with that name is a whole ledger of one moment. What is not in it: the custodian's keys, its settings, and
sealed packages.
"""

import base64
import binascii
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from secrets import token_hex
from typing import Final
from urllib.parse import quote

import msgspec

from aigovtool.codec import decode
from aigovtool.errors import (
    ConfigurationError,
    ConflictError,
    FaultError,
    InvalidValueError,
    LogError,
    MalformedError,
    TooLargeError,
)
from aigovtool.ids import Digest
from aigovtool.ledger.checkpoint import Checkpoint, open_checkpoint
from aigovtool.ledger.merkle import Frontier, leaf_hash
from aigovtool.operator.client import OperatorClient
from aigovtool.protocol.backup import CHECKPOINT_HEADER, MAX_LEDGER_BYTES

_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
#: A view of that name could be a query without an end, and has no page of its own; neither has a virtual table.
_OWN_TABLES: Final = "SELECT count(*) FROM sqlite_master WHERE type='table' AND rootpage>0 AND name IN ('log', 'head')"
Progress = Callable[[int, int], None]


class Backup(msgspec.Struct, frozen=True, kw_only=True):
    """A backup that was verified."""

    file: str
    size_bytes: int
    entries: int
    root: Digest
    generation: int


class _Head(msgspec.Struct, frozen=True):
    """The part of the ledger's head row that the log must agree with."""

    frontier: Frontier
    generation: int = 0


def make_backup(client: OperatorClient, path: Path, progress: Progress) -> Backup:
    """Fetch the ledger into a new file at `path`.

    Raises:
        ConflictError: `path` exists (`file_exists`); the ledger is on PostgreSQL (`backup_postgres`).
        ConfigurationError: `unwritable_backup`.
        LogError: the copy is not what the custodian signed, or damaged (`bad_backup`).
        AIGovToolError: what else the custodian answered.
    """
    keys = client.key_set().log_keys()
    partial = path.with_name(f".{path.name}.{token_hex(8)}.partial")
    try:
        descriptor = os.open(partial, _FLAGS, 0o600)
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        note, size = client.fetch_ledger(lambda headers, chunks: _receive(descriptor, headers, chunks, progress))
        checkpoint = open_checkpoint(note, keys)
        require_whole(partial, checkpoint)
        os.fsync(descriptor)
        _name(partial, path)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        os.close(descriptor)
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    return Backup(
        file=str(path),
        size_bytes=size,
        entries=checkpoint.size,
        root=Digest("sha256:" + checkpoint.root.hex()),
        generation=checkpoint.generation,
    )


def require_whole(path: Path, checkpoint: Checkpoint) -> None:
    """Refuse a copy of a ledger that is damaged, or whose log is not the one of `checkpoint`.

    Raises:
        LogError: `bad_backup`.
    """
    try:
        # Nobody else has it open: `immutable` keeps SQLite from making files beside it.
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True)) as ledger:
            ledger.execute("PRAGMA trusted_schema=OFF")
            ledger.execute("PRAGMA cell_size_check=ON")
            found = [str(row[0]) for row in ledger.execute("PRAGMA integrity_check(10)")]
            if found != ["ok"]:
                raise _bad(f"SQLite finds it damaged: {found[0][:100]}")
            if ledger.execute(_OWN_TABLES).fetchone() != (2,):
                raise _bad("it has no tables of its own for log and head")
            frontier = _log(ledger)
            (body,) = ledger.execute("SELECT body FROM head").fetchone() or (b"",)
        # In a ledger that somebody made up it may be of any type.
        head = decode(body if isinstance(body, bytes) else b"", _Head)
    except (sqlite3.Error, UnicodeError, MemoryError) as error:
        # Names in a message of SQLite's need not be UTF-8, and of sizes that are none it says that memory is short.
        raise _bad(f"SQLite cannot read it: {str(error)[:100]}") from None
    except (MalformedError, InvalidValueError, TooLargeError):
        raise _bad("its head cannot be read") from None
    if (frontier.size, frontier.root()) != (checkpoint.size, checkpoint.root):
        raise _bad("its audit log is not the one that the custodian signed for it")
    if (head.frontier, head.generation) != (frontier, checkpoint.generation):
        raise _bad("its head is not that of its audit log")


def _log(ledger: sqlite3.Connection) -> Frontier:
    """Hash the audit log anew, and compare the hashes and roots that stand beside the entries."""
    frontier = Frontier()
    for index, leaf, root, body in ledger.execute("SELECT idx, leaf, root, body FROM log ORDER BY idx"):
        hashed = leaf_hash(body) if isinstance(body, bytes) else b""
        frontier = frontier.append(hashed)
        if (index, leaf, root) != (frontier.size - 1, hashed, frontier.root()):
            raise _bad(f"entry {frontier.size - 1} of its audit log is not what was hashed")
    return frontier


def _receive(
    descriptor: int, headers: Mapping[str, str], chunks: Iterator[bytes], progress: Progress
) -> tuple[str, int]:
    """Write what comes, from the beginning again with each attempt; return the checkpoint and the size."""
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        total = int(headers["content-length"])
        note = base64.b64decode(headers[CHECKPOINT_HEADER], validate=True).decode()
    except (KeyError, ValueError, binascii.Error):
        raise FaultError(
            "the custodian sends no ledger", reason="bad_answer", fix="use the same version here"
        ) from None
    if not 0 < total <= MAX_LEDGER_BYTES:
        raise FaultError(f"a ledger of {total} bytes", reason="answer_too_large")
    done = 0
    for chunk in chunks:
        done += len(chunk)
        if done > total:
            break
        view = memoryview(chunk)
        while view:
            view = view[os.write(descriptor, view) :]
        progress(done, total)
    if done != total:
        raise FaultError(f"the custodian sent {done} bytes instead of {total}", reason="bad_answer")
    return note, total


def _name(partial: Path, path: Path) -> None:
    try:
        # A hard link, unlike a rename, fails when the name is taken.
        os.link(partial, path, follow_symlinks=False)
    except FileExistsError:
        raise ConflictError(
            f"{path} exists already", reason="file_exists", fix="name a file that does not exist"
        ) from None
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _bad(what: str) -> LogError:
    return LogError(
        f"the backup is not a whole ledger: {what}",
        reason="bad_backup",
        fix="it was thrown away; look at the custodian's disk and log, and make another one",
    )


def _unwritable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"cannot write {path}: {error.strerror}",
        reason="unwritable_backup",
        fix="name a file in a directory of yours, on a disk with space",
    )
