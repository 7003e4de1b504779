"""The child's side: what `first` runs, with its end of a socket pair as descriptor 0.

In this order, and nothing in another:

1. Ask to die with the parent; read `Setup`; end if the parent is gone already.
2. Rehearse, so that everything that its libraries load lazily is loaded.
3. Point all standard descriptors at /dev/null and enter the sandbox.
4. Make the HPKE key. Only now is there a secret; it never leaves this process.
5. Say `Hello`; serve until the parent closes its end.

`workers` threads take turns at reading: who has read a request hands the turn on and works on it itself, so
that a short one costs no thread switch. Who has read anything else lets a spare thread read in its place until it is
done: a short try never waits for a long one (`lanes`). Answers leave in the order in which they are ready. The queue is
the socket, which the parent bounds.

A refusal is answered with its class, reason and message. Whatever is not one of our errors ends the process,
because a process that holds weights must not go on in a state that nobody has thought of.
"""

import os
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final, NoReturn

from aigovtool.crypto.secret import ModelKey
from aigovtool.crypto.wrap import WrapKey
from aigovtool.enclave.engines import heaps, sandbox, stacks
from aigovtool.enclave.engines.channel import Channel
from aigovtool.enclave.engines.engine import LoadedEngine
from aigovtool.enclave.engines.finite import require_finite
from aigovtool.enclave.engines.ipc import (
    Answered,
    Failed,
    Frame,
    GroupAnswered,
    Hello,
    Load,
    Loaded,
    Run,
    RunGroup,
    Setup,
    TensorHeader,
    Unload,
    Unloaded,
    failure,
    pack_tensors,
    unpack_tensors,
)
from aigovtool.enclave.engines.lanes import is_short, threads
from aigovtool.enclave.engines.limiting import limited
from aigovtool.enclave.engines.models import Models
from aigovtool.enclave.engines.onnx import OnnxEngine
from aigovtool.enclave.engines.rehearsal import rehearse
from aigovtool.enclave.engines.together import divided, joined
from aigovtool.enclave.engines.watchdog import Watchdog
from aigovtool.errors import AIGovToolError, DeadlineError, EngineError, PackageError
from aigovtool.protocol.tensor import Buffer, Tensor

EXIT_PARENT_GONE: Final = 0
EXIT_CONFUSED: Final = 70  # EX_SOFTWARE
#: Answers to runs that came together wait for each other no longer than this.
_TOGETHER_NS: Final = 1_000_000
#: What a run of a group may give; there are up to `MAX_GROUP`, of many consumers.
_MAX_SMALL_BYTES: Final = 64 << 10


