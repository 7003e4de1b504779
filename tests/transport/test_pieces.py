"""What comes in pieces is put together once, and does not take many times its size meanwhile."""

import sys
from collections.abc import Iterable

import pytest

from aigovtool.transport.pieces import Pieces

WHOLE = bytes(range(256)) * 800
#: What is kept as it comes.
LARGE = 4 << 10


def of(pieces: Iterable[bytes]) -> Pieces:
    kept = Pieces()
    for piece in pieces:
        kept.add(piece)
    return kept


def cut(size: int) -> list[bytes]:
    return [WHOLE[start : start + size] for start in range(0, len(WHOLE), size)]


def taken_bytes(kept: Pieces) -> int:
    """Return the memory that is taken, that of the list with it."""
    return sys.getsizeof(kept._pieces) + sum(map(sys.getsizeof, kept._pieces))


@pytest.mark.parametrize("size", [1, 7, LARGE - 1, LARGE, LARGE + 1, 100_000, len(WHOLE)])
def test_pieces_of_any_size_are_put_together_in_order(size: int) -> None:
    """However it was cut, it is the same again, as bytes."""
    joined = of(cut(size)).joined()
    assert type(joined) is bytes
    assert joined == WHOLE


def test_large_and_small_pieces_are_put_together_in_order() -> None:
    """What is put together as it comes does not overtake what is kept as it came."""
    sizes, start = [1, LARGE, 3, 2, LARGE + 5, LARGE, 1, 1], 0
    pieces: list[bytes] = []
    while start < len(WHOLE):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(WHOLE[start : start + size])
        start += size
    assert of(pieces).joined() == WHOLE


@pytest.mark.parametrize("size", [1, 2, 100, LARGE - 1])
def test_small_pieces_do_not_take_many_times_their_size(size: int) -> None:
    """Attack: a large body in pieces of one byte, each of which would take fifty times as much when kept apart."""
    assert taken_bytes(of(cut(size))) < 1.2 * len(WHOLE)


def test_small_pieces_between_large_ones_take_little() -> None:
    """Attack: pieces of one byte that each come behind one that is kept as it came."""
    pieces = [one for start in range(40) for one in (bytes([start]) * LARGE, b"a")]
    assert taken_bytes(of(pieces)) < 1.2 * sum(map(len, pieces))


def test_a_single_piece_is_not_copied() -> None:
    """What came at once is handed on as it is."""
    for piece in (b"small piece", WHOLE):
        assert of([piece]).joined() is piece


@pytest.mark.parametrize("size", [1, 100_000])
def test_one_copy_is_kept_when_they_are_put_together(size: int) -> None:
    """The pieces are let go of, and asking a second time copies nothing."""
    kept = of(cut(size))
    joined = kept.joined()
    assert kept.joined() is joined
    assert taken_bytes(kept) < 1.1 * len(WHOLE)


def test_more_may_come_behind_what_was_put_together() -> None:
    """And what was handed out before does not change."""
    kept = of([b"a", b"b"])
    before = kept.joined()
    kept.add(b"c")
    assert (before, kept.joined()) == (b"ab", b"abc")


def test_nothing_is_kept_in_the_end() -> None:
    """It is false as long as there is nothing, and none is the same as an empty one."""
    kept = Pieces()
    assert not kept
    assert kept.joined() == b""
    kept.add(WHOLE)
    assert kept
    kept.clear()
    assert not kept
    assert taken_bytes(kept) < 1_000
