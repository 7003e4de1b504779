"""Units are integers that cannot go below zero, and a vector has one per dimension."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigovtool.codec import decode, encode
from aigovtool.errors import InvalidValueError, MalformedError
from aigovtool.ledger.units import ZERO, Dimension, UnitVector, of, total, vector
from aigovtool.limits import MAX_INTEGER

VECTORS = st.builds(vector, st.dictionaries(st.sampled_from(list(Dimension)), st.integers(0, 10**9)))


@given(VECTORS, VECTORS)
def test_what_is_added_can_be_taken_away(a: UnitVector, b: UnitVector) -> None:
    """Sum and difference are inverse, and each dimension is counted by itself."""
    assert a.plus(b).minus(b) == a
    assert a.plus(b) == b.plus(a)
    assert all(a.plus(b).get(d) == a.get(d) + b.get(d) for d in Dimension)


@given(VECTORS, VECTORS)
def test_the_highest_of_two_covers_both(a: UnitVector, b: UnitVector) -> None:
    """The larger value of each dimension covers both vectors, and nothing smaller does."""
    highest = a.highest(b)
    assert highest.covers(a)
    assert highest.covers(b)
    assert all(highest.get(d) in {a.get(d), b.get(d)} for d in Dimension)


@given(VECTORS, VECTORS)
def test_a_vector_covers_what_can_be_taken_from_it(a: UnitVector, b: UnitVector) -> None:
    """One vector covers another exactly when the difference exists."""
    if a.covers(b):
        assert a.minus(b).plus(b) == a
    else:
        with pytest.raises(InvalidValueError) as caught:
            a.minus(b)
        assert caught.value.reason == "negative_units"


def test_one_dimension_does_not_pay_for_another() -> None:
    """Plenty of inferences cover no tokens."""
    assert not of(Dimension.INFERENCES, 1_000).covers(of(Dimension.INPUT_TOKENS, 1))


def test_negative_units_cannot_be_made() -> None:
    """No vector holds less than nothing."""
    with pytest.raises(InvalidValueError) as caught:
        of(Dimension.COMPUTE_MS, -1)
    assert caught.value.reason == "negative_units"


@pytest.mark.parametrize("text", [b'{"inferences":-1}', b'{"inferences":1.0}', b'{"inferences":true}', b'{"hours":1}'])
def test_a_vector_from_outside_is_counted_in_whole_known_units(text: bytes) -> None:
    """Negative numbers, floats, booleans and dimensions that do not exist are refused."""
    with pytest.raises(InvalidValueError):
        decode(text, UnitVector)


@given(VECTORS)
def test_a_vector_survives_its_encoding(units: UnitVector) -> None:
    """A vector is read back as it was written."""
    assert decode(encode(units), UnitVector) == units


def test_dimensions_of_zero_are_not_written_and_not_listed() -> None:
    """What is not counted leaves no trace, in an order that does not depend on the caller."""
    units = vector({Dimension.OUTPUT_TOKENS: 2, Dimension.INFERENCES: 1, Dimension.INPUT_TOKENS: 0})
    assert encode(units) == b'{"inferences":1,"output_tokens":2}'
    assert list(units.items()) == [(Dimension.INFERENCES, 1), (Dimension.OUTPUT_TOKENS, 2)]
    assert not units.is_zero()
    assert ZERO.is_zero()
    assert encode(ZERO) == b"{}"


def test_the_largest_number_of_units_is_the_largest_that_travels() -> None:
    """A number of units that every JSON reader keeps exact is taken; the next is refused."""
    assert decode(b'{"inferences":%d}' % MAX_INTEGER, UnitVector).inferences == MAX_INTEGER
    with pytest.raises(MalformedError):
        decode(b'{"inferences":%d}' % (MAX_INTEGER + 1), UnitVector)


# --- Beside a plain dictionary ---------------------------------------------------------------------

PLAIN = st.dictionaries(st.sampled_from(list(Dimension)), st.integers(0, 20))


def plain(units: UnitVector) -> dict[Dimension, int]:
    return {dimension: units.get(dimension) for dimension in Dimension}


@given(PLAIN, PLAIN)
def test_arithmetic_is_that_of_a_dictionary(a: dict[Dimension, int], b: dict[Dimension, int]) -> None:
    """Sum, difference, larger, smaller and comparison: each dimension by itself, none forgotten and none mixed up."""
    one, two = vector(a), vector(b)
    pairs = {dimension: (a.get(dimension, 0), b.get(dimension, 0)) for dimension in Dimension}
    assert plain(one.plus(two)) == {dimension: x + y for dimension, (x, y) in pairs.items()}
    assert plain(one.highest(two)) == {dimension: max(pair) for dimension, pair in pairs.items()}
    assert plain(one.lowest(two)) == {dimension: min(pair) for dimension, pair in pairs.items()}
    assert one.covers(two) == all(x >= y for x, y in pairs.values())
    if one.covers(two):
        assert plain(one.minus(two)) == {dimension: x - y for dimension, (x, y) in pairs.items()}
    assert dict(one.items()) == {dimension: units for dimension, units in a.items() if units}
    assert one.is_zero() == (not any(a.values()))


@given(PLAIN, st.sets(st.sampled_from(list(Dimension))), st.integers(0, 9))
def test_over_keeps_the_dimensions_that_are_named(a: dict[Dimension, int], of_them: set[Dimension], least: int) -> None:
    """Each at least `least`; nothing is left of the others, however much it was."""
    found = plain(vector(a).over(of_them, least=least))
    assert found == {each: max(a.get(each, 0), least) if each in of_them else 0 for each in Dimension}


@pytest.mark.parametrize(
    ("units", "words"),
    [
        (ZERO, "nothing"),
        (of(Dimension.INFERENCES, 12), "12 inferences"),
        (UnitVector(compute_ms=300, inferences=12), "12 inferences, 300 compute_ms"),
        (UnitVector(output_tokens=1), "1 output_tokens"),
    ],
)
def test_units_are_said_in_words(units: UnitVector, words: str) -> None:
    """What is counted in a fixed order, and a word for nothing at all."""
    assert str(units) == words


@given(st.lists(VECTORS, max_size=6))
def test_the_total_is_the_sum_of_all(vectors: list[UnitVector]) -> None:
    """Of each dimension by itself, whichever of them come more than once; of none it is nothing."""
    assert plain(total(vectors)) == {dimension: sum(each.get(dimension) for each in vectors) for dimension in Dimension}


@given(VECTORS, st.integers(0, 70))
def test_so_many_of_the_same_are_their_sum(units: UnitVector, count: int) -> None:
    """Whether it is the same object each time or an equal one: the short way gives what the long one does."""
    same = [units] * count
    copies = [msgspec.structs.replace(units) for _ in same]
    assert total(same) == total(copies) == units.times(count)
    assert plain(units.times(count)) == {dimension: count * units.get(dimension) for dimension in Dimension}
    if count > 1:  # the first and the last are the same object, and one between them is not
        other = units.plus(UnitVector(inferences=1, input_tokens=2, output_tokens=3, cached_tokens=4, compute_ms=5))
        mixed = [units, other, *same[2:]]
        assert total(mixed).minus(total(same)) == other.minus(units)
