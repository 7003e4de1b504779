"""Units are money: integers, one per dimension, never negative, never a float.

A `UnitVector` has one field per dimension (leases spec section 2). A field of zero means that nothing
of this dimension is asked for, held or used; whether a dimension is *metered* is decided by budget rows.
"""

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum

import msgspec

from aigovtool.codec import Message
from aigovtool.errors import InvalidValueError
from aigovtool.ids import Units


class Dimension(StrEnum):
    """What can be counted."""

    INFERENCES = "inferences"
    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    CACHED_TOKENS = "cached_tokens"
    COMPUTE_MS = "compute_ms"


class UnitVector(Message, omit_defaults=True):
    """A non-negative integer per dimension."""

    inferences: Units = 0
    input_tokens: Units = 0
    output_tokens: Units = 0
    cached_tokens: Units = 0
    compute_ms: Units = 0

    def get(self, dimension: Dimension) -> int:
        """Return the units of one dimension."""
        value: int = getattr(self, dimension)  # a dimension is the name of its field
        return value

    def items(self) -> Iterator[tuple[Dimension, int]]:
        """Yield the dimensions that are not zero, in a fixed order."""
        for dimension in Dimension:
            if value := self.get(dimension):
                yield dimension, value

    def plus(self, other: "UnitVector") -> "UnitVector":
        """Return the sum."""
        return UnitVector(
            inferences=self.inferences + other.inferences,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            compute_ms=self.compute_ms + other.compute_ms,
        )

    def times(self, count: int) -> "UnitVector":
        """Return so many of it."""
        return UnitVector(
            inferences=self.inferences * count,
            input_tokens=self.input_tokens * count,
            output_tokens=self.output_tokens * count,
            cached_tokens=self.cached_tokens * count,
            compute_ms=self.compute_ms * count,
        )

    def minus(self, other: "UnitVector") -> "UnitVector":
        """Return the difference.

        Raises:
            InvalidValueError: when any dimension would go below zero.
        """
        if not self.covers(other):
            raise _negative()
        return UnitVector(
            inferences=self.inferences - other.inferences,
            input_tokens=self.input_tokens - other.input_tokens,
            output_tokens=self.output_tokens - other.output_tokens,
            cached_tokens=self.cached_tokens - other.cached_tokens,
            compute_ms=self.compute_ms - other.compute_ms,
        )

    def highest(self, other: "UnitVector") -> "UnitVector":
        """Return the larger value of each dimension."""
        return UnitVector(
            inferences=max(self.inferences, other.inferences),
            input_tokens=max(self.input_tokens, other.input_tokens),
            output_tokens=max(self.output_tokens, other.output_tokens),
            cached_tokens=max(self.cached_tokens, other.cached_tokens),
            compute_ms=max(self.compute_ms, other.compute_ms),
        )

    def lowest(self, other: "UnitVector") -> "UnitVector":
        """Return the smaller value of each dimension."""
        return UnitVector(
            inferences=min(self.inferences, other.inferences),
            input_tokens=min(self.input_tokens, other.input_tokens),
            output_tokens=min(self.output_tokens, other.output_tokens),
            cached_tokens=min(self.cached_tokens, other.cached_tokens),
            compute_ms=min(self.compute_ms, other.compute_ms),
        )

    def covers(self, other: "UnitVector") -> bool:
        """Return whether every dimension is at least that of `other`."""
        return (
            self.inferences >= other.inferences
            and self.compute_ms >= other.compute_ms
            and self.input_tokens >= other.input_tokens
            and self.output_tokens >= other.output_tokens
            and self.cached_tokens >= other.cached_tokens
        )

    def over(self, dimensions: Iterable[Dimension], *, least: int) -> "UnitVector":
        """Return these dimensions alone, each of at least `least` units."""
        return vector({d: max(self.get(d), least) for d in dimensions})

    def is_zero(self) -> bool:
        """Return whether nothing is counted at all."""
        return self == ZERO

    def __str__(self) -> str:
        """Return the units in words, such as `12 inferences, 300 compute_ms`."""
        return ", ".join(f"{units} {dimension.value}" for dimension, units in self.items()) or "nothing"


ZERO = UnitVector()


def total(vectors: Sequence[UnitVector]) -> UnitVector:
    """Return the sum of all."""
    if not vectors:
        return ZERO
    first = vectors[0]
    if all(each is first for each in vectors):
        return first.times(len(vectors))
    found = first
    for each in vectors[1:]:
        found = found.plus(each)
    return found


def only_zero(message: Message, name: str) -> None:
    """Put `ZERO` itself where a member is as much: called by a message, when it is made, of which it is the default.

    msgspec leaves out a default that is the very same object, so that another zero would be a second encoding.
    """
    if getattr(message, name) == ZERO:
        msgspec.structs.force_setattr(message, name, ZERO)


def vector(values: dict[Dimension, int]) -> UnitVector:
    """Build a vector; dimensions that are absent are zero.

    Raises:
        InvalidValueError: for a negative value.
    """
    if values and min(values.values()) < 0:
        raise _negative()
    return UnitVector(**values)


def _negative() -> InvalidValueError:
    return InvalidValueError("units cannot be negative", reason="negative_units")


def of(dimension: Dimension, units: int) -> UnitVector:
    """Return a vector with one dimension set."""
    if units < 0:
        raise _negative()
    return UnitVector(**{dimension: units})
