"""The parent's side of the engine child: start it, talk to it, and end it for certain.

Rules:

1. The child is a fresh interpreter with an empty environment and one descriptor of ours, its end of a socket
   pair. It dies when the thread that started it ends, and when the socket closes.
2. It is not used before it has said which sandbox it is in, and all required layers are among them.
3. It is not trusted: a frame, answer or id that it should not send ends it. Answers, and inputs once more, are checked
   against the model's interface.
4. Whatever happens to it, every pending call ends, with `EngineError` and reason `engine_died`.
5. `kill_and_wait` returns when the kernel says that the process is gone, and with it all of its memory.
6. Each run has a deadline in the child, and may have a shorter time of its own. If the child does not keep it, the
   caller is answered `OVERDUE_MS` later all the same; a child that is stuck `STUCK_MS` after the deadline is killed.
7. A consumer has at most a share of the child, until it has answered (`pending`), and its turns among others
   (`scheduling`). A run that is not done in the time of one try is begun anew, until it is or its own time is over.
8. A large answer is looked at in a thread, in the consumer's turn.

What it does not do: it never sees a model key or plaintext weights, does not meter, and does not start another
child: after a death the keys are new, so the enclave must attest again.
"""

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple, TypeVar

import msgspec

from aigovtool.enclave.engines.groups import OVERDUE_MS, STUCK_MS, Groups
from aigovtool.enclave.engines.interface import ModelInterface, check_answer, check_inputs, check_outputs
from aigovtool.enclave.engines.ipc import (
    Answered,
    Failed,
    Frame,
    Hello,
    Limit,
    Load,
    Loaded,
    Run,
    Setup,
    ToParent,
    Unload,
    Unloaded,
    check_time,
    error_of,
    pack_tensors,
    unpack_tensors,
)
from aigovtool.enclave.engines.lanes import patience_ms
from aigovtool.enclave.engines.link import Link
from aigovtool.enclave.engines.pending import Errand, Pending, Shares
from aigovtool.enclave.engines.sandbox import ALWAYS_REQUIRED, Layer
from aigovtool.enclave.engines.spawn import check_descriptor, last_words, spawn
from aigovtool.enclave.engines.tries import tried
from aigovtool.enclave.turns import Turns
from aigovtool.errors import (
    ConfigurationError,
    DeadlineError,
    EngineError,
    InvalidValueError,
    MalformedError,
)
from aigovtool.ids import ConsumerId, Digest
from aigovtool.limits import MAX_INFER_DEADLINE_MS
from aigovtool.protocol.tensor import Buffer, Tensor

# Decrypting runs at over 1 GB/s and session building at over 100 MB/s; 256 GiB do not fit a machine anyway.
LOAD_TIMEOUT_MS: Final = 600_000

T = TypeVar("T", bound=ToParent)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How the child is set up.

    `workers`: requests computed at once, and a few more when some are long (`lanes`). `intra_op_threads`: threads that
    compute one of them. `memory_bytes`: bound of the child's address space, None for none. `require_landlock`: False
    only for kernels without landlock; the system call filter still forbids to open files. `own_files`: False to load
    models from buffers in any case. `shares`: what consumers may have pending. `start_timeout_s`: from start to hello.
    """

    workers: int = 2
    intra_op_threads: int = 1
    memory_bytes: int | None = None
    require_landlock: bool = True
    own_files: bool = True
    shares: Shares = field(default_factory=Shares)
    start_timeout_s: float = 60.0


class Ran(NamedTuple):
    """What a run gave, and how long the engine worked on it (microseconds, by a clock that the host may slow)."""

    outputs: list[Tensor]
    compute_us: int


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in the child. It dies with the child; `handle` means nothing to another one."""

    handle: int
    manifest_digest: Digest
    interface: ModelInterface


