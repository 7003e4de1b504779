"""One governed inference: validate -> reserve -> compute -> receipt -> gate -> post -> release.

What is refused or fails is charged nothing; what is released has been posted. Posting is the last step that can fail:
the receipt is signed and the answer complete before it, so that nobody is charged for an answer that then cannot
leave. A consumer that disconnects does not stop the run: the answer is kept for its request id. An *inference* of a
model whose every input has a dynamic first axis (a batch) is one row; otherwise it is one request. Compute, where it is
metered, is reserved at the most that one request may take, and charged as it was. A
run that fails by its input tells something for nothing: of those each consumer causes a few only (`failed_runs`).

Whoever has no budget can ask as well. So what a request says of itself is compared with the model before its data is
looked at, and nothing large is parsed, walked, hashed or printed on the event loop: that is done in the consumer's turn
(`Turns`). A request id is taken before the first wait, so that the same request is validated and run once.

What the model's terms let leave of its outputs is read when a request begins, and kept to by the engine's child, before
anything is printed, hashed or kept. It is looked at again before the charge, and before a kept answer leaves: what was
made under looser terms than those in force does not. A request that was under way then runs once more. What a run may
take is what its request has reserved, or less if the terms say so when it begins; a run that has begun goes on.
"""

import asyncio
import base64
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from aigovtool.codec import encode
from aigovtool.enclave.engines.interface import answer_too_large
from aigovtool.enclave.engines.process import Ran
from aigovtool.enclave.gateway.answer import TERMS_CHANGED, answer_of, require_allowed, units_text, used
from aigovtool.enclave.gateway.asked import (
    DEADLINE_MS,
    LENGTH_HEADER,
    Asked,
    Look,
    Valid,
    first_look,
    identity_of,
    limits_of,
    look_at,
    rows_of,
)
from aigovtool.enclave.gateway.padding import head_padding
from aigovtool.enclave.instance_run import InstanceRun
from aigovtool.enclave.results import Answered, header_lines
from aigovtool.errors import AIGovToolError, ConflictError, EngineError, RefusalError, StoppedError, TooLargeError
from aigovtool.ids import ConsumerId, Digest
from aigovtool.ledger.answers import AnswerTerms
from aigovtool.ledger.receipt import Receipt, salted_digest, sign_batch
from aigovtool.ledger.units import Dimension, UnitVector, of
from aigovtool.protocol.reservation import Reservation
from aigovtool.protocol.session import RECEIPT_HEADER, REQUEST_ID_HEADER, UNITS_HEADER
from aigovtool.transport.problem import unexpected

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Made:
    """An answer to send, and what its receipt says of it and of the request."""

    content: bytes
    headers: tuple[tuple[str, str], ...]
    request: Digest
    response: Digest
    terms: AnswerTerms | None


async def infer(run: InstanceRun, asked: Asked) -> Answered:
    """Answer `asked`, or the run with the same key that is under way or done.

    Raises:
        AIGovToolError: why not; nothing was charged.
    """
    run.charging.check(asked.consumer)
    answered = await (_repeated(run, asked) if asked.repeatable else _attempt(run, asked))
    run.charging.check(asked.consumer)
    require_allowed(run, asked.model.offer.model, answered.terms)
    return answered


async def _repeated(run: InstanceRun, asked: Asked) -> Answered:
    work = partial(first_look, asked, run.charging.terms(asked.model.offer.model))
    look = await _aside(run, asked, len(asked.body), DEADLINE_MS, work)
    request = identity_of(asked, look.digest)
    now_ms = run.instance.clock.now_ms()
    run.results.expire(now_ms)
    # No wait lies between these two: one of several that come at once begins, and the others join it.
    found = run.results.find(asked.consumer, asked.key, request, now_ms)
    if isinstance(found, Answered):
        return found
    if found is None:
        found = run.results.begin(asked.consumer, asked.key, request)
        carry_out(run, asked, look)
    return await _joined(found.outcome())


def carry_out(run: InstanceRun, asked: Asked, look: Look | None = None) -> None:
    """Begin a run that is remembered: whoever joins it is told what comes of it."""
    task = asyncio.create_task(_carry_out(run, asked, look))
    task.add_done_callback(_noticed)


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


async def _aside(run: InstanceRun, asked: Asked, size_bytes: int, left_ms: int, work: Callable[[], T]) -> T:
    """Do what may be too much for the event loop, in the consumer's turn."""
    return await run.instance.engine.turns.do(asked.consumer, size_bytes, max(0, left_ms) / 1000, work)


async def _carry_out(run: InstanceRun, asked: Asked, look: Look | None) -> None:
    try:
        answered = await _attempt(run, asked, look)
    except BaseException as error:
        ours = isinstance(error, AIGovToolError)
        run.results.forget(asked.consumer, asked.key, error if ours else EngineError("the run ended", reason="ended"))
        if not ours:
            raise
    else:
        run.results.finish(asked.consumer, asked.key, answered, run.instance.clock.now_ms())


