"""What an answer consists of, what it is charged, and whether it may leave."""

from collections.abc import Sequence

import msgspec

from aigovtool.enclave.gateway.padding import padded
from aigovtool.enclave.instance_run import InstanceRun
from aigovtool.errors import ConflictError, TooLargeError
from aigovtool.ids import ModelId
from aigovtool.ledger.answers import AnswerTerms, allows
from aigovtool.ledger.policy import ServingPolicy
from aigovtool.ledger.units import UnitVector
from aigovtool.protocol.infer_body import InferBody
from aigovtool.protocol.oip import InferRequest, encode_infer_response
from aigovtool.protocol.tensor import Tensor

#: The reason of a refusal of what was made on looser terms than those in force.
TERMS_CHANGED = "terms_changed"


def require_allowed(run: InstanceRun, model: ModelId, terms: AnswerTerms | None) -> None:
    """Refuse an answer that was made under looser terms than those in force."""
    present = run.charging.terms(model).answers
    if present is not terms and not allows(present, terms):
        raise ConflictError(
            "the terms of this model's answers have changed since this one was made",
            reason=TERMS_CHANGED,
            fix="ask again, under another request id",
        )


def answer_of(model: ModelId, terms: AnswerTerms | None, request: InferRequest, outputs: Sequence[Tensor]) -> InferBody:
    """Return the body of an answer, in one of the sizes that the model's terms say.

    Raises:
        TooLargeError: see `oip.encode_infer_response`.
    """
    body = encode_infer_response(model, None, outputs, request)
    if terms is None or not terms.pad_bytes:
        return body
    try:
        return padded(body, terms.pad_bytes)
    except TooLargeError:
        # How long the JSON is follows from what the model gave, and nothing of that may be told for nothing.
        binary = encode_infer_response(model, None, outputs, request, all_binary=True)
        return padded(binary, terms.pad_bytes)


def used(worst: UnitVector, compute_us: int) -> UnitVector:
    """Return what a run is charged: of compute what it took, begun milliseconds whole, where that is metered."""
    took_ms = max(1, -(-compute_us // 1_000))
    return msgspec.structs.replace(worst, compute_ms=min(worst.compute_ms, took_ms))


def units_text(policy: ServingPolicy, units: UnitVector) -> str:
    """Return units as a dictionary of structured fields (RFC 8941): of each dimension that is metered."""
    return ", ".join(f"{dimension.value}={units.get(dimension)}" for dimension in policy.counts)
