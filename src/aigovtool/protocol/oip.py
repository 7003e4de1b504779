"""Open Inference Protocol V2 over HTTP, with the binary tensor data extension: bodies of both sides.

A body is JSON, or JSON followed by the bytes of those tensors that say `binary_data_size`, in their order, without
gaps. The header `Inference-Header-Content-Length` then says how long the JSON is.

Rules beyond the two specifications, which leave them open:

1. Body and JSON part are bounded before they are parsed (`infer_body`); JSON is read by `aigovtool.codec`. A server
   compares what a request claims with what a model takes before it looks at any data (`read_infer_claim`).
2. A tensor has exactly one of `data` and `binary_data_size`. Binary sizes agree with datatype and shape, and use
   up the body to its last byte: what nobody reads could carry anything.
3. No two inputs, and no two outputs, have the same name. A request has at least one input.
4. Of the parameters, those of the binary extension are understood. `priority` and `timeout`, which clients of
   Triton may set, are checked and ignored: they are wishes about scheduling, and the deadline here comes from the
   transport. Everything else is refused, because ignoring it would give a different answer from the one asked for
   (`sequence_id` promises state, `classification` another output, `shared_memory_region` the server's memory).
5. An output that JSON cannot say, or not in `MAX_INFER_JSON_BYTES`, is answered in the binary form, whatever was asked.
6. `null` is the same as absent, because clients generated from the specification send it for optional fields.

What it does not do: HTTP, paths, error bodies, or comparing tensors with what a model takes.

Sources: https://github.com/kserve/open-inference-protocol (specification/protocol/inference_rest.md);
https://github.com/triton-inference-server/server (docs/protocol/extension_binary_data.md, extension_parameters.md).
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeVar, cast

from msgspec import Raw

from aigovtool.codec import Message, convert, decode, encode
from aigovtool.errors import InvalidValueError, MalformedError, TooLargeError
from aigovtool.limits import MAX_INFER_BODY_BYTES, MAX_INFER_ID_CHARS, MAX_INFER_JSON_BYTES
from aigovtool.protocol.infer_body import InferBody, join_body, json_too_large, split_body
from aigovtool.protocol.oip_wire import (
    OutputParameters,
    RequestParameters,
    TensorParameters,
    WireOutput,
    WireRequest,
    WireResponse,
    WireTensor,
)
from aigovtool.protocol.tensor import Outline, Tensor, check_bytes_elements, check_names
from aigovtool.protocol.tensor_json import json_text, least_json_bytes, tensor_from_json

T = TypeVar("T", bound=Message)

#: The name of the binary extension in the server metadata.
BINARY_EXTENSION: Final = "binary_tensor_data"


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output that a request names. `binary` overrides the form of all outputs unless it is None."""

    name: str
    binary: bool | None = None


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request for one inference. No `outputs` means all that the model has.

    `copied_bytes` of its inputs are not views of the body: they take memory of their own.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[RequestedOutput, ...] = ()
    id: str | None = None
    binary_data_output: bool = False
    copied_bytes: int = field(default=0, compare=False)

    def wants_binary(self, output: str) -> bool:
        """Return whether `output` shall be answered in the binary form."""
        for requested in self.outputs:
            if requested.name == output and requested.binary is not None:
                return requested.binary
        return self.binary_data_output


_Source = Sequence[object] | memoryview


@dataclass(frozen=True, slots=True)
class InferClaim:
    """What a request says of itself: its JSON has been read, and of its data nothing but how much there is."""

    inputs: tuple[Outline, ...]
    outputs: tuple[RequestedOutput, ...]
    id: str | None
    binary_data_output: bool
    _sources: tuple[_Source, ...] = field(repr=False)

    def request(self) -> InferRequest:
        """Return the request, with its data checked element by element.

        Raises:
            InvalidValueError, MalformedError: those of `tensor_from_json` and `Outline.filled`.
        """
        inputs = _tensors(self.inputs, self._sources)
        pairs = zip(inputs, self._sources, strict=True)
        copied = sum(len(tensor.data) for tensor, source in pairs if not isinstance(source, memoryview))
        return InferRequest(inputs, self.outputs, self.id, self.binary_data_output, copied)


