"""One governed inference: validate -> reserve -> compute -> receipt -> gate -> post -> release.

What is refused or fails is charged nothing; what is released has been posted. Posting is the last step that can fail:
the receipt is signed and the answer complete before it, so that nobody is charged for an answer that then cannot
leave. A consumer that disconnects does not stop the run: the answer is kept for its request id. An *inference* of a
model whose every input has a dynamic first axis (a batch) is one row; otherwise it is one request. Compute, where it is
metered, is reserved at the most that one request may take, and charged as it was.
"""

import asyncio
import base64
import secrets
from dataclasses import dataclass

import msgspec

from aigovtool.codec import encode
from aigovtool.enclave.boot import ServedModel
from aigovtool.enclave.engines.interface import check_inputs, check_outputs
from aigovtool.enclave.engines.process import Ran
from aigovtool.enclave.instance_run import InstanceRun
from aigovtool.enclave.results import Answered
from aigovtool.errors import AIGovToolError, EngineError, RefusalError, StoppedError
from aigovtool.ids import ConsumerId, Digest, RequestKey, digest_of
from aigovtool.ledger.policy import Dial, ServingPolicy
from aigovtool.ledger.receipt import Receipt, salted_digest, sign_batch
from aigovtool.ledger.units import Dimension, UnitVector, of
from aigovtool.protocol.infer_body import InferBody
from aigovtool.protocol.oip import InferRequest, encode_infer_response, parse_infer_request
from aigovtool.protocol.reservation import Reservation
from aigovtool.protocol.session import RECEIPT_HEADER, REQUEST_ID_HEADER, UNITS_HEADER
from aigovtool.transport.problem import unexpected

LENGTH_HEADER = "inference-header-content-length"
DEADLINE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Asked:
    """An inference as it came in: who asks, under which key, with which exact bytes.

    It is `repeatable` if the consumer chose the key. A key that the enclave made is only a name in the receipt.
    """

    model: ServedModel
    consumer: ConsumerId
    key: RequestKey
    repeatable: bool
    salt: bytes
    body: bytes
    header_length: str | None


async def infer(run: InstanceRun, asked: Asked) -> Answered:
    """Answer `asked`, or the run with the same key that is under way or done.

    Raises:
        AIGovToolError: why not; nothing was charged.
    """
    run.check(asked.consumer)
    answered = await (_repeated(run, asked) if asked.repeatable else _attempt(run, asked, _validated(asked)))
    run.check(asked.consumer)
    return answered


async def _repeated(run: InstanceRun, asked: Asked) -> Answered:
    identity = (asked.model.offer.model, asked.header_length or "", asked.salt.hex())
    request = digest_of(encode(identity) + asked.body)
    outcome = run.results.find(asked.consumer, asked.key, request, run.instance.clock.now_ms())
    if outcome is None:
        parsed = _validated(asked)
        outcome = run.results.begin(asked.consumer, asked.key, request)
        task = asyncio.create_task(_carry_out(run, asked, parsed))
        task.add_done_callback(_noticed)
    return await _joined(outcome)


def _noticed(task: "asyncio.Task[None]") -> None:
    if not task.cancelled():
        task.exception()


async def _joined(outcome: "asyncio.Future[Answered]") -> Answered:
    try:
        return await asyncio.shield(outcome)
    except asyncio.CancelledError:
        if outcome.cancelled():
            raise StoppedError("the custodian has stopped this", fix="ask the custodian to resume") from None
        raise


def _validated(asked: Asked) -> InferRequest:
    parsed = parse_infer_request(asked.body, asked.header_length)
    interface = asked.model.loaded.interface
    check_inputs(interface, parsed.inputs)
    check_outputs(interface, [output.name for output in parsed.outputs])
    return parsed


def rows_of(model: ServedModel, request: InferRequest) -> int:
    """Return how many inferences a request is: its rows where the model takes batches, else 1."""
    specs = model.loaded.interface.inputs
    batched = all(spec.shape and (isinstance(spec.shape[0], str) or spec.shape[0] == -1) for spec in specs)
    if not batched:
        return 1
    return max(1, *(tensor.shape[0] for tensor in request.inputs))


async def _carry_out(run: InstanceRun, asked: Asked, request: InferRequest) -> None:
    try:
        answered = await _attempt(run, asked, request)
    except BaseException as error:
        ours = isinstance(error, AIGovToolError)
        run.results.forget(asked.consumer, asked.key, error if ours else EngineError("the run ended", reason="ended"))
        if not ours:
            raise
    else:
        run.results.finish(asked.consumer, asked.key, answered, run.instance.clock.now_ms())


