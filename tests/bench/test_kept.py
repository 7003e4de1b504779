"""A run of the benchmarks that was broken off goes on, and takes over nothing that is not its own."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from bench.kept import Kept

from aigovtool.codec import Message


class Figure(Message):
    """Something that was measured."""

    value: int


def figures(*values: int) -> Iterator[Figure]:
    """Measure."""
    yield from (Figure(value=value) for value in values)


def never() -> Figure:
    """Measure what is not to be measured again.

    Raises:
        AssertionError: always.
    """
    raise AssertionError


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    """Parts of several figures and of one, each under its own name."""
    assert Kept.of("c1", tmp_path).part("a", Figure, lambda: figures(1, 2)) == [Figure(value=1), Figure(value=2)]
    assert Kept.of("c1", tmp_path).one("b", Figure, lambda: Figure(value=3)) == Figure(value=3)
    again = Kept.of("c1", tmp_path)
    assert again.part("a", Figure, lambda: [never()]) == [Figure(value=1), Figure(value=2)]
    assert again.one("b", Figure, never) == Figure(value=3)


def test_a_part_that_was_broken_off_is_measured_anew(tmp_path: Path) -> None:
    """Half of it is nothing."""

    def broken_off() -> Iterator[Figure]:
        yield Figure(value=1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Kept.of("c1", tmp_path).part("a", Figure, broken_off)
    assert Kept.of("c1", tmp_path).part("a", Figure, lambda: figures(5, 6)) == [Figure(value=5), Figure(value=6)]


def test_figures_of_another_commit_are_not_taken_over(tmp_path: Path) -> None:
    """Nor those that were published: the next run measures all of it."""
    kept = Kept.of("c1", tmp_path)
    kept.one("a", Figure, lambda: Figure(value=1))
    assert Kept.of("c2", tmp_path).one("a", Figure, lambda: Figure(value=2)) == Figure(value=2)
    kept.forget()
    assert Kept.of("c1", tmp_path).one("a", Figure, lambda: Figure(value=3)) == Figure(value=3)


def test_figures_of_another_boot_are_not_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be another machine: a clone that was copied brings them along."""
    Kept.of("c1", tmp_path).one("a", Figure, lambda: Figure(value=1))
    boot = tmp_path / "boot"
    boot.write_text("another\n", encoding="ascii")
    monkeypatch.setattr("bench.kept._BOOT", boot)
    assert Kept.of("c1", tmp_path).one("a", Figure, lambda: Figure(value=2)) == Figure(value=2)


def test_nothing_is_kept_unless_it_is_asked_for(tmp_path: Path) -> None:
    """Each time is a measurement."""
    kept = Kept(None)
    assert [kept.one("a", Figure, partial(Figure, value=value)) for value in (1, 2)] == [
        Figure(value=1),
        Figure(value=2),
    ]
    assert list(tmp_path.iterdir()) == []
