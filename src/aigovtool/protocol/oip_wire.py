"""The JSON parts of requests and answers of the Open Inference Protocol, as they are written (`oip`)."""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from aigovtool.codec import Message
from aigovtool.ids import Units
from aigovtool.limits import MAX_INFER_ID_CHARS


class TensorParameters(Message, omit_defaults=True):
    """Of a tensor: how long its data is in the binary form."""

    binary_data_size: Units | None = None


class OutputParameters(Message, omit_defaults=True):
    """Of an output that is asked for: in which form."""

    binary_data: bool | None = None


class RequestParameters(Message, omit_defaults=True):
    """Of a request: in which form outputs are that do not say so, and two wishes that are ignored."""

    binary_data_output: bool | None = None
    priority: Units | None = None
    timeout: Units | None = None


class WireTensor(Message, omit_defaults=True):
    """A tensor: its data, or how long that is in the binary form."""

    name: str
    shape: Sequence[int]
    datatype: str
    parameters: dict[str, object] | None = None
    data: Sequence[object] | None = None


class WireOutput(Message, omit_defaults=True):
    """An output that is asked for."""

    name: str
    parameters: dict[str, object] | None = None


class WireRequest(Message, omit_defaults=True):
    """The JSON part of a request."""

    inputs: list[WireTensor]
    id: str | None = None
    outputs: list[WireOutput] | None = None
    parameters: dict[str, object] | None = None


class WireResponse(Message, omit_defaults=True):
    """The JSON part of an answer."""

    model_name: Annotated[str, Meta(max_length=MAX_INFER_ID_CHARS)]
    outputs: list[WireTensor]
    model_version: Annotated[str, Meta(max_length=MAX_INFER_ID_CHARS)] | None = None
    id: str | None = None
    parameters: dict[str, object] | None = None
