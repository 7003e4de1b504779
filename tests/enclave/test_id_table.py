"""A table of digests is what a plain set of pairs is, in little memory."""

import os
from collections.abc import Iterator
from mmap import mmap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigovtool.enclave import id_table
from aigovtool.enclave.id_table import DIGEST_BYTES, IdTable
from aigovtool.limits import MAX_REQUEST_IDS

SLOTS = 64
#: Places of a bucket, and of the table that is made for few.
PLACES = 2 * SLOTS


def digest(number: int) -> bytes:
    return number.to_bytes(DIGEST_BYTES, "little")


#: Digests of all kinds: some that are found between two others that lie side by side, some all of whose bytes are
#: those of a place that was never used, many that share both of their buckets, and many that do not.
POOL = [
    *(digest(sum((number >> bit & 1) << 8 * bit for bit in range(8))) for number in range(0, 256, 5)),
    *(digest(number << 1 | number << 40) for number in range(1, 100)),
    *(digest(number * 0x9E37_79B9_7F4A_7C15 % 2**64) for number in range(1, 150)),
]
MARKS = range(1, 5)
ADD = st.tuples(st.just("add"), st.integers(0, len(POOL) - 1), st.integers(1, 90), st.sampled_from(MARKS))
USE = st.tuples(st.just("use"), st.sets(st.sampled_from(MARKS)))
SWEEP = st.tuples(st.just("sweep"), st.integers(1, 12))


@pytest.fixture(params=[16, 1 << 16])
def step(request: pytest.FixtureRequest) -> Iterator[int]:
    """Sweep in pieces of a bucket, or all at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(id_table, "_STEP", request.param)
        yield request.param


class Plain:
    """What a table is: pairs of digest and mark, and which marks are in use, or may be used again from which step."""

    def __init__(self, lap: int) -> None:
        self.pairs: set[tuple[bytes, int]] = set()
        self.in_use: set[int] = set()
        self.clean_at: dict[int, int] = {}
        self.steps, self.lap = 0, lap

    def use(self, marks: set[int]) -> None:
        """Use these, but for those of which something may be left."""
        gone = self.in_use - marks
        self.pairs = {(digest, mark) for digest, mark in self.pairs if mark not in gone}
        self.clean_at |= dict.fromkeys(gone, self.steps + self.lap)
        self.in_use = {mark for mark in marks if mark in self.in_use or self.steps >= self.clean_at.get(mark, 0)}

    def known(self) -> set[bytes]:
        return {digest for digest, _ in self.pairs}


@given(st.lists(st.one_of(ADD, ADD, USE, SWEEP), min_size=5, max_size=30))
def test_a_table_knows_what_a_set_knows(acts: list[tuple[object, ...]]) -> None:
    """Whatever is added, used, swept and used again, all of it is found, and nothing else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(id_table, "_STEP", 16)
        table = IdTable(90)
        plain = Plain(table.lap)
        plain.use({1, 2})
        table.use(plain.in_use)
        for act in acts:
            match act:
                case ("add", int(first), int(count), int(mark)) if mark in plain.in_use:
                    for each in POOL[first : first + count]:
                        table.add(each, mark)
                        plain.pairs.add((each, mark))
                case ("use", set(marks)):
                    plain.use(marks)
                    table.use(plain.in_use)
                case ("sweep", int(times)):
                    for _ in range(times):
                        table.sweep()
                    plain.steps += times
                case _:
                    pass
            assert {each for each in POOL if table.has(each)} == plain.known()
        assert table.steps == plain.steps


def memory_of(table: IdTable) -> tuple[mmap, mmap] | None:
    return table._memory


