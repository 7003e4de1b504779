"""Small inferences, taken together: those that come in one turn of the event loop go to the engine in one frame.

What each of them passes is what `inference` has every request pass, in the same order: who asks, the request, its id,
units before compute, the gate, a receipt, the charge. What is different is that nothing waits. As soon as something
would have to (a lease, a place, a joined run), or anything is not in order, a request is undone here and goes the way
of all others, where it is refused in the words for it, or waits.

In a turn of the loop so many requests of one consumer are begun, and then those of others; the rest is begun in the
next turns.
"""

import asyncio
import base64
import secrets
from collections import deque
from contextlib import suppress
from typing import Final

from aigovtool.codec import encode
from aigovtool.enclave.boot import ServedModel
from aigovtool.enclave.engines.batch import Batch, Slot
from aigovtool.enclave.engines.ipc import pack_tensors
from aigovtool.enclave.engines.lanes import SHORT_MS
from aigovtool.enclave.gateway import inference
from aigovtool.enclave.gateway.inference import DEADLINE_MS, LENGTH_HEADER, Asked
from aigovtool.enclave.instance_run import InstanceRun
from aigovtool.enclave.results import Answered
from aigovtool.errors import AIGovToolError
from aigovtool.ids import ConsumerId, RequestKey
from aigovtool.ledger.receipt import MAX_SALT_BYTES, Receipt, sign_batch
from aigovtool.ledger.units import Dimension, of
from aigovtool.protocol.reservation import Reservation
from aigovtool.protocol.session import RECEIPT_HEADER, REQUEST_ID_HEADER, SALT_HEADER, UNITS_HEADER, WARNING_HEADER
from aigovtool.transport.fast_path import Answer, FastRequest, ok
from aigovtool.transport.room import Share
from aigovtool.transport.wire import Head
from aigovtool.crypto.identity import IdentityKind
import re
import time
import msgspec

_MAX_BODY = 16 << 10
_IN_A_ROUND = 32
_KEY_RE = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_TYPES = frozenset({b"application/json", b"application/octet-stream"})
_REQUEST_ID, _SALT, _LENGTH = REQUEST_ID_HEADER.lower().encode(), SALT_HEADER.lower().encode(), LENGTH_HEADER.encode()


class _Entry:
    __slots__ = ("answer", "asked", "begun", "bodies", "request", "reservation", "valid", "worst", "used", "made", "ran", "deadline_ms", "slot", "receipt")

    def __init__(self, request: FastRequest, answer: Answer) -> None:
        self.request, self.answer = request, answer
        self.begun = False
        self.bodies: Share | None = None
        self.reservation: Reservation | None = None
        self.slot: Slot | None = None