@dataclass(frozen=True, slots=True)
class InferResponse:
    """The answer to one inference."""

    model_name: str
    outputs: tuple[Tensor, ...]
    model_version: str | None = None
    id: str | None = None


class _NoParameters(Message):
    pass


def read_infer_claim(
    body: bytes | memoryview, header_length: str | None, *, max_bytes: int = MAX_INFER_BODY_BYTES
) -> InferClaim:
    """Read what the body of `POST /v2/models/{model}/infer` asks for, without looking at the data of its inputs.

    Args:
        body: the whole body, already without any content encoding.
        header_length: the value of `Inference-Header-Content-Length` as received, or None without that header.
        max_bytes: the bound on the body, which a model's policy may lower.

    Raises:
        TooLargeError: `body_too_large`, `json_too_large`, `too_many_lists`, `too_many_tensors`, `too_many_elements`,
            `rank_too_large`.
        MalformedError: `bad_header_length`, `binary_overrun`, `binary_left_over`, and those of `codec.decode`.
        InvalidValueError: `schema`, `bad_id`, `no_inputs`, `duplicate_tensor`, `unsupported_parameter`, `no_data`,
            `two_forms`, and those of `Outline.checked`.
    """
    head, rest = split_body(body, header_length, max_bytes)
    wire = decode(head, WireRequest, max_bytes=MAX_INFER_JSON_BYTES)
    if not wire.inputs:
        raise InvalidValueError("a request has at least one input", reason="no_inputs")
    parameters = _parameters(wire.parameters, RequestParameters, "a request")
    _check_id(wire.id)
    check_names(each.name for each in wire.inputs)
    check_names(each.name for each in wire.outputs or ())
    inputs, sources = _outlines(wire.inputs, rest)
    return InferClaim(
        inputs=inputs,
        outputs=tuple(_requested_output(output) for output in wire.outputs or ()),
        id=wire.id,
        binary_data_output=parameters.binary_data_output is True,
        _sources=sources,
    )


def parse_infer_request(
    body: bytes | memoryview, header_length: str | None, *, max_bytes: int = MAX_INFER_BODY_BYTES
) -> InferRequest:
    """Parse the body of `POST /v2/models/{model}/infer`, whatever the model takes. Binary inputs are views of `body`.

    Arguments are those of `read_infer_claim`.

    Raises:
        TooLargeError, MalformedError, InvalidValueError: those of `read_infer_claim` and of `InferClaim.request`.
    """
    return read_infer_claim(body, header_length, max_bytes=max_bytes).request()


def parse_infer_response(
    body: bytes | memoryview,
    header_length: str | None,
    *,
    request_id: str | None = None,
    max_bytes: int = MAX_INFER_BODY_BYTES,
) -> InferResponse:
    """Parse the body of a successful answer. Binary outputs are views of `body`.

    Args:
        body: the whole body, already without any content encoding.
        header_length: the value of `Inference-Header-Content-Length` as received, or None without that header.
        request_id: the id of the request; the answer must carry the same, or none if this is None.
        max_bytes: the bound on the body.

    Raises:
        TooLargeError, MalformedError: as for `parse_infer_request`.
        InvalidValueError: as for `parse_infer_request`, and `wrong_id`.
    """
    head, rest = split_body(body, header_length, max_bytes)
    wire = decode(head, WireResponse, max_bytes=MAX_INFER_JSON_BYTES)
    _parameters(wire.parameters, _NoParameters, "an answer")
    if wire.id != request_id:
        raise InvalidValueError("the answer is not to this request", reason="wrong_id")
    check_names(each.name for each in wire.outputs)
    return InferResponse(
        model_name=wire.model_name,
        outputs=_tensors(*_outlines(wire.outputs, rest)),
        model_version=wire.model_version,
        id=wire.id,
    )


