"""The records of answers: each can be found and checked again, and nothing holds an answer back."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.consumer.conftest import FakeEnclave, World

from aigovtool.consumer import Client
from aigovtool.consumer.connect.kept_receipts import KeptReceipts, find_receipt, read_receipts
from aigovtool.errors import ConfigurationError, NotFoundError
from aigovtool.ids import RequestKey

DAY_S = 86_400


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the records are."""
    return tmp_path / "receipts"


@pytest.fixture
def receipts(directory: Path, world: World) -> Iterator[KeptReceipts]:
    """Records that are kept."""
    made = KeptReceipts(directory, world.clock.clock())
    yield made
    made.close()


def ask(client: Client, receipts: KeptReceipts, name: str) -> object:
    """Ask once, keep the record, and return it."""
    saved = client.infer("doubler", [[1, 2]], request_id=name).saved
    receipts.keep(saved)
    return saved


def test_a_record_comes_back_whole(client: Client, receipts: KeptReceipts, directory: Path) -> None:
    """As if it had been saved in a file of its own."""
    kept = {name: ask(client, receipts, name) for name in ("a", "b", "c")}
    assert receipts.count == 3
    for name, saved in kept.items():
        assert find_receipt(directory, RequestKey(name)) == saved


def test_what_answers_have_in_common_is_kept_once(
    client: Client, receipts: KeptReceipts, directory: Path, enclave: FakeEnclave
) -> None:
    """Evidence is far larger than a receipt; each attestation has a file."""
    for name in "abc":
        ask(client, receipts, name)
    assert len(list((directory / "sessions").iterdir())) == 1
    enclave.reboot()
    ask(client, receipts, "d")
    assert len(list((directory / "sessions").iterdir())) == 2
    assert len(list(read_receipts(directory))) == 4


def test_each_day_has_a_file(client: Client, receipts: KeptReceipts, directory: Path, world: World) -> None:
    """So that old ones can be put away; the newest record of a request is found."""
    ask(client, receipts, "a")
    world.clock.wall_s += DAY_S
    receipts.keep(client.infer("doubler", [[1, 2]], request_id="a").saved)
    assert len(list(directory.glob("*.jsonl"))) == 2


def test_a_request_that_was_not_kept_is_not_found(receipts: KeptReceipts, directory: Path) -> None:
    """It is said to be so."""
    del receipts
    with pytest.raises(NotFoundError) as caught:
        find_receipt(directory, RequestKey("a"))
    assert caught.value.reason == "no_such_receipt"


def test_a_line_that_was_cut_off_is_left_out(client: Client, receipts: KeptReceipts, directory: Path) -> None:
    """The machine lost power; those before it are there."""
    ask(client, receipts, "a")
    (path,) = directory.glob("*.jsonl")
    path.write_bytes(path.read_bytes() + path.read_bytes()[:100])
    assert [kept.signed.receipt.request_key for kept in read_receipts(directory)] == ["a"]


def test_a_line_that_is_no_record_is_said_to_be(client: Client, receipts: KeptReceipts, directory: Path) -> None:
    """Somebody has edited the file."""
    ask(client, receipts, "a")
    (path,) = directory.glob("*.jsonl")
    path.write_bytes(b"{}\n" + path.read_bytes())
    with pytest.raises(ConfigurationError) as caught:
        find_receipt(directory, RequestKey("a"))
    assert caught.value.reason == "bad_receipts"


def test_what_cannot_be_written_is_counted(client: Client, directory: Path, world: World) -> None:
    """The answer was charged, and is handed on whatever becomes of its record."""
    receipts = KeptReceipts(directory, world.clock.clock())
    directory.rename(directory.with_name("elsewhere"))
    ask(client, receipts, "a")
    receipts.close()
    assert (receipts.count, receipts.lost) == (0, 1)


def test_nobody_else_may_read_them(client: Client, receipts: KeptReceipts, directory: Path) -> None:
    """Whoever has the salt can test guesses of what was asked."""
    ask(client, receipts, "a")
    for path in (directory, *directory.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0
