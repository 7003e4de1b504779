"""What a backup must be before it gets its name: whole, and of the log that the custodian signed for."""

import asyncio
import base64
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from tests.custodian.conftest import BORROWER, make_bench
from tests.operator.conftest import FakeCustodian, ok, refused

from aigovtool.crypto.sign import SigningKey, seal
from aigovtool.custodian.service.backup import copy_ledger
from aigovtool.errors import ConfigurationError, ConflictError, FaultError, LogError, OverloadedError
from aigovtool.ledger.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from aigovtool.operator.backup import make_backup, require_whole
from aigovtool.operator.client import OperatorClient
from aigovtool.protocol.backup import CHECKPOINT_HEADER
from aigovtool.protocol.trust import KEY_SET, KeySet


@dataclass
class Copy:
    """A real ledger's copy, and the checkpoint of its log."""

    content: bytes
    checkpoint: Checkpoint


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A custodian with some entries, copied by itself."""
    bench = make_bench(tmp_path_factory.mktemp("ledger") / "custodian")

    async def work() -> Copy:
        await bench.add_borrower(BORROWER)
        made = await copy_ledger(bench.custodian, bench.alice)
        keys = bench.custodian.keys.key_set.log_keys()
        with made.file:
            return Copy(content=b"".join(made.chunks()), checkpoint=open_checkpoint(made.checkpoint, keys))

    try:
        return asyncio.run(work())
    finally:
        bench.custodian.database.close()


# --- Whole --------------------------------------------------------------------------------------------


def test_a_whole_copy_is_accepted_and_not_touched(copy: Copy, tmp_path: Path) -> None:
    """Looking at it makes no file beside it."""
    path = tmp_path / "a ledger?.db"
    path.write_bytes(copy.content)
    require_whole(path, copy.checkpoint)
    assert path.read_bytes() == copy.content
    assert list(tmp_path.iterdir()) == [path]


def changed(statement: str, *values: object) -> Callable[[bytes, Path], None]:
    """Return a damage that SQLite itself finds nothing wrong with."""

    def damage(content: bytes, path: Path) -> None:
        path.write_bytes(content)
        with closing(sqlite3.connect(path, isolation_level=None)) as ledger:
            ledger.execute("PRAGMA journal_mode=DELETE")
            assert ledger.execute(statement, values).rowcount != 0

    return damage


def written(make: Callable[[bytes], bytes]) -> Callable[[bytes, Path], None]:
    """Return a damage of the file itself."""

    def damage(content: bytes, path: Path) -> None:
        path.write_bytes(make(content))

    return damage


def renamed_in_place(content: bytes, path: Path) -> None:
    """Change a name in the table of parties and not in its index: what nothing but SQLite's own check compares."""
    path.write_bytes(content)
    with closing(sqlite3.connect(path)) as ledger:
        (page,) = ledger.execute("SELECT rootpage FROM sqlite_master WHERE name = 'parties'").fetchone()
        (size,) = ledger.execute("PRAGMA page_size").fetchone()
    start, end = (page - 1) * size, page * size
    assert BORROWER.encode() in content[start:end]
    path.write_bytes(content[:start] + content[start:end].replace(BORROWER.encode(), b"hospitaX", 1) + content[end:])


def misnamed_in_head(content: bytes, path: Path) -> None:
    """Make a name in the head no UTF-8: what it stood for is not looked at here, but no custodian starts from it."""
    path.write_bytes(content)
    with closing(sqlite3.connect(path, isolation_level=None)) as ledger:
        ledger.execute("PRAGMA journal_mode=DELETE")
        (body,) = ledger.execute("SELECT body FROM head").fetchone()
        assert b'"epoch"' in body
        ledger.execute("UPDATE head SET body = ?", (body.replace(b'"epoch"', b'"\xffpoch"'),))


