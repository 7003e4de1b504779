"""The child's side of a group: in which frames its answers leave, and what is said where there is no memory."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import pytest

from aigovtool.crypto.wrap import WrapKey
from aigovtool.enclave.engines import worker
from aigovtool.enclave.engines.ipc import Failed, Frame, GroupAnswered, Message, RunGroup, TensorHeader
from aigovtool.enclave.engines.models import Models
from aigovtool.enclave.engines.worker import Worker
from aigovtool.errors import InvalidValueError
from aigovtool.protocol.tensor import Buffer, Datatype, Tensor

HEADER = TensorHeader("x", Datatype.UINT8, (1,), 1)
FIRST: Final = 40
NO_MEMORY, REFUSED = 100, 101


class Channel:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[Message, bytes]] = []

    def send(self, message: Message, data: Sequence[Buffer] = ()) -> None:
        """Keep it."""
        self.sent.append((message, b"".join(bytes(part) for part in data)))


class Model:
    """Gives as many bytes as it is told to, for all rows those of the first; 100 and 101 are more than it can."""

    def __init__(self) -> None:
        self.ends_ns: list[int] = []
        self.runs = 0

    @contextmanager
    def until(self, outputs: tuple[str, ...], deadline_ns: int) -> Iterator[Callable[[list[Tensor]], list[Tensor]]]:
        """See `LoadedEngine`."""
        assert outputs == ()
        self.ends_ns.append(deadline_ns)
        yield self._run

    def _run(self, inputs: list[Tensor]) -> list[Tensor]:
        self.runs += 1
        rows, size = len(inputs[0].data), inputs[0].data[0]
        if size == NO_MEMORY:
            raise MemoryError
        if size == REFUSED:
            raise InvalidValueError("no", reason="model_refused_input")
        return [Tensor("y", Datatype.UINT8, (rows, size), bytes([size] * size * rows))]


@pytest.fixture
def channel() -> Channel:
    return Channel()


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def serving(channel: Channel, model: Model) -> Worker:
    """A worker with a model that has the number 3."""
    made: Any = Worker(channel, Models(None, ()), WrapKey.generate(), 1)  # type: ignore[arg-type]
    made._models._loaded[3] = model
    worker_: Worker = made
    return worker_


def answer(
    serving: Worker,
    *sizes: int,
    lost: bool = False,
    together: bool = False,
    compute_ms: int = 60_000,
    late_ms: int = 60_000,
) -> None:
    """Have a group of runs answered."""
    deadline_ns = time.monotonic_ns() + late_ms * 1_000_000
    group = RunGroup(FIRST, 3, deadline_ns, len(sizes), (HEADER,), (), compute_ms, together=together)
    serving._answer(Frame(group, memoryview(b"" if lost else bytes(sizes)), lost), None)


def said(channel: Channel) -> list[tuple[int, list[int] | str | None]]:
    """Return of each frame the id, and the data of its runs by their length, or why there is none."""
    found: list[tuple[int, list[int] | str | None]] = []
    for message, data in channel.sent:
        if isinstance(message, Failed):
            found.append((message.id, message.reason))
        else:
            assert isinstance(message, GroupAnswered)
            (header,) = message.outputs
            count = len(message.compute_us)
            assert data == bytes([header.size_bytes]) * header.size_bytes * count
            found.append((message.id, [header.size_bytes] * count))
    return found


def test_answers_that_are_done_together_leave_together(
    serving: Worker, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of one form in one frame, in order; a refusal in its place between them."""
    monkeypatch.setattr(worker, "_TOGETHER_NS", 60_000_000_000)
    answer(serving, 2, 2, 2)
    assert said(channel) == [(FIRST, [2, 2, 2])]
    channel.sent.clear()
    answer(serving, 2, 2, 3, 1, REFUSED, REFUSED, 1, 1)
    assert said(channel) == [
        (FIRST, [2, 2]),
        (FIRST + 2, [3]),
        (FIRST + 3, [1]),
        (FIRST + 4, "model_refused_input"),
        (FIRST + 5, "model_refused_input"),
        (FIRST + 6, [1, 1]),
    ]


