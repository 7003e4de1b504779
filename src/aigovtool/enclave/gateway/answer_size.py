"""Whether an answer can be sent at all: at most `MAX_INFER_BODY_BYTES`, its head and its outputs together.

Told before anything is reserved or run where the model's shapes, with the sizes that its named axes have in this
request, say how large its outputs are. Where only the run tells, it is the run that fails: by what was asked, and of
such runs a consumer causes a few only (`failed_runs`).

An output may leave as JSON, where it can be shorter than its elements are: what is compared is the least that it can
be. What the engine gives is bounded besides, in its elements.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from aigovtool.codec import encode
from aigovtool.enclave.engines.interface import ModelInterface, answer_too_large
from aigovtool.ids import ModelId
from aigovtool.limits import MAX_INFER_BODY_BYTES, MAX_INFER_JSON_BYTES
from aigovtool.package.manifest import TensorSpec
from aigovtool.protocol.oip_wire import WireResponse, WireTensor
from aigovtool.protocol.tensor import Datatype, Outline

#: A head is looked at only where it could matter: it has some 400 bytes for each of up to 64 outputs.
_NEAR_BYTES: Final = MAX_INFER_BODY_BYTES - (1 << 18)
#: Of an element of `BYTES`: its length.
_FRAME_BYTES: Final = 4
#: Of an element in JSON: a digit or a quote, and what is between two.
_JSON_BYTES: Final = 2


def require_sendable(
    model: ModelId, interface: ModelInterface, inputs: Sequence[Outline], names: Sequence[str], request_id: str | None
) -> None:
    """Refuse a request whose answer, as the model's shapes say, is larger than any body may be.

    Args:
        model: its name, which is in the head.
        interface: what it takes and gives.
        inputs: what was compared with it already.
        names: the outputs that are to leave, or none for all.
        request_id: what the head repeats.

    Raises:
        InvalidValueError: `answer_too_large`.
    """
    axes = _axes(interface.inputs, inputs)
    known = [found for spec in interface.outputs if not names or spec.name in names if (found := _outline(spec, axes))]
    data = sum(_data_bytes(each) for each in known)
    if data <= _NEAR_BYTES:
        return
    head = encode(WireResponse(model_name=model, outputs=[_told(each) for each in known], id=request_id))
    size = max(data, len(head) + sum(_least_bytes(each) for each in known))
    if size > MAX_INFER_BODY_BYTES:
        raise answer_too_large(f"would have {size} bytes or more")


def _axes(specs: Iterable[TensorSpec], inputs: Sequence[Outline]) -> Mapping[str, int]:
    """Return how large each named axis is in this request."""
    shapes = {outline.name: outline.shape for outline in inputs}
    return {
        axis: size
        for spec in specs
        for axis, size in zip(spec.shape or (), shapes.get(spec.name, ()), strict=False)
        if isinstance(axis, str)
    }


def _outline(spec: TensorSpec, axes: Mapping[str, int]) -> Outline | None:
    """Return an output as the model says that it will be; nothing where it does not say."""
    if spec.shape is None:
        return None
    shape = [axes.get(axis, -1) if isinstance(axis, str) else axis for axis in spec.shape]
    return None if min(shape, default=0) < 0 else Outline(spec.name, Datatype(spec.datatype.value), tuple(shape))


def _data_bytes(outline: Outline) -> int:
    return math.prod(outline.shape) * (outline.datatype.size_bytes or _FRAME_BYTES)


def _json_bytes(outline: Outline) -> int:
    return math.prod(outline.shape) * _JSON_BYTES


def _least_bytes(outline: Outline) -> int:
    if _json_bytes(outline) > MAX_INFER_JSON_BYTES:
        return _data_bytes(outline)
    return min(_data_bytes(outline), _json_bytes(outline))


def _told(outline: Outline) -> WireTensor:
    """Return what a head says of an output at least: of one that JSON cannot hold also how long its data is."""
    binary = _json_bytes(outline) > MAX_INFER_JSON_BYTES and outline.datatype is not Datatype.BYTES
    return WireTensor(
        name=outline.name,
        shape=outline.shape,
        datatype=outline.datatype.value,
        parameters={"binary_data_size": _data_bytes(outline)} if binary else None,
    )
