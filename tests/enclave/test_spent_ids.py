"""Ids without their answers: remembered for ten minutes, and forgotten soon after."""

import pytest

from aigovtool.enclave.spent_ids import SpentIds
from aigovtool.ids import ConsumerId, RequestKey
from aigovtool.limits import RESULT_RETENTION_MS

ANN, BEN = ConsumerId("ann"), ConsumerId("ben")
KEY = RequestKey("k1")


@pytest.mark.parametrize("ended_ms", [0, 1, 59_999, 60_000, 90_000])
def test_an_id_is_remembered_for_ten_minutes_and_at_most_one_more(ended_ms: int) -> None:
    """From the end of its run on: never too short, because it would be charged again."""
    spent = SpentIds()
    spent.add(ANN, KEY, ended_ms)
    spent.expire(ended_ms + RESULT_RETENTION_MS - 1)
    assert spent.has(ANN, KEY)
    spent.expire(ended_ms + RESULT_RETENTION_MS + 60_000)
    assert not spent.has(ANN, KEY)
    assert (len(spent), spent.of(ANN)) == (0, 0)


def test_ids_belong_to_their_consumers() -> None:
    """The same id of another consumer is another id."""
    spent = SpentIds()
    spent.add(ANN, KEY, 0)
    spent.add(BEN, RequestKey("k2"), 0)
    assert [spent.has(ANN, KEY), spent.has(BEN, KEY), spent.has(ANN, RequestKey("k2"))] == [True, False, False]


def test_each_minute_is_forgotten_by_itself() -> None:
    """What ended later is still known when what ended earlier is not; the counts follow."""
    spent = SpentIds()
    for minute in range(3):
        spent.add(ANN, RequestKey(f"k{minute}"), 60_000 * minute)
    spent.add(BEN, KEY, 0)
    spent.expire(60_000 + RESULT_RETENTION_MS)
    assert [spent.has(ANN, RequestKey(f"k{minute}")) for minute in range(3)] == [False, True, True]
    assert (len(spent), spent.of(ANN), spent.of(BEN)) == (2, 2, 0)
    spent.clear()
    assert (len(spent), spent.has(ANN, RequestKey("k2"))) == (0, False)


def test_nobody_can_choose_ids_that_collide() -> None:
    """Two instances digest the same id differently, so that collisions cannot be prepared."""
    digests = {SpentIds()._digest(ANN, KEY) for _ in range(10)}
    assert len(digests) == 10
