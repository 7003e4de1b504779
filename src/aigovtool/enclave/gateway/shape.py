"""What requests have in common that differ in nothing but their data, found once for all of them.

A request of the binary form whose JSON part is, byte for byte, that of one before, on the same terms, is what that one
was but for its data: it has been parsed, compared with the model and held against the terms already. Whether bytes are
data at all is asked only of `BOOL` and `BYTES`; a request with such inputs, or with data in JSON, is looked at each
time. So it is with answers: the JSON part of one whose data are all binary says nothing but how long they are.
"""

from collections import OrderedDict
from dataclasses import replace
from typing import Final

from aigovtool.enclave.boot import ServedModel
from aigovtool.enclave.engines.group import Form
from aigovtool.enclave.engines.ipc import MAX_GROUP, TensorHeader, pack_tensors, unpack_tensors
from aigovtool.enclave.engines.lanes import Lane
from aigovtool.enclave.gateway.answer import answer_of
from aigovtool.enclave.gateway.asked import LENGTH_HEADER, Asked, Valid, limits_of, rows_of, validated
from aigovtool.enclave.results import header_lines
from aigovtool.ledger.policy import ServingPolicy
from aigovtool.ledger.units import Dimension, of
from aigovtool.package.charge import takes_batches
from aigovtool.protocol.infer_body import InferBody
from aigovtool.protocol.oip import InferRequest
from aigovtool.protocol.tensor import Buffer, Datatype

_LOOKED_AT: Final = frozenset({Datatype.BOOL, Datatype.BYTES})
#: Of one consumer and model.
MAX_SHAPES: Final = 8
#: A longer JSON part is not kept.
_MAX_HEAD_BYTES: Final = 4 << 10
#: Requests of a form of which one was given back are not taken for so long: the next ones would be as well. It has been
#: computed for nothing, for a second at most in the middle lane.
_PAUSE_MS: Final = {Lane.SHORT: 1_000, Lane.MIDDLE: 60_000}
#: Of the time of a try: what it may take before fewer are tried together, and what it takes when more may be.
_MUCH_OF_TRY: Final = 0.75
_LITTLE_OF_TRY: Final = 0.5
#: Of the time in which runs were done: what single runs may have lost that were not. A machine with more to do than
#: cores lets a run wait for milliseconds now and then, which says nothing of the next one.
_MAY_BE_LOST: Final = 0.2


