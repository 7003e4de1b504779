"""Which renewals of an instance are known to be old, and which instance a key stands for."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, text
from tests.custodian.conftest import Bench, Enclave
from tests.custodian.store.conftest import LONG_S

from aigovtool.custodian.store import instances
from aigovtool.custodian.store.instances import Answered
from aigovtool.custodian.store.schema import answers
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.ids import MessageId, key_id_of

KEPT = 16


def number(of: int) -> MessageId:
    return MessageId(f"{of:032x}")


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60))
def test_every_older_renewal_is_known_by_its_number_or_by_what_it_showed(steps: list[int]) -> None:
    """One that moved the log for ever, one of the last sixteen in any case; and no new one is taken for an old one."""
    places = [(0, sum(steps[: place + 1])) for place in range(len(steps))]
    known = Answered(number(0), places[0])
    for place in range(1, len(places)):
        assert not known.supersedes(number(place), places[place])
        known = known.then(number(place), places[place])
    last = len(places) - 1
    for place in range(last):
        told = known.supersedes(number(place), places[place])
        assert told is (last - place <= KEPT or places[place] < places[last])
    assert len(known.earlier) <= KEPT


def test_a_later_generation_is_newer_whatever_its_size() -> None:
    """A settled ledger may have fewer entries than what it has forgotten."""
    known = Answered(number(0), (1, 5))
    assert known.supersedes(number(1), (0, 9))
    assert not known.supersedes(number(1), (1, 5))


async def test_what_is_remembered_of_renewals_has_a_bound(admitted: Enclave, lent: Bench) -> None:
    """One row of an instance, with sixteen numbers beside the newest, however often it renews."""
    for _ in range(3 * KEPT):
        await admitted.renew()

    def look(transaction: Transaction) -> list[int]:
        found = transaction.execute(select(answers.c.earlier).where(answers.c.instance == admitted.instance))
        return [len(earlier.split()) for earlier in found.scalars()]

    assert await lent.custodian.database.run(look) == [KEPT]


async def test_of_two_instances_with_one_key_the_newest_counts(admitted: Enclave, lent: Bench) -> None:
    """Earlier programs admitted them; that is found, and no error."""
    first = await admitted.record()
    second = msgspec.structs.replace(first, instance="0" * 64, attested_at_ms=first.attested_at_ms + 1)

    def both(transaction: Transaction) -> None:
        copied = "key_id, borrower, state, last_contact_ms"
        statement = text(
            f"INSERT INTO instances (instance, attested_at_ms, body, {copied}) "
            f"SELECT :instance, :at_ms, :body, {copied} FROM instances"
        )
        body = msgspec.json.encode(second)
        transaction.execute(statement.bindparams(instance=second.instance, at_ms=second.attested_at_ms, body=body))
        assert instances.by_key(transaction, key_id_of(first.identity_key)) == second

    lent.custodian.database.submit(both).result(LONG_S)