class EngineProcess:
    """One engine child. Made by `start`; belongs to the event loop on which it was started."""

    def __init__(self, popen: subprocess.Popen[bytes], sock: socket.socket, config: EngineConfig) -> None:
        """Watch over a child that was just started; use `start` instead."""
        self._loop: Final = asyncio.get_running_loop()
        self._popen: Final = popen
        self._config: Final = config
        self._pidfd: Final = os.pidfd_open(popen.pid)
        self._pending: Final = Pending(config.shares, config.workers)
        self._loading: Final = asyncio.Lock()
        self._end: str | None = None
        self._hello: Final[asyncio.Future[Hello]] = self._loop.create_future()
        self._link: Final = Link(sock, self._received, self._lost)
        #: Short runs that go to the child together.
        self.groups: Final = Groups(self._pending, self._link, self._condemn)
        self._loop.add_reader(self._pidfd, self._gone)
        #: For work on what goes to the child and comes from it that is too much for the event loop.
        self.turns: Final = Turns()
        #: What has come from it and is still in memory.
        self.unread: Final = self._pending.unread
        #: Set when the process is gone for certain.
        self.died: Final = asyncio.Event()
        #: How it ended, negative for a signal, as `subprocess` says it; and with runs of which models (their handles).
        self.exit_status: int | None = None
        self.running_at_end: frozenset[int] = frozenset()
        self.pid: Final = popen.pid
        self.hpke_public_key: bytes = b""
        self.sandbox: frozenset[Layer] = frozenset()

    @classmethod
    async def start(cls, config: EngineConfig | None = None) -> "EngineProcess":
        """Start a child and wait until it is in its sandbox and has made its key.

        Call it on the event loop's own thread: the child dies when the thread that started it ends.

        Raises:
            ConfigurationError: `engine_start`, `sandbox_incomplete`.
        """
        config = config or EngineConfig()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            ours.setblocking(False)
            popen = spawn(theirs)
        process = cls(popen, ours, config)
        try:
            await process._begin()
        except BaseException:
            await process.kill_and_wait()
            raise
        finally:
            if popen.stderr is not None:
                popen.stderr.close()
        return process

    async def load(
        self,
        package_fd: int,
        *,
        wrapped_key: bytes,
        info: bytes,
        manifest_digest: Digest,
        sealer: bytes,
        timeout_ms: int = LOAD_TIMEOUT_MS,
    ) -> LoadedModel:
        """Have the child unwrap the key, decrypt the package and load the model.

        Args:
            package_fd: a regular file, open for reading only; may be closed as soon as this returns or raises.
            wrapped_key: the model key, HPKE-wrapped to `hpke_public_key` in the context `info`.
            info: that context.
            manifest_digest: of the only package that is accepted.
            sealer: Ed25519 public key (32 bytes) that must have signed it.
            timeout_ms: after this the child is killed; counted from when no other load is under way.

        Raises:
            SignatureInvalidError: the key does not unwrap, or the manifest is not the sealer's.
            PackageError, ModelError: the package is not intact or not this one; the engine refuses the model.
            EngineError: `engine_died`, `out_of_memory`.
            ConfigurationError: `package_descriptor`.
        """
        check_descriptor(package_fd)
        order = Load(0, wrapped_key, info, manifest_digest, sealer)
        async with self._loading:  # each has descriptors open in the child, which may have few
            future = self._send(lambda id_: msgspec.structs.replace(order, id=id_), descriptor=package_fd)
            timer = self._loop.call_later(timeout_ms / 1000, self._condemn, "it did not load a model in time")
            try:
                loaded = self._expect(await future, Loaded)
            finally:
                timer.cancel()
        return LoadedModel(loaded.id, manifest_digest, ModelInterface(loaded.inputs, loaded.outputs))

    async def run(
        self,
        model: LoadedModel,
        inputs: Sequence[Tensor],
        outputs: Sequence[str],
        deadline_ms: int,
        compute_ms: int = 0,
        *,
        consumer: ConsumerId,
        limits: tuple[Limit, ...] = (),
        finite: bool = False,
    ) -> Ran:
        """Return the named outputs of `model` (all, in its order, when none is named).

        Args:
            model: what `load` returned.
            inputs: tensors; their data must not change before this returns.
            outputs: names of outputs, each once.
            deadline_ms: 1 to `MAX_INFER_DEADLINE_MS` from now, waiting in the child's queue included.
            compute_ms: the longest that the engine may work on it; 0 for no other limit than the deadline.
            consumer: whose share of the engine it takes.
            limits: what may leave of outputs of which not everything does.
            finite: whether inputs that hold NaN or an infinity are refused.

        Raises:
            InputError: what does not fit the model or a frame; `model_refused_input`; `not_finite`; `not_loaded`.
            DeadlineError: the deadline came first; `compute_limit`; `engine_overdue` if the child did not even notice.
            OverloadedError: `engine_queue_full`, `answers_not_taken`: of this consumer, or in all; `too_much_at_once`.
            EngineError: the engine failed; `engine_died`; `bad_answer`, after which it is killed.
        """
        if not 1 <= deadline_ms <= MAX_INFER_DEADLINE_MS:
            raise InvalidValueError(f"a deadline is 1 to {MAX_INFER_DEADLINE_MS} ms", reason="bad_deadline")
        check_inputs(model.interface, inputs)
        check_outputs(model.interface, outputs)
        headers, data = pack_tensors(inputs)
        names, deadline_ns = tuple(outputs), time.monotonic_ns() + deadline_ms * 1_000_000
        wanted = Run(0, model.handle, deadline_ns, headers, names, compute_ms, limits, finite)
        with self._pending.place(consumer, sum(len(part) for part in data)) as place:
            frame, asked_ns = await tried(self._pending, consumer, wanted, place, partial(self._try, data))
        answered = self._expect(frame, Answered)
        try:
            check_time(answered, time.monotonic_ns() - asked_ns)
            look = partial(check_answer, model.interface, names, unpack_tensors(answered.outputs, frame.payload))
            with self.unread.hold(consumer, size_bytes := len(frame.payload)):
                return Ran(await self.turns.do(consumer, size_bytes, deadline_ms / 1000, look), answered.compute_us)
        except (EngineError, MalformedError) as error:
            self._condemn(error.message, model.handle)
            raise EngineError(error.message, reason="bad_answer") from None

    def _try(self, data: Sequence[Buffer], wanted: Run, try_ms: int, errand: Errand) -> Awaitable[Frame]:
        left_s = (wanted.deadline_ns - time.monotonic_ns()) / 1e9
        own_s = min(left_s, patience_ms(wanted.compute_ms) / 1000 or left_s)
        answer = self._send(lambda id_: msgspec.structs.replace(wanted, id=id_, compute_ms=try_ms), data, errand=errand)
        return self._in_time(answer, own_s, left_s - own_s)

    async def _in_time(self, answer: asyncio.Future[Frame], own_s: float, rest_s: float) -> Frame:
        timer = self._loop.call_later(own_s + OVERDUE_MS / 1000, self._overdue, answer, rest_s)
        try:
            return await answer
        finally:
            timer.cancel()

    async def unload(self, model: LoadedModel) -> None:
        """Have the child forget `model`; runs that it has begun still finish.

        The memory is given back to the child's allocator, not wiped: only `kill_and_wait` is a wipe.

        Raises:
            NotFoundError: `not_loaded`.
            EngineError: `engine_died`.
        """
        self._expect(await self._send(lambda request: Unload(request, model.handle)), Unloaded)

    def kill(self) -> None:
        """Send SIGKILL without waiting; every pending call fails at once. Idempotent."""
        self._condemn("it was killed")

    async def kill_and_wait(self) -> None:
        """Send SIGKILL and return when the process, and with it its memory, is gone. Idempotent."""
        self.kill()
        await self.died.wait()

    async def _begin(self) -> None:
        config = self._config
        threads, memory_bytes = config.intra_op_threads, config.memory_bytes
        self._link.send(Setup(os.getpid(), config.workers, threads, memory_bytes, config.own_files))
        try:
            hello = await asyncio.wait_for(asyncio.shield(self._hello), config.start_timeout_s)
        except TimeoutError:
            raise ConfigurationError("the engine child did not start in time", reason="engine_start") from None
        except EngineError as error:
            why = last_words(self._popen) or error.message
            raise ConfigurationError(f"the engine child did not start: {why}", reason="engine_start") from None
        required = ALWAYS_REQUIRED | ({Layer.LANDLOCK} if config.require_landlock else set())
        if missing := sorted(required - set(hello.layers)):
            lacks = f"the engine's sandbox lacks {', '.join(missing)}"
            fix = "use a kernel with landlock, or turn require_landlock off"
            raise ConfigurationError(lacks, reason="sandbox_incomplete", fix=fix)
        self.hpke_public_key, self.sandbox = hello.public_key, frozenset(hello.layers)

    def _send(
        self,
        message: Callable[[int], Load | Run | Unload],
        data: Sequence[Buffer] = (),
        *,
        descriptor: int = -1,
        errand: Errand | None = None,
    ) -> asyncio.Future[Frame]:
        if self._end is not None:
            if errand is not None:
                self._pending.scheduler.leave(errand.turn)
            raise self._died_error()
        alone = not self._pending
        request, answer = self._pending.begin(errand)
        try:
            self._link.send(message(request), data, descriptor=descriptor, alone=alone)
        except BaseException:
            self._pending.end(request)
            raise
        return answer

    def _received(self, frame: Frame) -> None:
        message = frame.message
        if isinstance(message, Hello):
            if self._hello.done():
                self._condemn("it said hello twice")
            else:
                self._hello.set_result(message)
        elif not self.groups.received(frame):
            if not isinstance(message, ToParent) or (answer := self._pending.end(message.id, frame)) is None:
                self._condemn("it answered what nobody asked")
            elif not answer.done():  # cancelled, or overdue
                answer.set_result(frame)

    def _expect(self, frame: Frame, kind: type[T]) -> T:
        message = frame.message
        if isinstance(message, kind):
            return message
        if isinstance(message, Failed) and (error := error_of(message)) is not None:
            raise error
        self._condemn("it answered something else")
        raise self._died_error()

    def _overdue(self, future: asyncio.Future[Frame], rest_s: float) -> None:
        if not future.done():
            future.set_exception(DeadlineError("the engine did not end the run in time", reason="engine_overdue"))
            self._loop.call_later(rest_s + STUCK_MS / 1000, self._condemn_if_pending, future)

    def _condemn_if_pending(self, future: asyncio.Future[Frame]) -> None:
        if self._pending.waits_for(future):
            self._condemn("it was stuck in a run")

    def _condemn(self, why: str, ran: int | None = None) -> None:
        """Kill the child and fail every pending call; the first reason, and what `ran`, is what is told.

        It is killed first: one that finds its link closed would end by itself, in its own time.
        """
        if not self.died.is_set():
            # By descriptor, so that no other process can be meant. It fails only if the child is gone already.
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self._lost(why, frozenset() if ran is None else frozenset({ran}))

    def _lost(self, why: str, ran: frozenset[int] = frozenset()) -> None:
        if self._end is not None:
            return
        self._end, self.running_at_end = why, ran | self._pending.models()
        self._link.close()
        self.groups.close()
        waiting = self._pending.end_all()
        if not self._hello.done():
            self._hello.set_exception(self._died_error())
        for future in waiting:
            if not future.done():
                future.set_exception(self._died_error())
        # Not every reader waits for the hello any more; an unread exception would be logged.
        if not self._hello.cancelled():
            self._hello.exception()
        self._condemn(why)

    def _gone(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self.exit_status = self._popen.wait()  # does not block: the pidfd is readable when it can be reaped
        os.close(self._pidfd)
        self.died.set()
        self._lost("it ended")

    def _died_error(self) -> EngineError:
        return EngineError(
            f"the engine child is gone: {self._end}",
            reason="engine_died",
            fix="the enclave must start a new child and attest again",
        )