class Shape:
    """One such form of requests, on the terms `policy`."""

    def __init__(self, model: ServedModel, policy: ServingPolicy, valid: Valid) -> None:
        self.model: Final = model
        self.policy: Final = policy
        request = valid.request
        #: What was asked, without its data.
        self._asked: Final = InferRequest((), request.outputs, request.id, request.binary_data_output)
        headers, _ = pack_tensors(request.inputs)
        limits_ms = [one for one in (policy.request_max.compute_ms, policy.run_limit_ms) if one]
        interface = model.loaded.interface
        short = Form(
            model=model.loaded.handle,
            inputs=headers,
            outputs=valid.outputs,
            compute_ms=Lane.SHORT.try_ms(min(limits_ms, default=0)),
            limits=limits_of(valid.terms, valid.outputs),
            finite=policy.finite,
            together=policy.batch and takes_batches(interface.inputs, interface.outputs),
        )
        middle = replace(short, compute_ms=Lane.MIDDLE.try_ms(min(limits_ms, default=0)), together=False)
        #: As they are tried in a lane; in none where a try may take all the time that a request has.
        self.forms: Final = {Lane.SHORT: short, Lane.MIDDLE: middle}
        rows = rows_of(interface.inputs, request)
        #: What one request may take at most.
        self.worst: Final = policy.request_max.plus(of(Dimension.INFERENCES, rows))
        #: Until then such requests had better go the way of all others.
        self.paused_until_ms = 0
        #: How many are tried together at most: by how long tries took, and at first as many as there may be.
        self.most_in_try = MAX_GROUP
        #: What single runs lost that were not done in their try, and nothing has made up for yet.
        self._lost_us = 0.0
        #: Of the last answer whose data were all binary: their headers, the JSON part, the lines of the head.
        self._last: tuple[tuple[TensorHeader, ...], bytes, str] | None = None

    def is_paused(self, now_ms: int) -> bool:
        """Return whether such requests had better go the way of all others."""
        return now_ms < self.paused_until_ms

    def pause(self, now_ms: int, lane: Lane) -> None:
        """Remember that one of them had to, which was tried in this lane."""
        self.paused_until_ms = now_ms + _PAUSE_MS[lane]

    def took(self, runs: int, took_us: int) -> None:
        """Learn from a short try in which so many runs were all done: fewer together, or up to twice as many.

        Runs that are computed as one take little longer than each alone, so that nothing follows from the time of one;
        and a try that took long by chance leaves no trace for long.
        """
        time_us = 1_000 * self.forms[Lane.SHORT].compute_ms
        self._lost_us = max(0.0, self._lost_us - _MAY_BE_LOST * took_us)
        if took_us > _MUCH_OF_TRY * time_us:
            self.most_in_try = _fitting(runs, took_us, time_us)
        elif took_us <= _LITTLE_OF_TRY * time_us:
            self.most_in_try = max(self.most_in_try, min(MAX_GROUP, 2 * runs))

    def was_late(self, count: int, done: int, took_us: int) -> bool:
        """Learn from a short try of `count` whose time ran out; return whether the next may be tried.

        If they were not too many, one run of them took as long as what was left of the try. It may once; where that
        takes much of the time in which others are done, such runs are long.

        Args:
            count: how many were tried.
            done: how many were done by then.
            took_us: how long these took.
        """
        short = self.forms[Lane.SHORT]
        time_us = 1_000 * short.compute_ms
        if count == 1 or (done and took_us * count < _MUCH_OF_TRY * time_us * done) or not (done or short.together):
            self._lost_us = min(self._lost_us + time_us - took_us, 2.0 * time_us)
            return self._lost_us <= time_us
        self.most_in_try = _fitting(done, time_us, time_us) if done else count // 2
        return True

    def answer(self, headers: tuple[TensorHeader, ...], payload: memoryview) -> tuple[bytes, str]:
        """Return the body of an answer with these outputs, and the lines of its head that depend on them.

        Raises:
            TooLargeError: see `oip.encode_infer_response`.
        """
        if self._last is not None and headers == self._last[0]:
            return self._last[1] + payload, self._last[2]
        outputs = unpack_tensors(headers, payload)
        body = answer_of(self.model.offer.model, self.policy.answers, self._asked, outputs)
        content, lines = body.joined(), _lines(body)
        json_part = bytes(body.parts[0])
        if json_part + payload == content:  # in the order in which the engine gave them, and nothing in JSON
            self._last = headers, json_part, lines
        return content, lines


def _fitting(runs: int, took_us: int, time_us: int) -> int:
    """Return how many are expected to take no more than most of the time."""
    return max(1, int(runs * _MUCH_OF_TRY * time_us) // took_us)


class Shapes:
    """The forms in which one consumer has asked one model of late."""

    def __init__(self) -> None:
        self._shapes: Final[OrderedDict[tuple[bytes, int], Shape]] = OrderedDict()

    def of(self, asked: Asked, policy: ServingPolicy) -> tuple[Shape, Buffer]:
        """Return the form of a request on these terms, and its data.

        Raises:
            AIGovToolError: what `inference` says of it.
        """
        length = _length(asked.header_length)
        key = (asked.body[:length], len(asked.body))
        known = self._shapes.get(key) if length else None
        if known is not None and known.policy is policy:
            return known, memoryview(asked.body)[length:]
        valid = validated(asked, policy)
        shape = Shape(asked.model, policy, valid)
        _, data = pack_tensors(valid.request.inputs)
        plain = not valid.request.copied_bytes and not any(one.datatype in _LOOKED_AT for one in valid.request.inputs)
        if length and plain and length <= _MAX_HEAD_BYTES:
            self._shapes[key] = shape
            if len(self._shapes) > MAX_SHAPES:
                self._shapes.popitem(last=False)
        return shape, data[0] if len(data) == 1 else b"".join(data)


def _lines(body: InferBody) -> str:
    length = () if body.header_length is None else ((LENGTH_HEADER, str(body.header_length)),)
    return header_lines((("content-type", body.content_type), *length))


def _length(text: str | None) -> int:
    if text is None or len(text) > 5 or not (text.isascii() and text.isdigit()) or text[0] == "0":
        return 0
    return int(text)
