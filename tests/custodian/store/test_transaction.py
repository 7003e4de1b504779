"""The running transaction: the head and the log belong to the jobs that succeed, also when one in the middle fails."""

from tests.custodian.store.conftest import LONG_S, Gate

from aigovtool.custodian.store import facts, log
from aigovtool.custodian.store.database import Database
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import ConflictError
from aigovtool.ids import KeyId
from aigovtool.ledger.entry import Genesis
from aigovtool.ledger.merkle import leaf_hash, root_of

BODY = Genesis(custodian=KeyId("c" * 64))


def write(transaction: Transaction) -> int:
    facts.next_epoch(transaction)
    return log.append(transaction, 1_000, BODY)


def test_a_failed_job_leaves_no_trace_in_head_and_log(database: Database) -> None:
    """Also when it read the log in between, which writes what was gathered before it: nothing of others is lost."""

    def fails(transaction: Transaction) -> None:
        write(transaction)
        assert len(log.page(transaction, 0, 10)) == 2  # writes the first job's entry inside this one's savepoint
        write(transaction)
        raise ConflictError("no", reason="test")

    gate = Gate(database)
    first, failing, last = database.submit(write), database.submit(fails), database.submit(write)
    gate.open()
    assert (first.result(LONG_S), last.result(LONG_S)) == (0, 1)
    assert isinstance(failing.exception(LONG_S), ConflictError)

    def look(transaction: Transaction) -> tuple[int, list[bytes]]:
        return transaction.head.epoch, log.page(transaction, 0, 10)

    epoch, entries = database.submit(look).result(LONG_S)
    assert (epoch, len(entries)) == (2, 2)


def test_the_log_keeps_the_root_of_every_size(database: Database) -> None:
    """A checkpoint of any size, however old, is compared with what is stored beside its last entry."""

    def fill(transaction: Transaction) -> None:
        for _ in range(100):
            write(transaction)
        leaves = [leaf_hash(entry) for entry in log.page(transaction, 0, 1000)]
        for size in range(101):
            assert log.root_at(transaction, size) == root_of(leaves[:size])

    database.submit(fill).result(LONG_S)


def test_the_head_survives_a_restart(database: Database) -> None:
    """The clock, the epoch and the frontier are read back as they were written, and the clock never goes back."""
    database.submit(write).result(LONG_S)
    database.submit(lambda transaction: facts.advance_clock(transaction, 5_000)).result(LONG_S)
    later = database.submit(lambda transaction: facts.advance_clock(transaction, 4_000)).result(LONG_S)
    head = database.submit(lambda transaction: transaction.head).result(LONG_S)
    assert later == head.clock_ms == 5_000
    assert (head.epoch, head.frontier.size) == (1, 1)
