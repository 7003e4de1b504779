"""What an Open Inference Protocol V2 server says about itself and its models, with the protocol's field names.

The messages are read with `aigovtool.codec.decode` and written with `aigovtool.codec.encode`.

What it does not do: saying whether a model may be used; metadata is public to whoever may connect.

Source: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md and
rest_predict_v2.yaml. The former shows `live` in the answer to "server ready"; the latter, KServe and every server
we know say `ready`, and so do we.
"""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from aigovtool.codec import Message
from aigovtool.errors import InvalidValueError
from aigovtool.limits import MAX_TENSOR_ELEMENTS, MAX_TENSOR_NAME_CHARS, MAX_TENSOR_RANK, MAX_TENSORS
from aigovtool.protocol.oip import InferRequest
from aigovtool.protocol.tensor import Datatype
from aigovtool.protocol.tensor_json import refuse_without_json_form

#: A size, or -1 for one that a request chooses.
Dimension = Annotated[int, Meta(ge=-1, le=MAX_TENSOR_ELEMENTS)]

_Text = Annotated[str, Meta(max_length=MAX_TENSOR_NAME_CHARS)]


class TensorMetadata(Message):
    """An input or an output of a model."""

    name: Annotated[str, Meta(min_length=1, max_length=MAX_TENSOR_NAME_CHARS)]
    datatype: Datatype
    shape: Annotated[tuple[Dimension, ...], Meta(max_length=MAX_TENSOR_RANK)]


_Tensors = Annotated[tuple[TensorMetadata, ...], Meta(max_length=MAX_TENSORS)]


class ModelMetadata(Message):
    """The answer to `GET /v2/models/{model}`. `platform` is, for example, `onnx_onnxv1`."""

    name: _Text
    platform: _Text
    inputs: _Tensors
    outputs: _Tensors
    versions: Annotated[tuple[_Text, ...], Meta(max_length=MAX_TENSORS)] = ()


class ServerMetadata(Message):
    """The answer to `GET /v2`."""

    name: _Text
    version: _Text
    extensions: Annotated[tuple[_Text, ...], Meta(max_length=MAX_TENSORS)]


class ServerLive(Message):
    """The answer to `GET /v2/health/live`."""

    live: bool


class ServerReady(Message):
    """The answer to `GET /v2/health/ready`: whether all models are ready that the server serves, not all it could."""

    ready: bool


class ModelReady(Message):
    """The answer to `GET /v2/models/{model}/ready`."""

    name: _Text
    ready: bool


def check_outputs(request: InferRequest, outputs: Sequence[TensorMetadata]) -> None:
    """Refuse, before anything is reserved or run, a request whose answer could not be written.

    Args:
        request: what is asked.
        outputs: what the model has.

    Raises:
        InvalidValueError: `unknown_output` for a name that the model has not; `no_json_form` for a datatype that is
            asked for in JSON and exists only in the binary form.
    """
    by_name = {output.name: output for output in outputs}
    for name in [requested.name for requested in request.outputs] or list(by_name):
        if name not in by_name:
            raise InvalidValueError(
                f"the model has no output {name[:40]!r}",
                reason="unknown_output",
                fix="it has " + ", ".join(repr(each) for each in by_name),
            )
        if not request.wants_binary(name):
            refuse_without_json_form(name, by_name[name].datatype)