def test_what_finds_both_buckets_full_is_found_beside_the_table() -> None:
    """Digests that all want the same places: not one is lost, and those beside it go with their marks as well."""
    table = IdTable(90)
    table.use({1, 2})
    crowd = [digest(number << 1 | number << 33) for number in range(3 * SLOTS)]
    for number, each in enumerate(crowd):
        table.add(each, 1 + number % 2)
    assert len(table._beside) == 2 * SLOTS
    assert all(table.has(each) for each in crowd)
    assert not any(table.has(digest(1 + (number << 1 | number << 33))) for number in range(3 * SLOTS))
    table.use({2})
    assert [table.has(each) for each in crowd] == [False, True] * (3 * SLOTS // 2)
    assert len(table._beside) == SLOTS


def test_the_emptier_of_two_buckets_is_filled() -> None:
    """Where the first one is nearly full the second takes what comes, before anything goes beside."""
    table = IdTable(90)
    table.use({1})
    crowd = [digest(number << 1 | (2 * number + 1) << 32) for number in range(PLACES)]
    filled = []
    for each in crowd:
        table.add(each, 1)
        memory = memory_of(table)
        assert memory is not None
        filled.append((memory[1][:SLOTS].count(b"\1"), memory[1][SLOTS:].count(b"\1")))
    assert [filled[added - 1] for added in (1, 48, 60, 96)] == [(1, 0), (48, 0), (48, 12), (48, 48)]
    assert table._beside == {}
    assert all(table.has(each) for each in crowd)


def test_a_table_holds_what_it_is_made_for() -> None:
    """As many digests as it may have, as they are drawn: practically none finds no place, and each is found."""
    table = IdTable(20_000)
    table.use({9})
    drawn = [os.urandom(DIGEST_BYTES) for _ in range(20_000)]
    for each in drawn:
        table.add(each, 9)
    assert len(table._beside) < 20
    assert all(table.has(each) for each in drawn)
    assert not any(table.has(os.urandom(DIGEST_BYTES)) for _ in range(5_000))


def fill(table: IdTable, mark: int) -> list[bytes]:
    """Add as many digests as there are places, half of them in each bucket."""
    digests = [digest(number << 8 | mark << 1 | number % 2 | (number % 2) << 32) for number in range(PLACES)]
    for each in digests:
        table.add(each, mark)
    return digests


def test_sweeping_frees_the_places_of_what_is_no_longer_in_use(step: int) -> None:
    """Little by little, and all of them within a lap; what is in use stays, and places that are free are used again."""
    table = IdTable(90)
    assert table.lap == max(1, PLACES // step)
    table.use({1})
    first = fill(table, 1)
    assert not table._beside
    table.use({2})
    assert not any(table.has(each) for each in first)
    for done in range(table.lap):
        assert table._memory is not None
        assert table._memory[1][:].count(b"\1") == max(0, PLACES - step * done)
        table.sweep()
    second = fill(table, 2)
    assert not table._beside
    for _ in range(2 * table.lap):
        table.sweep()
    assert all(table.has(each) for each in second)


@pytest.mark.usefixtures("step")
def test_a_mark_that_is_used_again_after_a_lap_finds_nothing_of_before() -> None:
    """Wherever the sweep stands when it goes out of use."""
    for stands in range(9):
        table = IdTable(90)
        table.use({1})
        before = fill(table, 1)
        for _ in range(stands):
            table.sweep()
        assert all(table.has(each) for each in before)
        table.use(())
        for _ in range(table.lap):
            table.sweep()
        table.use({1})
        assert not any(table.has(each) for each in before)


def test_a_mark_out_of_use_is_not_found_before_anything_is_swept() -> None:
    """Also where the same digest bears another one as well: that one alone counts."""
    table = IdTable(90)
    table.use({1, 2})
    both, one = digest(5), digest(7)
    for each, mark in ((both, 1), (one, 1), (both, 2)):
        table.add(each, mark)
    table.use({2})
    assert [table.has(both), table.has(one)] == [True, False]
    table.use(())
    assert [table.has(both), table.has(one)] == [False, False]


@pytest.mark.parametrize("most", [1_000, 10_001, MAX_REQUEST_IDS])
def test_an_id_takes_thirteen_bytes_at_most(most: int) -> None:
    """Of a table that is full; before the first digest it takes none, and after `clear` none again."""
    table = IdTable(most)
    table.use({1})
    assert memory_of(table) is None
    assert not table.has(digest(1))
    table.add(digest(1), 1)
    memory = memory_of(table)
    assert memory is not None
    assert 12 * most <= sum(len(one) for one in memory) <= 13 * most
    assert sum(map(len, memory)) == 9 * 64 * table._buckets
    table.clear()
    assert [one.closed for one in memory] == [True, True]
    table.add(digest(2), 1)
    assert memory_of(table) is not memory


def test_a_table_that_was_cleared_knows_nothing_and_goes_on() -> None:
    """Neither what was in it nor what was beside it; sweeping an empty one is no error."""
    table = IdTable(90)
    table.use({1})
    crowd = [digest(number << 1 | number << 33) for number in range(3 * SLOTS)]
    for each in crowd:
        table.add(each, 1)
    table.clear()
    table.sweep()
    assert not any(table.has(each) for each in crowd)
    assert not table._beside
    table.add(crowd[0], 1)
    assert [table.has(each) for each in crowd[:2]] == [True, False]