def of_any_length(_: bytes, path: Path) -> None:
    """Let a table's definition claim more bytes than there are numbers for: SQLite says that memory is short."""
    with closing(sqlite3.connect(path, isolation_level=None)) as ledger:
        ledger.execute("PRAGMA page_size=512")
        ledger.execute("CREATE TABLE log (idx INTEGER PRIMARY KEY, leaf BLOB, root BLOB, body BLOB)")
        ledger.execute("CREATE TABLE head (body BLOB)")
    made = path.read_bytes()
    at = made.index(b"tableheadhead")
    path.write_bytes(made[: at - 9] + b"\xff" * 9 + made[at:])


ENDLESS = (
    "CREATE VIEW log AS WITH RECURSIVE counting(at) AS (SELECT 0 UNION ALL SELECT at + 1 FROM counting) "
    "SELECT -at AS idx, x'00' AS leaf, x'00' AS root, x'00' AS body FROM counting"
)


def without_an_end(content: bytes, path: Path) -> None:
    """Put a query that never ends in the place of the log."""
    changed("DROP TABLE log")(content, path)
    with closing(sqlite3.connect(path)) as ledger:
        ledger.execute(ENDLESS)


DAMAGES: dict[str, Callable[[bytes, Path], None]] = {
    "empty": written(lambda _: b""),
    "cut": written(lambda content: content[: len(content) // 2]),
    "garbage": written(lambda content: b"x" * len(content)),
    "a page of zeros": written(lambda content: content[:8192] + bytes(4096) + content[12288:]),
    "a row that is not as its index says": renamed_in_place,
    "an entry changed": changed("UPDATE log SET body = ? WHERE idx = 2", b"{}"),
    "an entry of another type": changed("UPDATE log SET body = 'text' WHERE idx = 2"),
    "a leaf changed": changed("UPDATE log SET leaf = ? WHERE idx = 2", bytes(32)),
    "a root changed": changed("UPDATE log SET root = ? WHERE idx = 2", bytes(32)),
    "the last entry missing": changed("DELETE FROM log WHERE idx = (SELECT max(idx) FROM log)"),
    "an entry missing": changed("DELETE FROM log WHERE idx = 1"),
    "no head": changed("DELETE FROM head"),
    "a head that is none": changed("UPDATE head SET body = ?", b"[]"),
    "a head of another type": changed("UPDATE head SET body = 7"),
    "a head of another log": changed("UPDATE head SET body = ?", b'{"frontier":{"size":1,"roots":["AAAA"]}}'),
    "a head with a name that is not UTF-8": misnamed_in_head,
    "no log": changed("DROP TABLE log"),
    "a log that never ends": without_an_end,
    "a definition of any length": of_any_length,
    "a statement that is not UTF-8": written(
        lambda content: content.replace(b"CREATE TABLE log", b"CREATE TABL\xe8 log")
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_copy_that_is_not_whole_is_refused(damage: str, copy: Copy, tmp_path: Path) -> None:
    """Damaged as a file, or sound as a file and another ledger than the custodian signed for."""
    path = tmp_path / "copy.db"
    DAMAGES[damage](copy.content, path)
    with pytest.raises(LogError) as caught:
        require_whole(path, copy.checkpoint)
    assert caught.value.reason == "bad_backup"
    assert caught.value.fix


@pytest.mark.parametrize("changes", [{"size": 1}, {"root": bytes(32)}, {"generation": 1}])
def test_a_copy_of_another_moment_is_refused(changes: dict[str, object], copy: Copy, tmp_path: Path) -> None:
    """A whole ledger, but not the one that the checkpoint stands for."""
    path = tmp_path / "copy.db"
    path.write_bytes(copy.content)
    with pytest.raises(LogError) as caught:
        require_whole(path, msgspec.structs.replace(copy.checkpoint, **changes))
    assert caught.value.reason == "bad_backup"


# --- Fetched ------------------------------------------------------------------------------------------

LOG_KEY = SigningKey.generate()


def keys(custodian: FakeCustodian) -> bytes:
    """Return the answer that names the log's key."""
    key_set = KeySet(
        custodian=custodian.root.public.key_id,
        version=1,
        issued_at_ms=0,
        commands=[],
        log=[LOG_KEY.public.raw],
        credentials=[],
        keystore=custodian.keystore.public,
    )
    return ok(seal(KEY_SET, key_set, custodian.root))


def sent(copy: Copy, *, content: bytes | None = None, signer: SigningKey = LOG_KEY, length: int | None = None) -> bytes:
    """Return the answer that holds a copy."""
    body = copy.content if content is None else content
    note = base64.b64encode(sign_checkpoint(copy.checkpoint, signer).encode()).decode()
    head = f"HTTP/1.1 200 OK\r\n{CHECKPOINT_HEADER}: {note}\r\ncontent-length: {length or len(body)}\r\n\r\n"
    return head.encode() + body


def quiet(_done: int, _total: int) -> None:
    """Show no progress."""


def test_a_backup_gets_its_name_when_it_is_whole(
    custodian: FakeCustodian, client: OperatorClient, copy: Copy, tmp_path: Path
) -> None:
    """Mode 0600, the very bytes, nothing else in the directory, and what it holds is said."""
    custodian.script.answers = [keys(custodian), sent(copy)]
    steps: list[tuple[int, int]] = []
    made = make_backup(client, tmp_path / "ledger.db", lambda done, total: steps.append((done, total)))
    path = tmp_path / "ledger.db"
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (copy.content, 0o600)
    assert list(tmp_path.iterdir()) == [path]
    assert (made.size_bytes, made.entries) == (len(copy.content), copy.checkpoint.size)
    assert steps[-1] == (len(copy.content), len(copy.content))


def test_a_copy_that_breaks_off_is_fetched_anew(
    custodian: FakeCustodian, client: OperatorClient, copy: Copy, tmp_path: Path
) -> None:
    """From its first byte: what came before is not kept."""
    half = sent(copy, content=b"y" * (len(copy.content) // 2), length=len(copy.content))
    broken = [half, None]
    custodian.script.answers = [keys(custodian), *broken, sent(copy)]
    make_backup(client, tmp_path / "ledger.db", quiet)
    assert (tmp_path / "ledger.db").read_bytes() == copy.content


def test_a_name_that_is_taken_meanwhile_is_not_overwritten(
    custodian: FakeCustodian, client: OperatorClient, copy: Copy, tmp_path: Path
) -> None:
    """The name is taken in one step, at the end."""
    path = tmp_path / "ledger.db"
    custodian.script.answers = [keys(custodian), sent(copy)]

    def take(_done: int, _total: int) -> None:
        path.write_bytes(b"somebody's")

    with pytest.raises(ConflictError) as caught:
        make_backup(client, path, take)
    assert caught.value.reason == "file_exists"
    assert path.read_bytes() == b"somebody's"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_not_whole_or_not_signed_gets_no_name(
    custodian: FakeCustodian, client: OperatorClient, copy: Copy, tmp_path: Path
) -> None:
    """Nor does what is no copy at all; no file is left, not even a partial one."""
    answers = {
        "bad_backup": sent(copy, content=copy.content[:-4096]),
        "checkpoint": sent(copy, signer=SigningKey.generate()),
        "bad_answer": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        "answer_too_large": sent(copy, length=1 << 41),
        "copying": refused(OverloadedError("a copy is being made", reason="copying", retry_after_s=10)),
    }
    for reason, answer in answers.items():
        custodian.script.answers = [keys(custodian), answer, None]
        with pytest.raises((LogError, FaultError)) as caught:
            make_backup(client, tmp_path / "ledger.db", quiet)
        assert caught.value.reason == reason
        assert list(tmp_path.iterdir()) == []
        client.close()
        client = OperatorClient(custodian.operator_file(), pause=lambda _: None)
    client.close()


def test_a_directory_that_is_not_there_is_said_before_anything_is_fetched(
    custodian: FakeCustodian, client: OperatorClient, tmp_path: Path
) -> None:
    """The custodian is not troubled for a copy that could not be kept."""
    custodian.script.answers = [keys(custodian)]
    with pytest.raises(ConfigurationError) as caught:
        make_backup(client, tmp_path / "nowhere" / "ledger.db", quiet)
    assert caught.value.reason == "unwritable_backup"
    assert [request.path for request in custodian.script.asked] == ["/v1/key-set"]
