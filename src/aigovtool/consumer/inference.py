"""One inference: what is sent, and what an answer must be before it becomes a result.

`prepare` makes the exact bytes once: they are the same at every repetition, so the enclave recognises it. `read_answer`
checks, in this order, and gives no result when anything fails:

1. The receipt: signed by the attested instance, for exactly these bytes, this model digest, consumer and request.
2. The body: strict, an answer to this request, by this model.
3. The outputs: those that were asked for, with datatypes and shapes of the model's metadata.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from aigovtool.consumer.attest import Session, add_warning
from aigovtool.consumer.exchange import Reply
from aigovtool.consumer.question import Question, receipt_of
from aigovtool.consumer.result import Result
from aigovtool.consumer.tensors import array_from, check_shape, name_inputs, tensor_from
from aigovtool.errors import EngineError, InputError, InvalidValueError
from aigovtool.ids import ConsumerId, ModelId, RequestKey
from aigovtool.protocol.infer_body import HEADER_LENGTH_NAME
from aigovtool.protocol.oip import InferResponse, RequestedOutput, encode_infer_request, parse_infer_response
from aigovtool.protocol.oip_metadata import ModelMetadata
from aigovtool.protocol.session import WARNING_HEADER


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRequest(Question):
    """The bytes of one inference, and what its answer is compared with."""

    metadata: ModelMetadata
    outputs: tuple[str, ...]


def prepare(
    inputs: object,
    outputs: Sequence[str] | None,
    *,
    consumer: ConsumerId,
    model: ModelId,
    metadata: ModelMetadata,
    request_key: RequestKey,
    salt: bytes,
) -> PreparedRequest:
    """Return the request for one inference; the same arguments give the same bytes.

    Raises:
        InvalidValueError, TooLargeError: `no_outputs`, `unknown_output`, those of `name_inputs`, `tensor_from`, and
            `encode_infer_request`.
    """
    available = [spec.name for spec in metadata.outputs]
    chosen = tuple(available if outputs is None else outputs)
    if outputs is not None and not chosen:  # who names none is sent all of them: charged, and then refused here
        raise InvalidValueError(
            "no output is asked for", reason="no_outputs", fix="name one, or leave outputs out to get all"
        )
    for name in chosen:
        if name not in available:
            raise InvalidValueError(
                f"the model has no output {str(name)[:40]!r}",
                reason="unknown_output",
                fix="it has " + ", ".join(repr(each) for each in available),
            )
    named = name_inputs(inputs, metadata.inputs)
    tensors = [tensor_from(spec, named[spec.name]) for spec in metadata.inputs]
    # Outputs are named even when all are wanted, so that the answer can be held to the list.
    body = encode_infer_request(tensors, [RequestedOutput(name) for name in chosen], request_id=request_key)
    return PreparedRequest(
        consumer=consumer,
        model=model,
        request_key=request_key,
        metadata=metadata,
        outputs=chosen,
        salt=salt,
        body=body.joined(),
        header_length=None if body.header_length is None else str(body.header_length),
    )


def read_answer(reply: Reply, request: PreparedRequest, session: Session) -> Result:
    """Return the result in a successful answer, steps 1 to 3 of the module.

    Raises:
        ReceiptError: step 1 fails.
        EngineError: `bad_answer` or `output_mismatch`, steps 2 and 3.
    """
    signed, saved = receipt_of(reply, request, session)
    response = _parse(reply, request)
    return Result(
        model=request.model,
        request_id=request.request_key,
        outputs={tensor.name: array_from(tensor) for tensor in response.outputs},
        receipt=signed,
        saved=saved,
        warning="; ".join(add_warning(session.warnings, reply.headers.get(WARNING_HEADER))) or None,
        request_body=request.body,
        response_body=reply.body,
    )


def _parse(reply: Reply, request: PreparedRequest) -> InferResponse:
    try:
        response = parse_infer_response(
            reply.body, reply.headers.get(HEADER_LENGTH_NAME.lower()), request_id=request.request_key
        )
    except InputError as error:
        raise EngineError(f"the answer cannot be read: {error.message}", reason="bad_answer") from None
    _check_outputs(response, request)
    return response


def _check_outputs(response: InferResponse, request: PreparedRequest) -> None:
    if response.model_name != request.model:
        raise EngineError("the answer is by another model than was asked", reason="output_mismatch")
    specs = {spec.name: spec for spec in request.metadata.outputs}
    if sorted(tensor.name for tensor in response.outputs) != sorted(request.outputs):
        raise EngineError("the answer has other outputs than were asked for", reason="output_mismatch")
    for tensor in response.outputs:
        spec = specs[tensor.name]
        if tensor.datatype is not spec.datatype:
            raise EngineError(
                f"output {tensor.name!r} is {tensor.datatype}; the model says {spec.datatype}", reason="output_mismatch"
            )
        try:
            check_shape(spec, tensor.shape)
        except InvalidValueError as error:
            raise EngineError(f"an output does not fit the model: {error.message}", reason="output_mismatch") from None