def encode_infer_request(
    inputs: Sequence[Tensor],
    outputs: Sequence[RequestedOutput] = (),
    *,
    request_id: str | None = None,
    binary: bool = True,
) -> InferBody:
    """Return the body that asks for one inference.

    Args:
        inputs: at least one; their data is referred to, not copied.
        outputs: the outputs to answer, or none for all.
        request_id: is echoed in the answer.
        binary: send inputs, and ask for outputs that do not say otherwise, in the binary form.

    Raises:
        InvalidValueError: `no_inputs`, `bad_id`, `duplicate_tensor`, `bad_tensor_name`, and those of `json_text`.
        TooLargeError: `too_many_tensors`, `json_too_large`, `body_too_large`.
    """
    if not inputs:
        raise InvalidValueError("a request has at least one input", reason="no_inputs")
    _check_id(request_id)
    check_names(each.name for each in inputs)
    check_names(each.name for each in outputs)
    as_binary = frozenset(tensor.name for tensor in inputs if binary)
    wire = WireRequest(
        inputs=_wire_tensors(inputs, as_binary),
        id=request_id,
        outputs=[_wire_output(each) for each in outputs] or None,
        parameters={"binary_data_output": True} if binary else None,
    )
    return join_body(encode(wire), inputs, as_binary)


def encode_infer_response(
    model_name: str,
    model_version: str | None,
    outputs: Sequence[Tensor],
    request: InferRequest,
    *,
    all_binary: bool = False,
) -> InferBody:
    """Return the body that answers `request`: the outputs it names, in its order, each in the form it asks for.

    Whether JSON can say an output, and in how many bytes, is known only when the output is. What it cannot say comes in
    the binary form all the same: a refusal after the run would be charged nothing, and whoever asks would learn from
    it, as often as they like, where a model overflows.

    Args:
        model_name: 1 to `MAX_INFER_ID_CHARS` characters.
        model_version: the version that answered, or None for a model without versions.
        outputs: what the model gave, made by `Tensor.checked`; their data is referred to, not copied.
        request: what was asked.
        all_binary: whatever was asked, leave no output in JSON.

    Raises:
        InvalidValueError: `unknown_output`, `duplicate_tensor`, `bad_tensor_name`.
        TooLargeError: `too_many_tensors`, `body_too_large`; `json_too_large` for names and shapes alone.
    """
    check_names(each.name for each in outputs)
    chosen = _choose(outputs, request.outputs)
    as_json = [] if all_binary else [each for each in chosen if not request.wants_binary(each.name)]
    texts = _texts(as_json)
    head = encode(_response(model_name, model_version, chosen, texts, request.id))
    if len(head) > MAX_INFER_JSON_BYTES and texts:
        texts = {}
        head = encode(_response(model_name, model_version, chosen, texts, request.id))
    return join_body(head, chosen, frozenset(tensor.name for tensor in chosen if tensor.name not in texts))


def _response(
    model_name: str,
    model_version: str | None,
    outputs: Sequence[Tensor],
    texts: Mapping[str, bytes],
    request_id: str | None,
) -> WireResponse:
    return WireResponse(
        model_name=model_name,
        outputs=[_wire_tensor(each, texts.get(each.name)) for each in outputs],
        model_version=model_version,
        id=request_id,
    )


def _texts(tensors: Sequence[Tensor]) -> dict[str, bytes]:
    """Return the JSON of those outputs that JSON can say, within what it may have for all of them."""
    texts: dict[str, bytes] = {}
    left = MAX_INFER_JSON_BYTES
    for tensor in tensors:
        least = least_json_bytes(tensor)
        if least <= left:  # before any of it is made
            with suppress(InvalidValueError, TooLargeError):
                texts[tensor.name] = json_text(tensor, left)
            # What came to nothing has cost time all the same.
            left -= len(texts.get(tensor.name, b"")) or least
    return texts


