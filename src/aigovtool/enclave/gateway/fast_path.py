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
import re
import secrets
import time
from base64 import b64encode
from collections import deque
from typing import Final, NamedTuple

from aigovtool.crypto.identity import IdentityKind
from aigovtool.enclave.boot import ServedModel
from aigovtool.enclave.engines.group import Came, Group
from aigovtool.enclave.engines.ipc import TensorHeader
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
from aigovtool.ledger.units import UnitVector, total
from aigovtool.protocol.metering import Posted
from aigovtool.protocol.reservation import Reservation
from aigovtool.protocol.session import RECEIPT_HEADER, REQUEST_ID_HEADER, SALT_HEADER, UNITS_HEADER, WARNING_HEADER
from aigovtool.protocol.tensor import Buffer
from aigovtool.transport.fast_path import Answer, FastRequest, ok
from aigovtool.transport.wire import Head

_MAX_BODY_BYTES: Final = 16 << 10
_IN_A_ROUND: Final = 32
#: Pairs of consumer and model whose forms are remembered.
_MAX_CALLERS: Final = 1_024
_KEY_RE: Final = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_SALT_RE: Final = re.compile(rb"(?:[0-9A-Fa-f]{2}){0,%d}" % MAX_SALT_BYTES)
_TYPES: Final = frozenset({b"application/json", b"application/octet-stream"})
_REQUEST_ID, _SALT, _LENGTH = (name.lower().encode() for name in (REQUEST_ID_HEADER, SALT_HEADER, LENGTH_HEADER))


class _Entry:
    """One request."""

    __slots__ = ("answer", "asked", "begun", "data", "digest", "request", "shape")

    asked: Asked
    shape: Shape
    data: Buffer
    #: What its receipt says of it.
    digest: Digest

    def __init__(self, request: FastRequest, answer: Answer) -> None:
        self.request: Final = request
        self.answer: Final = answer
        #: Whether its id is remembered, so that others may wait for what comes of it.
        self.begun = False


class _Ran(NamedTuple):
    """What the engine gave for a request."""

    entry: _Entry
    headers: tuple[TensorHeader, ...]
    payload: memoryview
    compute_us: int