class InferenceFastPath:
    """The fast path of one instance."""

    def __init__(self, run: InstanceRun) -> None:
        self._run: Final = run
        self._instance = run.instance
        self._engine = run.instance.engine
        self._lines: Final = {f"POST /v2/models/{name}/infer HTTP/1.1".encode(): model for name, model in run.instance.models.items()}
        self._waiting: dict[ConsumerId, deque[_Entry]] = {}
        self._due = False
        self._ready: list[_Entry] = []
        self._loop = asyncio.get_running_loop()

    def wants(self, head: Head) -> bool:
        fields = head.fields
        return (
            head.line in self._lines
            and head.length is not None
            and head.length <= _MAX_BODY
            and b"expect" not in fields
            and fields.get(b"connection", b"keep-alive") == b"keep-alive"
            and fields.get(b"content-type") in _TYPES
        )

    def take(self, request: FastRequest, answer: Answer) -> bool:
        try:
            identity = request.connection.identity()
        except AIGovToolError:
            return False
        if identity.kind is not IdentityKind.CONSUMER or identity.borrower not in {None, self._instance.admission.borrower}:
            return False
        consumer = ConsumerId(identity.name)
        self._waiting.setdefault(consumer, deque()).append(_Entry(request, answer))
        self._schedule()
        return True

    def _schedule(self) -> None:
        if not self._due:
            self._due = True
            self._loop.call_soon(self._round)

    def _round(self) -> None:
        self._due = False
        now_ms = self._instance.clock.now_ms()
        for consumer, queue in list(self._waiting.items()):
            for _ in range(min(_IN_A_ROUND, len(queue))):
                entry = queue.popleft()
                try:
                    done = self._begin(consumer, entry, now_ms)
                except AIGovToolError:
                    done = False
                if not done:
                    self._undo(entry)
            if not queue:
                del self._waiting[consumer]
        if self._waiting:
            self._schedule()
        self._send()

    def _begin(self, consumer: ConsumerId, entry: _Entry, now_ms: int) -> bool:
        run, request = self._run, entry.request
        fields = request.head.fields
        request.connection.identity().check_time(self._instance.began_ms + now_ms)
        run.check(consumer)
        model = self._lines[request.head.line]
        chosen = fields.get(_REQUEST_ID)
        if chosen is not None and _KEY_RE.fullmatch(chosen) is None:
            return False
        key = RequestKey(secrets.token_hex(16) if chosen is None else chosen.decode())
        salt = bytes.fromhex(fields.get(_SALT, b"").decode())
        if len(salt) > MAX_SALT_BYTES:
            return False
        length = fields.get(_LENGTH)
        body = request.body
        entry.bodies = run.bodies.claim(consumer, len(body))
        asked = entry.asked = Asked(model, consumer, key, chosen is not None, salt, body, None if length is None else length.decode())
        name = model.offer.model
        if chosen is not None:
            identity = inference._identity(asked)
            if run.results.find(consumer, key, identity, now_ms) is not None:
                return False
            run.failed_runs.require_few(consumer, name, run.failed_runs.clock.now_ms())
            run.results.begin(consumer, key, identity)
            entry.begun = True
        else:
            run.failed_runs.require_few(consumer, name, run.failed_runs.clock.now_ms())
        policy = run.terms(name)
        valid = entry.valid = inference._validated(asked, policy)
        entry.deadline_ms = now_ms + DEADLINE_MS
        worst = entry.worst = valid.policy.request_max.plus(of(Dimension.INFERENCES, inference.rows_of(model.loaded.interface.inputs, valid.request)))
        entry.reservation = run.reserve_now(name, consumer, worst, valid.bound_to)
        if entry.reservation is None:
            return False
        headers, data = pack_tensors(valid.request.inputs)
        place = self._engine.short_place(consumer, model.loaded, sum([len(p) for p in data]))
        if place is None:
            return False
        limits_ms = [one for one in (policy.request_max.compute_ms, policy.run_limit_ms, SHORT_MS) if one]
        slot = entry.slot = Slot(
            consumer, model.loaded.handle, headers, data, valid.outputs, min(limits_ms),
            time.monotonic_ns() + DEADLINE_MS * 1_000_000, inference._limits(valid.terms, valid.outputs), policy.finite, place, entry,
        )
        turn = self._engine.short_turn(consumer)
        if isinstance(turn, asyncio.Future):
            turn.add_done_callback(lambda turn: self._has_turn(entry, turn))
        else:
            slot.turn = turn
            self._ready.append(entry)
        return True

    def _has_turn(self, entry, turn):
        entry.slot.turn = turn.result()
        self._ready.append(entry)
        self._schedule()

    def _send(self) -> None:
        ready, self._ready = self._ready, []
        for start in range(0, len(ready), 64):
            self._engine.send_short(Batch([entry.slot for entry in ready[start:start + 64]], self._ended))

    def _ended(self, slots: list[Slot]) -> None:
        run = self._run
        made = []
        for slot in slots:
            entry = slot.entry
            ran = self._engine.short_ran(entry.asked.model.loaded, slot)
            slot.place.give_back()
            if ran is None:
                self._undo(entry)
                continue
            entry.made = inference._made(entry.asked, entry.valid, ran)
            entry.used = inference._used(entry.worst, ran)
            made.append(entry)
        if made:
            self._release(made)

    def _release(self, entries: list[_Entry]) -> None:
        run, instance = self._run, self._instance
        now_ms = instance.custodian_time_ms()
        before: dict[str, int] = {}
        receipts = []
        for entry in entries:
            posted = run.preview(entry.reservation, entry.used)
            asked = entry.asked
            n = before.get(posted.lease_id, 0)
            before[posted.lease_id] = n + 1
            entry.receipt = Receipt(
                request_key=asked.key, request=entry.made.request, response=entry.made.response,
                model=asked.model.offer.model, manifest=asked.model.offer.manifest, consumer=asked.consumer,
                units=entry.used, remaining=posted.remaining, lease_id=posted.lease_id, sequence=posted.sequence + n,
                instance=instance.instance, tee=instance.admission.tee.value, at_ms=now_ms,
            )
            receipts.append(entry.receipt)
        signed = sign_batch(receipts, instance.instance, instance.identity)
        warning = () if instance.warning is None else ((WARNING_HEADER, instance.warning),)
        for entry, one in zip(entries, signed, strict=True):
            asked, made = entry.asked, entry.made
            headers = (
                *made.headers,
                (REQUEST_ID_HEADER, asked.key),
                (UNITS_HEADER, inference._dictionary(asked.model.offer.policy, one.receipt.remaining)),
                (RECEIPT_HEADER, base64.b64encode(encode(one)).decode()),
            )
            answered = Answered(made.content, headers, made.terms)
            data = ok((*headers, *warning), made.content)
            try:
                inference._require_allowed(run, asked, made.terms)
                run.gate_and_post(entry.reservation, entry.receipt)
            except AIGovToolError:
                self._undo(entry)
                continue
            entry.bodies.shrink_to(0)
            if entry.begun:
                run.results.finish(asked.consumer, asked.key, answered, instance.clock.now_ms())
            entry.answer(data)

    def _undo(self, entry: _Entry) -> None:
        run = self._run
        if entry.bodies is not None:
            entry.bodies.shrink_to(0)
        if entry.reservation is not None:
            run.void(entry.reservation, failed=False)
        if entry.begun:
            task = self._loop.create_task(inference._carry_out(run, entry.asked))
            task.add_done_callback(inference._noticed)
        entry.answer(None)
