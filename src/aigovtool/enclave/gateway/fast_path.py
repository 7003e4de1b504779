"""Inferences without a wait, together: those of one consumer that come in one turn of the event loop go as one group.

What each of them passes is what `inference` has every request pass, in the same order: who asks, the request, its id,
units before compute, the gate, a receipt, the charge. What is different is that nothing waits, and that what is the
same for all of a group is asked once. As soon as something would have to wait (for a lease, a place, a joined run), or
anything is not in order, a request is undone here and goes the way of all others, where it is refused in the words
for it, or waits.

Where a consumer's runs of a model are known to take longer than a short try each is tried alone, in the next lane.
A larger request, up to a megabyte, is taken if its body has room (`InstanceRun.bodies`), its JSON part is short and its
data need no walk: then it is hashed here, which takes about a millisecond, and is never copied.

In a turn of the loop so many requests of one consumer are begun, and then those of others; the rest is begun in the
next turns.
"""

import asyncio
import re
import secrets
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from aigovtool.crypto.identity import IdentityKind
from aigovtool.enclave.boot import ServedModel
from aigovtool.enclave.engines.group import Came, Group
from aigovtool.enclave.engines.lanes import Lane
from aigovtool.enclave.gateway.asked import (
    DEADLINE_MS,
    LENGTH_HEADER,
    LITTLE_JSON_BYTES,
    Asked,
    identity_of,
    is_plain,
    request_digest,
)
from aigovtool.enclave.gateway.batch import Batch, Entry
from aigovtool.enclave.gateway.inference import carry_out
from aigovtool.enclave.gateway.shape import Shape, Shapes
from aigovtool.enclave.instance_run import InstanceRun
from aigovtool.errors import AIGovToolError, OverloadedError
from aigovtool.ids import ConsumerId, RequestKey
from aigovtool.ledger.policy import Dial
from aigovtool.ledger.receipt import MAX_SALT_BYTES
from aigovtool.protocol.session import REQUEST_ID_HEADER, SALT_HEADER
from aigovtool.transport.connection import Connection
from aigovtool.transport.fast_path import Answer, FastRequest
from aigovtool.transport.problem import unexpected
from aigovtool.transport.wire import Head

#: A larger body takes room, and is to be of the binary form, with little JSON.
_MAX_SMALL_BYTES: Final = 16 << 10
#: A larger one is hashed in a thread, and so is worth a task of its own.
_MAX_LARGE_BYTES: Final = 1 << 20
#: Of one consumer, in one turn of the loop: so many requests, and the one with which their bodies are so many bytes.
_IN_A_ROUND: Final = 32
_BYTES_IN_A_ROUND: Final = 32 << 10
#: Pairs of consumer and model whose forms are remembered.
_MAX_CALLERS: Final = 1_024
_KEY_RE: Final = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_SALT_RE: Final = re.compile(rb"(?:[0-9A-Fa-f]{2}){0,%d}" % MAX_SALT_BYTES)
_JSON_LENGTH_RE: Final = re.compile(rb"[1-9][0-9]{0,3}")
_TYPES: Final = frozenset({b"application/json", b"application/octet-stream"})
_REQUEST_ID, _SALT, _LENGTH = (name.lower().encode() for name in (REQUEST_ID_HEADER, SALT_HEADER, LENGTH_HEADER))


