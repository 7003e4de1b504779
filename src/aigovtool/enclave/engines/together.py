"""Runs of a group that are computed as one, where a model's terms say that its rows do not depend on each other.

The inputs of all requests, which are of the same form, are laid one after the other along the first axis, and the
outputs divided again. What does not divide evenly is computed one by one; so is all of it when the one run fails,
because the fault may be that of a single request.
"""

from collections.abc import Sequence

import numpy as np

from aigovtool.enclave.engines.ipc import TensorHeader
from aigovtool.protocol.tensor import Datatype, Tensor


def joined(headers: Sequence[TensorHeader], payload: memoryview, count: int) -> list[Tensor] | None:
    """Return the inputs of `count` requests as those of one; None where they cannot be joined."""
    if any(header.datatype is Datatype.BYTES or not header.size_bytes for header in headers):
        return None
    if len({header.shape[:1] for header in headers}) != 1 or not headers[0].shape:
        return None  # one input may be meant for all rows of another
    each = np.frombuffer(payload, np.uint8).reshape(count, -1)
    tensors, start = [], 0
    for header in headers:
        end = start + header.size_bytes
        data = np.ascontiguousarray(each[:, start:end]).data.cast("B")
        tensors.append(Tensor(header.name, header.datatype, (count * header.shape[0], *header.shape[1:]), data))
        start = end
    return tensors


def divided(outputs: Sequence[Tensor], count: int, rows: int) -> tuple[list[Tensor], memoryview] | None:
    """Return the outputs of the first of `count` requests of so many rows, and the data of all, request by request.

    None where an output has not as many rows as the requests have together.
    """
    firsts, parts = [], []
    for tensor in outputs:
        if tensor.datatype is Datatype.BYTES or not len(tensor.data) or tensor.shape[:1] != (count * rows,):
            return None
        data = np.frombuffer(tensor.data, np.uint8).reshape(count, -1)
        shape = (rows, *tensor.shape[1:])
        firsts.append(Tensor(tensor.name, tensor.datatype, shape, data[0].data))
        parts.append(data)
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    return firsts, np.ascontiguousarray(whole).data.cast("B")