def _outlines(wires: Sequence[WireTensor], rest: memoryview) -> tuple[tuple[Outline, ...], tuple[_Source, ...]]:
    """Return what tensors say of themselves, and the data of each, which is in `rest` if it is binary (rule 2)."""
    outlines: list[Outline] = []
    sources: list[_Source] = []
    offset = 0
    for wire in wires:
        size = _parameters(wire.parameters, TensorParameters, "a tensor").binary_data_size
        # The outline is looked at first, so that a wrong one is named whatever the form.
        outlines.append(Outline.checked(wire.name, wire.datatype, wire.shape))
        if wire.data is not None:
            if size is not None:
                raise InvalidValueError("a tensor has both data and binary_data_size", reason="two_forms")
            sources.append(wire.data)
            continue
        if size is None:
            raise InvalidValueError("a tensor has neither data nor binary_data_size", reason="no_data")
        if size > len(rest) - offset:
            raise MalformedError("binary_data_size is beyond the end of the body", reason="binary_overrun")
        outlines[-1].check_length(size)
        sources.append(rest[offset : offset + size])
        offset += size
    if offset != len(rest):
        raise MalformedError(f"{len(rest) - offset} bytes belong to no tensor", reason="binary_left_over")
    check_bytes_elements(outlines)
    return tuple(outlines), tuple(sources)


def _tensors(outlines: Sequence[Outline], sources: Sequence[_Source]) -> tuple[Tensor, ...]:
    return tuple(
        each.filled(source) if isinstance(source, memoryview) else tensor_from_json(each, source)
        for each, source in zip(outlines, sources, strict=True)
    )


def _requested_output(wire: WireOutput) -> RequestedOutput:
    return RequestedOutput(wire.name, _parameters(wire.parameters, OutputParameters, "an output").binary_data)


def _wire_output(output: RequestedOutput) -> WireOutput:
    return WireOutput(name=output.name, parameters=None if output.binary is None else {"binary_data": output.binary})


def _parameters(given: dict[str, object] | None, kind: type[T], where: str) -> T:
    """Return the parameters of a request, tensor or output as `kind` (rule 4)."""
    for name in given or ():
        if name not in kind.__struct_fields__:
            raise InvalidValueError(
                f"{where} may not have the parameter {name[:40]!r}",
                reason="unsupported_parameter",
                fix="leave it out; supported here: " + (", ".join(kind.__struct_fields__) or "none"),
            )
    return convert(given or {}, kind)


def _check_id(request_id: str | None) -> None:
    if request_id is not None and not (len(request_id) <= MAX_INFER_ID_CHARS and request_id.isprintable()):
        raise InvalidValueError(
            "an id has at most 256 printable characters", reason="bad_id", fix="send a shorter id, or none"
        )


def _choose(outputs: Sequence[Tensor], requested: Sequence[RequestedOutput]) -> Sequence[Tensor]:
    if not requested:
        return outputs
    by_name = {tensor.name: tensor for tensor in outputs}
    for each in requested:
        if each.name not in by_name:
            raise InvalidValueError(f"the model has no output {each.name[:40]!r}", reason="unknown_output")
    return [by_name[each.name] for each in requested]


def _wire_tensors(tensors: Sequence[Tensor], binary: frozenset[str]) -> list[WireTensor]:
    """Return what the JSON part says of `tensors`; the data of those named in `binary` follows it."""
    least = sum(least_json_bytes(tensor) for tensor in tensors if tensor.name not in binary)
    if least > MAX_INFER_JSON_BYTES:  # before any of it is made
        raise json_too_large(least)
    wires: list[WireTensor] = []
    left = MAX_INFER_JSON_BYTES
    for tensor in tensors:
        text = None if tensor.name in binary else json_text(tensor, left)
        left -= len(text or b"")
        wires.append(_wire_tensor(tensor, text))
    return wires


def _wire_tensor(tensor: Tensor, text: bytes | None) -> WireTensor:
    """Return what the JSON part says of a tensor: with the text of its data, or how long that is in the binary form."""
    return WireTensor(
        name=tensor.name,
        shape=tensor.shape,
        datatype=tensor.datatype.value,
        parameters={"binary_data_size": memoryview(tensor.data).nbytes} if text is None else None,
        data=None if text is None else cast("Sequence[object]", Raw(text)),  # is written as it stands
    )
