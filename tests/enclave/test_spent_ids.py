"""Ids without their answers: remembered for ten minutes, and forgotten soon after."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aigovtool.enclave import id_table
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


# --- Beside a plain dictionary ---------------------------------------------------------------------

MINUTE_MS = 60_000
CYCLE_MS = 255 * MINUTE_MS
ACTS = st.lists(
    st.tuples(st.sampled_from([ANN, BEN]), st.integers(0, 9), st.integers(0, 400), st.booleans()), max_size=40
)


def known(spent: SpentIds) -> set[tuple[ConsumerId, int]]:
    return {(who, number) for who in (ANN, BEN) for number in range(10) if spent.has(who, RequestKey(f"k{number}"))}


@pytest.fixture
def small_steps() -> Iterator[None]:
    """A sweep takes many steps, so that something is always left to be swept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(id_table, "_STEP", 16)
        yield


@pytest.mark.usefixtures("small_steps")
@given(ACTS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_ids_are_what_a_dictionary_of_their_minutes_is(acts: list[tuple[ConsumerId, int, int, bool]]) -> None:
    """Whatever comes when, and however often what is over is taken away: what is remembered is exactly what must be."""
    spent, plain, now_ms = SpentIds(100), dict[tuple[ConsumerId, int, int], int](), 0
    for who, number, wait, look in acts:
        now_ms += wait * MINUTE_MS // 20
        oldest = min((minute for *_, minute in plain), default=0)
        if look or now_ms // MINUTE_MS - oldest >= 255:
            spent.expire(now_ms)
            for each in [each for each in plain if now_ms >= (each[2] + 1) * MINUTE_MS + RESULT_RETENTION_MS]:
                del plain[each]
        pair = who, number, now_ms // MINUTE_MS
        spent.add(who, RequestKey(f"k{number}"), now_ms)
        plain[pair] = plain.get(pair, 0) + 1
        assert known(spent) == {(name, id_) for name, id_, _ in plain}
        assert len(spent) == sum(plain.values())
        for name in (ANN, BEN):
            assert spent.of(name) == sum(count for (owner, *_), count in plain.items() if owner == name)


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("looks", [1, 2, 1_000])
def test_an_id_of_255_minutes_ago_is_no_ghost(looks: int) -> None:
    """Its mark stands for another minute by then: it is used again only after all that bore it was swept away."""
    spent = SpentIds(100)
    for number in range(100):
        spent.add(ANN, RequestKey(f"old{number}"), 0)
    for look in range(looks):
        spent.expire(MINUTE_MS + RESULT_RETENTION_MS + look)
    for lap in (1, 2):
        spent.add(ANN, RequestKey("new"), lap * CYCLE_MS)
        assert spent.has(ANN, RequestKey("new"))
        assert not any(spent.has(ANN, RequestKey(f"old{number}")) for number in range(100))
        spent.expire(lap * CYCLE_MS + MINUTE_MS + RESULT_RETENTION_MS)
        assert not spent.has(ANN, RequestKey("new"))


def test_places_are_used_again_when_minutes_are_over() -> None:
    """Hours of use need no more places than ten minutes do: nothing goes beside the table."""
    spent, per_minute = SpentIds(12_000), 1_000
    for minute in range(60):
        for number in range(per_minute):
            spent.add(ANN, RequestKey(f"{minute}-{number}"), minute * MINUTE_MS)
        spent.expire((minute + 1) * MINUTE_MS)
    assert len(spent) == 10 * per_minute
    assert len(spent._table._beside) < per_minute // 50
    assert sum(spent.has(ANN, RequestKey(f"{minute}-7")) for minute in range(60)) == 10


def test_memory_is_given_back_when_all_is_forgotten() -> None:
    """Nothing stays of a table of millions after a wipe, and it can be used as at first."""
    spent = SpentIds()
    spent.add(ANN, KEY, 0)
    memory = spent._table._memory
    assert memory is not None
    spent.clear()
    assert [one.closed for one in memory] == [True, True]
    assert not spent.has(ANN, KEY)
    spent.add(ANN, RequestKey("k2"), 0)
    assert [spent.has(ANN, KEY), spent.has(ANN, RequestKey("k2")), len(spent)] == [False, True, 1]


def test_two_minutes_of_one_mark_are_forgotten_one_by_one() -> None:
    """Where nothing was taken away for 255 minutes: what is over does not come back with the mark of another minute."""
    spent, late_ms = SpentIds(), 255 * 60_000
    spent.add(ANN, RequestKey("old"), 0)
    spent.add(ANN, RequestKey("new"), late_ms)
    spent.expire(late_ms + 1)
    assert (spent.has(ANN, RequestKey("new")), len(spent)) == (True, 1)
    assert not spent.has(ANN, RequestKey("old"))
