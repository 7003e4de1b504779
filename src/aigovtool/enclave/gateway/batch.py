"""Requests of one consumer and one form that are computed, signed and charged together.

One reservation covers them, and one signature their receipts; each has a receipt of its own, which can be checked
alone. Its answer is what it would have been if it had come alone; where the model's terms let the engine compute
several in one run (`together`), it is that but for some units in the last place.
"""

from base64 import b64encode
from typing import Final, NamedTuple

from aigovtool.enclave.engines.group import Came
from aigovtool.enclave.engines.ipc import TensorHeader
from aigovtool.enclave.gateway.answer import require_allowed, units_text, used
from aigovtool.enclave.gateway.asked import Asked
from aigovtool.enclave.gateway.padding import head_padding
from aigovtool.enclave.gateway.shape import Shape
from aigovtool.enclave.instance_run import InstanceRun
from aigovtool.enclave.results import Answered
from aigovtool.ids import Digest
from aigovtool.ledger.receipt import Receipt, WrittenReceipt, salted_digest, signed_texts
from aigovtool.ledger.units import UnitVector, total
from aigovtool.protocol.reservation import Posted, Reservation
from aigovtool.protocol.session import RECEIPT_HEADER, REQUEST_ID_HEADER, UNITS_HEADER, WARNING_HEADER
from aigovtool.protocol.tensor import Buffer
from aigovtool.transport.fast_path import Answer, FastRequest, Written, ok
from aigovtool.transport.problem import unexpected


class Entry:
    """One request, and what is known of it so far."""

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
    """What the engine gave for a request: its outputs as `headers` say, and the time in microseconds."""

    entry: Entry
    headers: tuple[TensorHeader, ...]
    payload: memoryview
    compute_us: int


class Batch:
    """Requests under way: what was reserved for them, and what has come of them."""

    __slots__ = ("_ran", "entries", "failed", "reservation", "shape")

    def __init__(self, shape: Shape, entries: list[Entry], reservation: Reservation) -> None:
        self.shape: Final = shape
        self.entries: Final = entries
        self.reservation: Final = reservation
        self._ran: Final[list[_Ran]] = []
        #: Those of which nothing came.
        self.failed: Final[list[Entry]] = []

    def take(self, came: list[Came]) -> None:
        """Take what the engine gave."""
        for one in came:
            entries = self.entries[one.first : one.first + one.runs]
            if one.payloads:
                for entry, payload, took_us in zip(entries, one.payloads, one.compute_us, strict=True):
                    self._ran.append(_Ran(entry, one.headers, payload, took_us))
            else:
                self.failed.extend(entries)

    @property
    def done(self) -> int:
        """How many were computed so far."""
        return len(self._ran)

    @property
    def took_us(self) -> int:
        """How long that took the engine."""
        return sum(one.compute_us for one in self._ran)

    def release(self, run: InstanceRun) -> list[tuple[Entry, Written]]:
        """Sign, gate and charge all that was computed; return the answers, as they are sent.

        No wait lies between charge and answer.

        Raises:
            AIGovToolError: nothing may leave, and nothing was charged.
        """
        if not self._ran:
            run.charging.void(self.reservation, failed=False)
            return []
        shape = self.shape
        made = [shape.answer(one.headers, one.payload) for one in self._ran]
        units = [_units(shape.worst, one.compute_us) for one in self._ran]
        posted = run.charging.preview(self.reservation, total(units))
        written = self._receipts(run, units, posted, [content for content, _ in made])
        texts = signed_texts(written, run.instance.instance, run.instance.identity)
        require_allowed(run, shape.model.offer.model, shape.policy.answers)
        answers = self._answers(made, texts, posted)
        run.charging.gate_and_post_several(self.reservation, written)
        return self._kept(run, answers)

    def _receipts(
        self, run: InstanceRun, units: list[UnitVector], posted: Posted, contents: list[bytes]
    ) -> list[WrittenReceipt]:
        instance, offer = run.instance, self.shape.model.offer
        now_ms, tee, number = instance.custodian_time_ms(), instance.admission.tee.value, posted.sequence
        written = []
        for one, charged, content in zip(self._ran, units, contents, strict=True):
            asked = one.entry.asked
            receipt = Receipt(
                request_key=asked.key,
                request=one.entry.digest,
                response=salted_digest(asked.salt, "response", [content]),
                model=offer.model,
                manifest=offer.manifest,
                consumer=asked.consumer,
                units=charged,
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

    def _answers(self, made: list[tuple[bytes, str]], texts: list[bytes], posted: Posted) -> list[Answered]:
        policy, terms = self.shape.model.offer.policy, self.shape.policy.answers
        same = f"{UNITS_HEADER}: {units_text(policy, posted.remaining)}\r\n{RECEIPT_HEADER}: "
        answers = []
        for one, (content, own), text in zip(self._ran, made, texts, strict=True):
            lines = f"{own}{REQUEST_ID_HEADER}: {one.entry.asked.key}\r\n{same}{b64encode(text).decode()}\r\n"
            if terms is not None and terms.pad_bytes:
                lines += head_padding(len(lines))
            answers.append(Answered(content, lines, terms))
        return answers

    def _kept(self, run: InstanceRun, answers: list[Answered]) -> list[tuple[Entry, Written]]:
        """Keep the answers to ids that the consumer chose; return all as they are sent."""
        done_ms, results, warning = run.instance.clock.now_ms(), run.results, run.instance.warning
        more = "" if warning is None else f"{WARNING_HEADER}: {warning}\r\n"
        terms = self.shape.policy.answers
        padded = terms is not None and terms.pad_bytes > 0
        sent = []
        for one, answered in zip(self._ran, answers, strict=True):
            if one.entry.begun:
                asked = one.entry.asked
                try:
                    results.finish(asked.consumer, asked.key, answered, done_ms)
                except Exception as exception:  # noqa: BLE001 - it is charged: to run it again would charge it again
                    unexpected(exception)
            sent.append((one.entry, ok(answered.lines + more, answered.body, as_others=padded)))
        return sent


def _units(worst: UnitVector, compute_us: int) -> UnitVector:
    return used(worst, compute_us) if worst.compute_ms else worst
