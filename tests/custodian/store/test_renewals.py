"""Which renewals of an instance are known to be old."""

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select
from tests.custodian.conftest import Bench, Enclave

from aigovtool.custodian.store.renewals import Answered
from aigovtool.custodian.store.schema import answers
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.ids import MessageId

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