async def _attempt(run: InstanceRun, asked: Asked, request: InferRequest) -> Answered:
    """Run once; whatever goes wrong is an error of ours, and nothing was charged."""
    try:
        return await _run(run, asked, request)
    except AIGovToolError as error:
        raise _cause(run, asked.consumer, error) from None
    except Exception as exception:  # noqa: BLE001 - nothing of ours may show its text to a peer
        raise unexpected(exception) from None


def _cause(run: InstanceRun, consumer: ConsumerId, error: AIGovToolError) -> AIGovToolError:
    """Tell a consumer of the stop that killed the engine under its request, not of the dead engine."""
    if isinstance(error, EngineError):
        try:
            run.check(consumer)
        except RefusalError as refusal:
            return refusal
    return error


async def _run(run: InstanceRun, asked: Asked, request: InferRequest) -> Answered:
    model, clock = asked.model, run.instance.clock
    deadline_ms = clock.now_ms() + DEADLINE_MS
    worst = model.offer.policy.request_max.plus(of(Dimension.INFERENCES, rows_of(model, request)))
    bound_to = _bound_digest(asked) if model.offer.policy.dial is Dial.BOUND else None
    reservation = await run.reserve(model.offer.model, asked.consumer, worst, bound_to, deadline_ms)
    try:
        ran = await _compute(run, model, request, max(1, deadline_ms - clock.now_ms()))
        body = encode_infer_response(model.offer.model, None, ran.outputs, request)
        return _release(run, asked, reservation, _used(worst, ran), body)
    except BaseException as error:
        run.void(reservation, failed=isinstance(error, AIGovToolError) and not isinstance(error, StoppedError))
        raise


def _bound_digest(asked: Asked) -> Digest:
    """Return the digest for which a lease is drawn in bound mode; what has no salt of its consumer's gets one here."""
    salt = asked.salt or secrets.token_bytes(32)
    return salted_digest(salt, "bound", [(asked.header_length or "").encode(), b"\x00", asked.body])


async def _compute(run: InstanceRun, model: ServedModel, request: InferRequest, left_ms: int) -> Ran:
    names = [output.name for output in request.outputs]
    most_ms = model.offer.policy.request_max.compute_ms
    return await run.instance.engine.run(model.loaded, request.inputs, names, left_ms, most_ms)


def _used(worst: UnitVector, ran: Ran) -> UnitVector:
    """Return what a run is charged: of compute what it took, begun milliseconds whole, where that is metered."""
    took_ms = max(1, -(-ran.compute_us // 1_000))
    return msgspec.structs.replace(worst, compute_ms=min(worst.compute_ms, took_ms))


def _release(run: InstanceRun, asked: Asked, reservation: Reservation, used: UnitVector, body: InferBody) -> Answered:
    """Sign, gate, charge: synchronous, so that nothing can come between charge and answer."""
    instance, content = run.instance, b"".join(body.parts)
    posted = run.preview(reservation, used)
    receipt = Receipt(
        request_key=asked.key,
        request=salted_digest(asked.salt, "request", [asked.body]),
        response=salted_digest(asked.salt, "response", [content]),
        model=asked.model.offer.model,
        manifest=asked.model.offer.manifest,
        consumer=asked.consumer,
        units=used,
        remaining=posted.remaining,
        lease_id=posted.lease_id,
        sequence=posted.sequence,
        instance=instance.instance,
        tee=instance.admission.tee.value,
        at_ms=instance.custodian_time_ms(),
    )
    (signed,) = sign_batch([receipt], instance.instance, instance.identity)
    headers = [
        ("content-type", body.content_type),
        (REQUEST_ID_HEADER, asked.key),
        (UNITS_HEADER, _dictionary(asked.model.offer.policy, posted.remaining)),
        (RECEIPT_HEADER, base64.b64encode(encode(signed)).decode()),
    ]
    if body.header_length is not None:
        headers.append((LENGTH_HEADER, str(body.header_length)))
    answered = Answered(content, tuple(headers))
    run.gate_and_post(reservation, receipt)
    return answered


def _dictionary(policy: ServingPolicy, units: UnitVector) -> str:
    return ", ".join(f"{dimension.value}={units.get(dimension)}" for dimension in policy.counts)