class Worker:
    """Serves the parent's requests; `serve` is run by each of its threads."""

    def __init__(self, channel: Channel, models: Models, key: WrapKey, readers: int) -> None:
        self._channel: Final = channel
        self._models: Final = models
        self._key: Final = key
        self._turn: Final = threading.Lock()
        self._readers: Final = threading.Semaphore(readers)
        # The threads that work on a short try, and with it keep their places among the readers.
        self._short: Final[set[int]] = set()

    def serve(self) -> NoReturn:
        """Take turns at reading and answer what was read, until the parent is gone."""
        try:
            thread = threading.get_ident()
            self._readers.acquire()
            while True:
                if not self._serve_one(thread):
                    self._readers.acquire()
        except (EOFError, OSError):
            os._exit(EXIT_PARENT_GONE)
        except BaseException:  # noqa: BLE001 - a process that holds weights ends on whatever nobody thought of
            os._exit(EXIT_CONFUSED)

    def _serve_one(self, thread: int) -> bool:
        """Read and answer one request; return whether this thread has kept its place among the readers.

        Nothing of the request outlives it: a thread that waits for the next one would keep 64 MiB of the last.
        """
        with self._turn:
            frame = self._channel.receive()
            # Descriptors come in the order of the loads, so they are taken in that order too.
            package = self._channel.take_descriptor() if isinstance(frame.message, Load) else None
        if isinstance(frame.message, Run | RunGroup) and is_short(frame.message.compute_ms):
            self._short.add(thread)
            self._answer(frame, package)
            return self._leave_short(thread)
        self._readers.release()
        self._answer(frame, package)
        return False

    def late(self, thread: int) -> None:
        """Let a spare thread read instead of one whose run is over its limit: its operator may go on for long."""
        if self._leave_short(thread):
            self._readers.release()

    def _leave_short(self, thread: int) -> bool:
        try:
            self._short.remove(thread)  # by either of two threads, so it is asked and done in one
        except KeyError:
            return False
        return True

    def _answer(self, frame: Frame, package: int | None) -> None:
        message = frame.message
        if isinstance(message, Run | RunGroup):
            if isinstance(message, Run):
                self._answer_run(message, frame)
            else:
                self._answer_group(message, frame)
            if message.model not in self._models:  # it was unloaded meanwhile
                heaps.trim()
        elif isinstance(message, Unload):
            self._answer_change(message.id, partial(self._unload, message))
        elif isinstance(message, Load) and package is not None:
            self._answer_change(message.id, partial(self._load, message, package))
        else:
            os._exit(EXIT_CONFUSED)

    def _answer_run(self, message: Run, frame: Frame) -> None:
        try:
            if frame.lost:
                self._refuse(message.id, _no_memory("no_memory_for_request"))  # others have it: nothing was run
            else:
                self._run(message, frame.payload)
        except MemoryError:
            self._refuse(message.id, _no_memory("out_of_memory"))
        except AIGovToolError as error:
            self._refuse(message.id, error)

    def _answer_change(self, request: int, change: Callable[[], Loaded | Unloaded]) -> None:
        """Load or unload. The answer comes when what that leaves is given back: a traceback holds what was refused.

        What a run still computes with is given back after that run.
        """
        answer: Loaded | Unloaded | Failed
        try:
            answer = change()
        except MemoryError:
            answer = failure(request, _no_memory("out_of_memory"))
        except AIGovToolError as error:
            answer = failure(request, error)
        heaps.trim()
        self._channel.send(answer)

    def _load(self, message: Load, package: int) -> Loaded:
        with (
            os.fdopen(package, "rb", buffering=0) as stream,
            self._key.unwrap(message.wrapped_key, message.info) as secret,
        ):
            if len(secret) != ModelKey.SIZE_BYTES:
                raise PackageError("what was unwrapped is not a model key", reason="wrong_key")
            interface = self._models.load(message, stream, ModelKey(secret))
        return Loaded(message.id, interface.inputs, interface.outputs)

    def _unload(self, message: Unload) -> Unloaded:
        self._models.forget(message.model)
        return Unloaded(message.id)

    def _answer_group(self, group: RunGroup, frame: Frame) -> None:
        """Answer each run of a group, those together that are done about together."""
        answers = _Answers(self._channel, group.id)
        try:
            if frame.lost:
                raise _no_memory("no_memory_for_request")
            self._run_group(group, frame.payload, answers)
        except MemoryError:
            answers.refuse_rest(group.id + group.count, _no_memory("out_of_memory"))
        except AIGovToolError as error:
            answers.refuse_rest(group.id + group.count, error)

    def _run_group(self, group: RunGroup, payload: memoryview, answers: "_Answers") -> None:
        model, begun_ns = self._begun(group)
        limit_ns = begun_ns + group.compute_ms * 1_000_000
        ends_ns = min(limit_ns, group.deadline_ns)
        size = sum(header.size_bytes for header in group.inputs)
        with model.until(group.outputs, ends_ns) as run:
            if group.together and group.count > 1:
                if self._answered_together(group, payload, run, ends_ns):
                    return
                answers.begin()  # what was tried for all is no time of the first one's
            for number in range(group.count):
                try:
                    results = self._ran_one(group, payload[number * size : (number + 1) * size], run, ends_ns)
                except MemoryError:
                    answers.refuse(_no_memory("out_of_memory"))
                except AIGovToolError as error:
                    answers.refuse(_told(error, group, limit_ns))
                else:
                    answers.add(results)
            answers.send()

    def _answered_together(
        self, group: RunGroup, payload: memoryview, run: Callable[[list[Tensor]], list[Tensor]], ends_ns: int
    ) -> bool:
        """Answer all runs of a group by one; return whether that could be."""
        began_ns = time.monotonic_ns()
        if group.limits:
            return False
        try:
            inputs = joined(group.inputs, payload, group.count)
            if inputs is None:
                return False
            if group.finite:
                require_finite(inputs, ends_ns)
            results = run(inputs)
            _require_small(results, group.count)
            outputs = divided(results, group.count, group.inputs[0].shape[0])
        except (AIGovToolError, MemoryError):
            return False
        if outputs is None:
            return False
        headers, _ = pack_tensors(outputs[0])
        each_us = (time.monotonic_ns() - began_ns) // 1_000 // group.count
        self._channel.send(GroupAnswered(group.id, headers, (each_us,) * group.count), [outputs[1]])
        return True

    @staticmethod
    def _ran_one(
        group: RunGroup, payload: memoryview, run: Callable[[list[Tensor]], list[Tensor]], ends_ns: int
    ) -> list[Tensor]:
        inputs = unpack_tensors(group.inputs, payload)
        if group.finite:
            require_finite(inputs, ends_ns)
        results = run(inputs)
        _require_small(results, 1)
        return limited(results, group.limits, ends_ns) if group.limits else results

    def _begun(self, message: Run | RunGroup) -> tuple[LoadedEngine, int]:
        """Return the model of a run, and the time, if its deadline has not passed."""
        model = self._models.find(message.model)
        begun_ns = time.monotonic_ns()
        if begun_ns >= message.deadline_ns:
            raise DeadlineError("the deadline passed while the request waited for the engine")
        return model, begun_ns

    def _run(self, message: Run, payload: memoryview) -> None:
        model, begun_ns = self._begun(message)
        limit_ns = begun_ns + message.compute_ms * 1_000_000 if message.compute_ms else message.deadline_ns
        inputs, ends_ns = unpack_tensors(message.inputs, payload), min(limit_ns, message.deadline_ns)
        try:
            if message.finite:
                require_finite(inputs, ends_ns)
            results = model.run(inputs, message.outputs, ends_ns)
            if message.limits:
                results = limited(results, message.limits, ends_ns)
        except DeadlineError as error:
            raise _told(error, message, limit_ns) from None
        headers, data = pack_tensors(results)
        self._channel.send(Answered(message.id, headers, (time.monotonic_ns() - begun_ns) // 1_000), data)

    def _refuse(self, request: int, error: AIGovToolError) -> None:
        self._channel.send(failure(request, error))


def _told(error: AIGovToolError, message: Run | RunGroup, limit_ns: int) -> AIGovToolError:
    """Return what is said of a run that failed: where its own limit came before its deadline, that it was the limit."""
    if not isinstance(error, DeadlineError) or limit_ns >= message.deadline_ns:
        return error
    return DeadlineError(f"the run took longer than the {message.compute_ms} ms that one may", reason="compute_limit")


def _require_small(results: list[Tensor], count: int) -> None:
    """Refuse outputs that are too large to be held for all of a group at once: each run is then tried on its own."""
    if sum(len(tensor.data) for tensor in results) > count * _MAX_SMALL_BYTES:
        raise EngineError("this is not a small answer", reason="not_small")


class _Answers:
    """What came of the runs of a group, in their order: those that are alike are sent together."""

    def __init__(self, channel: Channel, first: int) -> None:
        self._channel: Final = channel
        self._next = first
        self._headers: tuple[TensorHeader, ...] = ()
        self._data: list[Buffer] = []
        self._times: list[int] = []
        self._began_ns = self._sent_ns = time.monotonic_ns()

    def begin(self) -> None:
        """Count the time of the next one from now on."""
        self._began_ns = self._sent_ns = time.monotonic_ns()

    def add(self, results: list[Tensor]) -> None:
        headers, data = pack_tensors(results)
        if self._times and headers != self._headers:
            self.send()
        now_ns = time.monotonic_ns()
        self._headers = headers
        self._data += data
        self._times.append((now_ns - self._began_ns) // 1_000)
        self._began_ns = now_ns
        if now_ns - self._sent_ns > _TOGETHER_NS:
            self.send()

    def refuse(self, error: AIGovToolError) -> None:
        self.send()
        self._channel.send(failure(self._next, error))
        self._next += 1
        self._began_ns = time.monotonic_ns()

    def refuse_rest(self, end: int, error: AIGovToolError) -> None:
        """Refuse all of which nothing was sent, up to the id `end`."""
        for request in range(self._next, end):
            self._channel.send(failure(request, error))

    def send(self) -> None:
        if self._times:
            self._channel.send(GroupAnswered(self._next, self._headers, tuple(self._times)), self._data)
            self._next += len(self._times)
            self._data, self._times, self._sent_ns = [], [], time.monotonic_ns()


def _no_memory(reason: str) -> EngineError:
    return EngineError("the engine has no memory for this", reason=reason)


def main() -> NoReturn:
    """Run the child."""
    sandbox.die_with_parent()
    channel = Channel(_take_socket())
    setup = channel.receive().message
    if not isinstance(setup, Setup) or os.getppid() != setup.parent_pid:
        os._exit(EXIT_PARENT_GONE)
    heaps.share(setup.workers)
    stacks.bound()
    watchdog = Watchdog()
    engine = OnnxEngine(setup.intra_op_threads, watchdog)
    rehearse(engine)
    layers = _close_the_door(channel, setup)
    if os.getppid() != setup.parent_pid:  # it may have gone while the kernel was not to tell
        os._exit(EXIT_PARENT_GONE)
    key = WrapKey.generate()
    worker = Worker(channel, Models(engine, layers), key, setup.workers)
    watchdog.start(worker.late)
    channel.send(Hello(key.public, layers))
    for index in range(1, threads(setup.workers)):
        threading.Thread(target=worker.serve, name=f"worker-{index}", daemon=True).start()
    worker.serve()


def _take_socket() -> socket.socket:
    """Move the socket away from descriptor 0, where a library might read it as standard input."""
    sock = socket.socket(fileno=os.dup(0))
    _to_null(0)
    return sock


def _close_the_door(channel: Channel, setup: Setup) -> tuple[sandbox.Layer, ...]:
    # Until here standard error is a pipe to the parent, so that a failed start can say why.
    _to_null(1)
    saved = os.dup(2)
    _to_null(2)
    try:
        layers = sandbox.enter(channel.fileno(), memory_bytes=setup.memory_bytes, own_files=setup.own_files)
    except AIGovToolError as error:
        os.write(saved, error.message.encode())
        os._exit(EXIT_CONFUSED)
    os.close(saved)
    return layers


def _to_null(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, descriptor)
    os.close(null)
