"""Whether inputs are numbers, for models whose terms demand it. In the child, before the run, and as a part of it.

Whoever sends large inputs keeps others waiting no longer than by computing them: it ends with the run's time.
"""

import time
from collections.abc import Sequence
from typing import Final

import numpy as np

from aigovtool.errors import DeadlineError, InvalidValueError
from aigovtool.protocol.tensor import Datatype, Tensor

_DTYPES: Final[dict[Datatype, np.dtype[np.floating]]] = {
    Datatype.FP16: np.dtype("<f2"),
    Datatype.FP32: np.dtype("<f4"),
    Datatype.FP64: np.dtype("<f8"),
}
#: Elements that are looked at at once: less than a millisecond.
_BLOCK: Final = 1 << 20


def require_finite(tensors: Sequence[Tensor], deadline_ns: int) -> None:
    """Refuse inputs that hold what is no number.

    Raises:
        InvalidValueError: an element is NaN or an infinity (`not_finite`).
        DeadlineError: it was not done by `deadline_ns` of CLOCK_MONOTONIC.
    """
    for tensor in tensors:
        dtype = _DTYPES.get(tensor.datatype)
        if dtype is None:
            continue
        elements = np.frombuffer(tensor.data, dtype)
        for start in range(0, elements.size, _BLOCK):
            if not np.isfinite(elements[start : start + _BLOCK]).all():
                raise InvalidValueError(
                    f"input {tensor.name!r} holds NaN or an infinity, which this model does not take",
                    reason="not_finite",
                    fix="send numbers only",
                )
            if time.monotonic_ns() >= deadline_ns:
                raise DeadlineError("the run was ended at its deadline")
