"""What of an output may leave: its largest elements, rounded (leases spec section 7). In the child, after the run.

Order: which elements stay is decided by what the model gave; what stays is rounded; the others are the fill. Of equal
elements those that come first stay, and what is no number counts as less than any number. Rounding is half to even and
leaves one zero and one NaN, so that neither the sign of the one nor the bits of the other say more than the number.

Whatever the rules cannot be kept for costs the run, and no answer leaves. All this is a part of the run, and ended with
it: whoever asks for large outputs keeps others waiting no longer than by computing them.
"""

import time
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from aigovtool.enclave.engines.ipc import Limit
from aigovtool.errors import DeadlineError, EngineError
from aigovtool.protocol.tensor import Datatype, Tensor

_Floats = npt.NDArray[np.floating]
_Which = npt.NDArray[np.bool_]

_DTYPES: Final[dict[Datatype, np.dtype[np.floating]]] = {
    Datatype.FP16: np.dtype("<f2"),
    Datatype.FP32: np.dtype("<f4"),
    Datatype.FP64: np.dtype("<f8"),
}
#: From here on a double has no decimals; and times 10**15 it stays finite below.
_WHOLE: Final = 2.0**52
#: Elements that are worked on at once, some milliseconds, as doubles: a large output takes no memory several times.
_BLOCK: Final = 1 << 16


def limited(tensors: Sequence[Tensor], limits: Sequence[Limit], deadline_ns: int) -> list[Tensor]:
    """Return the outputs with what may leave of them.

    Raises:
        EngineError: a limit is for an output whose elements cannot be left out or rounded (`limit_unusable`).
        DeadlineError: it was not done by `deadline_ns` of CLOCK_MONOTONIC.
    """
    by_name = {limit.output: limit for limit in limits}
    return [
        tensor if (one := by_name.get(tensor.name)) is None else _limited(tensor, one, deadline_ns)
        for tensor in tensors
    ]


def _limited(tensor: Tensor, limit: Limit, deadline_ns: int) -> Tensor:
    dtype = _DTYPES.get(tensor.datatype)
    if dtype is None:
        raise EngineError(
            f"output {tensor.name!r} is {tensor.datatype}, and the model's terms limit it like a float",
            reason="limit_unusable",
        )
    width = tensor.shape[-1] if tensor.shape else 1
    given = np.frombuffer(tensor.data, dtype)
    if not given.size:
        return tensor
    made = np.empty_like(given)
    step = max(1, _BLOCK // width) * width
    with np.errstate(all="ignore"):
        for start in range(0, given.size, step):
            rows = given[start : start + step].reshape(-1, width)
            made[start : start + step] = _rows(rows, limit).reshape(-1)
            if time.monotonic_ns() >= deadline_ns:
                raise DeadlineError("the run was ended at its deadline")
    return Tensor(tensor.name, tensor.datatype, tensor.shape, made.view(np.uint8).data)


def _rows(rows: _Floats, limit: Limit) -> _Floats:
    made = rows if limit.decimals is None else _rounded(rows, limit.decimals)
    if limit.top_k is None or limit.top_k >= rows.shape[1]:
        return made
    fill = np.finfo(rows.dtype).min if limit.lowest else rows.dtype.type(0)
    return np.where(_largest(rows, limit.top_k), made, fill)


def _largest(rows: _Floats, count: int) -> _Which:
    """Return which elements are the `count` largest of their row: exactly so many."""
    # Negated, because sorting puts NaN last: so it is the least.
    less = -rows
    last = np.partition(less, count - 1, axis=1)[:, count - 1 : count]
    without = np.isnan(last)  # too few numbers: all of them stay, and the first that are none
    better = np.where(without, ~np.isnan(less), less < last)
    equal = np.where(without, np.isnan(less), less == last)
    left = count - np.count_nonzero(better, axis=1, keepdims=True)
    return better | (equal & (np.cumsum(equal, axis=1, dtype=np.int32) <= left))


def _rounded(rows: _Floats, decimals: int) -> _Floats:
    wide = rows.astype(np.float64)
    scale = 10.0**decimals
    made = np.where(np.abs(wide) < _WHOLE, np.rint(wide * scale) / scale, wide) + 0.0  # -0.0 + 0.0 is 0.0
    made[np.isnan(made)] = np.nan
    return made.astype(rows.dtype)