class InferenceFastPath:
    """The fast path of one instance."""

    def __init__(self, run: InstanceRun) -> None:
        self._run: Final = run
        self._instance: Final = run.instance
        self._models: Final = {
            f"POST /v2/models/{name}/infer HTTP/1.1".encode(): model for name, model in run.instance.models.items()
        }
        #: Those whose inputs are what they are, whatever their bytes.
        self._plain: Final = frozenset(line for line, model in self._models.items() if is_plain(model))
        self._waiting: Final[dict[ConsumerId, deque[Entry]]] = {}
        self._shapes: Final[dict[tuple[ConsumerId, int], Shapes]] = {}
        self._due = False
        self._loop: Final = asyncio.get_running_loop()

    def wants(self, head: Head) -> bool:
        """Return whether it is an inference that may be taken."""
        fields = head.fields
        return (
            head.line in self._models
            and (head.length or 0) <= _MAX_SMALL_BYTES
            and fields.get(b"content-type") in _TYPES
        )

    def room_for(self, head: Head, connection: Connection) -> Callable[[], None] | None:
        """Return what gives back the room for the body of a larger inference that may be taken."""
        size_bytes, json_part = head.length or 0, head.fields.get(_LENGTH, b"")
        if head.line not in self._plain or not _MAX_SMALL_BYTES < size_bytes <= _MAX_LARGE_BYTES:
            return None
        if _JSON_LENGTH_RE.fullmatch(json_part) is None or int(json_part) > LITTLE_JSON_BYTES:
            return None
        consumer = self._consumer(connection)
        if consumer is None or head.fields.get(b"content-type") not in _TYPES:
            return None
        try:
            share = self._run.bodies.claim(consumer, size_bytes)
        except OverloadedError:
            return None
        return partial(share.shrink_to, 0)

    def take(self, request: FastRequest, answer: Answer) -> bool:
        """Begin it in this turn of the loop, or in a later one."""
        consumer = self._consumer(request.connection)
        if consumer is None:
            return False
        waiting = self._waiting.get(consumer)
        if waiting is None:
            waiting = self._waiting[consumer] = deque()
        waiting.append(Entry(request, answer))
        self._schedule()
        return True

    def _consumer(self, connection: Connection) -> ConsumerId | None:
        try:
            identity = connection.identity()
        except AIGovToolError:
            return None
        if identity.kind is not IdentityKind.CONSUMER:
            return None
        if identity.borrower is not None and identity.borrower != self._instance.admission.borrower:
            return None
        return ConsumerId(identity.name)

    def _schedule(self) -> None:
        if not self._due:
            self._due = True
            self._loop.call_soon(self._round)

    # -- Beginning --------------------------------------------------------------------------------

    def _round(self) -> None:
        self._due = False
        now_ms, time_ms = self._instance.clock.now_ms(), self._instance.custodian_time_ms()
        for consumer, waiting in list(self._waiting.items()):
            entries = _some(waiting)
            if not waiting:
                del self._waiting[consumer]
            self._run.results.expire(now_ms)
            self._begin(consumer, entries, now_ms, time_ms)
        if self._waiting:
            self._schedule()

    def _begin(self, consumer: ConsumerId, entries: list[Entry], now_ms: int, time_ms: int) -> None:
        """Begin requests of one consumer, those of one form together."""
        forms: dict[Shape, list[Entry]] = {}
        for entry in entries:
            if self._is_taken(consumer, entry, now_ms, time_ms):
                forms.setdefault(entry.shape, []).append(entry)
            else:
                self._undo(entry)
        for shape, alike in forms.items():
            lane = self._instance.engine.groups.lane(consumer, shape.model.loaded.handle)
            most = shape.most_in_try if lane is Lane.SHORT else 1
            for first in range(0, len(alike), most):
                self._reserve(consumer, shape, alike[first : first + most], lane)

    def _is_taken(self, consumer: ConsumerId, entry: Entry, now_ms: int, time_ms: int) -> bool:
        try:
            return self._read(consumer, entry, now_ms, time_ms)
        except AIGovToolError:
            return False
        except Exception as exception:  # noqa: BLE001 - nobody else would hear of it, and the others must go on
            unexpected(exception)
            return False

    def _read(self, consumer: ConsumerId, entry: Entry, now_ms: int, time_ms: int) -> bool:
        """Return whether a request may be begun here, after looking at all of it; its id is taken then.

        Raises:
            AIGovToolError: it may not.
        """
        head, connection, body = entry.request
        connection.identity().check_time(time_ms)
        fields, model, results = head.fields, self._models[head.line], self._run.results
        chosen, salt, length = fields.get(_REQUEST_ID), fields.get(_SALT), fields.get(_LENGTH)
        if (chosen is not None and _KEY_RE.fullmatch(chosen) is None) or (
            salt is not None and _SALT_RE.fullmatch(salt) is None
        ):
            return False
        policy = self._run.charging.terms(model.offer.model)
        # Who has caused failures is asked about them each time, and answered, or refused, on its own.
        if policy.dial is Dial.BOUND or self._run.failed_runs.has_any(consumer, model.offer.model):
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
        entry.digest = request_digest(asked)
        if chosen is not None:
            results.begin(consumer, asked.key, identity_of(asked, entry.digest))
            entry.begun = True
        return True

    def _new_shapes(self, consumer: ConsumerId, model: ServedModel) -> Shapes:
        if len(self._shapes) >= _MAX_CALLERS:
            self._shapes.clear()
        shapes = self._shapes[consumer, model.loaded.handle] = Shapes()
        return shapes

    def _reserve(self, consumer: ConsumerId, shape: Shape, entries: list[Entry], lane: Lane) -> None:
        """Reserve units for all of them, or for as many halves as can be; the others go another way."""
        name, count = shape.model.offer.model, len(entries)
        try:
            reservation = self._run.charging.reserve_now(name, consumer, shape.worst.times(count))
        except AIGovToolError:
            reservation = None
        if reservation is not None:
            self._compute(consumer, Batch(shape, entries, reservation), lane)
        elif count > 1:
            self._reserve(consumer, shape, entries[: count // 2], lane)
            self._reserve(consumer, shape, entries[count // 2 :], lane)
        else:
            self._undo(entries[0])

    def _compute(self, consumer: ConsumerId, batch: Batch, lane: Lane) -> None:
        groups, form = self._instance.engine.groups, batch.shape.forms.get(lane)
        place = None if form is None else groups.place(consumer, form, len(batch.entries))
        if form is None or place is None:
            self._give_back(batch)
            return
        group = Group(
            batch.shape.model.loaded.interface,
            form,
            [entry.data for entry in batch.entries],
            place,
            lambda group, came: self._came(batch, group, came, lane),
        )
        groups.run(group, consumer, lane, time.monotonic_ns() + DEADLINE_MS * 1_000_000)

    # -- Ending -----------------------------------------------------------------------------------

    def _came(self, batch: Batch, group: Group, came: list[Came], lane: Lane) -> None:
        batch.take(came)
        if not group.over:
            return
        group.place.give_back()
        if lane is Lane.SHORT and not batch.failed:
            batch.shape.took(batch.done, batch.took_us)
        try:
            answers = batch.release(self._run)
        except AIGovToolError:
            self._give_back(batch)
            return
        except Exception as exception:  # noqa: BLE001 - nobody else would hear of it
            unexpected(exception)
            self._give_back(batch)
            return
        for entry, answer in answers:
            entry.answer(answer)
        if batch.failed:
            self._failed(batch, group, lane)
        for entry in batch.failed:
            self._undo(entry)

    def _failed(self, batch: Batch, group: Group, lane: Lane) -> None:
        """Try fewer together if there were too many; none of this form for a while if its runs are long, or fail."""
        shape, count = batch.shape, len(batch.entries)
        if lane is not Lane.SHORT or not (group.late and shape.was_late(count, batch.done, batch.took_us)):
            shape.pause(self._instance.clock.now_ms(), lane)

    def _give_back(self, batch: Batch) -> None:
        """Charge nothing, and have all of them go the way of all others."""
        self._run.charging.void(batch.reservation, failed=False)
        for entry in batch.entries:
            self._undo(entry)

    def _undo(self, entry: Entry) -> None:
        """Have a request go the way of all others."""
        if entry.begun:  # whoever joined it waits for what comes of it
            carry_out(self._run, entry.asked)
        entry.answer(None)


def _some(waiting: deque[Entry]) -> list[Entry]:
    """Take out those that are begun in this turn: who has no units may ask too, and must not keep others waiting."""
    entries: list[Entry] = []
    size_bytes = 0
    while waiting and len(entries) < _IN_A_ROUND and size_bytes < _BYTES_IN_A_ROUND:
        entries.append(waiting.popleft())
        size_bytes += len(entries[-1].request.body)
    return entries