class _Batch:
    """Requests of one form under way: a group with the engine, and what was reserved for it."""

    __slots__ = ("entries", "failed", "ran", "reservation", "shape")

    def __init__(self, shape: Shape, entries: list[_Entry], reservation: Reservation) -> None:
        self.shape, self.entries, self.reservation = shape, entries, reservation
        self.ran: list[_Ran] = []
        self.failed: list[_Entry] = []

    def take(self, came: list[Came]) -> None:
        """Sort what has come."""
        for one in came:
            entries = self.entries[one.first : one.first + one.count]
            if one.payloads:
                for entry, payload, took_us in zip(entries, one.payloads, one.compute_us, strict=True):
                    self.ran.append(_Ran(entry, one.headers, payload, took_us))
            else:
                self.failed += entries


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
        if identity.kind is not IdentityKind.CONSUMER or (
            identity.borrower is not None and identity.borrower != self._instance.admission.borrower
        ):
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
        for consumer, waiting in list(self._waiting.items()):
            entries = [waiting.popleft() for _ in range(min(_IN_A_ROUND, len(waiting)))]
            if not waiting:
                del self._waiting[consumer]
            self._begin(consumer, entries, now_ms)
        if self._waiting:
            self._schedule()

    def _begin(self, consumer: ConsumerId, entries: list[_Entry], now_ms: int) -> None:
        """Begin requests of one consumer, those of one form together."""
        self._run.results.expire(now_ms)
        may = not self._run.failed_runs.any()
        forms: dict[Shape, list[_Entry]] = {}
        for entry in entries:
            try:
                if may and self._read(consumer, entry, now_ms):
                    forms.setdefault(entry.shape, []).append(entry)
                    continue
            except AIGovToolError:
                pass
            self._undo(entry)
        for shape, alike in forms.items():
            self._reserve(consumer, shape, alike)

    def _read(self, consumer: ConsumerId, entry: _Entry, now_ms: int) -> bool:
        """Return whether a request may be begun here, after looking at all of it."""
        head, connection, body = entry.request.head, entry.request.connection, entry.request.body
        connection.identity().check_time(self._instance.began_ms + now_ms)
        fields, model, results = head.fields, self._lines[head.line], self._run.results
        chosen, salt, length = fields.get(_REQUEST_ID), fields.get(_SALT), fields.get(_LENGTH)
        if chosen is not None and _KEY_RE.fullmatch(chosen) is None:
            return False
        policy = self._run.terms(model.offer.model)
        if policy.dial is Dial.BOUND or (salt is not None and _SALT_RE.fullmatch(salt) is None):
            return False
        asked = entry.asked = Asked(
            model,
            consumer,
            RequestKey(secrets.token_hex(16) if chosen is None else chosen.decode()),
            chosen is not None,
            b"" if salt is None else bytes.fromhex(salt.decode()),
            body,
            None if length is None else length.decode(),
        )
        shapes = self._shapes.get((consumer, model.loaded.handle)) or self._new_shapes(consumer, model)
        entry.shape, entry.data = shapes.of(asked, policy)
        if entry.shape.is_paused(now_ms) or (chosen is not None and results.knows(consumer, asked.key)):
            return False
        entry.digest = salted_digest(asked.salt, "request", [body])
        if chosen is not None:
            results.begin(consumer, asked.key, inference.identity_of(asked, entry.digest))
            entry.begun = True
        return True

    def _new_shapes(self, consumer: ConsumerId, model: ServedModel) -> Shapes:
        if len(self._shapes) >= _MAX_CALLERS:
            self._shapes.clear()
        shapes = self._shapes[consumer, model.loaded.handle] = Shapes()
        return shapes

    def _reserve(self, consumer: ConsumerId, shape: Shape, entries: list[_Entry]) -> None:
        """Reserve units for all of them, or for as many halves as can be; those that cannot go another way."""
        name, count = shape.model.offer.model, len(entries)
        try:
            reservation = self._run.reserve_now(name, consumer, shape.worst.times(count), None)
        except AIGovToolError:
            reservation = None
        if reservation is not None:
            self._compute(consumer, _Batch(shape, entries, reservation))
        elif count > 1:
            self._reserve(consumer, shape, entries[: count // 2])
            self._reserve(consumer, shape, entries[count // 2 :])
        else:
            self._undo(entries[0])

    def _compute(self, consumer: ConsumerId, batch: _Batch) -> None:
        shape, entries = batch.shape, batch.entries
        place = self._engine.group_place(consumer, shape.form, len(entries))
        if place is None:
            self._give_back(batch)
            return
        group = Group(
            consumer,
            shape.model.loaded.interface,
            shape.form,
            [entry.data for entry in entries],
            place,
            lambda group, came: self._came(batch, group, came),
        )
        deadline_ns = time.monotonic_ns() + DEADLINE_MS * 1_000_000
        turn = self._engine.group_turn(consumer)
        if isinstance(turn, asyncio.Future):
            turn.add_done_callback(lambda turn: self._engine.run_group(group, turn.result(), deadline_ns))
        else:
            self._engine.run_group(group, turn, deadline_ns)

    # -- Ending -----------------------------------------------------------------------------------

    def _came(self, batch: _Batch, group: Group, came: list[Came]) -> None:
        batch.take(came)
        if not group.over:
            return
        group.place.give_back()
        if batch.failed:
            batch.shape.pause(self._instance.clock.now_ms())
        try:
            answers = self._release(batch)
        except AIGovToolError:
            self._give_back(batch)
            return
        for entry, answer in answers:
            entry.answer(answer)
        for entry in batch.failed:
            self._undo(entry)

    def _release(self, batch: _Batch) -> list[tuple[_Entry, bytes]]:
        """Sign, gate and charge all that was computed; return the answers. No wait lies between charge and answer.

        Raises:
            AIGovToolError: nothing may leave, and nothing was charged.
        """
        run, instance, shape, ran = self._run, self._instance, batch.shape, batch.ran
        if not ran:
            run.void(batch.reservation, failed=False)
            return []
        offer, terms = shape.model.offer, shape.policy.answers
        units = [_used(shape.worst, one.compute_us) for one in ran]
        posted = run.preview(batch.reservation, total(units))
        made = [shape.answer(one.headers, one.payload) for one in ran]
        written = self._receipts(batch, units, posted, made)
        texts = signed_texts(written, instance.instance, instance.identity)
        inference.require_allowed(run, offer.model, terms)
        fixed = f"{UNITS_HEADER}: {inference.dictionary(offer.policy, posted.remaining)}\r\n{RECEIPT_HEADER}: "
        answers = []
        for one, (content, lines), text in zip(ran, made, texts, strict=True):
            receipt = b64encode(text).decode()
            lines = f"{lines}{REQUEST_ID_HEADER}: {one.entry.asked.key}\r\n{fixed}{receipt}\r\n"
            if terms is not None and terms.pad_bytes:
                lines += head_padding(len(lines))
            answers.append((one.entry, Answered(content, lines, terms)))
        run.gate_and_post_several(batch.reservation, written)
        return self._kept(answers)

    def _receipts(
        self, batch: _Batch, units: list[UnitVector], posted: Posted, made: list[tuple[bytes, str]]
    ) -> list[WrittenReceipt]:
        instance, offer = self._instance, batch.shape.model.offer
        now_ms, tee, number = instance.custodian_time_ms(), instance.admission.tee.value, posted.sequence
        written = []
        for one, used, (content, _) in zip(batch.ran, units, made, strict=True):
            asked = one.entry.asked
            receipt = Receipt(
                request_key=asked.key,
                request=one.entry.digest,
                response=salted_digest(asked.salt, "response", [content]),
                model=offer.model,
                manifest=offer.manifest,
                consumer=asked.consumer,
                units=used,
                remaining=posted.remaining,
                lease_id=posted.lease_id,
                sequence=number,
                instance=instance.instance,
                tee=tee,
                at_ms=now_ms,
            )
            written.append(WrittenReceipt(receipt))
            number += 1
        return written

    def _kept(self, answers: list[tuple[_Entry, Answered]]) -> list[tuple[_Entry, bytes]]:
        """Return the answers as they are sent; those to ids that consumers chose are remembered."""
        done_ms, results, warning = self._instance.clock.now_ms(), self._run.results, self._instance.warning
        more = "" if warning is None else f"{WARNING_HEADER}: {warning}\r\n"
        sent = []
        for entry, answered in answers:
            if entry.begun:
                results.finish(entry.asked.consumer, entry.asked.key, answered, done_ms)
            sent.append((entry, ok(answered.lines + more, answered.body)))
        return sent

    def _give_back(self, batch: _Batch) -> None:
        """Charge nothing, and have all of them go the way of all others."""
        self._run.void(batch.reservation, failed=False)
        for entry in batch.entries:
            self._undo(entry)

    def _undo(self, entry: _Entry) -> None:
        """Have a request go the way of all others."""
        if entry.begun:  # whoever joined it waits for what comes of it
            inference.carry_out(self._run, entry.asked)
        entry.answer(None)


def _used(worst: UnitVector, compute_us: int) -> UnitVector:
    return inference.used(worst, compute_us) if worst.compute_ms else worst
