"""Groups of runs as the gateway begins them, what came of them, and an engine child that says what a test wants."""

import asyncio
import socket
import subprocess
import time
from collections.abc import Sequence
from typing import Final

from aigovtool.enclave.engines.group import Came, Form, Group
from aigovtool.enclave.engines.interface import ModelInterface
from aigovtool.enclave.engines.ipc import (
    Assembler,
    Frame,
    Hello,
    Limit,
    Message,
    RunGroup,
    Setup,
    encode_frame,
    pack_tensors,
    unpack_tensors,
)
from aigovtool.enclave.engines.pending import Shares
from aigovtool.enclave.engines.process import EngineConfig, EngineProcess, LoadedModel
from aigovtool.enclave.engines.sandbox import Layer
from aigovtool.ids import ConsumerId, Digest
from aigovtool.protocol.tensor import Buffer, Tensor

ANN, BEN = ConsumerId("ann"), ConsumerId("ben")
MINUTE_MS: Final = 60_000
#: For runs that take no time: the tests' machine may be busy with something else for much longer than they take.
PLENTY_MS: Final = 1_500


class Ran:
    """A group, and what it was told: of each run its outputs and its time, or None."""

    def __init__(self, count: int) -> None:
        self.told = 0
        self.pieces: list[Came] = []
        self.wrong: list[Came] = []
        self.outputs: list[list[Tensor] | None] = [None] * count
        self.times: list[int | None] = [None] * count
        self.is_over = asyncio.Event()

    def took(self, group: Group, came: list[Came]) -> None:
        """Note what came, and give the place back at the end, as the gateway does."""
        self.told += 1
        self.pieces += came
        for one in came:
            if not len(one.payloads) == len(one.compute_us) == (one.runs if one.headers else 0):
                self.wrong.append(one)
            for number, (payload, took_us) in enumerate(zip(one.payloads, one.compute_us, strict=False), one.first):
                self.outputs[number] = unpack_tensors(one.headers, payload)
                self.times[number] = took_us
        if group.over and not self.is_over.is_set():
            group.place.give_back()
            self.is_over.set()

    @property
    def answered(self) -> list[bool]:
        """Of which runs outputs came."""
        return [outputs is not None for outputs in self.outputs]

    @property
    def data(self) -> list[list[bytes]]:
        """The bytes of all outputs; all runs have some."""
        return [[bytes(tensor.data) for tensor in outputs or []] for outputs in self.outputs]


def form_of(
    model: LoadedModel,
    inputs: Sequence[Tensor],
    *,
    outputs: tuple[str, ...] = (),
    compute_ms: int = PLENTY_MS,
    limits: tuple[Limit, ...] = (),
    finite: bool = False,
    together: bool = False,
) -> Form:
    """Return the form of runs on inputs like these."""
    headers, _ = pack_tensors(inputs)
    return Form(model.handle, headers, outputs, compute_ms, limits, finite, together)


def begin(
    process: EngineProcess,
    model: LoadedModel,
    form: Form,
    runs: Sequence[Sequence[Tensor]],
    *,
    consumer: ConsumerId = ANN,
    deadline_ms: float = MINUTE_MS,
) -> Ran | None:
    """Have a group run as soon as it has its turn; None where it has no place."""
    place = process.groups.place(consumer, form, len(runs))
    if place is None:
        return None
    ran = Ran(len(runs))
    data = [b"".join(pack_tensors(inputs)[1]) for inputs in runs]
    group = Group(model.interface, form, data, place, ran.took)
    deadline_ns = time.monotonic_ns() + int(deadline_ms * 1_000_000)
    process.groups.run(group, consumer, process.groups.lane(consumer, model.handle), deadline_ns)
    return ran


async def over(ran: Ran | None) -> Ran:
    """Wait until nothing more is waited for."""
    assert ran is not None, "it has no place"
    async with asyncio.timeout(60):
        await ran.is_over.wait()
    assert not ran.wrong
    return ran


async def run(
    process: EngineProcess,
    model: LoadedModel,
    runs: Sequence[Sequence[Tensor]],
    *,
    outputs: tuple[str, ...] = (),
    compute_ms: int = PLENTY_MS,
    limits: tuple[Limit, ...] = (),
    finite: bool = False,
    together: bool = False,
    deadline_ms: float = MINUTE_MS,
) -> Ran:
    """Return what came of a group, after looking for what it left behind."""
    form = form_of(
        model, runs[0], outputs=outputs, compute_ms=compute_ms, limits=limits, finite=finite, together=together
    )
    ran = await over(begin(process, model, form, runs, deadline_ms=deadline_ms))
    await nothing_is_left(process)
    return ran


async def one_by_one(process: EngineProcess, model: LoadedModel, runs: Sequence[Sequence[Tensor]]) -> list[list[bytes]]:
    """Return the bytes of the outputs of single runs."""
    answers = [await process.run(model, inputs, [], MINUTE_MS, consumer=BEN) for inputs in runs]
    return [[bytes(tensor.data) for tensor in answer.outputs] for answer in answers]


def taken(process: EngineProcess) -> tuple[int, int]:
    """Return how many places, and bytes, are taken of the engine."""
    return process._pending._places._total, process._pending._bytes._total


async def nothing_is_left(process: EngineProcess) -> None:
    """Wait until the child has answered all, and see that all places and turns are there again."""
    async with asyncio.timeout(30):
        while len(process._pending):  # noqa: ASYNC110 - nobody tells of answers that nobody waits for
            await asyncio.sleep(0.005)
    assert taken(process) == (0, 0)
    for queue in process._pending.scheduler._queues:
        assert (queue.at_work, queue.waiting, queue._accounts, queue._busy) == (0, False, {}, set())


class FakeChild:
    """The child's end of the channel in the hands of a test, and a process that can be killed."""

    def __init__(self, sock: socket.socket, process: EngineProcess) -> None:
        self._socket: Final = sock
        self._assembler: Final = Assembler()
        self._frames: list[Frame] = []
        self.process: Final = process

    @classmethod
    async def start(cls, shares: Shares | None = None) -> "FakeChild":
        """Start it, as far as its hello."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        popen = subprocess.Popen(["sleep", "600"])  # noqa: ASYNC220 - as the product does
        child = cls(theirs, EngineProcess(popen, ours, EngineConfig(shares=shares or Shares())))
        beginning = asyncio.ensure_future(child.process._begin())
        assert isinstance((await child.heard()).message, Setup)
        await child.say(Hello(b"\x09" + bytes(31), tuple(Layer)))
        await beginning
        return child

    async def heard(self) -> Frame:
        """Return the next frame of the parent's."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(30):
            while not self._frames:
                count = await loop.sock_recv_into(self._socket, self._assembler.buffer())
                assert count, "the parent has closed its end"
                self._frames = self._assembler.received(count)
        return self._frames.pop(0)

    async def asked(self) -> RunGroup:
        """Return the next message, which is a group."""
        message = (await self.heard()).message
        assert isinstance(message, RunGroup)
        return message

    async def say(self, message: Message, *data: Buffer) -> None:
        """Send a frame."""
        await asyncio.get_running_loop().sock_sendall(self._socket, b"".join(encode_frame(message, data)))

    async def end(self) -> None:
        """End it."""
        await self.process.kill_and_wait()
        self._socket.close()


def served(interface: ModelInterface, handle: int = 7) -> LoadedModel:
    """Return a model that a fake child is held to have loaded."""
    return LoadedModel(handle, Digest("sha256:" + "0" * 64), interface)
