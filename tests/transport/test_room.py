"""Shared room: a share for each, a bound for all, and nothing is lost."""

from contextlib import ExitStack, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigovtool.errors import OverloadedError
from aigovtool.transport.room import Room

ANN, BEN, CLEO, DORA, EVE = "ann", "ben", "cleo", "dora", "eve"


def full(room: Room, caller: str, amount: int) -> bool:
    """Return whether so much cannot be taken; take nothing for longer."""
    try:
        with room.take(caller, amount):
            return False
    except OverloadedError as error:
        assert (error.reason, error.retry_after_s, error.status) == ("busy", 1, 429)
        return True


def test_a_caller_takes_its_share_and_no_more() -> None:
    """Others are not disturbed by one that is at its bound."""
    room = Room(4, 12, "busy")
    with room.take(ANN, 3):
        assert not full(room, ANN, 1)
        assert full(room, ANN, 2)
        assert not full(room, BEN, 4)
    assert not full(room, ANN, 4)
    assert full(room, ANN, 5)


def test_all_together_take_no_more_than_there_is() -> None:
    """Each within its share, and yet the room is full."""
    room = Room(4, 12, "busy")
    with room.take(ANN, 4), room.take(BEN, 4), room.take(CLEO, 2), room.take(DORA, 1):
        assert full(room, EVE, 2)
        with room.take(EVE, 1):
            assert room._total == 12
            assert full(room, "fay", 1)
    assert not full(room, EVE, 4)


def test_nobody_takes_more_than_it_leaves() -> None:
    """Each of a crowd that takes what it gets leaves half of what it found; who comes then has a place."""
    room = Room(256, 1_024, "busy")
    taken = []
    with ExitStack() as crowd:
        for number in range(8):
            one, before = str(f"c{number}"), room._total
            while not full(room, one, 1):
                crowd.enter_context(room.take(one, 1))
            taken.append(room._total - before)
        assert taken == [256, 256, 256, 128, 64, 32, 16, 8]
        assert not full(room, ANN, 4)
    assert room._total == 0


def test_nothing_can_always_be_taken() -> None:
    """A request whose body is in may need nothing beside it, whatever others have taken since."""
    room = Room(6, 12, "busy")
    with room.take(ANN, 6), room.take(BEN, 3):
        assert full(room, ANN, 1)
        assert not full(room, ANN, 0)


def test_what_is_not_needed_is_given_back_early() -> None:
    """A body that turned out small; a share does not grow again."""
    room = Room(4, 10, "busy")
    with room.take(ANN, 4) as share:
        share.shrink_to(1)
        assert not full(room, ANN, 3)
        assert full(room, ANN, 4)
        share.shrink_to(4)
        assert not full(room, ANN, 3)
    assert not full(room, ANN, 4)


def test_an_error_gives_everything_back() -> None:
    """However a request ends; and of a consumer that is done nothing is remembered."""
    room = Room(4, 10, "busy")
    with pytest.raises(ValueError, match="gone"), room.take(ANN, 4):
        raise ValueError("gone")
    assert (room._taken, room._total) == ({}, 0)


@given(st.lists(st.tuples(st.sampled_from([ANN, BEN, CLEO]), st.integers(0, 5), st.integers(0, 5)), max_size=20))
def test_the_books_are_balanced(takes: list[tuple[str, int, int]]) -> None:
    """Whatever was taken, shrunk or refused: in the end nothing is taken, and never too much."""
    room = Room(4, 10, "busy")
    with ExitStack() as taken:
        for caller, amount, later in takes:
            with suppress(OverloadedError):
                taken.enter_context(room.take(caller, amount)).shrink_to(later)
            assert 0 <= room._total <= 10
            assert all(0 < each <= 4 for each in room._taken.values())
    assert (room._taken, room._total) == ({}, 0)
