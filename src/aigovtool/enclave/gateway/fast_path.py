"""Small inferences, taken together: those of one consumer that come in one turn of the event loop go as one group.

What each of them passes is what `inference` has every request pass, in the same order: who asks, the request, its id,
units before compute, the gate, a receipt, the charge. What is different is that nothing waits, and that what is the
same for all of a group is asked once. As soon as something would have to wait (for a lease, a place, a joined run), or
anything is not in order, a request is undone here and goes the way of all others, where it is refused in the words
for it, or waits.

In a turn of the loop so many requests of one consumer are begun, and then those of others; the rest is begun in the
next turns.
"""

import asyncio
import base64
import re
import secrets
import time
from collections import deque
from hashlib import sha256
from typing import Final

from aigovtool.codec import encode
from aigovtool.crypto.identity import IdentityKind
from aigovtool.enclave.boot import ServedModel
from aigovtool.enclave.engines.group import Came, Group
from aigovtool.enclave.gateway import inference
from aigovtool.enclave.gateway.inference import DEADLINE_MS, LENGTH_HEADER, Asked
from aigovtool.enclave.gateway.padding import head_padding
from aigovtool.enclave.gateway.shape import Shape, Shapes
from aigovtool.enclave.instance_run import InstanceRun
from aigovtool.enclave.results import Answered
from aigovtool.errors import AIGovToolError
from aigovtool.ids import ConsumerId, Digest, RequestKey
from aigovtool.ledger.policy import Dial
from aigovtool.ledger.receipt import MAX_SALT_BYTES, Receipt, WrittenReceipt, salted_digest, signed_texts
from aigovtool.ledger.units import UnitVector
from aigovtool.protocol.reservation import Reservation
from aigovtool.protocol.session import RECEIPT_HEADER, REQUEST_ID_HEADER, SALT_HEADER, UNITS_HEADER, WARNING_HEADER
from aigovtool.transport.fast_path import Answer, FastRequest
from aigovtool.transport.wire import Head

_MAX_BODY_BYTES: Final = 16 << 10
_IN_A_ROUND: Final = 32
_KEY_RE: Final = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_TYPES: Final = frozenset({b"application/json", b"application/octet-stream"})
_REQUEST_ID, _SALT, _LENGTH = (name.lower().encode() for name in (REQUEST_ID_HEADER, SALT_HEADER, LENGTH_HEADER))


class _Entry:
    """One request."""

    __slots__ = ("answer", "asked", "begun", "data", "request", "shape")

    asked: Asked
    shape: Shape
    data: bytes | memoryview

    def __init__(self, request: FastRequest, answer: Answer) -> None:
        self.request: Final = request
        self.answer: Final = answer
        #: Whether its id is remembered, so that others may wait for what comes of it.
        self.begun = False


class _Batch:
    """Requests of one form under way: a group with the engine, and what was reserved for it."""

    __slots__ = ("entries", "group", "ok", "reservation", "shape")

    def __init__(self, shape: Shape, entries: list[_Entry], reservation: Reservation) -> None:
        self.shape, self.entries, self.reservation = shape, entries, reservation
        self.group: Group | None = None


