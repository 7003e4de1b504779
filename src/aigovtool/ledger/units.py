"""Units are money: integers, one per dimension, never negative, never a float.

A `UnitVector` has one field per dimension (leases spec section 2). A field of zero means that nothing
of this dimension is asked for, held or used; whether a dimension is *metered* is decided by budget rows.
"""

from collections.abc import Iterator
from enum import StrEnum

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
        value: int = getattr(self, dimension.value)
        return value

    def items(self) -> Iterator[tuple[Dimension, int]]:
        """Yield the dimensions that are not zero, in a fixed order."""
        for dimension in Dimension:
            if value := self.get(dimension):
                yield dimension, value

    def plus(self, other: "UnitVector") -> "UnitVector":
        """Return the sum."""
        return vector({d: self.get(d) + other.get(d) for d in Dimension})

    def minus(self, other: "UnitVector") -> "UnitVector":
        """Return the difference.

        Raises:
            InvalidValueError: when any dimension would go below zero.
        """
        return vector({d: self.get(d) - other.get(d) for d in Dimension})

    def highest(self, other: "UnitVector") -> "UnitVector":
        """Return the larger value of each dimension."""
        return vector({d: max(self.get(d), other.get(d)) for d in Dimension})

    def covers(self, other: "UnitVector") -> bool:
        """Return whether every dimension is at least that of `other`."""
        return all(self.get(d) >= other.get(d) for d in Dimension)

    def is_zero(self) -> bool:
        """Return whether nothing is counted at all."""
        return not any(True for _ in self.items())


ZERO = UnitVector()


def vector(values: dict[Dimension, int]) -> UnitVector:
    """Build a vector; dimensions that are absent are zero.

    Raises:
        InvalidValueError: for a negative value.
    """
    if any(value < 0 for value in values.values()):
        raise InvalidValueError("units cannot be negative", reason="negative_units")
    return UnitVector(**{dimension.value: value for dimension, value in values.items()})


def of(dimension: Dimension, units: int) -> UnitVector:
    """Return a vector with one dimension set."""
    return vector({dimension: units})
