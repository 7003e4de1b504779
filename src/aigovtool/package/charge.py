"""What a request costs of a model's `inferences`, by the first axes of its inputs (leases spec section 2).

One place decides it, for the enclave that charges and for whoever is shown what a budget will buy.
"""

from collections.abc import Sequence
from enum import StrEnum

from aigovtool.package.manifest import TensorSpec


class ChargedPer(StrEnum):
    """What one inference is: a row, where a model takes batches, or else a whole request."""

    ROW = "row"
    REQUEST = "request"


def charged_per(inputs: Sequence[TensorSpec]) -> ChargedPer:
    """Return what one inference of a model is: a row if the first axis of *every* input takes any size."""
    batches = all(spec.shape and _takes_any_size(spec.shape[0]) for spec in inputs)
    return ChargedPer.ROW if batches else ChargedPer.REQUEST


def takes_batches(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> bool:
    """Return whether requests can be computed as the rows of one: the first axis of *every* tensor takes any size.

    Where these axes have names, it is one name. Strings, whose elements have no fixed size, cannot be divided. Whether
    rows depend on each other the interface does not say.
    """
    specs = [*inputs, *outputs]
    if not all(spec.shape and _takes_any_size(spec.shape[0]) and spec.datatype.value != "BYTES" for spec in specs):
        return False
    return len({spec.shape[0] for spec in specs if spec.shape and isinstance(spec.shape[0], str)}) <= 1


def of_any_size(inputs: Sequence[TensorSpec]) -> list[str]:
    """Return the names of inputs that have an axis of any size, so that a request can hold more or less."""
    return [spec.name for spec in inputs if any(map(_takes_any_size, spec.shape or ()))]


def _takes_any_size(axis: int | str) -> bool:
    return isinstance(axis, str) or axis == -1