class InferenceFastPath:
    """The fast path of one instance."""

    def __init__(self, run: InstanceRun) -> None:
        self._run: Final = run
        self._instance: Final = run.instance
        self._engine: Final = run.instance.engine
        self._lines: Final = {
            f"POST /v2/models/{name}/infer HTTP/1.1".encode(): model for name, model in run.instance.models.items()
        }
        self._waiting: Final[dict[ConsumerId, deque[_Entry]]] = {}
        self._shapes: Final[dict[tuple[ConsumerId, int], Shapes]] = {}
        self._due = False
        self._loop: Final = asyncio.get_running_loop()

    def wants(self, head: Head) -> bool:
        """Return whether it is an inference that may be taken."""
        fields = head.fields
        return (
            head.line in self._lines
            and head.length is not None
            and head.length <= _MAX_BODY_BYTES
            and b"expect" not in fields
            and fields.get(b"connection", b"keep-alive") == b"keep-alive"
            and fields.get(b"content-type") in _TYPES
        )

    def take(self, request: FastRequest, answer: Answer) -> bool:
        """Begin it in this turn of the loop, or in a later one."""
        try:
            identity = request.connection.identity()
        except AIGovToolError:
            return False
        if identity.kind is not IdentityKind.CONSUMER or identity.borrower not in {
            None,
            self._instance.admission.borrower,
        }:
            return False
        consumer = ConsumerId(identity.name)
        waiting = self._waiting.get(consumer)
        if waiting is None:
            waiting = self._waiting[consumer] = deque()
        waiting.append(_Entry(request, answer))
        self._schedule()
        return True

    def _schedule(self) -> None:
        if not self._due:
            self._due = True
            self._loop.call_soon(self._round)

    # -- Beginning --------------------------------------------------------------------------------

    def _round(self) -> None:
        self._due = False
        now_ms = self._instance.clock.now_ms()
        self._run.results.expire(now_ms)
        for consumer, waiting in list(self._waiting.items()):
            entries = [waiting.popleft() for _ in range(min(_IN_A_ROUND, len(waiting)))]
            if not waiting:
                del self._waiting[consumer]
            self._begin(consumer, entries, now_ms)
        if self._waiting:
            self._schedule()

    def _begin(self, consumer: ConsumerId, entries: list[_Entry], now_ms: int) -> None:
        """Begin requests of one consumer, those of one form together."""
        forms: dict[Shape, list[_Entry]] = {}
        for entry in entries:
            try:
                if self._read(consumer, entry, now_ms):
                    forms.setdefault(entry.shape, []).append(entry)
                    continue
            except AIGovToolError:
                pass
            self._undo(entry)
        for shape, alike in forms.items():
            self._reserve(consumer, shape, alike)

    def _read(self, consumer: ConsumerId, entry: _Entry, now_ms: int) -> bool:
        run, request = self._run, entry.request
        fields = request.head.fields
        request.connection.identity().check_time(self._instance.began_ms + now_ms)
        model = self._lines[request.head.line]
        policy = run.terms(model.offer.model)
        chosen = fields.get(_REQUEST_ID)
        salt = fields.get(_SALT, b"")
        if (chosen is not None and _KEY_RE.fullmatch(chosen) is None) or len(salt) > 2 * MAX_SALT_BYTES:
            return False
        if policy.dial is Dial.BOUND or run.failed_runs.any():
            return False
        length = fields.get(_LENGTH)
        try:
            salt_bytes = bytes.fromhex(salt.decode())
        except ValueError:
            return False
        asked = entry.asked = Asked(
            model,
            consumer,
            RequestKey(secrets.token_hex(16) if chosen is None else chosen.decode()),
            chosen is not None,
            salt_bytes,
            request.body,
            None if length is None else length.decode(),
        )
        if chosen is not None:
            identity = inference._identity(asked)
            if run.results.find(consumer, asked.key, identity, now_ms) is not None:
                return False
            run.results.begin(consumer, asked.key, identity)
            entry.begun = True
        shapes = self._shapes.get((consumer, model.loaded.handle))
        if shapes is None:
            if len(self._shapes) >= 1024:
                self._shapes.clear()
            shapes = self._shapes[consumer, model.loaded.handle] = Shapes()
        entry.shape, entry.data = shapes.of(asked, policy)
        return True

    def _reserve(self, consumer: ConsumerId, shape: Shape, entries: list[_Entry]) -> None:
        name, count = shape.model.offer.model, len(entries)
        try:
            reservation = self._run.reserve_now(name, consumer, _times(shape.worst, count), None)
        except AIGovToolError:
            reservation = None
        if reservation is None:
            if count > 1:  # what is left may do for some
                self._reserve(consumer, shape, entries[: count // 2])
                self._reserve(consumer, shape, entries[count // 2 :])
            else:
                self._undo(entries[0])
            return
        place = self._engine.group_place(consumer, shape.form, count)
        if place is None:
            self._run.void(reservation, failed=False)
            for entry in entries:
                self._undo(entry)
            return
        batch = _Batch(shape, entries, reservation)
        batch.ok = []
        group = batch.group = Group(
            consumer,
            shape.model.loaded.interface,
            shape.form,
            [entry.data for entry in entries],
            place,
            lambda group, came: self._came(batch, came),
        )
        deadline_ns = time.monotonic_ns() + DEADLINE_MS * 1_000_000
        turn = self._engine.group_turn(consumer)
        if isinstance(turn, asyncio.Future):
            turn.add_done_callback(lambda turn: self._go(group, turn.result(), deadline_ns))
        else:
            self._go(group, turn, deadline_ns)

    def _go(self, group, turn, deadline_ns):
        group.turn = turn
        self._engine.run_group(group, deadline_ns)

    # -- Ending -----------------------------------------------------------------------------------

    def _came(self, batch: _Batch, came: list[Came]) -> None:
        for one in came:
            for offset in range(one.count):
                entry = batch.entries[one.first + offset]
                if one.outputs:
                    batch.ok.append((entry, one.outputs[offset], one.compute_us[offset]))
                else:
                    batch.ok.append((entry, None, 0))
        if not batch.group.over:
            return
        batch.group.place.give_back()
        try:
            self._release(batch)
        except AIGovToolError:
            self._run.void(batch.reservation, failed=False)
            for entry in batch.entries:
                self._undo(entry)

    def _release(self, batch: _Batch) -> None:
        run, instance, shape = self._run, self._instance, batch.shape
        model, name = shape.model, shape.model.offer.model
        good = [one for one in batch.ok if one[1] is not None]
        bad = [one[0] for one in batch.ok if one[1] is None]
        if not good:
            run.void(batch.reservation, failed=False)
        else:
            now_ms = instance.custodian_time_ms()
            useds = [_used(shape.worst, one[2]) for one in good]
            posted = run.preview_several(batch.reservation, useds)
            tee = instance.admission.tee.value
            written, bodies = [], []
            for (entry, outputs, _), used, seat in zip(good, useds, posted, strict=True):
                asked = entry.asked
                content, length = shape.body(outputs)
                bodies.append((content, length))
                written.append(WrittenReceipt(Receipt(
                    request_key=asked.key,
                    request=salted_digest(asked.salt, "request", [asked.body]),
                    response=salted_digest(asked.salt, "response", [content]),
                    model=name,
                    manifest=model.offer.manifest,
                    consumer=asked.consumer,
                    units=used,
                    remaining=seat.remaining,
                    lease_id=seat.lease_id,
                    sequence=seat.sequence,
                    instance=instance.instance,
                    tee=tee,
                    at_ms=now_ms,
                )))
            texts = signed_texts(written, instance.instance, instance.identity)
            units = inference._dictionary(model.offer.policy, posted[0].remaining)
            answers = []
            terms = shape.policy.answers
            for (entry, _, _), (content, length), text in zip(good, bodies, texts, strict=True):
                headers = (
                    *((("content-type", "application/octet-stream"), (LENGTH_HEADER, str(length))) if length is not None else (("content-type", "application/json"),)),
                    (REQUEST_ID_HEADER, entry.asked.key),
                    (UNITS_HEADER, units),
                    (RECEIPT_HEADER, base64.b64encode(text).decode()),
                )
                if terms is not None and terms.pad_bytes:
                    headers = (*headers, head_padding(headers))
                answers.append(Answered(content, headers, terms))
            inference._require_allowed(run, good[0][0].asked, terms)
            run.gate_and_post_several(batch.reservation, written)
            done_ms = instance.clock.now_ms()
            warning = "" if instance.warning is None else f"{WARNING_HEADER}: {instance.warning}\r\n"
            for (entry, _, _), answered in zip(good, answers, strict=True):
                if entry.begun:
                    run.results.finish(entry.asked.consumer, entry.asked.key, answered, done_ms)
                lines = "".join([f"{key}: {value}\r\n" for key, value in answered.headers])
                entry.answer(
                    f"HTTP/1.1 200 OK\r\ncontent-length: {len(answered.body)}\r\n{lines}{warning}\r\n".encode("latin-1")
                    + answered.body
                )
        for entry in bad:
            self._undo(entry)

    def _undo(self, entry: _Entry) -> None:
        """Have a request go the way of all others."""
        if entry.begun:
            task = self._loop.create_task(inference._carry_out(self._run, entry.asked))
            task.add_done_callback(inference._noticed)
        entry.answer(None)


def _times(units: UnitVector, count: int) -> UnitVector:
    return UnitVector(
        inferences=units.inferences * count,
        input_tokens=units.input_tokens * count,
        output_tokens=units.output_tokens * count,
        cached_tokens=units.cached_tokens * count,
        compute_ms=units.compute_ms * count,
    )


def _used(worst: UnitVector, compute_us: int) -> UnitVector:
    if not worst.compute_ms:
        return worst
    import msgspec
    return msgspec.structs.replace(worst, compute_ms=min(worst.compute_ms, max(1, -(-compute_us // 1000))))