def test_an_answer_does_not_wait_for_those_that_take_long(
    serving: Worker, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is done leaves when others would keep it for longer than a moment."""
    monkeypatch.setattr(worker, "_TOGETHER_NS", -1)
    answer(serving, 2, 2, REFUSED, 2)
    assert said(channel) == [(FIRST, [2]), (FIRST + 1, [2]), (FIRST + 2, "model_refused_input"), (FIRST + 3, [2])]


def test_no_memory_for_one_run_is_no_end_of_the_others(serving: Worker, channel: Channel) -> None:
    """Whoever asks for much is told so, and the process goes on."""
    answer(serving, NO_MEMORY, 1, NO_MEMORY)
    assert [one for one in said(channel) if one[1] != [1]] == [(FIRST, "out_of_memory"), (FIRST + 2, "out_of_memory")]
    assert (FIRST + 1, [1]) in said(channel)


def test_no_memory_for_the_inputs_is_said_of_each_run(serving: Worker, channel: Channel, model: Model) -> None:
    """They were thrown away where they came in; nothing is run on what is not there."""
    answer(serving, 1, 1, 1, lost=True)
    assert said(channel) == [(FIRST + number, "no_memory_for_request") for number in range(3)]
    assert model.ends_ns == []


@pytest.mark.parametrize(("compute_ms", "late_ms"), [(50, 60_000), (60_000, 50)])
def test_all_runs_of_a_group_end_with_whichever_comes_first(
    serving: Worker, model: Model, compute_ms: int, late_ms: int
) -> None:
    """The time that they may compute together, or their deadline."""
    began_ns = time.monotonic_ns()
    answer(serving, 1, 1, compute_ms=compute_ms, late_ms=late_ms)
    (ends_ns,) = model.ends_ns
    assert began_ns + 50_000_000 <= ends_ns <= time.monotonic_ns() + 50_000_000


def test_what_is_not_small_is_refused_alone(serving: Worker, channel: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack: a group of small requests with answers that would fill the memory while they wait for each other."""
    monkeypatch.setattr(worker, "_MAX_SMALL_BYTES", 3)
    monkeypatch.setattr(worker, "_TOGETHER_NS", 60_000_000_000)
    answer(serving, 3, 4, 3, 3)
    assert said(channel) == [(FIRST, [3]), (FIRST + 1, "not_small"), (FIRST + 2, [3, 3])]


def test_a_group_that_is_not_small_together_is_run_one_by_one(
    serving: Worker, channel: Channel, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is one for each run, whichever way they are computed."""
    monkeypatch.setattr(worker, "_MAX_SMALL_BYTES", 6)
    monkeypatch.setattr(worker, "_TOGETHER_NS", 60_000_000_000)
    for size, runs, found in ((6, 1, [(FIRST, [6, 6])]), (7, 3, [(FIRST, "not_small"), (FIRST + 1, [1])])):
        channel.sent.clear()
        model.runs = 0
        answer(serving, size, 1, together=True)
        assert model.runs == runs
        assert said(channel) == found


@pytest.mark.parametrize("where", ["joined", "pack_tensors"])
def test_no_memory_beside_the_run_is_no_end_of_the_process(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused as out of memory for a single run is so for a group, wherever the memory is missing."""
    channel, model = Channel(), Model()
    serving: Any = Worker(channel, Models(None, ()), WrapKey.generate(), 1)  # type: ignore[arg-type]
    serving._models._loaded[3] = model

    def no_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(worker, where, no_memory)
    answer(serving, 1, 1, together=where == "joined")  # a MemoryError that leaves here ends the child
    assert next(id_ for id_, _ in said(channel)) == FIRST