async def _attempt(run: InstanceRun, asked: Asked, look: Look | None = None) -> Answered:
    """Validate and run once; whatever goes wrong is an error of ours, and nothing was charged."""
    deadline_ms = run.instance.clock.now_ms() + DEADLINE_MS
    run.failed_runs.require_few(asked.consumer, asked.model.offer.model, run.failed_runs.clock.now_ms())
    try:
        try:
            return await _attempt_once(run, asked, look, deadline_ms)
        except ConflictError as error:
            if error.reason != TERMS_CHANGED:
                raise
        # Less may leave than when it began: once more, on the terms of now.
        return await _attempt_once(run, asked, look, deadline_ms)
    except AIGovToolError as error:
        raise _cause(run, asked.consumer, error) from None
    except Exception as exception:  # noqa: BLE001 - nothing of ours may show its text to a peer
        raise unexpected(exception) from None


async def _attempt_once(run: InstanceRun, asked: Asked, look: Look | None, deadline_ms: int) -> Answered:
    policy = run.charging.terms(asked.model.offer.model)
    if look is None or look.found is None or look.policy is not policy:
        work = partial(look_at, asked, policy, None if look is None else look.digest)
        look = await _aside(run, asked, len(asked.body), deadline_ms - run.instance.clock.now_ms(), work)
    # The body stays as well: binary inputs are views of it.
    with run.bodies.take(asked.consumer, look.valid().request.copied_bytes):
        try:
            return await _run(run, asked, look, deadline_ms)
        except AIGovToolError as error:  # what was refused before is no run that failed
            run.failed_runs.note(asked.consumer, asked.model.offer.model, error, run.failed_runs.clock.now_ms())
            raise


def _cause(run: InstanceRun, consumer: ConsumerId, error: AIGovToolError) -> AIGovToolError:
    """Tell a consumer of the stop that killed the engine under its request, not of the dead engine."""
    if isinstance(error, EngineError):
        try:
            run.charging.check(consumer)
        except RefusalError as refusal:
            return refusal
    return error


async def _run(run: InstanceRun, asked: Asked, look: Look, deadline_ms: int) -> Answered:
    model, valid, clock = asked.model, look.valid(), run.instance.clock
    worst = valid.policy.request_max.plus(
        of(Dimension.INFERENCES, rows_of(model.loaded.interface.inputs, valid.request))
    )
    reservation = await run.charging.reserve(model.offer.model, asked.consumer, worst, valid.bound_to, deadline_ms)
    try:
        ran = await _compute(run, asked, valid, max(1, deadline_ms - clock.now_ms()))
        given_bytes = sum(len(tensor.data) for tensor in ran.outputs)
        with run.instance.engine.unread.hold(asked.consumer, given_bytes):
            made = await _aside(run, asked, given_bytes, deadline_ms - clock.now_ms(), partial(_made, asked, look, ran))
        return _release(run, asked, reservation, used(worst, ran.compute_us), made)
    except BaseException as error:
        run.charging.void(reservation, failed=isinstance(error, AIGovToolError) and not isinstance(error, StoppedError))
        raise


async def _compute(run: InstanceRun, asked: Asked, valid: Valid, left_ms: int) -> Ran:
    model, names, present = asked.model, valid.outputs, run.charging.terms(asked.model.offer.model)
    limits_ms = (valid.policy.request_max.compute_ms, present.run_limit_ms)
    return await run.instance.engine.run(
        model.loaded,
        valid.request.inputs,
        names,
        left_ms,
        min((limit_ms for limit_ms in limits_ms if limit_ms), default=0),
        consumer=asked.consumer,
        limits=limits_of(valid.terms, names),
        finite=present.finite,
    )


def _made(asked: Asked, look: Look, ran: Ran) -> _Made:
    valid = look.valid()
    try:
        body = answer_of(asked.model.offer.model, valid.terms, valid.request, ran.outputs)
    except TooLargeError:  # of what the model gave, and not of what was sent
        raise answer_too_large() from None
    content = body.joined()
    length = () if body.header_length is None else ((LENGTH_HEADER, str(body.header_length)),)
    return _Made(
        content=content,
        headers=(("content-type", body.content_type), *length),
        request=look.digest,
        response=salted_digest(asked.salt, "response", [content]),
        terms=valid.terms,
    )


def _release(run: InstanceRun, asked: Asked, reservation: Reservation, used: UnitVector, made: _Made) -> Answered:
    """Sign, gate, charge: synchronous, so that nothing can come between charge and answer."""
    instance = run.instance
    posted = run.charging.preview(reservation, used)
    receipt = Receipt(
        request_key=asked.key,
        request=made.request,
        response=made.response,
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
    headers = (
        *made.headers,
        (REQUEST_ID_HEADER, asked.key),
        (UNITS_HEADER, units_text(asked.model.offer.policy, posted.remaining)),
        (RECEIPT_HEADER, base64.b64encode(encode(signed)).decode()),
    )
    lines = header_lines(headers)
    if made.terms is not None and made.terms.pad_bytes:
        lines += head_padding(len(lines))
    answered = Answered(made.content, lines, made.terms)
    require_allowed(run, asked.model.offer.model, made.terms)
    run.charging.gate_and_post(reservation, receipt)
    return answered
